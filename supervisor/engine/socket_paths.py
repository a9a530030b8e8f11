"""The path of a unix socket: followed by a resolver as the caller, and used as it was found."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EACCES, EAGAIN, EBADF, ECONNREFUSED, ENAMETOOLONG, ENOENT, ESRCH, EXDEV
from typing import Any, Final

import trio

from supervisor.engine.callers import who_calls
from supervisor.engine.helpers import HelperError, Resolvers
from supervisor.engine.limits import Limits
from supervisor.engine.socket_jobs import NobodyThere, SocketError, SocketJob
from supervisor.kernel.addresses import AF_UNIX, family_of
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.spawn import Helper
from supervisor.model import Facts

_LINGER_US: Final = 300
_EXITING: Final = frozenset((ESRCH, EBADF))


class SocketPath:
    """One path. `target` is what it leads to (of bind: the directory that the socket is to be in),
    as an O_PATH descriptor or -1; `name` is where that is below the caller's root directory.
    """

    def __init__(
        self, resolvers: Resolvers, limits: Limits, on_error: int, on_wait: Callable[[], None]
    ) -> None:
        self.target = -1
        self.name: bytes | None = None
        self._resolvers = resolvers
        self._deadline = limits.path
        self._on_error = on_error
        self._on_wait = on_wait
        self._seen: Any = None

    def close(self) -> None:
        """Lets go of it."""
        if self.target >= 0:
            os.close(self.target)
        self.target = -1

    def facts(self, task: int) -> Facts:
        """What a decision is taken again with; `task` is the caller's /proc/TID."""
        if self._seen is not None:
            return Facts(self.name, self._seen.fsuid, self._seen.fsgid)
        return who_calls(task)

    async def follow(self, job: SocketJob, task: int, path: bytes, *, parent: bool) -> None:
        """Finds what `path` leads to; `parent`: the directory that its last name is, or is to be,
        in. Raises SocketError."""
        waiting = _waiting(job)
        flags = lib.SD_LOOK_ALONE
        if parent:
            flags |= lib.SD_LOOK_PARENT

        def ask(resolver: Helper) -> int:
            sent: int = lib.sd_mount_look(
                resolver.sock, waiting, task, flags, path, len(path), b"", 0
            )
            return sent

        error = await self._asked(ask, self._take_look)
        if error:
            raise self._refused(error)

    async def followed(self, job: SocketJob, task: int) -> SocketError | None:
        """Finds what the caller's path leads to. The error where nothing is there: `name` has where
        it would be then, since a rule may lead elsewhere. Raises SocketError."""
        written, binds = job.plan.path or b"", job.plan.operation == "bind"
        try:
            await self.follow(job, task, written, parent=binds)
        except SocketError as error:
            if binds or error.errno != ENOENT:
                raise
            await self.follow(job, task, written, parent=True)
            return error
        return None

    async def to_target(self, job: SocketJob, task: int) -> None:
        """Finds what the path leads to that a rule leads to. Raises SocketError."""
        try:
            await self.lead(job, task, job.target_path or b"")
        except SocketError as error:
            if error.errno != ENOENT:
                raise
            # of an IPv4 or IPv6 address nobody hears that; nobody is there
            by_path = family_of(job.plan.address or bytes(2)) == AF_UNIX
            errno = ENOENT if by_path else ECONNREFUSED
            raise NobodyThere(errno, f"{job.how}, which is not there") from None

    async def lead(self, job: SocketJob, task: int, path: bytes) -> None:
        """Follows a rule's `path` in the place of the caller's own, of which `name` and `facts`
        still tell. Raises SocketError."""
        own = self.name, self._seen
        self.close()
        try:
            await self.follow(job, task, path, parent=False)
        finally:
            self.name, self._seen = own

    async def bind(self, job: SocketJob, task: int) -> int:
        """Binds the socket to the path, in the directory that it was found to lead to: 0 or an
        errno. Raises SocketError."""
        path, waiting = job.plan.path or b"", _waiting(job)
        attached = ffi.new("struct sd_attached *")

        def ask(resolver: Helper) -> int:
            pidfd = lib.sd_socket_owner(job.call)
            if pidfd < 0:
                raise self._refused(-pidfd)
            sent: int = lib.sd_socket_bind(
                resolver.sock, waiting, task, self.target, pidfd, job.plan.fd, path, len(path)
            )
            os.close(pidfd)
            return sent

        def take(resolver: Helper) -> int:
            if lib.sd_mount_answer(resolver.sock, attached) < 0:
                raise HelperError("path: the resolver has gone")
            return -int(attached.error)

        error = await self._asked(ask, take)
        if error == EXDEV:
            raise SocketError(EACCES, 'socket: a path with ".." in it')
        if error in _EXITING:
            raise self._refused(error)
        return error

    def _take_look(self, resolver: Helper) -> int:
        """What a resolver saw: 0 or an errno; EAGAIN: it cannot become that caller."""
        seen = self._seen = ffi.new("struct sd_seen *")
        fds = ffi.new("int[4]")
        if lib.sd_mount_seen(resolver.sock, seen, fds) < 0:
            raise HelperError("path: the resolver has gone")
        if seen.flags & lib.SD_SEEN_RETIRE:
            return EAGAIN
        self.target = fds[0]
        if seen.target_length > 0:
            self.name = ffi.buffer(seen.target, seen.target_length)[:]
        return -int(seen.error)

    async def _asked(
        self, ask: Callable[[Helper], int], take: Callable[[Helper], int]
    ) -> int:
        """A question to a resolver, and its answer: 0 or an errno. Raises HelperError."""
        error = 0

        async def asked(resolver: Helper) -> bool:
            nonlocal error
            sent = ask(resolver)
            if sent == -ENAMETOOLONG:  # said before anything was sent
                error = ENAMETOOLONG
                return True
            if sent < 0 or not await self._readable(resolver.sock):
                raise HelperError("path: deadline, or the resolver has gone")
            error = take(resolver)
            return error != EAGAIN

        await self._resolvers.ask(asked, self._on_wait)
        return error

    async def _readable(self, fd: int) -> bool:
        if lib.sd_mount_wait(fd, -1, _LINGER_US) > 0:
            return True
        self._on_wait()
        with trio.move_on_after(self._deadline):
            await trio.lowlevel.wait_readable(fd)
            return True
        return False

    def _refused(self, error: int) -> SocketError:
        """Neither ESRCH nor EBADF is an answer of a path: the caller is exiting."""
        if error in _EXITING:
            return SocketError(self._on_error, "the caller has gone")
        return SocketError(error)


def _waiting(job: SocketJob) -> Any:
    return ffi.new("struct sd_waiting *", (job.snapshot.listener, job.snapshot.id))
