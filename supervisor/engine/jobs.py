"""One plan of path work on its way through csrc/work.c."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from supervisor.engine.helpers import Maker
from supervisor.model import Decision, Facts, Plan


class Job:
    """One call on its way."""

    __slots__ = (
        "as_written", "decision", "maker", "plan", "probe_only", "redecide", "valid", "work",
    )  # fmt: skip

    def __init__(
        self,
        work: Any,
        plan: Plan,
        valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None,
        as_written: bool,
        probe_only: bool,
    ) -> None:
        self.work = work
        self.plan = plan
        self.valid = valid
        self.redecide = redecide
        self.as_written = as_written
        self.probe_only = probe_only
        self.maker: Maker | None = None
        self.decision: Decision | None = None
