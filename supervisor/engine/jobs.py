"""One plan of path work on its way through csrc/work.c."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from supervisor.engine.helpers import Maker
from supervisor.kernel.shim import ffi, lib
from supervisor.model import Decision, Facts, Place, Plan


class Job:
    """One call on its way."""

    __slots__ = ("decision", "maker", "plan", "probe_only", "redecide", "valid", "work")

    def __init__(
        self,
        work: Any,
        plan: Plan,
        valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None,
        probe_only: bool,
    ) -> None:
        self.work = work
        self.plan = plan
        self.valid = valid
        self.redecide = redecide
        self.probe_only = probe_only
        self.maker: Maker | None = None
        self.decision: Decision | None = None


def put(work: Any, which: int, place: Place) -> None:
    """Fills in one path of a work."""
    work.dirfd[which] = place.dirfd
    path = place.path
    if path is None:
        work.length[which] = -1
        return
    length = len(path)
    work.length[which] = length
    if length < lib.SD_PATH_MAX:
        ffi.memmove(work.path[which], path, length)


def lend(work: Any, maker: Maker | None) -> None:
    """Gives a work its maker, or takes it away."""
    if maker is None:
        work.maker = -1
        work.maker_busy = ffi.NULL
    else:
        work.maker = maker.sock
        work.maker_busy = maker.busy


def resolved_path(work: Any) -> bytes | None:
    """Where its path leads, as far as it is known."""
    length = work.resolved_length
    return ffi.buffer(work.resolved, length)[:] if length > 0 else None
