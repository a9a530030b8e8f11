"""The audit log: one JSON object a line, its schema in docs/audit.md, version SCHEMA.

Repeats (the same thread making the same call with the same outcome within REPEAT_WINDOW) are
counted and summed up in one record. A slow reader loses records, which the next record says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from supervisor.kernel.mounts import names_of, without_magic
from supervisor.kernel.syscalls import ARCH_NAMES, CallSpec, Kind
from supervisor.model import Decision, Outcome, Snapshot, Verdict
from supervisor.observe.text import errno_name, printable
from supervisor.observe.writer import LineWriter

SCHEMA = 1
REPEAT_WINDOW = 1.0
_MOST_REPEATS = 1024

_dumps = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


@dataclass(slots=True)
class _Repeat:
    record: dict[str, Any]
    until: float
    count: int = 0


@lru_cache(maxsize=4)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _now() -> str:
    nanoseconds = time.time_ns()
    return f"{_to_the_second(nanoseconds // 10**9)}.{nanoseconds // 1000 % 10**6:06d}Z"


def arguments(snapshot: Snapshot, spec: CallSpec | None) -> dict[str, Any]:
    """The arguments by name: numbers as they are, strings printable, or {"error": ERRNO}."""
    found: dict[str, Any] = {}
    for param, value in zip(spec.params if spec else (), snapshot.args, strict=False):
        if isinstance(value, bytes):
            found[param.name] = printable(value)
        elif param.kind.is_string:
            found[param.name] = {"error": errno_name(-value)} if value else None
        elif param.kind is Kind.MOUNT_FLAGS:
            found[param.name] = value
            found["flags"] = names_of(without_magic(value))
        else:
            found[param.name] = value
    return found


class AuditLog:
    """Writes the records of one session."""

    def __init__(
        self, fd: int, *, policy: str, session: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._writer = LineWriter(fd)
        self._base = {"v": SCHEMA, "session": session, "policy": policy}
        self._repeats: dict[tuple[int, bytes], _Repeat] = {}
        self._clock = clock
        self._next_sweep = float("inf")
        self._said_lost = 0

    @property
    def lost(self) -> int:
        """How many records could not be written."""
        return self._writer.lost

    def repeated(self, tid: int, key: bytes) -> bool:
        """Whether this call only repeats a recorded one; it is then counted, and that is all."""
        repeat = self._repeats.get((tid, key))
        if repeat is None:
            return False
        if self._clock() >= repeat.until:
            self._sum_up((tid, key))
            return False
        repeat.count += 1
        return True

    def record(
        self,
        snapshot: Snapshot,
        spec: CallSpec | None,
        decision: Decision,
        outcome: Outcome,
        seconds: float,
        *,
        who: Mapping[str, Any],
        delivered: bool,
        key: bytes | None = None,
    ) -> None:
        """Writes the record of one answered call; `who` is the caller's identity, read before it
        was answered, for it may be gone by now. With a `key`, its repeats will be counted."""
        record = {
            "time": _now(),
            "syscall": snapshot.name,
            "arch": ARCH_NAMES.get(snapshot.arch, f"{snapshot.arch:#x}"),
            "nr": snapshot.nr,
            **who,
            "args": arguments(snapshot, spec),
            "verdict": decision.verdict.value,
            "rule": decision.rule,
        }
        if decision.reason:
            record["reason"] = decision.reason
        record |= answer_of(decision, outcome)
        if outcome.how:
            record["how"] = outcome.how
        if outcome.path is not None:
            record["resolved"] = printable(outcome.path)
        if not delivered:
            record["delivered"] = False
        record["usec"] = int(seconds * 1e6)
        self._write(record)
        if key is not None:
            self._remember((snapshot.tid, key), record)

    def event(self, name: str, **details: Any) -> None:
        """Writes a record that is about the session and not about one call."""
        self._write({"time": _now(), "event": name, **details})

    def sweep(self) -> float:
        """Sums up repeats whose time is over; the time until the next (seconds, may be inf)."""
        now = self._clock()
        if now >= self._next_sweep:
            for key in [key for key, repeat in self._repeats.items() if now >= repeat.until]:
                self._sum_up(key)
            self._next_sweep = min(
                (repeat.until for repeat in self._repeats.values()), default=float("inf")
            )
        return max(self._next_sweep - now, 0.0)

    def close(self, **totals: Any) -> None:
        """Sums up everything, and writes the session's last record."""
        for key in list(self._repeats):
            self._sum_up(key)
        self.event("session_end", **totals, lost_records=self._writer.lost)
        self._writer.close()

    def _remember(self, key: tuple[int, bytes], record: dict[str, Any]) -> None:
        if len(self._repeats) >= _MOST_REPEATS:
            self._sum_up(next(iter(self._repeats)))
        until = self._clock() + REPEAT_WINDOW
        self._repeats[key] = _Repeat(record, until)
        self._next_sweep = min(self._next_sweep, until)

    def _sum_up(self, key: tuple[int, bytes]) -> None:
        repeat = self._repeats.pop(key)
        if repeat.count:
            self._write({**repeat.record, "time": _now(), "repeats": repeat.count})

    def _write(self, record: dict[str, Any]) -> None:
        if self._writer.lost != self._said_lost:
            record["lost_records"] = self._writer.lost
            self._said_lost = self._writer.lost
        self._writer.line(_dumps(self._base | record))


def answer_of(decision: Decision, outcome: Outcome) -> dict[str, Any]:
    """What the caller was told: "errno" as a name, "result" as a number, or who decides it."""
    if outcome.errno:
        return {"errno": errno_name(outcome.errno)}
    if outcome.left_alone:
        return {"answered_by": "kernel"}
    return {"result": decision.value if decision.verdict is Verdict.RETURN else 0}
