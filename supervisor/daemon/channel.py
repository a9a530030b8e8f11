"""The channel between a keeper and its session: one JSON object a message, with descriptors.

supervisor.engine.serve has what is said there.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from supervisor.daemon.events import IN, Events
from supervisor.kernel.rights import refuse_descriptors
from supervisor.kernel.shim import send_fds

_ROOM: Final = 1 << 20  # for a message about each listener, before there is a session


class Channel:
    """The keeper's end; `theirs` is the other one, until the session has it.

    `heard` is called with each message of the session's, `wrong` where one is none.
    """

    def __init__(
        self, events: Events, heard: Callable[[Mapping[str, Any]], None] | None,
        wrong: Callable[[], None],
    ) -> None:
        """`heard` None: nothing is listened to, and nothing more is said than is said at once."""
        self._events = events
        self._heard = heard
        self._wrong = wrong
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs: socket.socket | None = theirs
        refuse_descriptors(self._ours)
        self._ours.setblocking(False)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        if heard is not None:
            events.add(self._ours.fileno(), IN, self._news)

    def tell(self, order: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Gives an order. A session that does not take it hangs: then it is `wrong`."""
        try:
            send_fds(self._ours.fileno(), json.dumps(order).encode(), fds)
        except OSError:
            self._wrong()

    def end(self) -> None:
        """Says that nothing more will be said."""
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_WR)

    def delivered(self) -> None:
        """The session has its end, or will never have it."""
        if self.theirs is not None:
            self.theirs.close()
            self.theirs = None

    def close(self) -> None:
        """Closes both ends. A session that is on its way still hears nothing of what was said: it
        serves nobody, and ends."""
        while self.theirs is not None and self._unheard(self.theirs):
            pass
        self.delivered()
        self._events.drop(self._ours.fileno())
        self._ours.close()

    @staticmethod
    def _unheard(theirs: socket.socket) -> bool:
        with contextlib.suppress(OSError):
            return theirs.recv(1, socket.MSG_DONTWAIT) != b""
        return False

    def _news(self, _: int) -> None:
        assert self._heard is not None
        try:
            message = self._ours.recv(4096)
        except (BlockingIOError, ConnectionError):
            return
        if not message:  # the session has gone: that is seen elsewhere
            self._events.drop(self._ours.fileno())
            return
        try:
            said = json.loads(message)
            if not isinstance(said, dict):
                raise ValueError
        except (ValueError, RecursionError):
            self._wrong()  # nothing that we have written
            return
        self._heard(said)
