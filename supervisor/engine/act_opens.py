"""Opens that a policy gives: where a path leads, the thing that is given there, and opening it.

A device is a node that a maker lends (for an ordinary user the host's own), opened in the
container's user namespace: by us where it comes to the same whoever does, else by a resolver; a
file or a directory is opened by a maker; content is a sealed file of our own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EACCES, EEXIST, EISDIR, ENAMETOOLONG, ENODEV, EPERM, ESRCH
from typing import Any, Final

from supervisor.engine.act_loops import Loops
from supervisor.engine.helpers import HelperError, Makers, Resolvers
from supervisor.engine.limits import Limits
from supervisor.engine.maker_calls import MakerCalls, Refused
from supervisor.engine.open_nodes import file_of_ours, held, is_still
from supervisor.engine.openers import DEVICES, FILES, NET, Asked, Openers
from supervisor.engine.said import Policy
from supervisor.kernel import features
from supervisor.kernel.opening import (
    FILE_FLAGS,
    O_ACCMODE,
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_NOATIME,
    O_NOFOLLOW,
    O_PATH,
    O_RDONLY,
    O_TRUNC,
)
from supervisor.kernel.procfs import host_node
from supervisor.kernel.shim import ffi, lib
from supervisor.model import Decision, Facts, Given, Inject, Outcome, Snapshot, Verdict
from supervisor.plans import Open

# Its open goes by the network namespace of whoever opens it.
_TUN: Final = ("c", 10, 200)
# Memory devices, and the miscellaneous ones: no open of those waits for anything.
_PROMPT: Final = (1, 10)


class _Asking:
    """One open on its way to resolvers."""

    __slots__ = ("opening", "plan", "snapshot", "task", "waiting")

    def __init__(self, plan: Open, snapshot: Snapshot, task: int) -> None:
        self.plan = plan
        self.snapshot = snapshot
        self.task = task
        self.waiting = ffi.new("struct sd_waiting *", (snapshot.listener, snapshot.id))
        opening = self.opening = ffi.new("struct sd_opening *")
        path = plan.place.path or b""
        if len(path) >= lib.SD_PATH_MAX:
            raise Refused(ENAMETOOLONG)
        opening.dirfd, opening.length = plan.place.dirfd, len(path)
        ffi.memmove(opening.path, path, len(path))
        opening.granted_length = opening.fd = opening.pending = -1

    @property
    def path(self) -> bytes | None:
        """Where its path leads."""
        length = self.opening.resolved_length
        return ffi.buffer(self.opening.resolved, length)[:] if length > 0 else None

    def take(self) -> int:
        """What was opened: the descriptor is the caller's of this from now on."""
        fd = int(self.opening.fd)
        self.opening.fd = -1
        return fd

    def close(self) -> None:
        """Lets go of what nobody took."""
        for fd in (self.opening.fd, self.opening.pending):
            if fd >= 0:
                os.close(fd)
        self.opening.fd = self.opening.pending = -1


class Opener:
    """Gives descriptors to the callers of one session, and has `loops` with it. `calls`: who is to
    hear of it before somebody goes to sleep.
    """

    def __init__(
        self, resolvers: Resolvers, makers: Makers, policy: Policy, limits: Limits
    ) -> None:
        self._resolvers = resolvers
        self._makers = makers
        self.calls = MakerCalls(makers, on_error=policy.on_error, deadline=limits.path)
        self.openers = Openers(self.calls)
        self.loops = Loops(resolvers, self.calls, policy.lent, limits.mount)
        # What the makers were born to lend, in the order of their numbers there.
        self._lent = policy.lent
        # What is opened again for each caller: nodes and files (O_PATH), and content.
        self._nodes: dict[Inject, Any] = {}
        self._by_makers: set[Inject] = set()
        self._waiting = ffi.new("struct sd_waiting *")
        if makers.none:
            lib.sd_known_by_pidfd(features.available("pidfd_info"))

    def take(self, policy: Policy, limits: Limits) -> None:
        """Goes by another policy from now on."""
        self.calls.on_error, self.calls.deadline = policy.on_error, limits.path
        self.loops.take(policy.lent, limits.mount)
        self._lent = policy.lent
        self._nodes.clear()
        self._by_makers.clear()
        self.openers.rest()

    def close(self) -> None:
        """Lets go of everything."""
        self._nodes.clear()
        self.openers.rest()
        self.loops.close()

    def at_once(self, plan: Open, snapshot: Snapshot) -> Outcome | Asked | None:
        """The short way, where the path is plain: what we can open ourselves, or an opener can.
        None: `perform` it. `Asked`: it takes longer, and `finish` has to be awaited.
        """
        inject = plan.inject
        if inject is None or _refusal(inject, plan.flags):
            return None
        flags, how = plan.flags & (FILE_FLAGS | O_CLOEXEC), f"injected: {inject.text()}"
        kind = self._kind(inject)
        if snapshot.begun:
            return self.openers.begun(kind, flags, how)
        # what is looked at here is so before it is asked whether the caller still waits
        here = self._makers.none and kind == NET and lib.sd_network_is_ours(snapshot.tid)
        if kind == NET and not here and not lib.sd_opener_is_there(kind, snapshot.tid):
            return None
        node, why = self._nodes.get(inject), lib.SD_NODE_EVERYBODYS
        if inject.fits or (inject.device and self._makers.none):
            # made for others; or an ordinary user's: the host's, which the caller may not open
            why = lib.sd_node_is_for(node, snapshot.tid, flags) if node else lib.SD_NODE_NO
            if why == lib.SD_NODE_NO:
                return None
        hosts = node if node and node.kind == lib.SD_NODE_HOSTS else None
        # another device would be of our network, or have us wait, or be opened with our rights
        if not (self._prompt(inject) or here) or (inject.device and self._makers.lost):
            node = None
        by_others = kind if kind != FILES or node or inject in self._by_makers else 0
        if not (node or by_others) or not self._is_plain(plan, snapshot):
            return None
        # beside what we open here: who calls from another network is another's
        opener = (kind, self._lent.index(inject)) if here else None
        fd = -EPERM if node is None else lib.sd_node_open_for(node, why, flags & FILE_FLAGS)
        if fd < 0 and by_others and not here:
            node, opener = hosts, (kind, self._lent.index(inject))
            opened = self.openers.open(*opener, flags, how, hosts)
            if isinstance(opened, Asked):
                return opened
            fd = opened
        if fd < 0:
            return None
        given = Given(fd, flags, node, plan.granted or b"", opener)
        return Outcome(0, how, plan.granted, give=given)

    async def finish(self, asked: Asked, on_wait: Callable[[], None]) -> Outcome:
        """What an opener that takes longer comes to."""
        self.calls.on_wait = on_wait
        try:
            fd = await self.openers.wait(asked)
        except Refused as error:
            return Outcome(error.errno, error.how)
        return Outcome(0, asked.how, give=Given(fd, asked.flags))

    def _kind(self, inject: Inject) -> int:
        """Who may have to open it, where we do not; 0: nobody."""
        if inject.loops is not None or inject.ours:
            return 0
        if inject.device is None or not (self._makers.all or self._makers.none):
            return FILES if self._makers.all else 0
        return 0 if self._prompt(inject) else NET if inject.device == _TUN else DEVICES

    def _is_plain(self, plan: Open, snapshot: Snapshot) -> bool:
        """Whether the path surely leads where it is granted; looks, and does not wait."""
        path, waiting = plan.granted, self._waiting
        if path is None:
            return False
        waiting.listener, waiting.id = snapshot.listener, snapshot.id
        return bool(lib.sd_open_is_plain(waiting, snapshot.tid, path, len(path)) == 1)

    def _prompt(self, inject: Inject) -> bool:
        """Whether it opens at once, whoever opens it."""
        device = inject.device
        if device is None:
            return inject.loops is None
        return device != _TUN and device[0] == "c" and device[1] in _PROMPT

    async def perform(
        self, plan: Open, snapshot: Snapshot, task: int, valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None,
    ) -> Outcome:
        """Opens what is given, for the caller whose /proc/TID `task` is. An open that no rule is
        about after all is the kernel's; without `redecide` it is refused.
        """
        if redecide is None:
            return Outcome(EACCES)
        asking: _Asking | None = None
        try:
            asking = _Asking(plan, snapshot, task)
            return await self._perform(asking, valid, redecide)
        except Refused as error:
            return Outcome(error.errno, error.how, asking.path if asking else None)
        except HelperError as error:
            return Outcome(self.calls.on_error, str(error))
        finally:
            if asking is not None:
                asking.close()

    async def _perform(
        self, asking: _Asking, valid: Callable[[], bool], redecide: Callable[[Facts], Decision]
    ) -> Outcome:
        plan, opening = asking.plan, asking.opening
        expected = plan.inject
        node = None
        if plan.granted is not None and expected is not None:
            opening.granted_length = len(plan.granted)
            ffi.memmove(opening.granted, plan.granted, len(plan.granted))
            if expected.device is not None and not _refusal(expected, plan.flags):
                node = await self._node(expected)
        elsewhere = expected is not None and expected.device is None
        if elsewhere and expected is not None and self._is_plain(plan, asking.snapshot):
            return await self._give(asking, expected, plan.granted, None)
        await self._ask(asking, node, expected)
        path = asking.path
        if opening.error:
            raise self._failed_path(-opening.error, opened=bool(opening.leads))
        if opening.leads and expected is not None:
            return await self._give(asking, expected, path, None)
        decision = redecide(Facts(path, opening.fsuid, opening.fsgid))
        if decision.verdict is not Verdict.INJECT or not isinstance(decision.settings, Inject):
            return Outcome(EACCES, path=path, decision=decision)
        if not valid():
            return Outcome(self.calls.on_error, "the caller has gone", decision=decision)
        try:
            return await self._give(asking, decision.settings, path, decision)
        except Refused as error:
            return Outcome(error.errno, error.how, path, decision=decision)

    async def _give(
        self, asking: _Asking, inject: Inject, path: bytes | None, decision: Decision | None
    ) -> Outcome:
        flags = asking.plan.flags
        errno = _refusal(inject, flags)
        if flags & O_CREAT and (asking.plan.place.path or b"").endswith(b"/"):
            errno = EISDIR
        if errno:
            raise Refused(errno, "wider than what is given" if errno == EACCES else "")
        if inject.ours:
            content = await self._node(inject, asking.snapshot.tid)
            fd = lib.sd_node_open(content, flags & FILE_FLAGS)
            if fd < 0:
                raise Refused(-fd, "opening what is given")
        elif inject.loops is not None:
            fd = await self.loops.open(path or b"", flags & FILE_FLAGS)
        elif inject.device is None:
            return await self._file(asking, inject, path, decision)
        else:
            kind = self._kind(inject)
            if kind:
                await self.openers.want(kind, asking.task)
            fd = asking.take()
            if fd < 0:  # where it leads was not known when it was asked
                node = await self._node(inject)
                await self._ask(asking, node, inject, decided=True)
                if asking.opening.error:
                    raise self._failed_path(-asking.opening.error, opened=True)
                fd = asking.take()
        how = f"injected: {inject.text()}"
        return Outcome(0, how, path, decision=decision, give=Given(fd, flags))

    async def _file(
        self, asking: _Asking, inject: Inject, path: bytes | None, decision: Decision | None
    ) -> Outcome:
        """A file or a directory: by ourselves, where the container's root may open it, or else by
        a maker.
        """
        flags = asking.plan.flags
        node = await self._kept(inject)
        fd = -EPERM if node is None else lib.sd_node_open(node, flags & FILE_FLAGS)
        if fd < 0:
            await self.openers.want(FILES, asking.task)
            fd = await self._lend(inject, flags & FILE_FLAGS)
        how = f"injected: {inject.text()}"
        return Outcome(0, how, path, decision=decision, give=Given(fd, flags))

    async def _kept(self, inject: Inject) -> Any:
        """What the next callers get the file by, asked for once; None: a maker has to open it."""
        if inject not in self._nodes and inject not in self._by_makers:
            try:
                kind = lib.SD_NODE_DIRECTORY if inject.directory else lib.SD_NODE_PLACE
                node = held(await self._lend(inject, O_PATH), kind)
            except Refused:
                self._by_makers.add(inject)
            else:
                if inject in self._lent:  # or there is another policy since
                    self._nodes.setdefault(inject, node)
        return self._nodes.get(inject)

    def _failed_path(self, errno: int, *, opened: bool) -> Refused:
        """ESRCH is no answer of open(2): the caller is exiting."""
        if errno == ESRCH:
            return Refused(self.calls.on_error, "the caller has gone")
        return Refused(errno, "opening what is given" if opened else "")

    # -- helpers

    async def _ask(
        self, asking: _Asking, node: Any, inject: Inject | None, *, decided: bool = False
    ) -> None:
        """Has a resolver look at the path, and open `node` if that leads where it is granted, or
        if that is `decided` already.
        """
        opening, flags = asking.opening, asking.plan.flags
        opening.flags = lib.SD_OPEN_NOFOLLOW if flags & O_NOFOLLOW else 0
        if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL:
            opening.flags |= lib.SD_OPEN_NEW
        if decided:
            opening.flags |= lib.SD_OPEN_DECIDED
        if inject is not None and inject.device == _TUN:
            opening.flags |= lib.SD_OPEN_NET
        opening.open_flags = flags & FILE_FLAGS
        await self._resolvers.ask(
            lambda helper: self._ask_one(helper.sock, asking, node), self.calls.on_wait
        )

    async def _ask_one(self, sock: int, asking: _Asking, node: Any) -> bool:
        """False: this resolver cannot become that caller."""
        node = node or ffi.NULL
        result = lib.sd_open_ask(sock, asking.waiting, asking.task, node, asking.opening)
        if result == 0:
            result = await self.calls.answer(
                sock, lambda linger: lib.sd_open_told(sock, asking.opening, linger)
            )
        if result < 0:
            raise Refused(self.calls.on_error, "path: the resolver has gone")
        if result == 0:
            raise Refused(self.calls.on_error, "path: deadline")
        return not asking.opening.retire

    async def _node(self, inject: Inject, tid: int = 0) -> Any:
        """What is opened again, kept for the next one: a file for `tid`, or a node of a device."""
        node = self._nodes.get(inject)
        if node is not None and is_still(node, tid):
            return node
        self._nodes.pop(inject, None)
        if inject.ours:
            return self._nodes.setdefault(inject, file_of_ours(inject, tid, node))
        assert inject.device is not None
        if self._makers.all or self._makers.lost:
            fd, kind = await self._lend(inject, 0), lib.SD_NODE_PLACE
        else:
            name = host_node(*inject.device)
            if name is None:
                raise Refused(ENODEV, "the host has no node of this device")
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            kind = lib.SD_NODE_HOSTS
        node = held(fd, kind)
        if inject not in self._lent:  # there is another policy since
            raise Refused(self.calls.on_error, "another policy")
        return self._nodes.setdefault(inject, node)  # somebody else may have been quicker

    async def _lend(self, inject: Inject, flags: int) -> int:
        """What a maker lends: a descriptor."""
        maker = await self.calls.borrow()
        if inject not in self._lent:
            raise Refused(self.calls.on_error, "another policy")
        fd = ffi.new("int *", -1)
        result = await self.calls.asked(
            maker, lib.sd_lend_ask(maker.sock, self._lent.index(inject), flags),
            lambda linger: lib.sd_lend_told(maker.sock, fd, linger), fd,
        )  # fmt: skip
        if result < 0:
            raise Refused(-result, "opening what is given")
        return int(fd[0])


def _refusal(inject: Inject, flags: int) -> int:
    """The errno of an open that is wider than what is given, as of a file that is there; or 0."""
    if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL:
        return EEXIST
    if inject.directory is not None and flags & (O_ACCMODE | O_CREAT | O_TRUNC) != O_RDONLY:
        return EISDIR
    if not inject.writes and (flags & O_ACCMODE != O_RDONLY or flags & O_TRUNC):
        return EACCES
    return EPERM if flags & O_NOATIME else 0
