"""Audit logs as questions: each record of a call that a policy decided, with its weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from supervisor.errors import PolicyError
from supervisor.policy.asked import Asked
from supervisor.policy.call_text import record_of
from supervisor.policy.families import FamilySpec
from supervisor.policy.recorded import recorded

_LINE_MAX: Final = 1 << 20
# Who answers where no rule did: an error on the way, or what is done for the sake of our own nodes.
_NO_RULE: Final = frozenset(("companion", "on_error", "remount", "runtime"))
_SESSIONS_SHOWN: Final = 20


@dataclass(slots=True)
class Log:
    """Reads logs. `lost` records were never written, `unread` lines could not be understood."""

    families: Mapping[str, FamilySpec]
    session: str | None = None
    lost: int = 0
    unread: int = 0
    complaint: str = ""
    _lost: dict[str, int] = field(default_factory=dict)
    _sessions: dict[str, None] = field(default_factory=dict)

    def calls(self, files: Iterable[Path]) -> Iterator[tuple[Asked, int]]:
        """Each decision of a rule or of `otherwise`, and how many calls it was taken for.

        Raises PolicyError where a file cannot be read.
        """
        for file in files:
            try:
                with open(file, "rb") as lines:
                    number = 0
                    while line := lines.readline(_LINE_MAX):
                        number += 1
                        if line.strip():
                            yield from self._call(line, f"{file}:{number}")
            except OSError as error:
                raise PolicyError(f"cannot read it: {error.strerror}", where=str(file)) from None

    def check_session(self) -> None:
        """Raises PolicyError where no record was of the session that was asked for."""
        if self.session is None or self.session in self._sessions:
            return
        known = list(self._sessions)
        more = f" and {len(known) - _SESSIONS_SHOWN} more" if len(known) > _SESSIONS_SHOWN else ""
        there = ", ".join(map(repr, known[:_SESSIONS_SHOWN])) + more
        raise PolicyError(
            f"no record is of session {self.session}",
            hint=f"there are {there}" if known else "there is no record at all",
        )

    def _call(self, line: bytes, place: str) -> Iterator[tuple[Asked, int]]:
        try:
            record = record_of(line)
            session = str(record.get("session"))
            self._sessions[session] = None
            if self.session is not None and session != self.session:
                return
            self._count_lost(record)
            rule = record.get("rule")
            if "syscall" not in record or "event" in record:
                return
            if not isinstance(rule, str):
                raise ValueError("it names no rule")
            if rule in _NO_RULE:
                return
            asked = recorded(self.families, record)
            if asked is None or asked.is_for_nobody:
                return
            weight = record.get("repeats", 1)
            if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
                raise ValueError(f"repeats is no count: {weight!r}")
        except ValueError as error:
            self.unread += 1
            self.complaint = self.complaint or f"{place}: {error}"
            return
        yield asked, weight

    def _count_lost(self, record: Mapping[str, Any]) -> None:
        lost = record.get("lost_records")
        if isinstance(lost, int) and lost:
            self._lost[str(record.get("session"))] = lost
            self.lost = sum(self._lost.values())
