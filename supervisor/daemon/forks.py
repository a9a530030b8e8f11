"""The other end of the zygote: orders of sessions, and what becomes of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from supervisor.daemon.events import IN, Events
from supervisor.engine.config import SessionConfig
from supervisor.engine.limits import DEFAULT, Limits
from supervisor.kernel.shim import receive_fds, send_fds

if TYPE_CHECKING:
    from supervisor.daemon.keeper import Keeper

# So many orders fit into the socket, whatever the zygote does: to send one never waits.
_MOST_ORDERED: Final = 8


class Forks:
    """Forks the zygote, which imports its modules while we go on, and passes orders on."""

    def __init__(
        self, events: Events, config: SessionConfig | None = None, limits: Limits = DEFAULT
    ) -> None:
        """`config` is that of all sessions. Without one each order says its own."""
        self._events = events
        self._limits = limits
        self._numbers = count()
        self._waiting: dict[int, Keeper] = {}
        self._queue: deque[Keeper] = deque()
        self._delivered = 0
        self.failed: str | None = None
        self.on_failure: Callable[[str], None] | None = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # None where it was closed when we were started
                with contextlib.suppress(OSError):
                    stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            from supervisor.daemon.zygote import child

            ours.close()
            child(theirs, config, limits)
        theirs.close()
        self._sock = ours
        events.add(ours.fileno(), IN, self._news)

    def order(self, keeper: Keeper) -> None:
        """Orders a session; `keeper` hears of it later."""
        self._queue.append(keeper)
        self._send()

    def policy(self, key: str, policy: Mapping[str, Any]) -> None:
        """Tells the zygote a policy (`CompiledPolicy.to_json`) that orders may name from now on."""
        with os.fdopen(os.memfd_create("policy", os.MFD_CLOEXEC), "w+b") as file:
            file.write(json.dumps(policy).encode())
            file.flush()
            self._tell({"do": "policy", "key": key}, [file.fileno()])

    def forget(self, key: str) -> None:
        """No order will name that policy any more."""
        self._tell({"do": "forget", "key": key}, [])

    def close(self) -> None:
        """Ends the zygote, once its sessions have ended; waits for that, but not for ever."""
        # A session that serves nobody ends by itself, and the zygote then. One that has not even
        # forked a session is still loading: nobody ever called, so nothing is lost with it.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        unheard = select.select([self._sock], [], [], 0)[0]
        if self._delivered == 0 and not unheard:
            os.kill(self.pid, signal.SIGKILL)
        pidfd = os.pidfd_open(self.pid)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(self._limits.goodbye * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        os.waitpid(self.pid, 0)
        if self.failed is None:
            self._events.drop(self._sock.fileno())
        self._sock.close()

    def _send(self) -> None:
        while self._queue and len(self._waiting) < _MOST_ORDERED:
            keeper = self._queue.popleft()
            if self.failed is not None:
                keeper.refused(self.failed)
                continue
            wanted = keeper.order()
            if wanted is None:
                continue
            order, fds = wanted
            number = next(self._numbers)
            self._waiting[number] = keeper
            self._tell({**order, "do": "session", "id": number, "fds": list(fds)}, [*fds.values()])

    def _tell(self, order: Mapping[str, Any], fds: list[int]) -> None:
        try:
            send_fds(self._sock.fileno(), json.dumps(order).encode(), fds)
        except OSError as error:
            self._fail(f"the zygote does not answer: {error.strerror}")

    def _news(self, _: int) -> None:
        try:
            message, fds = receive_fds(self._sock.fileno())
        except OSError:
            message, fds = b"", []
        answer: dict[str, Any] = {"failed": "the zygote has died"}
        if message:
            answer = json.loads(message)
        if "failed" in answer:
            self._fail(answer["failed"])
            return
        keeper = self._waiting.pop(answer["id"])
        if "error" in answer:
            keeper.refused(answer["error"])
        else:
            self._delivered += 1
            keeper.delivered(fds[0])
        self._send()

    def _fail(self, why: str) -> None:
        if self.failed is not None:
            return
        self.failed = why
        self._events.drop(self._sock.fileno())
        waiting = [*self._waiting.values(), *self._queue]
        self._waiting.clear()
        self._queue.clear()
        for keeper in waiting:
            keeper.refused(why)
        if self.on_failure is not None:
            self.on_failure(why)
