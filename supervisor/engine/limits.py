"""The bounds within which a session works. Times are in seconds unless a name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """`snapshot`: how long reading one caller's memory may take before the watchdog steps in.

    `linger_us`: how long an idle session waits inside the kernel for the next call before it goes
    back to sleep in trio, which takes longer to wake up. `drain`: how many calls are answered
    before other tasks of the session get their turn. `memo`: how many decisions are remembered.
    `restarts`: how many sessions may die within `restart_window` before calls are only refused.
    """

    snapshot: float = 0.1
    linger_us: int = 100_000
    drain: int = 64
    memo: int = 1024
    restarts: int = 8
    restart_window: float = 10.0
    goodbye: float = 2.0


DEFAULT = Limits()
