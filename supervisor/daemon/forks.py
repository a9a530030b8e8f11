"""The other end of the zygote: orders of sessions, and what becomes of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

from supervisor.daemon.events import IN, Events
from supervisor.engine.limits import DEFAULT, Limits
from supervisor.kernel.shim import receive_fds, send_fds
from supervisor.observe.complaint import complain

if TYPE_CHECKING:
    from supervisor.engine.config import SessionConfig

# So many orders fit into the socket, whatever the zygote does: to send one never waits.
_MOST_ORDERED: Final = 8
# Zygotes that die one after the other, so many within so many seconds, are not replaced any more.
_MOST_DEATHS: Final = 5
_WINDOW: Final = 10.0


class Customer(Protocol):
    """Who orders something of the zygote."""

    def order(self) -> tuple[dict[str, Any], dict[str, int]] | None:
        """What the zygote is to be told now, and descriptors by name, which stay the customer's;
        None: nothing is wanted any more. Asked once more where the zygote has died meanwhile."""
        ...

    def delivered(self, answer: Mapping[str, Any], fds: list[int], /) -> None:
        """It has been done; the descriptors are the customer's."""
        ...

    def refused(self, why: str) -> None:
        """It cannot be done."""
        ...


class Forks:
    """Forks the zygote, which imports its modules while we go on, and passes orders on.

    Where the zygote dies and there is a second one, that takes over.
    """

    def __init__(
        self, events: Events, config: Callable[[], SessionConfig] | None = None,
        limits: Limits = DEFAULT, *, streams: Collection[int] = (),
    ) -> None:
        """`config` is called in the zygote, and gives that of all sessions; without it each order
        says its own. `streams` are the descriptors that the zygote has to keep for it."""
        self._events = events
        self._limits = limits
        self._numbers = count()
        self._waiting: dict[int, Customer] = {}
        self._queue: deque[Customer] = deque()
        self._policies: dict[str, Mapping[str, Any]] = {}
        self._deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        self._second: tuple[int, socket.socket] | None = None  # its pidfd, and our end
        self._second_pid = 0
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
            child(theirs, config, limits, streams)
        theirs.close()
        self._pidfd = os.pidfd_open(self.pid)
        self._sock = ours
        events.add(ours.fileno(), IN, self._news)

    def order(self, customer: Customer) -> None:
        """Orders something; `customer` hears of it later."""
        self._queue.append(customer)
        self._send()

    def policy(self, key: str, policy: Mapping[str, Any]) -> None:
        """Tells the zygote a policy (`CompiledPolicy.to_json`) that orders may name from now on."""
        self._policies[key] = policy
        self._tell_policy(key, policy)

    def _tell_policy(self, key: str, policy: Mapping[str, Any]) -> None:
        with os.fdopen(os.memfd_create("policy", os.MFD_CLOEXEC), "w+b") as file:
            file.write(json.dumps(policy).encode())
            file.flush()
            self._tell({"do": "policy", "key": key}, [file.fileno()])

    def forget(self, key: str) -> None:
        """No order will name that policy any more."""
        self._policies.pop(key, None)
        self._tell({"do": "forget", "key": key}, [])

    def close(self) -> None:
        """Ends the zygote, once its sessions have ended; waits for that, but not for ever."""
        # A session that serves nobody ends by itself, and the zygote then. One that has not even
        # forked a session is still loading: nobody ever called, so nothing is lost with it.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        unheard = select.select([self._sock], [], [], 0)[0]
        if self._delivered == 0 and not unheard:
            self._kill()
        self._leave_second()
        self._wait()
        if self.failed is None:
            self._events.drop(self._sock.fileno())
        self._sock.close()

    def _leave_second(self) -> None:
        """Without us it ends."""
        if self._second is not None:
            pidfd, sock = self._second
            os.close(pidfd)
            sock.close()
            self._second = None

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _wait(self) -> None:
        """Until the zygote has ended; it may be nobody's child any more."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(self._limits.goodbye * 1000):
            self._kill()
            poller.poll(self._limits.goodbye * 1000)
        os.close(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _send(self) -> None:
        while self._queue and len(self._waiting) < _MOST_ORDERED:
            customer = self._queue.popleft()
            if self.failed is not None:
                customer.refused(self.failed)
                continue
            wanted = customer.order()
            if wanted is None:
                continue
            order, fds = wanted
            number = next(self._numbers)
            self._waiting[number] = customer
            self._tell({**order, "id": number, "fds": list(fds)}, [*fds.values()])

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
        if "second" in answer:
            self._leave_second()
            self._take_note(answer["second"], socket.socket(fileno=fds[0]))
            return
        customer = self._waiting.pop(answer["id"])
        if "error" in answer:
            customer.refused(answer["error"])
        else:
            self._delivered += 1
            customer.delivered(answer, fds)
        self._send()

    def _take_note(self, pid: int, sock: socket.socket) -> None:
        """There is a second one, if it has not died since."""
        try:
            self._second = os.pidfd_open(pid), sock
            self._second_pid = pid
        except ProcessLookupError:
            sock.close()

    def _fail(self, why: str) -> None:
        if self.failed is not None:
            return
        self._events.drop(self._sock.fileno())
        waiting = [*self._waiting.values(), *self._queue]
        self._waiting.clear()
        self._queue.clear()
        self._deaths.append(time.monotonic())
        often = len(self._deaths) == _MOST_DEATHS and self._deaths[-1] - self._deaths[0] < _WINDOW
        if self._second is not None and not often:
            self._take_second(why)
            self._queue.extend(waiting)
            self._send()
            return
        self.failed = why
        for customer in waiting:
            customer.refused(why)
        if self.on_failure is not None:
            self.on_failure(why)

    def _take_second(self, why: str) -> None:
        assert self._second is not None
        complain(f"{why}; another one takes its place")
        self._sock.close()
        self._kill()  # should it only have failed to answer
        os.close(self._pidfd)
        self._pidfd, self._sock = self._second
        self.pid, self._second = self._second_pid, None
        self._events.add(self._sock.fileno(), IN, self._news)
        self._tell({"do": "begin"}, [])
        for key, policy in self._policies.items():
            self._tell_policy(key, policy)
