"""What all doors do alike: accept at once, let who is silent wait, and wait for nobody."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import trio

from supervisor.daemon.aside import Aside
from supervisor.daemon.config import Config
from supervisor.daemon.rates import Complaints, Rates
from supervisor.daemon.sockets import accepting, admitted
from supervisor.intake.handover import Malformed
from supervisor.intake.identity import Peer, peer_of

_PIECE: Final = 65536
# SCM_MAX_FD: no message has more, so that none is ever lost.
_FDS_MAX: Final = 253

# So many users may have as many connections as one may have. Who has subordinate ids is many.
_USERS: Final = 2

# Gets a connection that does not block, which is closed afterwards, who connected, and a list of
# descriptors, which are closed as well but for those that it takes out.
Handler = Callable[[socket.socket, Peer, list[int]], Awaitable[None]]


class Reception:
    """One listening socket. A connection that goes wrong costs nobody but its peer."""

    def __init__(
        self, name: str, sock: socket.socket, config: Config, handler: Handler,
        rates: Rates | None = None,
    ) -> None:
        """`rates`: how often a user may come; what comes more often is sent away, unheard."""
        self._name = name
        self._socket = sock
        self._config = config
        self._handler = handler
        self._rates = rates
        self._complaints = Complaints(name)
        # Where everybody may come, what they send is not closed here.
        self._aside = None if rates is None else Aside()
        # Those of a user that have not handed over, the oldest first.
        self._waiting: dict[int, dict[trio.CancelScope, None]] = {}

    async def serve(self) -> None:
        """Accepts, and never reads itself."""
        async with trio.open_nursery() as nursery:
            async for connection in accepting(self._socket, self._name):
                if self._rates is not None and not admitted(connection, self._rates):
                    self._end(connection, [])
                    continue
                # At once: a runtime may go on and end before it has handed anything over.
                nursery.start_soon(self._connection, connection, peer_of(connection))

    async def _connection(self, connection: socket.socket, peer: Peer) -> None:
        fds: list[int] = []
        who = f"a hand-over of uid {peer.uid}, pid {peer.pid},"
        try:
            await self._handler(connection, peer, fds)
        except Malformed as error:
            self._complaints.about(peer.uid, f"{who} is refused: {error}")
        except OSError as error:
            self._complaints.about(peer.uid, f"{who} ended: {error.strerror or error}")
        except Exception as error:  # a defect of ours costs this connection, and no other
            self._complaints.about(peer.uid, f"{who} failed: {type(error).__name__}: {error}")
        finally:
            self._end(connection, fds)

    def _end(self, connection: socket.socket, fds: list[int]) -> None:
        self.let_go(fds)
        if self._aside is None or connection.fileno() < 0:
            connection.close()
        else:
            self._aside.close_connection(connection)

    def let_go(self, fds: list[int]) -> None:
        """Closes what came and is of no use; none of it is in `fds` any more."""
        those, fds[:] = list(fds), []
        if self._aside is not None:
            self._aside.close(those)
        else:
            for fd in those:
                os.close(fd)

    @contextlib.contextmanager
    def waiting(self, peer: Peer) -> Iterator[trio.CancelScope]:
        """While a connection has not handed over: the oldest of a user's gives way where there are
        too many, and the oldest of who has most where there are too many of all. Raises Malformed
        where that has happened, or the scope's deadline has come."""
        waiting = self._waiting.setdefault(peer.uid, {})
        if len(waiting) >= self._config.connections:
            next(iter(waiting)).cancel()
        elif sum(map(len, self._waiting.values())) >= _USERS * self._config.connections:
            _, user = max((len(those), uid) for uid, those in self._waiting.items())
            next(iter(self._waiting[user])).cancel()
        scope = trio.CancelScope()
        waiting[scope] = None
        try:
            with scope:
                yield scope
        finally:
            del waiting[scope]
            if not waiting:
                self._waiting.pop(peer.uid, None)
        if scope.cancelled_caught:
            raise Malformed("it does not come to its end in time, or too many others wait")


async def receive(
    connection: socket.socket, fds: list[int], *, unwanted: bool = False
) -> bytes:
    """The next piece; b"" at its end. Descriptors go to `fds`; Malformed where they are `unwanted`.
    """
    while True:
        await trio.lowlevel.wait_readable(connection)
        try:
            size = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize)
            data, control, flags, _ = connection.recvmsg(_PIECE, size, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            continue
        came = array.array("i")
        for level, kind, value in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                came.frombytes(value[: len(value) - len(value) % came.itemsize])
        fds.extend(came)
        if came and unwanted:
            raise Malformed("descriptors after the first piece")
        if flags & socket.MSG_TRUNC:
            raise Malformed(f"more than {_PIECE} bytes in one message")
        return data
