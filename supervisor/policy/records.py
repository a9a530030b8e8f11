"""Audit logs as questions: each record of a call that a policy decided, with its weight."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from supervisor.errors import PolicyError
from supervisor.model import Decision, Facts, Verdict
from supervisor.policy.asked import Asked, recorded
from supervisor.policy.call_text import record_of
from supervisor.policy.families import FamilySpec
from supervisor.policy.mount_values import parse_emulate, parse_type
from supervisor.policy.values import REALISE

_NOTHING: Final = Decision(Verdict.REFUSE, "")
_LINE_MAX: Final = 1 << 20
# Who answers where no rule did: an error on the way, or what is done for the sake of our own nodes.
_NO_RULE: Final = frozenset(("companion", "on_error", "remount", "runtime"))
_SESSIONS_SHOWN: Final = 20


def _check(record: Mapping[str, Any], asked: Asked) -> None:
    """ValueError where a record says what no session would."""
    for key in ("resolved", "directory"):
        parts = str(record.get(key, "/")).split("/")
        if parts[0] or "\0" in "".join(parts) or {".", ".."} & {*parts}:
            raise ValueError(f"{key} is no path that a session writes: {record[key]!r}")
    if asked.facts is not None:
        _check_facts(asked.facts)
    said = record.get("emulate", {})
    if asked.spec.family == "mount":
        parse_emulate(said)
        fstype = asked.snapshot.args[2]
        if record.get("verdict") == "emulate":
            parse_type(fstype.decode() if isinstance(fstype, bytes) else "")
    elif not isinstance(said, dict) or said.get("realise", "auto") not in REALISE:
        raise ValueError(f"no settings of emulate: {said!r}")
    elif asked.spec.family == "mknod" and not _is_device(asked):
        raise ValueError("no device")


def _check_facts(facts: Facts) -> None:
    ids = (facts.uid, facts.gid, facts.host_uid or 0, facts.host_gid or 0)
    if not all(type(one) is int for one in ids):
        raise ValueError(f"no ids: {ids!r}")
    source = facts.source
    if source is not None and source.kind not in ("device", "image", "text"):
        raise ValueError(f"no source of a mount: {source!r}")
    if source is not None and source.kind != "text" and not source.name.startswith(b"/"):
        raise ValueError(f"no source of a mount: {source!r}")


def _is_device(asked: Asked) -> bool:
    mode = asked.snapshot.args[asked.spec.index("mode") or 0]
    return isinstance(mode, int) and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode))


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
            if asked is None:
                return
            weight = record.get("repeats", 1)
            if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
                raise ValueError(f"repeats is no count: {weight!r}")
            _check(record, asked)
            asked.known(_NOTHING)  # what means nothing is said now, not when a policy asks for it
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
