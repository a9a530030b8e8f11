"""The deadline of a snapshot: no session may hang in the reading of a caller's memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from supervisor.daemon.events import IN, Events
from supervisor.daemon.served import Served
from supervisor.daemon.slots import Slots
from supervisor.kernel.shim import check, lib


class ReadingDeadline:
    """`timer` is a descriptor that a session arms when it begins to read.

    `limit` says how many seconds a reading may take, `stalled` is called where one takes longer.
    """

    def __init__(
        self, events: Events, slots: Slots, limit: Callable[[], float],
        stalled: Callable[[int, Served], None],
    ) -> None:
        self._events = events
        self._slots = slots
        self._limit = limit
        self._stalled = stalled
        self.timer: int = check(lib.sd_deadline_timer(), "timerfd_create")
        events.add(self.timer, IN, self.look)

    def look(self, _: int = 0) -> None:
        """Whether somebody reads for too long."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.timer, 8)
        for slot, _served in self._slots:
            # Nothing is under way any more: who begins to read from here on arms it, and who has
            # begun is seen below.
            self._slots.watch(slot).armed_at = 0
        deadline = int(self._limit() * 1e9)
        for slot, served in self._slots:
            watch = self._slots.watch(slot)
            since = watch.reading_since
            if not since:
                continue
            left = since + deadline - time.monotonic_ns()
            if left > 0:
                left = min(left, deadline)  # the session may write what it likes
                watch.armed_at = since
                check(lib.sd_arm_timer(self.timer, left), "timerfd_settime")
            else:
                self._stalled(slot, served)

    def close(self) -> None:
        """Lets go of the timer."""
        self._events.drop(self.timer)
        os.close(self.timer)
