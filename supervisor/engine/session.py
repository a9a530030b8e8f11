"""The loop of one session: receive, decide, act, answer, record.

One task at a time leads: it alone receives. It carries a call through to its answer by itself, for
most take microseconds and never leave it. A call that has to wait (a slow file system, a helper
that does not answer at once) makes its task step back: before it sleeps it starts another leader,
and it ends with its own call. So nobody waits behind a slow call, and a fast one costs no task.

Whatever goes wrong, the caller is refused: no error ends in `continue`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from errno import EFAULT, ENAMETOOLONG, ENOBUFS, ENOTCONN, EPERM
from typing import Any

import trio

from supervisor.engine.crew import Crew, PlanActor, Totals
from supervisor.engine.decide import Judge, Ruling, reply_to
from supervisor.engine.latch import Latch
from supervisor.engine.limits import DEFAULT, Limits
from supervisor.engine.recent import MissedAnswers
from supervisor.engine.snapshot import PROCEED, Receiver, Reply
from supervisor.handlers.base import UnreadableArgument
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.task import open_task, signals, thread_group
from supervisor.model import Decision, Facts, Outcome, Snapshot, Verdict
from supervisor.observe.audit import AuditLog
from supervisor.observe.complaint import complain
from supervisor.observe.identity import identity
from supervisor.observe.trace import Tracer

_BACK_OFF = 0.01
_LAST_WORK = 0.5
_REASON = "the runtime's own, before it executes the container's program"


class Session:
    """Serves one listener until no caller is left."""

    def __init__(
        self,
        receiver: Receiver,
        judge: Judge,
        actor: PlanActor,
        *,
        on_error: int,
        audit: AuditLog | None = None,
        tracer: Tracer | None = None,
        missed: MissedAnswers | None = None,
        limits: Limits = DEFAULT,
        crew: Crew | None = None,
        latch: Latch | None = None,
        totals: Totals | None = None,
    ) -> None:
        """`crew`: other loops in this process share `judge`, `actor` and the rest. `latch`: some
        calls are a runtime's own, and go on.
        """
        self._receiver = receiver
        self._judge = judge
        self._actor = actor
        self._on_error = on_error
        self._audit = audit
        self._tracer = tracer
        self._missed = missed
        self._limits = limits
        self._observed = audit is not None or tracer is not None
        self._leader: trio.lowlevel.Task | None = None
        self._crew = crew or Crew(limits.linger_us)
        self._latch = latch
        self._said: set[type[Exception]] = set()
        self._acting: dict[int, trio.Event] = {}
        self.totals = totals or Totals()

    async def run(self) -> None:
        """Returns once no caller is left; calls that still wait for a helper are dropped then."""
        self._crew.join(self)
        self._actor.on_wait = self._crew.step_back
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._lead()
        finally:
            self._crew.leave(self)

    # -- the leader

    def step_back(self) -> None:
        """Whoever calls this is about to sleep: if it leads, another one takes its place first."""
        if trio.lowlevel.current_task() is not self._leader:
            return
        self._crew.waiting += 1
        self._leader = None
        self._nursery.start_soon(self._lead)

    async def _lead(self) -> None:
        me = self._leader = trio.lowlevel.current_task()
        receiver, memo, observed = self._receiver, self._judge.memo, self._observed
        crew = self._crew
        turns = 0
        while True:
            try:
                key = receiver.receive(0 if crew.waiting else crew.linger_us)
            except OSError as error:
                if error.errno == ENOTCONN:
                    # What is being made right now is made and recorded; a hung path is left.
                    self._nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORK
                    return
                if error.errno != ENOBUFS:
                    raise
                await trio.sleep(_BACK_OFF)
                continue
            if key is None:
                await self._sleep()
                continue
            self.totals.calls += 1
            if self._latch is not None and self._is_the_runtimes():
                continue
            ruling, snapshot = memo.get(key), None
            if ruling is None or receiver.unread:
                snapshot = receiver.snapshot()
                ruling = self._rule(key, snapshot)
            if ruling.reply is None or observed:
                await self._serve(key, ruling, snapshot)
                if self._leader is not me:
                    crew.waiting -= 1
                    return
            else:
                self._settle(ruling, ruling.reply)
            turns += 1
            if (crew.waiting or not crew.alone) and turns % self._limits.drain == 0:
                await trio.lowlevel.checkpoint()

    async def _sleep(self) -> None:
        if not self._crew.waiting:
            self._actor.rest()
        until = self._audit.sweep() if self._audit else float("inf")
        with trio.move_on_after(until):
            await trio.lowlevel.wait_readable(self._receiver.listener)

    # -- one call

    def _is_the_runtimes(self) -> bool:
        """Lets a call go on that the runtime makes before it executes the container's program."""
        assert self._latch is not None
        receiver = self._receiver
        tid, id_ = receiver.call.tid, receiver.call.id
        if not self._latch.holds(tid):
            if self._latch.open:
                return False
            self._latch = None  # for good
            return False
        start = time.perf_counter_ns()
        who = identity(tid) if self._observed else None
        # What was read of the caller is the caller's only if it still waits.
        delivered = receiver.answer_last(PROCEED if receiver.valid(id_) else (0, -EPERM, 0))
        if who is not None:
            snapshot = receiver.snapshot()
            decision = Decision(Verdict.CONTINUE, "runtime", _REASON)
            ruling = Ruling(decision, self._judge.spec(snapshot), PROCEED)
            outcome = Outcome(0, left_alone=True)
            self._record(snapshot, ruling, outcome, start, delivered, who, None)
        return True

    def _settle(self, ruling: Ruling, reply: Reply) -> bool:
        """Answers the call received last as its ruling says."""
        delivered = self._receiver.answer_last(reply)
        if ruling.refuses:
            self.totals.refused += 1
        if not delivered:
            self.totals.undelivered += 1
        return delivered

    def _rule(self, key: bytes, snapshot: Snapshot) -> Ruling:
        if not self._receiver.unread:
            return self._judge.rule(key, snapshot)
        decision = self._unread(snapshot.tid)
        return Ruling(decision, None, reply_to(decision))

    async def _serve(self, key: bytes, ruling: Ruling, snapshot: Snapshot | None) -> None:
        """Carries the call received last through to its answer and its record."""
        start = time.perf_counter_ns()
        receiver = self._receiver
        call = receiver.call
        if ruling.companion and not self._actor.live_nodes:
            receiver.answer_last(PROCEED)
            return
        who = self._who(call.tid, key, ruling)
        if ruling.reply is not None:
            delivered = self._settle(ruling, ruling.reply)
            if who is not None:
                outcome = Outcome(-ruling.reply[1], left_alone=bool(ruling.reply[2]))
                snapshot = snapshot or receiver.snapshot()
                self._record(snapshot, ruling, outcome, start, delivered, who, key)
            return
        id_, slot = call.id, call.slot
        snapshot = snapshot or receiver.snapshot()
        if self._missed is None:
            outcome = await self._act(snapshot, ruling)
        else:
            outcome = await self._act_once(self._missed, snapshot, ruling, key)
        final = replace(ruling, decision=outcome.decision) if outcome.decision else ruling
        reply = self._reply(final.decision, outcome)
        # Without WAIT_KILLABLE the kernel may take an answer that the caller never gets.
        before = signals(snapshot.tid) if self._missed is not None else (0, 0)
        delivered = receiver.answer(id_, slot, reply)
        if outcome.errno:
            self.totals.refused += 1
        if not delivered:
            self.totals.undelivered += 1
        elif self._missed is not None and not before[0] and signals(snapshot.tid) == before:
            self._missed.delivered(snapshot.tid, snapshot.ip, key)
        if who is not None and not (ruling.companion and outcome.left_alone):
            self._record(snapshot, final, outcome, start, delivered, who, None)

    @staticmethod
    def _reply(decision: Decision, outcome: Outcome) -> Reply:
        if outcome.errno:
            return (0, -outcome.errno, 0)
        if outcome.left_alone:
            return PROCEED
        return (decision.value if decision.verdict is Verdict.RETURN else 0, 0, 0)

    def _who(self, tid: int, key: bytes, ruling: Ruling) -> Mapping[str, Any] | None:
        """The caller's identity for a record, taken while it waits; None: nothing is written."""
        if not self._observed or ruling.decision.silent:
            return None
        if self._audit is not None and ruling.reply is not None and self._audit.repeated(tid, key):
            return {} if self._tracer is not None else None
        return identity(tid)

    def _unread(self, tid: int) -> Decision:
        reason = (
            "the caller's memory was not read: an earlier reading of it never ended"
            if tid
            else "the caller is in a pid namespace that is not below ours"
        )
        return Decision(Verdict.ERRNO, "on_error", reason, self._on_error)

    # -- work

    async def _act(self, snapshot: Snapshot, ruling: Ruling) -> Outcome:
        """Carries a call out. Every error is a refusal."""
        try:
            task = open_task(snapshot.tid)
        except OSError:
            return Outcome(self._on_error, "the caller has gone")
        try:
            # The descriptor binds the identity. Whoever uses it asks first, by `valid`, whether the
            # caller still waits, which says whose it is.
            return await self._perform(snapshot, ruling, task)
        except UnreadableArgument as error:
            return Outcome(self._unreadable(error.errno))
        except Exception as error:  # fail closed, and say so
            self.totals.errors += 1
            if type(error) not in self._said:  # each kind once: a caller may provoke it for ever
                self._said.add(type(error))
                complain(f"{snapshot.name} refused: {type(error).__name__}: {error}")
            if self._audit is not None:
                self._audit.event("error", syscall=snapshot.name, error=repr(error))
            return Outcome(self._on_error, f"error: {type(error).__name__}: {error}")
        finally:
            os.close(task)

    def _unreadable(self, errno: int) -> int:
        """EFAULT and ENAMETOOLONG are what the kernel would say; all else is a failure of ours."""
        return errno if errno in (EFAULT, ENAMETOOLONG) else self._on_error

    async def _act_once(
        self, missed: MissedAnswers, snapshot: Snapshot, ruling: Ruling, key: bytes
    ) -> Outcome:
        """Where a signal makes a caller come again with a call that is being carried out."""
        while (earlier := self._acting.get(snapshot.tid)) is not None:
            self.step_back()
            await earlier.wait()
        outcome = missed.answer(snapshot.tid, snapshot.ip, key)
        if outcome is not None:
            return outcome
        done = self._acting[snapshot.tid] = trio.Event()
        try:
            outcome = await self._act(snapshot, ruling)
            if not outcome.errno and not outcome.left_alone:
                missed.missed(snapshot.tid, snapshot.ip, key, outcome)
            return outcome
        finally:
            del self._acting[snapshot.tid]
            done.set()

    async def _perform(self, snapshot: Snapshot, ruling: Ruling, task: int) -> Outcome:
        decision, spec = ruling.decision, ruling.spec
        if decision.verdict is Verdict.KILL or spec is None:
            return self._kill(snapshot)

        def valid() -> bool:
            return self._receiver.valid(snapshot.id)

        def redecide(facts: Facts) -> Decision:
            return self._judge.again(snapshot, spec, facts)

        plan = FAMILIES[spec.family].plan(snapshot, decision)
        if plan is None:
            assert ruling.companion, "only what the filter notifies for our sake can be left alone"
            return Outcome(0, left_alone=True)
        outcome = await self._actor.perform(
            plan,
            snapshot,
            task,
            valid,
            redecide if decision.needs_facts else None,
            probe_only=decision.verdict is Verdict.REFUSE,
        )
        final = outcome.decision
        if final is None or final.verdict is Verdict.EMULATE:
            return outcome
        if final.verdict is Verdict.KILL:
            return replace(self._kill(snapshot), path=outcome.path, decision=final)
        if final.verdict is Verdict.REFUSE and not self._judge.kernel_refuses:
            return outcome
        _, error, proceed = reply_to(final)
        return Outcome(-error, path=outcome.path, left_alone=bool(proceed), decision=final)

    def _kill(self, snapshot: Snapshot) -> Outcome:
        """Ends the caller's process, which is named for certain: it waits for our answer."""
        group = thread_group(snapshot.tid)
        if group is not None:
            try:
                pidfd = os.pidfd_open(group)
                try:
                    if self._receiver.valid(snapshot.id):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        return Outcome(EPERM, "killed")
                finally:
                    os.close(pidfd)
            except OSError as error:
                return Outcome(self._on_error, f"could not be killed: {error.strerror}")
        return Outcome(self._on_error, "the caller has gone")

    def _record(
        self,
        snapshot: Snapshot,
        ruling: Ruling,
        outcome: Outcome,
        start: int,
        delivered: bool,
        who: Mapping[str, Any],
        key: bytes | None,
    ) -> None:
        if self._tracer is not None:
            self._tracer.show(snapshot, ruling.spec, ruling.decision, outcome)
        if self._audit is None or not who:
            return
        seconds = (time.perf_counter_ns() - start) / 1e9
        self._audit.record(
            snapshot,
            ruling.spec,
            ruling.decision,
            outcome,
            seconds,
            who=who,
            delivered=delivered,
            key=key,
        )
