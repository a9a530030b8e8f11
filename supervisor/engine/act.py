"""Carrying plans out: the way of one call through resolver and maker.

The work itself is a machine in C (csrc/work.c), which asks, waits some hundred microseconds for the
answer, and only then comes back to be put to sleep in trio. So the usual call goes through here
without the scheduler. Every error ends in an errno, never in `continue`.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EPERM, ESRCH
from typing import Any, Final, Protocol

import trio

from supervisor.engine.helpers import HelperError, Maker, Makers, Resolvers
from supervisor.engine.names import LiveNodes
from supervisor.engine.works import gone_of, lend, path_of, put
from supervisor.kernel.procfs import host_node
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.spawn import Helper
from supervisor.model import (
    ChangeNode,
    Decision,
    Facts,
    MakeNode,
    Outcome,
    Plan,
    RemoveNode,
    RenameNode,
    Settings,
    Snapshot,
    Unmount,
    Verdict,
)

LINGER_US: Final = 300
DEADLINE: Final = 2.0
_GRACE: Final = 0.5
_ATTEMPTS: Final = 3
_MOST_IDLE_WORKS: Final = 4
_CAPABILITIES: Final = {"chown": 0, "fowner": 3}  # of capability.h
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_DONE: Final[int] = lib.SD_WORK_DONE
_WAIT: Final[int] = lib.SD_WORK_WAIT
_RETIRE: Final[int] = lib.SD_WORK_RETIRE
_LOST: Final[int] = lib.SD_WORK_LOST
_PROBE: Final[int] = lib.SD_WORK_PROBE
_REALISE: Final[dict[str, int]] = {
    "auto": 0,
    "node": lib.SD_WORK_NODE,
    "bind": lib.SD_WORK_BIND,
    "closed": lib.SD_WORK_BIND | lib.SD_WORK_CLOSED,
}


class _Traits(Protocol):
    @property
    def nodes(self) -> str: ...


class _Policy(Protocol):
    @property
    def on_error(self) -> int: ...


class Actor:
    """Carries out the plans of one session.

    `userns`: the target has a user namespace of its own, and this process is in it; without one
    there are real nodes or none, for a mount would be one of the host's. `deadline` is
    in seconds, for all the path work of one call. `resumed`: an earlier session of this container
    may have left nodes behind that this one has not made. `on_wait` is called before each time that
    `perform` goes to sleep.
    """

    def __init__(
        self,
        *,
        userns: bool,
        traits: _Traits,
        policy: _Policy,
        maker_socks: list[int],
        deadline: float = DEADLINE,
        resumed: bool = False,
    ) -> None:
        self._host = traits.nodes == "host" and not maker_socks
        self._may_bind = userns and traits.nodes != "none"
        self._on_error = policy.on_error
        self._deadline = deadline
        self._resolvers = Resolvers()
        self._makers = Makers(maker_socks)
        self._works: list[Any] = []
        self._host_nodes: dict[tuple[str, int, int], bytes] = {}
        self.names = LiveNodes(known=not resumed)
        self.on_wait: Callable[[], None] = _nothing
        self._resolvers.prepare()

    @property
    def live_nodes(self) -> bool:
        """Whether there may be bind mounts of ours; if not, no companion's call concerns us."""
        return self.names.any

    @property
    def abandoned(self) -> int:
        """How many resolvers hang and do not die."""
        return self._resolvers.abandoned

    def rest(self) -> None:
        """Lets go of helpers that were needed for a burst alone."""
        self._resolvers.rest()

    def close(self) -> None:
        """Ends the helpers."""
        self._resolvers.close()
        self._makers.close()

    async def perform(
        self,
        plan: Plan,
        snapshot: Snapshot,
        task: int,
        valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None,
        *,
        probe_only: bool = False,
    ) -> Outcome:
        """Carries `plan` out for the caller whose /proc/TID `task` is (O_PATH).

        With `redecide` the path is resolved first, and the call granted only if that grants it.
        `probe_only`: nothing is made; the answer is what the caller's own mknod would come to.
        """
        if not isinstance(plan, MakeNode) and self.names.surely_foreign(plan, task):
            return Outcome(0, left_alone=True)
        if self._makers.lost:
            return Outcome(self._on_error, "maker: lost")
        self.names.expect(plan)
        if self._host:
            self.names.bound()  # all that an ordinary user makes are bind mounts
        work = self._works.pop() if self._works else ffi.new("struct sd_work *")
        work.task = task
        # Whoever reads the caller asks the listener afterwards whether this call still waits.
        work.listener, work.id = snapshot.listener, snapshot.id
        job = _Job(work, plan, valid, redecide, probe_only)
        try:
            for _ in range(_ATTEMPTS):
                resolver = self._resolvers.idle()
                if resolver is None:
                    resolver = await self._resolvers.take(self.on_wait)
                outcome = await self._with(resolver, job)
                if outcome is not None:
                    return outcome
            return Outcome(self._on_error, "path: the caller's groups cannot be taken")
        except HelperError as error:
            return Outcome(self._on_error, str(error))
        finally:
            if len(self._works) < _MOST_IDLE_WORKS:
                self._works.append(work)

    # -- one work

    async def _with(self, resolver: Helper, job: _Job) -> Outcome | None:
        """None: this resolver cannot become that caller, another one can."""
        work = job.work
        result = _LOST
        try:
            maker = job.maker = self._makers.pick()
            work.resolver = resolver.sock
            lend(work, maker)
            if not job.valid():
                result = _DONE
                return Outcome(self._on_error, "the caller has gone")
            result = self._start(job)
            if result != _DONE:
                outcome = await self._go_on(job, result)
                result = _RETIRE if outcome is None else _WAIT
                return outcome
            return self._outcome(job)
        finally:
            if result == _DONE:
                self._resolvers.give(resolver)
            else:  # it went to sleep, failed, or was cancelled: who still owes an answer?
                owed = lib.sd_work_owed(work)
                lib.sd_work_close(work)
                if result == _RETIRE or owed == resolver.sock:
                    self._resolvers.abandon(resolver)
                else:
                    self._resolvers.give(resolver)
                if job.maker is not None and owed == job.maker.sock:
                    self._makers.lose(job.maker)
                self._makers.done()

    async def _go_on(self, job: _Job, result: int) -> Outcome | None:
        """What did not come to its end at once. None: this resolver cannot become that caller."""
        work = job.work
        until: float | None = None
        while result != _DONE:
            maker = job.maker
            if result == _WAIT:
                until = trio.current_time() + self._deadline if until is None else until
                if await self._readable(work.waiting, until):
                    result = lib.sd_work_step(work, LINGER_US)
                    continue
                if maker is None or work.waiting != maker.sock:
                    return Outcome(self._on_error, "path: deadline")
                result = self._without_maker(job, maker)
                until += _GRACE
            elif result == lib.SD_WORK_DECIDE:
                refusal = self._second_look(job)
                if refusal is None:
                    result = lib.sd_work_go(work, LINGER_US)
                elif work.guess:  # it may be a symlink to where it is granted
                    result = lib.sd_work_resolve(work, LINGER_US)
                else:
                    return refusal
            elif result == lib.SD_WORK_BUSY:
                self.on_wait()
                with trio.move_on_after(self._deadline):
                    await self._makers.wait()
                job.maker = self._makers.pick()
                lend(work, job.maker)
                if job.maker is None:
                    result = lib.sd_work_undo(work, -self._on_error, LINGER_US)
                else:
                    result = lib.sd_work_go(work, LINGER_US)
            elif result == _RETIRE:
                return None
            elif maker is not None and work.waiting == maker.sock:
                result = self._without_maker(job, maker)
            else:
                return Outcome(self._on_error, "path: the resolver has gone")
        return self._outcome(job)

    async def _readable(self, fd: int, until: float) -> bool:
        self.on_wait()
        with trio.move_on_at(until):
            await trio.lowlevel.wait_readable(fd)
            return True
        return False

    def _without_maker(self, job: _Job, maker: Maker) -> int:
        """It has gone, or does not answer: what was placed for its node is taken back."""
        self._makers.lose(maker)
        job.maker = None
        lend(job.work, None)
        result: int = lib.sd_work_undo(job.work, -self._on_error, LINGER_US)
        return result

    def _start(self, job: _Job) -> int:
        work, plan = job.work, job.plan
        result: int
        if isinstance(plan, MakeNode):
            flags = self._realise(job, plan, plan.settings)
            if job.redecide is not None and not flags & _PROBE:
                flags |= lib.SD_WORK_WANT_PATH
            path = plan.place.path or b""
            result = lib.sd_work_make(
                work, flags, plan.mode, *plan.device, plan.place.dirfd, path, len(path), LINGER_US
            )
            return result
        work.length[1] = -1
        work.call_flags = work.flags = 0
        work.host_node[0] = b"\0"
        if isinstance(plan, RemoveNode):
            work.op = lib.SD_WORK_REMOVE
            put(work, 0, plan.place)
        elif isinstance(plan, ChangeNode):
            work.op = lib.SD_WORK_CHANGE
            work.capability = _CAPABILITIES[plan.capability]
            work.call_flags = 0 if plan.follow else _AT_SYMLINK_NOFOLLOW
            put(work, 0, plan.place)
        elif isinstance(plan, Unmount):
            work.op = lib.SD_WORK_UMOUNT
            work.call_flags = plan.flags
            put(work, 0, plan.place)
        else:
            work.op = lib.SD_WORK_RENAME if isinstance(plan, RenameNode) else lib.SD_WORK_LINK
            work.call_flags = plan.flags
            put(work, 0, plan.old)
            put(work, 1, plan.new)
        result = lib.sd_work_start(work, LINGER_US)
        return result

    def _realise(self, job: _Job, plan: MakeNode, settings: Settings) -> int:
        """The flags of how the node is to be made; one that cannot be made is only tried, and the
        call gets the kernel's own answer.
        """
        how = settings.realise if self._may_bind else "node"
        flags: int = _REALISE[how]
        if job.probe_only:
            return flags | _PROBE
        if not self._makers.all:
            path = self._host_node(plan) if self._host and how != "node" else b""
            ffi.memmove(job.work.host_node, path + b"\0", len(path) + 1)
            if not path:
                flags |= _PROBE
        return flags

    def _host_node(self, plan: MakeNode) -> bytes:
        kind = "c" if plan.mode & 0o170000 == 0o020000 else "b"
        key = (kind, *plan.device)
        path = self._host_nodes.get(key)
        if path is None:
            found = host_node(*key)
            path = found.encode() if found else b""
            if len(path) >= lib.SD_HOST_NODE_MAX:
                path = b""
            if path:  # a device that is not there yet may come
                self._host_nodes[key] = path
        return path

    def _second_look(self, job: _Job) -> Outcome | None:
        """Why a call that was granted for what the caller wrote is refused after all; or None."""
        work, plan = job.work, job.plan
        path = path_of(work)
        if not isinstance(plan, MakeNode) or job.redecide is None:
            raise TypeError("nothing to decide")
        decision = job.decision = job.redecide(Facts(path, work.fsuid, work.fsgid))
        if decision.verdict is not Verdict.EMULATE:
            return Outcome(EPERM, path=path, decision=decision)
        if not job.valid():
            return Outcome(self._on_error, "the caller has gone", decision=decision)
        work.flags = self._realise(job, plan, decision.settings)
        if work.flags & _PROBE:
            return Outcome(EPERM, "no node of the host's", path, decision=decision)
        return None

    def _outcome(self, job: _Job) -> Outcome:
        work = job.work
        outcome, error = work.outcome, -work.error
        if isinstance(job.plan, Unmount):
            self._unmounted(work)
        path = path_of(work) if job.redecide is not None else None
        if outcome == lib.SD_WAS_NODE and not error:
            return Outcome(0, "node", path, False, job.decision)
        if outcome & lib.SD_WAS_LEFT_ALONE:
            return Outcome(0, left_alone=True)
        if error:
            how = ""
            if error == ESRCH:  # no answer of any of these calls: the caller is exiting
                error, how = self._on_error, "the caller has gone"
            return Outcome(error, how, path, decision=job.decision)
        if outcome & lib.SD_WAS_BOUND:
            self.names.bound()
        if outcome & (lib.SD_WAS_UNBOUND | lib.SD_WAS_LINKED):
            for maker in self._makers.all:
                lib.sd_maker_tell(maker.sock, outcome, work.node_dev, work.node_ino)
        return Outcome(0, "bind", path, decision=job.decision)

    def _unmounted(self, work: Any) -> None:
        """The nodes that went with a file system, or could not be put back on it."""
        pairs = gone_of(work)
        for maker in self._makers.all:
            for device, inode in pairs:
                lib.sd_maker_tell(maker.sock, lib.SD_WAS_UNBOUND, device, inode)


class _Job:
    """One call on its way."""

    __slots__ = ("decision", "maker", "plan", "probe_only", "redecide", "valid", "work")

    def __init__(
        self,
        work: Any,
        plan: Plan,
        valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None,
        probe_only: bool,
    ) -> None:
        self.work = work
        self.plan = plan
        self.valid = valid
        self.redecide = redecide
        self.probe_only = probe_only
        self.maker: Maker | None = None
        self.decision: Decision | None = None


def _nothing() -> None:
    """What is called before a sleep that nobody wants to know of."""
