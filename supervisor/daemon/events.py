"""Descriptors and who looks after them: one epoll, which any loop can wait for as one descriptor.

The front of `run` polls it beside its own descriptors, the daemon waits for it in trio. A handler
is called with the events that came; it must not mind being called for nothing.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from functools import partial
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
    """Handlers by descriptor, and calls that are due later.

    `on_later` is called when `timeout` may have become shorter. With `on_exception` a handler that
    raises is told to it and forgotten, and the others go on.
    """

    def __init__(self) -> None:
        self.on_later: Callable[[], None] | None = None
        self.on_exception: Callable[[Exception], None] | None = None
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
        if self.on_later is not None:
            self.on_later()

    def timeout(self) -> float | None:
        """Seconds until something is due; None where nothing will be."""
        return max(self._due[0][0] - time.monotonic(), 0.0) if self._due else None

    def dispatch(self) -> None:
        """Calls all whose time has come. Never waits."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            self._guarded(heapq.heappop(self._due)[2])
        ready = self._epoll.poll(0)
        # Looked up before any of them runs: a handler may close a descriptor and open another one
        # that gets its number.
        for fd, entry, events in [(fd, self._entries.get(fd), events) for fd, events in ready]:
            if entry is None or entry.handler is None:
                continue
            if not self._guarded(partial(entry.handler, events)):
                self._forget(fd, entry)

    def _guarded(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:
            if self.on_exception is None:
                raise
            self.on_exception(error)
            return False
        return True

    def _forget(self, fd: int, entry: _Entry) -> None:
        """It would raise for ever."""
        if self._entries.get(fd) is entry:
            self.drop(fd)

    def close(self) -> None:
        """Forgets everything; descriptors are left open."""
        self._entries.clear()
        self._due.clear()
        self._epoll.close()
