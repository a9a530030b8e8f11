"""The audit log: one JSON object a line, its schema in docs/audit.md, version SCHEMA.

Repeats (the same thread making the same call with the same outcome within REPEAT_WINDOW) are
counted and summed up in one record. A slow reader loses records, which the next record says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from supervisor.kernel.address_text import written
from supervisor.kernel.mounts import names_of, without_magic
from supervisor.kernel.opening import unpack_how
from supervisor.kernel.socket_options import option_name, room_of
from supervisor.kernel.syscalls import ARCH_NAMES, CallSpec, Kind, as_filtered
from supervisor.model import Decision, Facts, Outcome, Snapshot, Verdict
from supervisor.observe.identity import identity
from supervisor.observe.text import errno_name, members, printable, quoted
from supervisor.observe.would import would_be
from supervisor.observe.writer import LineWriter
from supervisor.policy.said import settings_of

SCHEMA = 1
REPEAT_WINDOW = 1.0
_MOST_REPEATS = 1024
_MOST_ENDS = 1024
_CARRIED_OUT = (Verdict.EMULATE, Verdict.INJECT)


@dataclass(slots=True)
class _Repeat:
    record: str
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
        if isinstance(value, bytes) and param.kind is Kind.HOW:
            found[param.name] = dict(
                zip(("flags", "mode", "resolve"), unpack_how(value), strict=True)
            )
        elif isinstance(value, bytes) and param.kind is Kind.ROOM:
            found[param.name] = room_of(value)[1]
        elif isinstance(value, bytes) and param.kind is Kind.VALUE:
            found[param.name] = None  # it may be a key (TCP_MD5SIG)
        elif isinstance(value, bytes):
            found[param.name] = written(value) if param.kind.is_address else printable(value)
        elif param.kind.is_string:
            found[param.name] = {"error": errno_name(-value)} if value else None
        elif param.kind is Kind.MOUNT_FLAGS:
            found[param.name] = value
            found["flags"] = names_of(without_magic(value))
        elif param.kind is Kind.OPTION:
            found[param.name] = value
            if name := option_name(found["level"], value):
                found["option"] = name
        else:
            found[param.name] = value
    return found


def facts_of(facts: Facts) -> dict[str, Any]:
    """What a decision was taken again with, but for the path: enough to take it once more."""
    found: dict[str, Any] = {"uid": facts.uid, "gid": facts.gid}
    for name in ("host_uid", "host_gid"):
        if (value := getattr(facts, name)) is not None:
            found[name] = value
    if facts.capabilities is not None:
        found["capabilities"] = sorted(facts.capabilities)
    for name in ("executable", "cgroup"):
        if (text := getattr(facts, name)) is not None:
            found[name] = printable(text)
    if facts.peer is not None:
        found["peer"] = written(facts.peer)
    if facts.source is not None:
        source = found["source"] = {"kind": facts.source.kind}
        source["name"] = printable(facts.source.name)
        if facts.source.device is not None:
            source["device"] = ":".join(map(str, facts.source.device))
    return found


class AuditLog:
    """Writes the records of one session.

    `by_pidfd`: the kernel has what the feature pidfd_info stands for.
    """

    def __init__(
        self,
        fd: int,
        *,
        policy: str,
        session: str,
        clock: Callable[[], float] = time.monotonic,
        by_pidfd: bool = False,
    ) -> None:
        self._writer = LineWriter(fd)
        self._session = session
        self.take(policy)
        self._by_pidfd = by_pidfd
        # The ends of records, with the decisions that they are about; there are few of both.
        self._ends: dict[tuple[int, int, bool, int], tuple[Decision, str]] = {}
        self._repeats: dict[tuple[int, bytes], _Repeat] = {}
        self._clock = clock
        self._next_sweep = float("inf")
        self._said_lost = 0

    def take(self, policy: str) -> None:
        """From now on the records say that they are about this policy."""
        base = members({"v": SCHEMA, "session": self._session, "policy": policy})
        self._start = f'{{{base},"time":"'

    @property
    def lost(self) -> int:
        """How many records could not be written."""
        return self._writer.lost

    def who(self, tid: int) -> str:
        """The caller's identity, as `record` takes it."""
        return identity(tid, by_pidfd=self._by_pidfd)

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
        who: str,
        delivered: bool,
        directory: bytes | None = None,
        key: bytes | None = None,
    ) -> None:
        """Writes the record of one answered call; `who` is the caller's identity, and `directory`
        where its path is relative to, read before it was answered, for it may be gone by now. With
        a `key`, its repeats will be counted."""
        arch = ARCH_NAMES.get(snapshot.arch, f"{snapshot.arch:#x}")
        nr, _ = as_filtered(snapshot.nr, ())
        record = (
            f'"syscall":"{snapshot.name}","arch":"{arch}","nr":{nr},{who},'
            f'"args":{{{members(arguments(snapshot, spec))}}},{self._end(decision, outcome)}'
        )
        if directory is not None:
            record += f',"directory":{quoted(printable(directory))}'
        if outcome.how:
            record += f',"how":{quoted(outcome.how)}'
        if outcome.tcp is not None:
            record += f',"tcp":{{{members(outcome.tcp._asdict())}}}'
        if outcome.path is not None:
            record += f',"resolved":{quoted(printable(outcome.path))}'
        if outcome.facts is not None:
            record += f',"facts":{{{members(facts_of(outcome.facts))}}}'
        if outcome.nowhere:
            record += f',"nowhere":"{errno_name(outcome.nowhere)}"'
        if not delivered:
            record += ',"delivered":false'
        record += f',"usec":{int(seconds * 1e6)}'
        self._write(record)
        if key is not None:
            self._remember((snapshot.tid, key), record)

    def event(self, name: str, **details: Any) -> None:
        """Writes a record that is about the session and not about one call."""
        self._write(members({"event": name, **details}))

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
        self._sum_up_all()
        self.event("session_end", **totals, lost_records=self._writer.lost)
        self._writer.close()

    def let_go(self) -> None:
        """Closes our own descriptor, without a last record."""
        self._writer.close()

    def _end(self, decision: Decision, outcome: Outcome) -> str:
        """What became of a call, as members of its record."""
        same = (id(decision), outcome.errno, outcome.left_alone, outcome.value)
        known = self._ends.get(same)
        if known is None:
            found: dict[str, Any] = {"verdict": decision.verdict.value, "rule": decision.rule}
            if decision.audit:
                found["mode"] = "audit"
                if (would := would_be(decision)) is not None:
                    found["would"] = would
            if decision.reason:
                found["reason"] = decision.reason
            if decision.verdict in _CARRIED_OUT:
                if done := settings_of(decision):
                    found[decision.verdict.value] = done
                if decision.caller:
                    found["caller"] = dict(decision.caller)
            if len(self._ends) >= _MOST_ENDS:
                self._ends.clear()
            known = self._ends[same] = decision, members(found | answer_of(decision, outcome))
        return known[1]

    def _remember(self, key: tuple[int, bytes], record: str) -> None:
        if len(self._repeats) >= _MOST_REPEATS:
            self._sum_up_all()
        until = self._clock() + REPEAT_WINDOW
        self._repeats[key] = _Repeat(record, until)
        if until < self._next_sweep:
            self._next_sweep = until

    def _sum_up_all(self) -> None:
        for key in list(self._repeats):
            self._sum_up(key)

    def _sum_up(self, key: tuple[int, bytes]) -> None:
        repeat = self._repeats.pop(key)
        if repeat.count:
            self._write(f'{repeat.record},"repeats":{repeat.count}')

    def _write(self, record: str) -> None:
        """`record`: the members that this one has beside those that all have."""
        lost = self._writer.lost
        if lost != self._said_lost:
            record += f',"lost_records":{lost}'
            self._said_lost = lost
        self._writer.line(f'{self._start}{_now()}",{record}}}')


def answer_of(decision: Decision, outcome: Outcome) -> dict[str, Any]:
    """What the caller was told: "errno" as a name, "result" as a number, or who decides it."""
    if outcome.errno:
        return {"errno": errno_name(outcome.errno)}
    if outcome.left_alone:
        return {"answered_by": "kernel"}
    if decision.verdict is Verdict.RETURN:
        return {"result": decision.value}
    return {"result": outcome.value}
