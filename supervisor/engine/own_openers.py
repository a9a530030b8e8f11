"""Openers that a session forks itself, where it has no makers: of an ordinary user's container."""

from __future__ import annotations

import os
import select
import time
from errno import EAGAIN
from typing import Final

from supervisor.engine.helpers import left_of
from supervisor.kernel import spawn
from supervisor.kernel.spawn import Helper

MOST: Final = 6  # of which one that hangs is left behind, as a maker does
_LAST_BREATH: Final = 0.05


class OwnOpeners:
    """Those that have not ended. They do once their sockets are closed, or with the session."""

    def __init__(self) -> None:
        self._left: list[Helper] = []

    def fork(self, kind: int, netns: int) -> int:
        """The socket of a new one, which says there when it is ready. Raises OSError."""
        self._reap()
        if len(self._left) >= MOST:
            raise OSError(EAGAIN, os.strerror(EAGAIN))
        helper = spawn.spawn_opener(kind, netns)
        self._left.append(helper)
        return helper.sock

    def rest(self) -> None:
        """Nobody calls, and none is asked any more."""
        until = time.monotonic() + _LAST_BREATH
        for helper in self._left:
            if helper.pidfd >= 0:
                select.select([helper.pidfd], [], [], max(0.0, until - time.monotonic()))
        self._reap()

    def _reap(self) -> None:
        self._left = left_of(self._left)
