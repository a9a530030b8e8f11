"""The loop of one session: receive, decide, act, answer, record.

One task at a time leads: it alone receives. It carries a call through to its answer by itself, for
most take microseconds and never leave it. A call that has to wait (a slow file system, a helper
that does not answer at once) makes its task step back: before it sleeps it starts another leader,
and it ends with its own call. So nobody waits behind a slow call, and a fast one costs no task.

Whatever goes wrong, the caller is refused: no error ends in `continue`.
"""

from __future__ import annotations

import os
import time
from errno import ENOBUFS, ENOTCONN, EPERM

import trio

from supervisor.engine.callers import Callers, SecondLook
from supervisor.engine.crew import Crew, PlanActor, Totals
from supervisor.engine.decide import GIVES, OPEN, Judge, Ruling, once_named, reply_of, reply_to
from supervisor.engine.killing import kill
from supervisor.engine.latch import Latch
from supervisor.engine.limits import DEFAULT, Limits
from supervisor.engine.recent import MissedAnswers
from supervisor.engine.snapshot import PROCEED, Receiver, Reply
from supervisor.engine.waiting import Waiting
from supervisor.handlers.base import UNREADABLE, UnreadableArgument
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.shim import lib
from supervisor.kernel.task import open_task, signals
from supervisor.model import Decision, Outcome, Snapshot, Verdict
from supervisor.observe.complaint import complain
from supervisor.observe.records import Records
from supervisor.plans import MakeDirectory, MakeNode
from supervisor.policy.compiled import CompiledPolicy

_BACK_OFF = 0.01
_LAST_WORK = 0.5
_REST = 0.5
# A little before SD_PROXY_SECONDS: then no answer would be taken any more.
PROXY_DEADLINE = lib.SD_PROXY_SECONDS - 1.0
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
        records: Records | None = None,
        missed: MissedAnswers | None = None,
        limits: Limits = DEFAULT,
        callers: Callers | None = None,
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
        self._records = records or Records()
        self._missed = missed
        self._limits = limits
        self._callers = callers or Callers()
        self._leader: trio.lowlevel.Task | None = None
        self._crew = crew or Crew(limits)
        self._latch = latch
        self._nap = trio.CancelScope()
        self._said: set[type[Exception]] = set()
        self._acting: dict[int, trio.Event] = {}
        self.totals = totals or Totals()

    def take(self, policy: CompiledPolicy, limits: Limits) -> None:
        """Goes by another policy from now on; the judge does so already."""
        self._receiver.take(policy.calls, limits)
        self._on_error = policy.on_error

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
        receiver, memo = self._receiver, self._judge.memo
        crew, limits = self._crew, self._limits
        turns = 0
        while True:
            if turns >= limits.drain:
                await self._let_others(turns)
                turns = 0
            if crew.waiting - self._actor.patient >= limits.in_flight:
                receiver.alive()
                await trio.sleep(_BACK_OFF)
                continue
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
            turns += receiver.settled
            if key is None:
                if not receiver.settled:
                    await self._sleep()
                continue
            self.totals.calls += 1
            if self._latch is not None and self._is_the_runtimes():
                continue
            ruling = memo.get(key)
            if ruling is None or receiver.unread:
                ruling = self._rule(key)
            reply = ruling.reply
            if reply is None:
                await self._serve(key, ruling)
                if self._leader is not me:
                    crew.waiting -= 1
                    if not crew.waiting:
                        # The leader went to sleep while there was work: now it is to linger, and
                        # to find that nobody calls.
                        self._nap.cancel()
                    return
            elif self._records.wanted and not (ruling.quiet and reply is PROCEED):
                self._settle_and_record(key, ruling, reply)
            else:
                self._settle(ruling, reply)
                if self._latch is None and not receiver.unread:
                    receiver.settle(reply, refuses=ruling.refuses)
            turns += 1

    async def _let_others(self, turns: int) -> None:
        """After so many calls: others in this process, and the container's rate."""
        pause = self._crew.pace.pause(turns)
        if pause:
            await self._crew.hold(pause, self._receiver.alive)
        elif self._crew.waiting or not self._crew.alone:
            await trio.lowlevel.checkpoint()

    async def _sleep(self) -> None:
        until = self._records.sweep()
        if not self._crew.waiting and not self._actor.rest():
            until = min(until, _REST)
        with trio.move_on_after(until) as self._nap:
            await self._crew.wait(self._receiver.fd)

    # -- one call

    def _is_the_runtimes(self) -> bool:
        """Lets a call go on that the runtime makes before it executes the container's program."""
        assert self._latch is not None
        receiver = self._receiver
        tid, id_ = receiver.call.tid, receiver.call.id
        if not self._latch.holds(tid):
            if not self._latch.open:
                self._latch = None  # for good
            return False
        start = time.perf_counter_ns()
        decision = Decision(Verdict.CONTINUE, "runtime", _REASON)
        spec = self._judge.spec(receiver.snapshot()) if self._records.wanted else None
        opens = spec is not None and spec.family == OPEN  # there are hundreds
        witness = None if opens else self._records.witness(tid, decision, None)
        # What was read of the caller is the caller's only if it still waits.
        delivered = receiver.answer_last(PROCEED if receiver.valid(id_) else (0, -EPERM, 0))
        if witness is not None:
            snapshot = receiver.snapshot()
            self._records.record(
                snapshot, self._judge.spec(snapshot), decision, Outcome(0, left_alone=True), start,
                witness, delivered=delivered,
            )
        return True

    def _count_refusal(self) -> None:
        self.totals.refused += 1
        self._receiver.refused()

    def _settle(self, ruling: Ruling, reply: Reply) -> bool:
        """Answers the call received last as its ruling says."""
        delivered = self._receiver.answer_last(reply)
        if ruling.refuses:
            self._count_refusal()
        if not delivered:
            self.totals.undelivered += 1
        return delivered

    def _settle_and_record(self, key: bytes, ruling: Ruling, reply: Reply) -> None:
        start = time.perf_counter_ns()
        witness = self._records.witness(self._receiver.call.tid, ruling.decision, key)
        if witness is None:
            self._settle(ruling, reply)
            return
        if not witness.counted:
            witness = witness.placed(self._receiver.snapshot(), ruling.spec)
        delivered = self._settle(ruling, reply)
        outcome = Outcome(-reply[1], left_alone=bool(reply[2]))
        self._records.record(
            self._receiver.snapshot(), ruling.spec, ruling.decision, outcome, start, witness,
            delivered=delivered, key=key,
        )

    def _rule(self, key: bytes) -> Ruling:
        """The ruling on the call received last, which no earlier one was equal to."""
        receiver = self._receiver
        if receiver.unread:
            decision = self._unread(receiver.call.tid)
            return Ruling(decision, None, reply_to(decision))
        head = receiver.call.head_length
        return self._judge.by_string(key, head) or self._judge.rule(key, receiver.snapshot(), head)

    async def _serve(self, key: bytes, ruling: Ruling) -> None:
        """Carries the call received last through to its answer and its record."""
        start = time.perf_counter_ns()
        receiver = self._receiver
        call = receiver.call
        if ruling.companion and ruling.spec and not self._actor.concerned(ruling.spec):
            receiver.answer_last(PROCEED)
            return
        witness = self._records.witness(call.tid, ruling.decision, None)
        id_, slot = call.id, call.slot
        snapshot = receiver.snapshot(ruling.args)
        if witness is not None:
            witness = witness.placed(snapshot, ruling.spec)
        if snapshot.message is not None:
            key += snapshot.message.payload  # other data is another call
        early = self._missed is None and not receiver.proxied
        waiting = Waiting(receiver, id_, slot, early=early)
        if self._missed is None or (ruling.spec is not None and ruling.spec.family in GIVES):
            # what is given twice is given once: the answer and the descriptor are one
            outcome = await self._act(snapshot, ruling, waiting)
        else:
            outcome = await self._act_once(self._missed, snapshot, ruling, waiting, key)
        if outcome.told is not None:
            # what cannot be written leaves a call that was made all the same, as with the kernel
            receiver.write(id_, snapshot.tid, *outcome.told)
        if outcome.named is not None:
            errno = receiver.name(id_, snapshot.tid, *outcome.named)
            outcome = once_named(outcome, errno, self._on_error)
        if outcome.filled:
            errors = (receiver.fill(id_, snapshot.tid, *one) for one in outcome.filled)
            errno = next(filter(None, errors), 0)
            outcome = outcome._replace(errno=self._unreadable(errno) if errno else 0)
        decision = outcome.decision or ruling.decision
        reply = reply_of(decision, outcome)
        # Without WAIT_KILLABLE the kernel may take an answer that the caller never gets.
        before = signals(snapshot.tid) if self._missed is not None else (0, 0)
        if waiting.delivered is not None:
            delivered = waiting.delivered
        elif outcome.give is None:
            delivered = receiver.answer(id_, slot, reply)
        else:
            again = witness is None and self._latch is None and outcome.give.again
            delivered, outcome = receiver.give(id_, slot, outcome, outcome.give, again=again)
        if outcome.errand is not None and witness is None and not (self._latch or self._missed):
            receiver.settle_errand(outcome.errand)
        if outcome.errno:
            self._count_refusal()
        if not delivered:
            self.totals.undelivered += 1
        elif self._missed is not None and not before[0] and signals(snapshot.tid) == before:
            self._missed.delivered(snapshot.tid, snapshot.ip, key)
        if witness is not None and not (ruling.quiet and outcome.left_alone and not decision.audit):
            self._records.record(
                snapshot, ruling.spec, decision, outcome, start, witness, delivered=delivered
            )
        if self._actor.more:
            self.step_back()
            await self._actor.do_more()

    def _unread(self, tid: int) -> Decision:
        reason = (
            "the caller's memory was not read: an earlier reading of it never ended"
            if tid
            else "the caller is in a pid namespace that is not below ours"
        )
        return Decision(Verdict.ERRNO, "on_error", reason, self._on_error)

    # -- work

    async def _act(self, snapshot: Snapshot, ruling: Ruling, waiting: Waiting) -> Outcome:
        """Carries a call out. Every error is a refusal."""
        try:
            if not self._receiver.proxied:
                return await self._perform(snapshot, ruling, waiting)
            with trio.move_on_after(PROXY_DEADLINE):
                return await self._perform(snapshot, ruling, waiting)
            return Outcome(self._on_error, "who passed the call on does not wait any longer")
        except UnreadableArgument as error:
            errno = self._unreadable(error.errno)
            return Outcome(errno, nowhere=errno if ruling.decision.needs_facts else 0)
        except Exception as error:  # fail closed, and say so
            self.totals.errors += 1
            if type(error) not in self._said:  # each kind once: a caller may provoke it for ever
                self._said.add(type(error))
                complain(f"{snapshot.name} refused: {type(error).__name__}: {error}")
            self._records.event("error", syscall=snapshot.name, error=repr(error))
            return Outcome(self._on_error, f"error: {type(error).__name__}: {error}")

    def _unreadable(self, errno: int) -> int:
        """These are what the kernel would say; all else is a failure of ours."""
        return errno if errno in UNREADABLE else self._on_error

    async def _act_once(
        self, missed: MissedAnswers, snapshot: Snapshot, ruling: Ruling, waiting: Waiting,
        key: bytes,
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
            outcome = await self._act(snapshot, ruling, waiting)
            if not outcome.errno and not outcome.left_alone:
                missed.missed(snapshot.tid, snapshot.ip, key, outcome)
            return outcome
        finally:
            del self._acting[snapshot.tid]
            done.set()

    async def _perform(self, snapshot: Snapshot, ruling: Ruling, waiting: Waiting) -> Outcome:
        decision, spec = ruling.decision, ruling.spec
        if spec is None or (decision.verdict is Verdict.KILL and not decision.audit):
            return kill(snapshot, self._receiver.valid, self._on_error)
        plan = ruling.plan or FAMILIES[spec.family].plan(snapshot, decision)
        if plan is None:
            assert ruling.companion, "only what the filter notifies for our sake can be left alone"
            return Outcome(0, left_alone=True)
        begun = self._actor.at_once(plan, snapshot, decision)
        if isinstance(begun, Outcome):
            return begun
        look = SecondLook(
            lambda facts: self._judge.again(snapshot, spec, facts),
            self._callers, waiting, self._on_error,
        )  # fmt: skip
        # A record of what was made says where.
        granted = isinstance(plan, MakeNode | MakeDirectory) and decision.verdict is Verdict.EMULATE
        again = look if decision.needs_facts or (granted and self._records.wanted) else None
        if begun is not None:
            outcome = look.outcome(decision, await self._actor.finish(begun, waiting, again))
        else:
            # The descriptor binds the identity. Whoever uses it asks first, by `valid`, whether the
            # caller still waits, which says whose it is.
            try:
                task = look.task = open_task(snapshot.tid)
            except OSError:
                return Outcome(self._on_error, "the caller has gone")
            try:
                probe_only = decision.verdict is Verdict.REFUSE
                outcome = await self._actor.perform(
                    plan, snapshot, task, waiting, again, probe_only=probe_only
                )
                outcome = look.outcome(decision, outcome)
            finally:
                os.close(task)
        final = outcome.decision
        if final is None or final.audit or final.verdict in (Verdict.EMULATE, Verdict.INJECT):
            return outcome
        if outcome.give is not None:
            return outcome  # a connection that was taken cannot be left to the kernel any more
        if final.verdict is Verdict.KILL:
            killed = kill(snapshot, self._receiver.valid, self._on_error)
            return outcome._replace(errno=killed.errno, how=killed.how)
        if final.verdict is Verdict.REFUSE and not self._judge.leaves_refusals(spec):
            return outcome
        _, error, proceed = reply_to(final)
        how = outcome.how if spec.family in GIVES else ""  # whom an accept has closed before
        return outcome._replace(errno=-error, how=how, left_alone=bool(proceed))
