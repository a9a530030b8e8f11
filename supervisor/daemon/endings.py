"""How sessions end: those that their keeper ends, and how many do one after the other."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from supervisor.daemon.events import Events
from supervisor.engine.limits import Limits

# How many seconds a session that was killed has for dying. One that a caller keeps in the kernel,
# for as long as it likes, is not waited for any longer: it will never answer again.
_LAST_BREATH: Final = 0.05


def kill(session: int | None) -> None:
    """Kills the process of a pidfd, where there is one."""
    if session is not None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(session, signal.SIGKILL)


class Ending:
    """A session that was killed, until it has died: until then it may receive a call, of which
    nobody else knows. So nobody answers what it has left, or takes its place, before that."""

    def __init__(self, events: Events, out_of_breath: Callable[[], None]) -> None:
        """`out_of_breath`: it does not die."""
        self._events = events
        self._out_of_breath = out_of_breath
        self._then: Callable[[], None] | None = None
        self._number = 0

    @property
    def begun(self) -> bool:
        """Whether one is dying."""
        return self._then is not None

    def begin(self, session: int | None, then: Callable[[], None]) -> None:
        """Kills it; `then` is to be called once it has died, or does not."""
        kill(session)
        self._then = then
        self._number += 1
        number = self._number
        self._events.later(_LAST_BREATH, lambda: self._due(number))

    def over(self) -> Callable[[], None] | None:
        """It has died, or is forgotten; what is to be called."""
        then, self._then = self._then, None
        return then

    def _due(self, number: int) -> None:
        if self._then is not None and self._number == number:
            self._out_of_breath()


class Deaths:
    """Of the sessions of one container."""

    def __init__(self, most: int) -> None:
        self._deaths: deque[float] = deque(maxlen=most)

    def one_more(self, limits: Limits) -> bool:
        """Whether those were too many in too short a time."""
        now = time.monotonic()
        self._deaths.append(now)
        many = len(self._deaths) == limits.restarts
        return many and now - self._deaths[0] < limits.restart_window

    def forget(self) -> None:
        """Begins anew."""
        self._deaths.clear()

    def __len__(self) -> int:
        return len(self._deaths)
