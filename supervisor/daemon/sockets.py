"""The daemon's sockets: their directory, the lock that keeps a second daemon out, and listening."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import trio

from supervisor.daemon.rates import Complaints, Rates
from supervisor.errors import SeccompdError
from supervisor.kernel.rights import refuse_descriptors
from supervisor.observe.complaint import complain

_BACKLOG = 4096
_BREATH = 0.1


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the other side of a connection, as of when it connected (SO_PEERCRED)."""
    ucred = struct.Struct("3i")
    pid, uid, gid = ucred.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ucred.size)
    )
    return pid, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF


async def accepting(listening: socket.socket, name: str) -> AsyncIterator[socket.socket]:
    """Connections as they come, none of which blocks. Where there is no room for more it waits."""
    complaints = Complaints(name, Rates(0.1, 1))
    while True:
        await trio.lowlevel.wait_readable(listening)
        try:
            connection, _ = listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                complaints.about(0, f"cannot accept: {error.strerror}")
                await trio.sleep(_BREATH)
            continue
        connection.setblocking(False)
        yield connection


def admitted(connection: socket.socket, rates: Rates) -> bool:
    """Whether a user's connection is to be heard (root's always is); one that is not is told so."""
    uid = credentials(connection)[1]
    if uid == 0 or rates.allows(uid):
        return True
    with contextlib.suppress(OSError):
        connection.send(b'{"error": "too many connections of yours in a short time"}\n')
    return False


class RuntimeDirectory:
    """A directory for sockets, locked for this process."""

    def __init__(self, path: Path, given: Mapping[str, socket.socket] | None = None) -> None:
        """Makes it where it is not there. SeccompdError where it cannot be had. `given`: sockets
        that listen already, by name."""
        self.path = path
        self._given = dict(given or {})
        self._sockets: list[tuple[socket.socket, Path]] = []
        try:
            # Root's is open to all: a door may be for everybody. Each socket has its own mode.
            path.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
            _look_at(path)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open(path / "lock", flags, 0o600)
        except OSError as error:
            raise SeccompdError(
                f"no place for the sockets: {error.strerror}", where=str(error.filename or path)
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise SeccompdError(
                "another seccompd serves here", where=str(path),
                hint="stop that one, or set runtime_directory in the configuration",
            ) from error

    def listen(
        self, name: str, mode: int, kind: int = socket.SOCK_STREAM, *, descriptors: bool = True
    ) -> socket.socket:
        """A listening socket, which does not block. What is left of an earlier daemon is removed:
        the lock says that it has gone. Without `descriptors` nobody can send any there, from the
        first moment on where the socket is ours."""
        path = self.path / name
        if name in self._given:
            sock = self._take_given(name, mode, kind)
            if not descriptors:
                refuse_descriptors(sock)
            return sock
        sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        try:
            if not descriptors:
                refuse_descriptors(sock)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            before = os.umask(0o777 & ~mode)
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise SeccompdError(
                f"cannot listen: {error.strerror or error}", where=str(path)
            ) from error
        self._sockets.append((sock, path))
        return sock

    def _take_given(self, name: str, mode: int, kind: int) -> socket.socket:
        """A socket of the service manager's, which stays in its place when we end."""
        sock = self._given.pop(name)
        where = os.fsdecode(sock.getsockname())
        if sock.type != kind or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise SeccompdError("a socket of another kind was given for it", where=name)
        if os.path.isabs(where):
            try:
                os.chmod(where, mode)
            except OSError as error:
                raise SeccompdError(
                    f"its mode cannot be set: {error.strerror}", where=where
                ) from error
        return sock

    def nobody_serves_the_rest(self) -> None:
        """Says so of sockets that were given and not asked for: who connects there waits."""
        for name in sorted(self._given):
            complain(f"nobody serves {name}, on which the service manager listens: no door is open")
            self._given.pop(name).close()

    def close(self) -> None:
        """Removes the sockets, and lets others in."""
        for sock, path in self._sockets:
            sock.close()
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(self._lock)


def _look_at(path: Path) -> None:
    """SeccompdError where others than root and we can put sockets, or links, in the place of ours.
    """
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise SeccompdError(
            "others may write in the place for the sockets", where=str(path),
            hint="give it to the daemon's user alone (chown, chmod go-w), or set runtime_directory "
            "in the configuration",
        )
