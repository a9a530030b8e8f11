"""The bounds within which a session works. Times are in seconds unless a name says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """`snapshot`: how long reading one caller's memory may take before the watchdog steps in.

    `linger_us`: how long an idle session waits inside the kernel for the next call before it goes
    back to sleep in trio, which takes longer to wake up. `drain`: how many calls are answered
    before other tasks of the session get their turn. `memo`: how many decisions are remembered.
    `restarts`: how many sessions may die within `restart_window` before calls are only refused.
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
    path: float = 2.0
    mount: float = 20.0


DEFAULT = Limits()


def limits_of(said: Mapping[str, float], otherwise: Limits = DEFAULT) -> Limits:
    """The limits of a policy: `otherwise`, but for what `said`, its `limits`, says."""
    known: dict[str, Any] = {**said}
    return replace(otherwise, **known)
