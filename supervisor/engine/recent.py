"""Answers that their caller never heard of, for kernels without WAIT_KILLABLE_RECV (before 5.19).

There a signal may interrupt a caller after its call was carried out. The kernel then restarts the
call, and the same thread comes again with the same call from the same instruction: it gets the
answer that it missed, and nothing is done twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from supervisor.model import Outcome

_LIFETIME = 2.0
_MOST = 256


class MissedAnswers:
    """Answers by (thread, instruction pointer, call), until they arrive or for two seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._answers: dict[tuple[int, int, bytes], tuple[float, Outcome]] = {}
        self._clock = clock

    def missed(self, tid: int, ip: int, key: bytes, outcome: Outcome) -> None:
        """Remembers an answer until it is known to be delivered."""
        if len(self._answers) >= _MOST:
            del self._answers[next(iter(self._answers))]
        self._answers[tid, ip, key] = (self._clock() + _LIFETIME, outcome)

    def answer(self, tid: int, ip: int, key: bytes) -> Outcome | None:
        """The answer that this very call may have missed before."""
        until, outcome = self._answers.get((tid, ip, key), (0.0, None))
        return outcome if self._clock() < until else None

    def delivered(self, tid: int, ip: int, key: bytes) -> None:
        """The call has its answer; the next one like it is another call."""
        self._answers.pop((tid, ip, key), None)
