"""The bounds within which a session works. Times are in seconds unless a name says otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """`snapshot`: how long reading one caller's memory may take before the watchdog steps in.

    `linger_us`: how long at least an idle session waits in the kernel for a call before it goes
    back to sleep in trio, which takes longer to wake up. `drain`: how many calls are answered
    before other tasks of the session get their turn. `memo`: how many decisions are remembered.
    `restarts`: how many sessions may die within `restart_window` before calls are only refused.
    `hang`: how long a session may leave a call unreceived before it is ended. `in_flight`: how many
    calls of a session may wait for helpers at a time. `rate`: how many calls a second it takes.
    `path`: all path work of one call. `mount`: what a mount itself may take. A policy can change
    `snapshot` and those two: see `limits_of`.
    """

    snapshot: float = 0.1
    linger_us: int = 100_000
    drain: int = 64
    memo: int = 1024
    restarts: int = 8
    restart_window: float = 10.0
    goodbye: float = 2.0
    hang: float = 10.0
    in_flight: int = 200
    rate: int = 50_000
    path: float = 2.0
    mount: float = 20.0


DEFAULT = Limits()


def limits_of(said: Mapping[str, float], otherwise: Limits = DEFAULT) -> Limits:
    """The limits of a policy: `otherwise`, but for what `said`, its `limits`, says."""
    known: dict[str, Any] = {**said}
    return otherwise._replace(**known)


class Pace:
    """Holds whoever asks to `rate` a second, after as many as a second has at once."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = 1.0 / rate
        self._clock = clock
        self._used = clock() - 1.0  # up to when the seconds that have passed are used up

    def pause(self, count: int) -> float:
        """How long (seconds, mostly 0) to wait after `count` more."""
        now = self._clock()
        self._used = max(self._used, now - 1.0) + count * self._each
        return max(self._used - now, 0.0)
