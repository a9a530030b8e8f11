"""One mount on its way, as resolvers see it: questions, answers, and waiting under a deadline."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from errno import EBADF, EINTR, ENAMETOOLONG, ESRCH
from typing import Any, Final

import trio

from supervisor.engine.fuse_server import Server
from supervisor.engine.helpers import Maker, Resolvers
from supervisor.engine.limits import Limits
from supervisor.engine.waiting import Waiting
from supervisor.kernel.mounts import MS_RDONLY
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.spawn import Helper
from supervisor.kernel.task import signals
from supervisor.model import Decision
from supervisor.plans import Mount, Remount

_LINGER_US: Final = 300
_LINGER_ALONE_US: Final = 3000
_LINGER_PROGRAM_US: Final = 6000  # most FUSE programs have mounted by then
_EXITING: Final = (ESRCH, EBADF)
_RETIRE: Final[int] = lib.SD_SEEN_RETIRE
_BEAT: Final = 0.1  # how often a long wait looks after its caller


class MountError(Exception):
    """What the caller is told, and what goes into the audit record."""

    def __init__(self, errno: int, how: str = "") -> None:
        super().__init__(how)
        self.errno = errno
        self.how = how


def _text(field: Any, length: int) -> bytes | None:
    return ffi.buffer(field, length)[:] if length > 0 else None


class Look:
    """What a resolver saw, and the descriptors that it gave: closed with this, at the latest."""

    __slots__ = ("mount_ns", "root", "seen", "source", "target")

    def __init__(self, seen: Any, fds: Sequence[int]) -> None:
        self.seen = seen
        self.target, self.mount_ns, self.source, self.root = fds

    def target_path(self) -> bytes | None:
        """Below the caller's root, where it has one there."""
        seen = self.seen
        return _text(seen.target, seen.target_length)

    def source_path(self) -> bytes | None:
        """As that of the target."""
        seen = self.seen
        return _text(seen.source, seen.source_length)

    def close(self) -> None:
        """Lets go of them."""
        for fd in (self.target, self.mount_ns, self.source, self.root):
            if fd >= 0:
                os.close(fd)
        self.target = self.mount_ns = self.source = self.root = -1


class MountCall:
    """The caller, whose /proc/TID `task` is, and the resolver that looks and attaches for it.

    `waiting`: the listener and the id of the call, for whoever reads the caller. `deadline` is
    for what a mount itself may take, `path_deadline` for path work. `alone`: there is no other
    mount that could be kept waiting.
    """

    __slots__ = (
        "_alone", "_attached", "_channel", "_listener", "_on_error", "_owes", "_sock", "_tid",
        "_waiting", "deadline", "decision", "on_wait", "path", "path_deadline", "task", "valid",
    )  # fmt: skip

    def __init__(
        self,
        task: int,
        tid: int,
        waiting: tuple[int, int],
        valid: Waiting,
        *,
        on_error: int,
        on_wait: Callable[[], None],
        limits: Limits,
        alone: bool,
    ) -> None:
        self.task = task
        self.valid = valid
        self.deadline = limits.mount
        self.path_deadline = limits.path
        self.on_wait = on_wait
        self.path: bytes | None = None
        self.decision: Decision | None = None
        self._tid = tid
        self._waiting = ffi.new("struct sd_waiting *", waiting)
        self._listener = waiting[0]
        self._alone = alone
        self._on_error = on_error
        self._attached: Any = ffi.new("struct sd_attached *")
        self._sock = self._channel = -1
        self._owes = False

    def use(self, helper: Helper) -> None:
        """Works with this resolver from here on."""
        self._sock, self._owes = helper.sock, False

    def done_with(self, resolvers: Resolvers, helper: Helper) -> None:
        """Gives it back. One that still owes an answer is left behind."""
        self._sock = -1
        if self._owes:
            resolvers.abandon(helper)
        else:
            resolvers.give(helper)

    def failed(self, how: str) -> MountError:
        """What is no errno of the kernel's."""
        return MountError(self._on_error, how)

    def check(self) -> None:
        """Raises where nobody waits for the answer any more."""
        if not self.valid():
            raise self.failed("the caller has gone")

    def soon(self, fd: int, alone_us: int = _LINGER_ALONE_US) -> bool:
        """Whether it becomes readable before trio could tell. `alone_us`: how long nobody else is
        kept waiting by that.
        """
        linger_us = alone_us if self._alone else _LINGER_US
        return int(lib.sd_mount_wait(fd, self._listener, linger_us)) > 0

    async def readable(self, fd: int, deadline: float, *, long: bool = False) -> bool:
        """False at the deadline. A long wait ends with the caller, or with a signal for it.

        Most answers come soon: quicker than trio could be woken up by them. A call of somebody else
        ends that at once.
        """
        return (not long and self.soon(fd)) or await self.later(fd, deadline, long=long)

    async def later(self, fd: int, deadline: float, *, long: bool = False) -> bool:
        """As `readable`, where it does not come soon."""
        self.on_wait()
        until = trio.current_time() + deadline
        while True:
            beat = trio.current_time() + _BEAT
            with trio.move_on_at(min(until, beat) if long else until):
                await trio.lowlevel.wait_readable(fd)
                return True
            if trio.current_time() >= until:
                return False
            self.check()
            if signals(self._tid)[0]:
                raise MountError(EINTR, "mount: a signal for the caller")

    def glance(self, plan: Mount | Remount) -> Look | None:
        """What can be seen without a resolver; None: ask one."""
        if not isinstance(plan, Mount) or plan.settings.text or plan.settings.via != "kernel":
            return None
        target, source = plan.target.path or b"", plan.source or b""
        writes = not (plan.flags | plan.settings.force) & MS_RDONLY
        seen = ffi.new("struct sd_seen *")
        fds = ffi.new("int[4]")
        if not lib.sd_mount_glance(
            self._waiting, self._tid, writes, target, len(target), source, len(source), seen, fds
        ):
            return None
        self.path = target
        return Look(seen, list(fds))

    def ask(self, plan: Mount | Remount) -> None:
        """Has the resolver look at the target, and at the source where that is a path."""
        flags, source = 0, b""
        if isinstance(plan, Mount) and plan.source is not None and not plan.settings.text:
            flags, source = lib.SD_LOOK_SOURCE, plan.source
            if not (plan.flags | plan.settings.force) & MS_RDONLY:
                flags |= lib.SD_LOOK_WRITE
            if plan.settings.via == "fuse":
                flags |= lib.SD_LOOK_DEVICE | lib.SD_LOOK_ROOT
        target = plan.target.path or b""
        error = lib.sd_mount_look(
            self._sock, self._waiting, self.task, flags, target, len(target), source, len(source)
        )
        if error == -ENAMETOOLONG:  # said before anything was sent
            raise MountError(ENAMETOOLONG)
        self._owes = True
        if error < 0:
            raise self.failed("path: the resolver has gone")

    async def look(self) -> Look | None:
        """What it saw. None: this resolver cannot become that caller, another one can."""
        sock = self._sock
        if not self.soon(sock) and not await self.later(sock, self.path_deadline):
            raise self.failed("path: deadline")
        seen = ffi.new("struct sd_seen *")
        fds = ffi.new("int[4]")
        if lib.sd_mount_seen(sock, seen, fds) < 0:
            raise self.failed("path: the resolver has gone")
        if seen.flags & _RETIRE:
            return None  # and it is left behind
        self._owes = False
        look = Look(seen, list(fds))
        if seen.error:
            look.close()
            self.check()  # of one that is exiting the links in /proc lead nowhere
            raise self.refused(-seen.error)
        self.path = look.target_path()
        return look

    def refused(self, errno: int) -> MountError:
        """Neither ESRCH nor EBADF is an answer of mount(2): the caller is exiting."""
        return self.failed("the caller has gone") if errno in _EXITING else MountError(errno)

    def begin(self, maker: Maker, look: Look, new: Any) -> None:
        """Asks the maker for `new` (struct sd_new_mount), and the resolver to bring to its place
        what the maker sends it.
        """
        self._owes = True
        self._channel = lib.sd_mount_begin(
            maker.sock, new, look.source if new.kind == lib.SD_NEW_IMAGE else -1,
            self._sock, self._waiting, look.mount_ns, look.target,
        )  # fmt: skip
        if self._channel < 0:
            raise self.failed("mount: a helper has gone")

    def let_go(self) -> None:
        """Has the maker tidy up, now that the caller is answered, or has nothing to wait for."""
        if self._channel >= 0:
            os.close(self._channel)
            self._channel = -1

    def attached(self) -> Awaitable[int]:
        """Waits until it is there: 0 or an errno; ECANCELED where the maker sent nothing."""
        return self._asked(0, self.deadline)

    async def adopt(
        self, look: Look, server: Server, watch: int, attrs: tuple[int, int], plan: Mount
    ) -> int:
        """Makes the mount that the program asks for, and moves that to its place: 0 or an errno.
        `watch` is an inotify descriptor; the program learns what it is known by there. `attrs` are
        MOUNT_ATTR_*, locked and not locked. `look` is closed.
        """
        task = os.open(f"/proc/{server.pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sent = lib.sd_mount_adopt(
                self._sock, self._waiting, look.mount_ns, look.target, task, server.program, watch,
                *attrs, plan.flags & 0xFFFFFFFF, plan.source or b"",
            )  # fmt: skip
        finally:
            os.close(task)
        look.close()
        error = await self._asked(sent, self.deadline, long=True)
        server.watch, server.device = self._attached.watch, self._attached.device
        return error

    async def change(self, look: Look, set_: int, clear: int, *, only_try: bool = False) -> int:
        """Changes the flags of the mount at the target, or tells what would come of it: 0 or an
        errno.
        """
        sent = lib.sd_mount_change(
            self._sock, self._waiting, look.mount_ns, look.target, set_, clear, only_try
        )
        return await self._asked(sent, self.path_deadline)

    async def mark(self, look: Look) -> int:
        """Has the mount at the target remembered, as one to be replaced: 0 or an errno. It is let
        go of here, so that nobody has it in use for our sake.
        """
        sent = lib.sd_mount_mark(self._sock, self._waiting, look.mount_ns, look.target, self.task)
        error = await self._asked(sent, self.path_deadline)
        os.close(look.target)
        look.target = -1
        return error

    async def idle(self, look: Look) -> int:
        """0, or EBUSY where somebody uses the mount that was marked."""
        sent = lib.sd_mount_idle(self._sock, self._waiting, look.mount_ns)
        return await self._asked(sent, self.path_deadline)

    async def _asked(self, sent: int, deadline: float, *, long: bool = False) -> int:
        """The resolver's answer to a question just sent: an errno, or 0."""
        self._owes = True
        if sent < 0:
            raise self.failed("path: the resolver has gone")
        sock = self._sock
        there = self.soon(sock, _LINGER_PROGRAM_US if long else _LINGER_ALONE_US)
        if not there and not await self.later(sock, deadline, long=long):
            raise self.failed("path: deadline")
        if lib.sd_mount_answer(sock, self._attached) < 0:
            raise self.failed("path: the resolver has gone")
        self._owes = False
        error = -int(self._attached.error)
        if error in _EXITING:
            raise self.refused(error)
        return error
