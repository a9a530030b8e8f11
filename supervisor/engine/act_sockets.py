"""Calls on sockets: fetched from the caller's table, and made by a porter.

What a caller's descriptor number stands for is looked at once. From then on it is that very socket
that is looked at and called on, whatever is put in its place. A call may wait for as long as the
caller's own would; it ends with the caller, and is interrupted where a signal waits for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from errno import (
    EACCES,
    EBADF,
    EINPROGRESS,
    EINTR,
    EINVAL,
    EPERM,
    EPIPE,
    ESRCH,
)
from typing import Final

import trio

from supervisor.engine.act_accepts import Accepts
from supervisor.engine.balance import Balancers
from supervisor.engine.errands import Errands
from supervisor.engine.helpers import HelperError, Resolvers
from supervisor.engine.limits import DEFAULT, Limits
from supervisor.engine.porters import MOST_PORTERS, Porter, PorterError, Porters
from supervisor.engine.sharing import share_out
from supervisor.engine.socket_jobs import ERESTARTSYS, WHY, SocketError, SocketJob
from supervisor.engine.socket_names import SocketNames
from supervisor.engine.socket_paths import SocketPath
from supervisor.kernel import features
from supervisor.kernel.addresses import AF_INET, AF_INET6, AF_UNIX
from supervisor.kernel.shim import lib
from supervisor.kernel.task import interrupted
from supervisor.model import (
    Balance,
    Decision,
    Facts,
    Outcome,
    Snapshot,
    SocketSettings,
    Verdict,
)
from supervisor.plans import SocketCall
from supervisor.policy.leads import backends

_AS_ASKED: Final = SocketSettings()
_LINGER_US: Final = 300
_BEAT: Final = 0.1  # how often a long wait looks after its caller
# The other porters are for what ends within a beat, from which who waits keeps nobody.
_MOST_WAITING: Final = MOST_PORTERS * 11 // 12
_PLAIN: Final = frozenset(family.to_bytes(2, "little") for family in (AF_INET, AF_INET6))
_MOST_READY: Final = 64
_MSG_FASTOPEN: Final = 0x20000000
_GONE: Final = "the caller has gone"
_ERRORS: Final = {-ESRCH: _GONE, -EPIPE: "socket: the porter has gone"}
# A signal that nobody has seen to for so many beats is this thread's, for all that can be known.
_UNSEEN_TO: Final = 3
# No errno of the kernel's says these.
_OURS: Final = frozenset((lib.SD_SOCKET_RIGHTS, lib.SD_SOCKET_NETWORK, lib.SD_SOCKET_SET))
# A connection is there, or will be.
_BEGUN: Final = frozenset((0, -EINPROGRESS, -EINTR))
# They have no address, and whatever asks who calls has been asked.
_AT_ONCE: Final = frozenset(("listen", "set-option", "get-option"))
# Before the porter was asked anything.
_UNASKED: Final = frozenset((-ESRCH, -EPERM, -EINVAL))


class Sockets:
    """Makes the calls of one session. `on_wait` is called before each time that it sleeps."""

    def __init__(
        self, resolvers: Resolvers, *, name: str, on_error: int, hosts: bool = False,
        limits: Limits = DEFAULT,
    ) -> None:
        """`name`: the session's. `hosts`: rules make calls in the host's network."""
        self._resolvers = resolvers
        self._porters = Porters()
        self._limits = limits
        self._by_thread = features.available("pidfd_info")
        self._on_error = on_error
        # Jobs that have been done, by their plans: the same call comes again.
        self._ready: dict[int, SocketJob] = {}
        self._balancers = Balancers(name)
        self._accepts = Accepts()
        self.names = SocketNames()
        self._errands = Errands(self._porters)
        self.network = 0  # the inode of the container's network namespace; 0: not known
        self._guarded = hosts
        self.patient = 0  # how many calls wait in porters
        self.on_wait: Callable[[], None] = lambda: None

    def take(
        self, balances: Collection[Balance], *, on_error: int, hosts: bool, limits: Limits
    ) -> None:
        """Goes by another policy's settings from now on. What callers have of the host's network
        they have still."""
        self._guarded = self._guarded or hosts
        self._on_error, self._limits = on_error, limits
        self._balancers.keep(balances)

    def prepare(self) -> None:
        """Has somebody there before the first call; where that fails, the call says so."""
        with contextlib.suppress(PorterError):
            self._porters.prepare()

    def rest(self) -> bool:
        """Nobody calls. False: not all porters have let go of their calls yet."""
        self._ready.clear()
        lib.sd_socket_forget_owners()
        self._errands.rest()
        return self._porters.rest()

    def close(self) -> None:
        """Ends the porters."""
        self._porters.close()

    # -- the short way

    def at_once(
        self, plan: SocketCall, snapshot: Snapshot, decision: Decision
    ) -> Outcome | SocketJob | None:
        """A connect to an IPv4 or IPv6 address that is granted: what it came to.

        None: nothing has begun, and `perform` is to do it. A job: it takes longer.
        """
        if (
            plan.operation != "connect"
            or plan.address is None
            or plan.address[:2] not in _PLAIN
            or decision.needs_facts
            or decision.verdict is not Verdict.EMULATE
            or plan.settings.balance is not None
            or self._guarded  # in whose network it is made is to be known first
        ):
            return None
        job = self._ready.pop(id(plan), None)
        if snapshot.begun:
            job = SocketJob(plan, snapshot, by_thread=self._by_thread)
            job.porter = self._errands.begun()
            return job
        if job is None:
            job = SocketJob(plan, snapshot, by_thread=self._by_thread)
        else:
            job.again(snapshot)
        if job.target and job.target[:2] != plan.address[:2]:
            return None  # by another socket, which takes longer to make
        try:
            result = self._ask(job)
            if result == 0:
                return job
            if job.call.why == lib.SD_SOCKET_WHO:
                return None
            if len(self._ready) < _MOST_READY:
                self._ready[id(plan)] = job  # which keeps the plan, so that it stays the only one
            outcome = self._came(job, result)
            if plan.settings == _AS_ASKED and self._errands.ready():
                job.call.on_error = self._on_error
                outcome = outcome._replace(errand=job.call)
            return outcome
        except SocketError as error:
            return Outcome(error.errno, error.how)
        except PorterError as error:
            return Outcome(self._on_error, str(error))

    async def finish(self, job: SocketJob, valid: Callable[[], bool]) -> Outcome:
        """Goes on with what `at_once` has begun."""
        try:
            return await self._wait(job, valid)
        except SocketError as error:
            return Outcome(error.errno, error.how)

    # -- the long way

    async def perform(
        self,
        plan: SocketCall,
        snapshot: Snapshot,
        task: int,
        valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None,
        *,
        probe_only: bool,
    ) -> Outcome:
        """Makes the call for the caller whose /proc/TID `task` is."""
        job = SocketJob(plan, snapshot, by_thread=self._by_thread)
        if plan.operation in ("name", "peer"):
            return await self.names.tell(job, lambda: self._made(job, valid))
        if plan.operation == "accept":
            return await self._accepts.perform(
                lambda: SocketJob(plan, snapshot, by_thread=self._by_thread),
                lambda job: self._made(job, valid), task, redecide, self._on_error, self.on_wait,
            )  # fmt: skip
        path = SocketPath(self._resolvers, self._limits, self._on_error, self.on_wait)
        decision: Decision | None = None
        try:
            if plan.operation in _AT_ONCE:
                return await self._carry_out(job, path, task, valid)
            on_unix = False
            if probe_only or plan.path is not None:
                on_unix = await self._is_unix(job, valid)
            if probe_only:
                return Outcome(EACCES)
            missing = None
            if plan.path is not None and on_unix:
                missing = await path.followed(job, task)
            if redecide is not None:
                decision = redecide(path.facts(task))
                if decision.verdict is not Verdict.EMULATE:
                    if missing is not None:
                        raise missing
                    return Outcome(EACCES, path=path.name, decision=decision)
                # where it leads is what the rule says that grants it, not what the first look said
                settings = decision.settings
                if not isinstance(settings, SocketSettings):
                    settings = SocketSettings()
                plan = replace(plan, settings=settings)
                job = SocketJob(plan, snapshot, by_thread=self._by_thread)
            if missing is not None and not job.target:
                raise missing
            if not valid():
                raise SocketError(self._on_error, _GONE)
            if job.plan.settings.balance is not None:
                outcome = await self._share_out(job, path, task, valid)
            else:
                outcome = await self._carry_out(job, path, task, valid)
            return outcome._replace(path=path.name, decision=decision)
        except SocketError as error:
            return Outcome(error.errno, error.how, path.name, decision=decision)
        except (HelperError, PorterError) as error:
            return Outcome(self._on_error, str(error), path.name, decision=decision)
        finally:
            path.close()

    async def _made(self, job: SocketJob, valid: Callable[[], bool]) -> Outcome:
        """What a porter makes of it."""
        result = self._ask(job)
        return await self._wait(job, valid) if result == 0 else self._came(job, result)

    async def _is_unix(self, job: SocketJob, valid: Callable[[], bool]) -> bool:
        return int((await self._look(job, valid)).call.domain) == AF_UNIX

    async def _look(
        self, job: SocketJob, valid: Callable[[], bool], *, sets: bool = False
    ) -> SocketJob:
        """Looks at the socket, and does nothing with it, or `sets` its options and nothing else.
        Raises SocketError where there is none."""
        look = SocketJob(job.plan, job.snapshot, by_thread=self._by_thread)
        look.call.op = lib.SD_SOCKET_LOOK
        if not sets:
            look.call.set_count = 0
        outcome = await self._made(look, valid)
        if outcome.errno:
            raise SocketError(outcome.errno, outcome.how)
        return look

    async def _share_out(
        self, job: SocketJob, path: SocketPath, task: int, valid: Callable[[], bool]
    ) -> Outcome:
        """Makes the call with one backend after the other."""
        plan, balance = job.plan, job.plan.settings.balance
        assert balance is not None
        assert plan.address is not None
        look = await self._look(job, valid) if plan.operation == "connect" else None
        datagrams = not plan.flags & _MSG_FASTOPEN if look is None else look.is_datagrams
        several = self._balancers.of(balance, datagrams=datagrams)
        order = several.order(self._balancers.key(plan.address))
        if several.waits and look is not None:
            # what it has begun is what the kernel tells it of, whatever it is asked for now
            begun = several.begun_by(int(look.call.cookie))
            order = order if begun is None else [begun]
        targets = backends(balance, plan.address)

        def job_for(index: int) -> SocketJob:
            return SocketJob(
                plan, job.snapshot, by_thread=self._by_thread, target=targets[index]
            )

        async def carry_out(one: SocketJob) -> Outcome:
            if not valid():
                raise SocketError(self._on_error, _GONE)
            return await self._carry_out(one, path, task, valid)

        return await share_out(several, order, job_for, carry_out)

    async def _carry_out(
        self, job: SocketJob, path: SocketPath, task: int, valid: Callable[[], bool]
    ) -> Outcome:
        plan = job.plan
        if plan.several and not job.snapshot.args[2]:
            await self._look(job, valid)
            return Outcome(0)  # none of them
        if path.target >= 0 and plan.operation == "bind":
            if plan.settings.options:
                await self._look(job, valid, sets=True)
            return Outcome(await path.bind(job, task))
        job.load()
        job.as_caller(task)
        if job.target_path is not None:
            await path.to_target(job, task)
        job.call.path = path.target if not job.target or job.target_path is not None else -1
        return await self._made(job, valid)

    # -- porters

    def _ask(self, job: SocketJob) -> int:
        """Has a porter make the call: 1 it has, 0 it takes longer. Raises PorterError, and
        SocketError."""
        job.call.anew, job.call.network = False, self.network
        if self._guarded:
            job.call.flags |= lib.SD_SOCKET_GUARDED
        for _ in range(2):  # one that has gone is seen when it is asked
            porter = job.porter = self._porters.take()
            result: int = lib.sd_socket_call(job.call, porter.sock, _LINGER_US)
            if result == 0:
                return result
            self._done_with(porter, result)
            if result > 0 and job.call.why == lib.SD_SOCKET_GONE and not job.call.anew:
                job.call.anew = True  # the number may be somebody else's by now
            elif result == -EPIPE:
                self._porters.lose_idle()  # they were of the same process
            else:
                break
        if result < 0:
            raise SocketError(self._on_error, _ERRORS.get(result) or os.strerror(-result))
        return result

    async def _wait(self, job: SocketJob, valid: Callable[[], bool]) -> Outcome:
        """Until the porter answers. Raises SocketError where nobody waits for that any more."""
        porter = job.porter
        assert porter is not None
        result = seen = 0
        self.patient += 1
        crowded = self.patient > _MOST_WAITING
        try:
            while result == 0:
                self.on_wait()
                with trio.move_on_after(_BEAT):
                    await trio.lowlevel.wait_readable(porter.sock)
                result = lib.sd_socket_answer(job.call, porter.sock, 0)
                if result == 0:
                    if not valid():
                        raise SocketError(self._on_error, _GONE)
                    if crowded:
                        raise SocketError(self._on_error, "socket: too many calls wait")
                    pending, job.certain = interrupted(job.snapshot.tid)
                    seen = seen + 1 if pending else 0
                    if job.certain or seen >= _UNSEEN_TO:
                        self._porters.kick(porter)
        finally:
            self.patient -= 1
            self._done_with(porter, result)
        return self._came(job, result)

    def _done_with(self, porter: Porter, result: int) -> None:
        if result > 0:
            self._porters.give(porter)
        elif result == 0:
            self._porters.leave(porter)
        elif result in _UNASKED:
            self._porters.give(porter)
        else:
            self._porters.lose(porter)

    # -- answers

    def _came(self, job: SocketJob, result: int) -> Outcome:
        """What a porter's answer comes to."""
        call, plan = job.call, job.plan
        if result < 0:
            raise SocketError(self._on_error, _ERRORS.get(result) or os.strerror(-result))
        value, why = int(call.result), int(call.why)
        opens = plan.operation == "connect" or plan.flags & _MSG_FASTOPEN
        if opens and (value in _BEGUN or value > 0) and not why:
            self.names.note(job)
        if why == lib.SD_SOCKET_GONE:
            raise SocketError(self._on_error, _GONE)
        if why in _OURS and value != -EBADF:
            raise SocketError(self._on_error, WHY[why])
        if value == -EINTR and call.patient and job.certain:
            return Outcome(ERESTARTSYS, "a signal for the caller")
        if value == -EPIPE and plan.operation == "send" and not why:
            job.break_pipe()
        if value < 0:
            return Outcome(-value, WHY.get(why, job.how), tcp=job.tcp)
        if not plan.several or call.op == lib.SD_SOCKET_LOOK:
            return Outcome(0, job.how, value=value, tcp=job.tcp, filled=job.filled)
        at = plan.message.told_at if plan.message else 0
        return Outcome(0, job.how, value=1, told=(at, value))
