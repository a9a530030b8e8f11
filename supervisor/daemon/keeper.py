"""The watchdog of one session: it has it started, started again, and answers what it left behind.

It never reads a target's memory or paths, so nothing that a target does can stall it. It holds a
reference to each listener of its session, and shares the watches: the ids that the session has
received and not answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from errno import ENOBUFS, ENOTCONN
from typing import Any, Final

from supervisor.daemon.events import IN, Events
from supervisor.daemon.forks import Forks
from supervisor.daemon.served import Served
from supervisor.engine.limits import DEFAULT, Limits
from supervisor.kernel.shim import check, lib, send_fds
from supervisor.kernel.watch import SLOTS, Watches
from supervisor.observe.complaint import complain

PACE: Final = 0.001  # the daemon of all containers is not to be busy with refusing one
_ROOM: Final = 1 << 20  # for a message about each listener, before there is a session


class Keeper:
    """Keeps one session going, on all listeners of one container.

    Without listeners left it has ended: `on_end` is called then, once the session has gone. `order`
    is what the zygote is told besides descriptors; `userns` and `audit` are descriptors, the first
    of which becomes the keeper's.
    """

    def __init__(
        self,
        events: Events,
        forks: Forks,
        *,
        name: str,
        on_error: int,
        limits: Limits = DEFAULT,
        order: Mapping[str, Any] | None = None,
        userns: int | None = None,
        audit: int | None = None,
        lasting: bool = True,
        pace: float = 0.0,
        on_end: Callable[[], None] | None = None,
        on_first: Callable[[int], None] | None = None,
    ) -> None:
        """`lasting` False: the first listener is the only one, and its session is started again at
        once. Otherwise one is started when a call waits for it; `on_first` is called then, with the
        slot, and has to call `start`. `pace`: seconds between two refusals of our own."""
        self._events = events
        self._forks = forks
        self.name = name
        self.on_error = on_error
        self.limits = limits
        self.details: Mapping[str, Any] = order or {}
        self.userns = userns
        self._audit = audit
        self._lasting = lasting
        self._pace = pace
        self.on_end = on_end
        self.on_first = on_first
        self._slots: dict[int, Served] = {}
        self._free = deque(range(SLOTS))
        self._spent: list[int] = []  # a session may still look at them
        self._deaths: deque[float] = deque(maxlen=limits.restarts)
        self._session: int | None = None
        self._channel: socket.socket | None = None
        self._theirs: socket.socket | None = None
        self._ordered = False
        self._closed = self._ending = False  # ending: the session knows that nobody is left
        self.sessions = 0
        self.refused_here = 0
        self.failed: str | None = None
        self.watches = Watches.create()
        self._timer: int = check(lib.sd_deadline_timer(), "timerfd_create")
        events.add(self._timer, IN, self._deadline)

    # -- listeners

    @property
    def listeners(self) -> int:
        """How many have callers left."""
        return len(self._slots)

    def listener(self, slot: int) -> int:
        """The descriptor in a slot."""
        return self._slots[slot].fds[0]

    def add(
        self, listener: int, runtime: tuple[int, int] | None = None, *,
        proxy: int | None = None, first: bytes = b"",
    ) -> None:
        """Serves one more listener, which becomes the keeper's; on OSError it stays the caller's.

        `runtime` is a process (its id, and its start in ticks since boot) whose calls go on until
        it executes its first program. `proxy` is a connection by which its calls come, of which
        `first` is one that was received already.
        """
        if not self._free:
            raise OSError(ENOBUFS, "too many listeners of one container")
        slot = self._free.popleft()
        self.watches.clear(slot)
        served = self._slots[slot] = Served(listener, runtime, proxy)
        if first:
            lib.sd_proxy_carry(self.watches[slot], first)
        self._events.add(served.fd, 0, lambda events: self._on_listener(slot, events))
        if self._ending:
            pass  # the next session's
        elif self._channel is not None:
            self._tell(slot, served)
        elif first and self.failed is not None:
            self.refused_here += served.refuse_pending(self.watches[slot], self.on_error)
            self._wait_for_call(served)
        elif first:
            self.start()
        else:
            self._wait_for_call(served)

    def _wait_for_call(self, served: Served) -> None:
        if (self._lasting and not self._ordered and self._session is None) or self.failed:
            self._events.change(served.fd, IN)

    def _on_listener(self, slot: int, events: int) -> None:
        served = self._slots[slot]
        if not served.is_call(events):
            self._hung_up(slot)
        elif self.failed is not None:
            self._refuse(slot, served)
        elif self.on_first is not None:
            self.on_first(slot)
        else:
            self.start()

    def _hung_up(self, slot: int) -> None:
        self._let_go(self._slots.pop(slot))
        self._spent.append(slot)
        if self._session is None and not self._ordered:
            self._recycle()
        if not self._slots and self._lasting:
            self._no_more()

    def _let_go(self, served: Served) -> None:
        self._events.drop(served.fd)
        served.close()

    def _recycle(self) -> None:
        self._free.extend(self._spent)
        self._spent.clear()

    def _refuse(self, slot: int, served: Served) -> None:
        found = served.refuse_next(self.on_error)
        if found == -ENOTCONN:
            self._hung_up(slot)
            return
        self.refused_here += found > 0
        if self._pace:
            self._events.change(served.fd, 0)
            self._events.later(self._pace, lambda: self._go_on(slot, served))

    def _go_on(self, slot: int, served: Served) -> None:
        if self._slots.get(slot) is served:
            self._events.change(served.fd, IN)

    # -- the session's life

    def start(self) -> None:
        """Orders a session, where there is none."""
        if self._ordered or self._session is not None or self.failed is not None:
            return
        self._ordered = True
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        self._channel, self._theirs = ours, theirs
        for slot, served in self._slots.items():
            self._events.change(served.fd, 0)
            self._tell(slot, served)
        if self._lasting:
            self._events.add(ours.fileno(), IN, self._heard)
        else:
            ours.shutdown(socket.SHUT_WR)
        self._forks.order(self)

    def order(self) -> tuple[dict[str, Any], dict[str, int]] | None:
        """What the zygote is to be told now, and the descriptors by name, which stay ours; None
        where no session is wanted any more."""
        if not self._slots or self._theirs is None:
            self._ordered = False
            self._close_theirs()
            self._close_channel()
            self._no_more()
            return None
        fds = {"channel": self._theirs.fileno(), "watch": self.watches.fd, "timer": self._timer}
        if self.userns is not None:
            fds["userns"] = self.userns
        if self._audit is not None:
            fds["audit"] = self._audit
        return {**self.details, "resumed": self.sessions > 0}, fds

    def delivered(self, session: int) -> None:
        """The session has been forked; takes over its pidfd."""
        self._ordered = False
        self._close_theirs()
        self._session = session
        self.sessions += 1
        self._events.add(session, IN, self._session_ended)
        if not self._slots and self._lasting:
            self._no_more()

    def refused(self, why: str) -> None:
        """There is no session. Where the zygote has gone there never will be one."""
        self._ordered = False
        self._close_theirs()
        self._close_channel()
        self.give_up(why)
        if not self._slots and self._lasting:
            self._no_more()

    def _tell(self, slot: int, served: Served) -> None:
        """Gives the session a listener. One that does not take it hangs, and is ended."""
        assert self._channel is not None
        message = json.dumps({"listener": slot, "runtime": served.runtime}).encode()
        try:
            send_fds(self._channel.fileno(), message, served.fds)
        except OSError:
            self._kill()

    def _heard(self, _: int) -> None:
        """The session has let go of a slot, or has gone: that is seen elsewhere."""
        assert self._channel is not None
        try:
            message = self._channel.recv(4096)
            slot = json.loads(message)["released"] if message else None
        except (BlockingIOError, ConnectionError):
            return
        except (ValueError, KeyError, TypeError):
            self._kill()  # nothing that we have written
            return
        if slot is None:
            self._events.drop(self._channel.fileno())
        elif slot in self._spent:
            self._spent.remove(slot)
            self._free.append(slot)

    def _kill(self) -> None:
        if self._session is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._session, signal.SIGKILL)

    def _forget_session(self) -> None:
        if self._session is not None:
            self._events.drop(self._session)
            os.close(self._session)
            self._session = None
        self._ending = False
        self._close_channel()
        self._recycle()

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._events.drop(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _close_theirs(self) -> None:
        if self._theirs is not None:
            self._theirs.close()
            self._theirs = None

    def _session_ended(self, _: int) -> None:
        ended = self._ending
        self._forget_session()
        for slot, served in list(self._slots.items()):
            if served.state() == -ENOTCONN:
                self._let_go(served)
                del self._slots[slot]
                self._free.append(slot)
        if not self._slots:
            self._no_more()
            return
        if ended:
            self._again()
            return
        now = time.monotonic()
        refused = self._refuse_pending()
        self._deaths.append(now)
        if (
            len(self._deaths) == self.limits.restarts
            and now - self._deaths[0] < self.limits.restart_window
        ):
            self.give_up(f"{len(self._deaths)} sessions have died one after the other")
            return
        self._again()
        self.complain(f"a session has died; {refused} calls refused, another one is started")

    def _again(self) -> None:
        if not self._lasting or any(self.watches[slot].carried for slot in self._slots):
            self.start()
            return
        for served in self._slots.values():
            self._wait_for_call(served)

    def _refuse_pending(self) -> int:
        return sum(
            served.refuse_pending(self.watches[slot], self.on_error)
            for slot, served in self._slots.items()
        )

    def give_up(self, why: str) -> None:
        """From here on all is refused: better than to let callers wait, or to let them go."""
        if self.failed is None:
            self.failed = why
            if self._slots:
                self._refuse_pending()
            self.complain(f"{why}; every supervised call is refused from now on")
        for served in self._slots.values():
            self._events.change(served.fd, IN)

    def _no_more(self) -> None:
        """No listener is left: the session ends by itself, or is ended."""
        if self._session is not None and self._lasting:
            if self._channel is not None:
                self._ending = True
                with contextlib.suppress(OSError):
                    self._channel.shutdown(socket.SHUT_WR)
            session = self._session
            self._events.later(self.limits.goodbye, lambda: self._end_hung(session))
        elif not self._ordered and not self._closed and self.on_end is not None:
            self.on_end()

    def _end_hung(self, session: int) -> None:
        if self._session == session and (self._ending or not self._slots):
            self._kill()

    # -- the deadline of a snapshot

    def _deadline(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._timer, 8)
        deadline = int(self.limits.snapshot * 1e9)
        for slot, served in list(self._slots.items()):
            watch = self.watches[slot]
            since = watch.reading_since
            if not since:
                continue
            left = since + deadline - time.monotonic_ns()
            if left > 0:
                left = min(left, deadline)  # the session may write what it likes
                watch.armed_at = since
                check(lib.sd_arm_timer(self._timer, left), "timerfd_settime")
            else:
                self._stalled(slot, served)

    def _stalled(self, slot: int, served: Served) -> None:
        """A caller's memory does not come. The reader is given up, the caller refused unread."""
        watch, tid = self.watches[slot], self.watches[slot].reading_tid
        served.stalled(watch)
        # It may hang in the kernel for as long as the caller wants; it will never answer again.
        self._kill()
        self._forget_session()
        refused = self._refuse_pending()
        more = "" if served.stalls < lib.SD_STALLS else "; no caller's memory will be read any more"
        watch.armed_at = 0
        self._again()
        self.complain(
            f"thread {tid} made the reading of its memory hang; {refused} calls refused{more}"
        )

    def complain(self, text: str) -> None:
        """A line of the log."""
        complain(f"{self.name}: {text}")

    def close(self, *, refuse: bool = False) -> None:
        """Lets go of everything; `refuse`: the session is killed, and calls in flight get their
        errno. A session that is not goes on by itself until nobody is left to be served."""
        self._closed = True
        if refuse:
            self._kill()
            self._refuse_pending()
        for served in self._slots.values():
            self._let_go(served)
        self._slots.clear()
        self._forget_session()
        self._close_theirs()
        self._events.drop(self._timer)
        for fd in (self.userns, self._timer):
            if fd is not None:
                os.close(fd)
        self.watches.close()
