"""What a caller would have been told by a decision that is only recorded."""

from __future__ import annotations

from supervisor.kernel.text import errno_name
from supervisor.model import Decision, Verdict


def would_be(decision: Decision) -> str | int | None:
    """The errno by name, or the number, that a decision names; None where it names none."""
    if decision.verdict is Verdict.ERRNO:
        return errno_name(decision.value)
    return decision.value if decision.verdict is Verdict.RETURN else None
