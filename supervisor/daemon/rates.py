"""How often who may do something: a rate for each user, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from supervisor.observe.complaint import complain

# Users that are remembered at a time. Somebody with subordinate ids can come as 65,536 of them: who
# comes when there are so many shares one rate with all others who do.
_MOST: Final = 1024
_OTHERS: Final = -1


class Rates:
    """`rate` a second, after `at_once` at once, for each user."""

    def __init__(
        self, rate: float, at_once: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._each = 1.0 / rate
        self._span = at_once / rate
        self._clock = clock
        # Up to when the time that has passed is used up, by user.
        self._used: dict[int, float] = {}
        self._swept = clock()

    def allows(self, uid: int) -> bool:
        """Whether `uid` may, now; that is one time, then."""
        now = self._clock()
        if len(self._used) >= _MOST and uid not in self._used:
            self._sweep(now)
            if len(self._used) >= _MOST:
                uid = _OTHERS
        used = max(self._used.get(uid, 0.0), now - self._span) + self._each
        if used > now:
            return False
        self._used[uid] = used
        return True

    def _sweep(self, now: float) -> None:
        """Forgets who has its whole span again."""
        if now - self._swept >= self._span:
            self._swept = now
            self._used = {uid: used for uid, used in self._used.items() if used > now - self._span}


class Complaints:
    """What is said of clients: of each user so much, and of the rest how much it was."""

    def __init__(self, name: str, rates: Rates | None = None) -> None:
        self._name = name
        self._rates = rates or Rates(1.0, 20)
        self._unsaid = 0

    def about(self, uid: int, text: str) -> None:
        """One line, or one more that is not said."""
        if not self._rates.allows(uid):
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more like this were not logged)" if self._unsaid else ""
        self._unsaid = 0
        complain(f"{self._name}: {text}{more}")
