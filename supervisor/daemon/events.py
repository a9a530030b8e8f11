"""Descriptors and who looks after them: one epoll, which any loop can wait for as one descriptor.

The front of `run` polls it beside its own descriptors, the daemon waits for it in trio. A handler
is called with the events that came; it must not mind being called for nothing.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from itertools import count
from typing import Final

IN: Final = select.EPOLLIN
GONE: Final = select.EPOLLHUP | select.EPOLLERR

Handler = Callable[[int], None]


class _Entry:
    __slots__ = ("handler",)

    def __init__(self, handler: Handler | None) -> None:
        self.handler = handler


class Events:
    """Handlers by descriptor, and calls that are due later."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._entries: dict[int, _Entry] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def fileno(self) -> int:
        """Readable whenever `dispatch` has something to do, but for what is due by time."""
        return self._epoll.fileno()

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Calls `handler` whenever one of `events` comes on `fd`; GONE comes unasked."""
        self._epoll.register(fd, events)
        self._entries[fd] = _Entry(handler)

    def change(self, fd: int, events: int) -> None:
        """Waits for other events of `fd` from now on."""
        self._epoll.modify(fd, events)

    def drop(self, fd: int) -> None:
        """Forgets `fd`. To be called before it is closed: epoll goes by the open file."""
        entry = self._entries.pop(fd, None)
        if entry is not None:
            entry.handler = None  # its number may be another file's in the same turn
            self._epoll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Calls `call` once, not before so many seconds have passed."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), call))

    def timeout(self) -> float | None:
        """Seconds until something is due; None where nothing will be."""
        return max(self._due[0][0] - time.monotonic(), 0.0) if self._due else None

    def dispatch(self) -> None:
        """Calls all whose time has come. Never waits."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        ready = self._epoll.poll(0)
        # Looked up before any of them runs: a handler may close a descriptor and open another one
        # that gets its number.
        for entry, events in [(self._entries.get(fd), events) for fd, events in ready]:
            if entry is not None and entry.handler is not None:
                entry.handler(events)

    def close(self) -> None:
        """Forgets everything; descriptors are left open."""
        self._entries.clear()
        self._due.clear()
        self._epoll.close()
