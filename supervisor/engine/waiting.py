"""A call that waits for its answer, as whoever carries it out knows it."""

from __future__ import annotations

import os

from supervisor.engine.snapshot import Receiver

_SUCCESS = (0, 0, 0)


class Waiting:
    """One call. `early`: its success may be told before all is noted that only we need to know.
    `delivered`: whether that answer had its caller; None: it has not been given so.
    """

    __slots__ = ("_early", "_id", "_receiver", "_slot", "delivered")

    def __init__(self, receiver: Receiver, id_: int, slot: int, *, early: bool) -> None:
        self._receiver = receiver
        self._id = id_
        self._slot = slot
        self._early = early
        self.delivered: bool | None = None

    def __call__(self) -> bool:
        """Whether its caller still waits."""
        return self._receiver.valid(self._id)

    def succeed(self) -> None:
        """All that the caller can see is there: from here on nobody fails or sleeps."""
        if self._early:
            self.delivered = self._receiver.answer(self._id, self._slot, _SUCCESS)
            os.sched_yield()  # the caller is on this processor, and what is left to do can wait
