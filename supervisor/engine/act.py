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
from supervisor.kernel.procfs import host_node
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.spawn import Helper
from supervisor.model import (
    ChangeNode,
    Decision,
    Facts,
    MakeNode,
    Outcome,
    Place,
    Plan,
    RemoveNode,
    RenameNode,
    Settings,
    Snapshot,
    Verdict,
)

LINGER_US: Final = 300
DEADLINE: Final = 2.0
_GRACE: Final = 0.5
_ATTEMPTS: Final = 3
_MOST_IDLE_WORKS: Final = 4
_CAPABILITIES: Final = {"chown": 0, "fowner": 3}  # of capability.h
_AT_SYMLINK_NOFOLLOW: Final = 0x100


class _Traits(Protocol):
    @property
    def nodes(self) -> str: ...


class _Policy(Protocol):
    @property
    def on_error(self) -> int: ...


class Actor:
    """Carries out the plans of one session.

    `userns`: the target has a user namespace of its own, and this process is in it. `deadline` is
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
        self._userns = userns
        self._host = traits.nodes == "host" and not maker_socks
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
    def live_nodes(self) -> int:
        """How many bind mounts of ours there may be; 0: no companion's call concerns us."""
        return self.names.count

    @property
    def abandoned(self) -> int:
        """How many resolvers hang and do not die."""
        return self._resolvers.abandoned

    def close(self) -> None:
        """Ends the helpers."""
        self._resolvers.close()
        self._makers.close()

    async def perform(
        self,
        plan: Plan,
        snapshot: Snapshot,  # noqa: ARG002  (what the plan was made from)
        task: int,
        valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None,
        *,
        probe_only: bool = False,
    ) -> Outcome:
        """Carries `plan` out for the caller whose /proc/TID `task` is (O_PATH, checked).

        With `redecide` the path is resolved first, and the call granted only if that grants it.
        `probe_only`: nothing is made; the answer is what the caller's own mknod would come to.
        """
        if not isinstance(plan, MakeNode) and self.names.surely_foreign(plan, task):
            return Outcome(0, left_alone=True)
        if self._makers.lost:
            return Outcome(self._on_error, "maker: lost")
        work = self._works.pop() if self._works else ffi.new("struct sd_work *")
        try:
            self._fill(work, plan, probe_only, redecide is not None)
            work.task = task
            return await self._carry_out(work, plan, valid, redecide)
        except HelperError as error:
            return Outcome(self._on_error, str(error))
        finally:
            lib.sd_work_close(work)
            if len(self._works) < _MOST_IDLE_WORKS:
                self._works.append(work)

    # -- one work

    def _fill(self, work: Any, plan: Plan, probe_only: bool, want_path: bool) -> None:
        work.length[1] = -1
        work.call_flags = work.flags = work.stage = 0
        work.parent = work.placeholder = -1
        work.host_node[0] = b"\0"
        if isinstance(plan, MakeNode):
            work.op = lib.SD_WORK_MAKE
            work.mode = plan.mode
            work.major, work.minor = plan.device
            if want_path:
                work.flags = lib.SD_WORK_WANT_PATH
            self._realise(work, plan, plan.settings, probe_only)
            _put(work, 0, plan.place)
            return
        if isinstance(plan, RemoveNode):
            work.op = lib.SD_WORK_REMOVE
            _put(work, 0, plan.place)
        elif isinstance(plan, ChangeNode):
            work.op = lib.SD_WORK_CHANGE
            work.capability = _CAPABILITIES[plan.capability]
            work.call_flags = 0 if plan.follow else _AT_SYMLINK_NOFOLLOW
            _put(work, 0, plan.place)
        else:
            work.op = lib.SD_WORK_RENAME if isinstance(plan, RenameNode) else lib.SD_WORK_LINK
            work.call_flags = plan.flags
            _put(work, 0, plan.old)
            _put(work, 1, plan.new)

    def _realise(self, work: Any, plan: MakeNode, settings: Settings, probe_only: bool) -> None:
        """How the node is to be made; where it cannot be, the call gets the kernel's own answer."""
        flags = work.flags & ~(lib.SD_WORK_NODE | lib.SD_WORK_BIND | lib.SD_WORK_PROBE)
        if settings.realise == "node":
            flags |= lib.SD_WORK_NODE
        elif settings.realise == "bind":
            flags |= lib.SD_WORK_BIND
        if not self._makers.all:
            path = self._host_node(plan) if self._host and not probe_only else b""
            if path and settings.realise != "node":
                ffi.memmove(work.host_node, path + b"\0", len(path) + 1)
            else:
                probe_only = True
        if probe_only:
            flags = flags & ~lib.SD_WORK_WANT_PATH | lib.SD_WORK_PROBE
        work.flags = flags

    def _host_node(self, plan: MakeNode) -> bytes:
        kind = "c" if plan.mode & 0o170000 == 0o020000 else "b"
        key = (kind, *plan.device)
        path = self._host_nodes.get(key)
        if path is None:
            found = host_node(*key)
            path = found.encode()[: lib.SD_HOST_NODE_MAX - 1] if found else b""
            if path:  # a device that is not there yet may come
                self._host_nodes[key] = path
        return path

    async def _carry_out(
        self,
        work: Any,
        plan: Plan,
        valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None,
    ) -> Outcome:
        for _ in range(_ATTEMPTS):
            resolver = await self._resolvers.take(self.on_wait)
            outcome = None
            try:
                outcome = await self._attempt(work, plan, valid, redecide, resolver)
            finally:
                # also where this was cancelled: who owes an answer is of no use to the next
                if outcome is None or lib.sd_work_owed(work) == resolver.sock:
                    self._resolvers.abandon(resolver)
                else:
                    self._resolvers.give(resolver)
            if outcome is not None:
                return outcome
        return Outcome(self._on_error, "path: the caller's groups cannot be taken")

    async def _attempt(
        self,
        work: Any,
        plan: Plan,
        valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None,
        resolver: Helper,
    ) -> Outcome | None:
        """None: this resolver cannot become that caller, another one can."""
        maker = self._makers.pick()
        decision: Decision | None = None
        until: float | None = None
        work.resolver = resolver.sock
        _lend(work, maker)
        if not valid():
            return Outcome(self._on_error, "the caller has gone")
        try:
            result = lib.sd_work_start(work, LINGER_US)
            while result != lib.SD_WORK_DONE:
                if result == lib.SD_WORK_WAIT:
                    until = trio.current_time() + self._deadline if until is None else until
                    if await self._readable(work.waiting, until):
                        result = lib.sd_work_step(work, LINGER_US)
                        continue
                    if maker is None or work.waiting != maker.sock:
                        return Outcome(self._on_error, "path: deadline")
                    result = self._without_maker(work, maker)
                    until += _GRACE
                elif result == lib.SD_WORK_DECIDE:
                    assert isinstance(plan, MakeNode)
                    assert redecide is not None
                    decision = redecide(Facts(_path(work), work.fsuid, work.fsgid))
                    refusal = self._second_look(work, plan, decision, valid)
                    if refusal is not None:
                        return refusal
                    result = lib.sd_work_go(work, LINGER_US)
                elif result == lib.SD_WORK_BUSY:
                    self.on_wait()
                    with trio.move_on_after(self._deadline):
                        await self._makers.wait()
                    maker = self._makers.pick()
                    _lend(work, maker)
                    if maker is None:
                        result = lib.sd_work_undo(work, -self._on_error, LINGER_US)
                    else:
                        result = lib.sd_work_go(work, LINGER_US)
                elif result == lib.SD_WORK_RETIRE:
                    return None
                elif maker is not None and work.waiting == maker.sock:
                    result = self._without_maker(work, maker)
                else:
                    return Outcome(self._on_error, "path: the resolver has gone")
        finally:
            if maker is not None and lib.sd_work_owed(work) == maker.sock:
                self._makers.lose(maker)
            self._makers.done()
        return self._outcome(work, plan, decision)

    async def _readable(self, fd: int, until: float) -> bool:
        self.on_wait()
        with trio.move_on_at(until):
            await trio.lowlevel.wait_readable(fd)
            return True
        return False

    def _without_maker(self, work: Any, maker: Maker) -> int:
        """It has gone, or does not answer: what was placed for its node is taken back."""
        self._makers.lose(maker)
        _lend(work, None)
        result: int = lib.sd_work_undo(work, -self._on_error, LINGER_US)
        return result

    def _second_look(
        self, work: Any, plan: MakeNode, decision: Decision, valid: Callable[[], bool]
    ) -> Outcome | None:
        """Why a call that was granted for what the caller wrote is refused after all; or None."""
        path = _path(work)
        if decision.verdict is not Verdict.EMULATE:
            return Outcome(EPERM, path=path, decision=decision)
        if not valid():
            return Outcome(self._on_error, "the caller has gone", decision=decision)
        self._realise(work, plan, decision.settings, False)
        if work.flags & lib.SD_WORK_PROBE:
            return Outcome(EPERM, "no node", path, decision=decision)
        return None

    def _outcome(self, work: Any, plan: Plan, decision: Decision | None) -> Outcome:
        outcome = work.outcome
        error = -work.error
        if outcome & lib.SD_WAS_LEFT_ALONE:
            return Outcome(0, left_alone=True)
        if error:
            how = ""
            if error == ESRCH:  # no answer of any of these calls: the caller is exiting
                error, how = self._on_error, "the caller has gone"
            return Outcome(error, how, _path(work), decision=decision)
        self.names.record(
            plan,
            made=bool(outcome & lib.SD_WAS_BOUND),
            gone=bool(outcome & lib.SD_WAS_UNBOUND),
        )
        if outcome & (lib.SD_WAS_UNBOUND | lib.SD_WAS_LINKED):
            for maker in self._makers.all:
                lib.sd_maker_tell(maker.sock, outcome, work.node_dev, work.node_ino)
        how = "node" if outcome & lib.SD_WAS_NODE else "bind"
        return Outcome(0, how, _path(work), decision=decision)


def _nothing() -> None:
    """What is called before a sleep that nobody wants to know of."""


def _put(work: Any, which: int, place: Place) -> None:
    work.dirfd[which] = place.dirfd
    path = place.path
    if path is None:
        work.length[which] = -1
        return
    length = len(path)
    work.length[which] = length
    if length < lib.SD_PATH_MAX:
        ffi.memmove(work.path[which], path, length)


def _lend(work: Any, maker: Maker | None) -> None:
    work.maker = maker.sock if maker is not None else -1
    work.maker_busy = maker.busy if maker is not None else ffi.NULL


def _path(work: Any) -> bytes | None:
    length = work.resolved_length
    return ffi.buffer(work.resolved, length)[:] if length > 0 else None
