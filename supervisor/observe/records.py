"""Who learns what became of a call: the audit log, --trace, and who looks on for a while."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, NamedTuple

from supervisor.kernel.syscalls import CallSpec
from supervisor.model import Decision, Outcome, Snapshot
from supervisor.observe.audit import AuditLog
from supervisor.observe.identity import identity
from supervisor.observe.trace import Tracer
from supervisor.observe.where import directory, plainly


class Witness(NamedTuple):
    """What is known of a call's caller before it is answered. `who` is its identity, for a record;
    `counted`: the audit log has counted the call as a repeat, and writes no record of it.
    `directory`: where its path is relative to (where.py).
    """

    who: str
    counted: bool
    directory: bytes | None = None

    def placed(self, snapshot: Snapshot, spec: CallSpec | None) -> Witness:
        """The same, with the directory of that call, for a record of its own."""
        if not self.who:
            return self
        found = directory(snapshot, spec)
        return self if found is None else self._replace(directory=found)


class Onlooker:
    """Gets the records of some calls, each by itself.

    `syscalls`: of those calls, or families of calls, alone. `verdicts`: of those alone.
    """

    def __init__(
        self, fd: int, *, policy: str, session: str,
        syscalls: Collection[str] | None, verdicts: Collection[str] | None,
    ) -> None:
        self._log = AuditLog(fd, policy=policy, session=session)
        self._syscalls = None if syscalls is None else set(syscalls)
        self._verdicts = verdicts

    def show(
        self, snapshot: Snapshot, spec: CallSpec | None, decision: Decision, outcome: Outcome,
        seconds: float, witness: Witness, delivered: bool,
    ) -> None:
        """One record, where it is wanted. One that the reader is too slow for is lost."""
        names = {snapshot.name, spec.family if spec is not None else snapshot.name}
        if self._syscalls is not None and not names & self._syscalls:
            return
        if self._verdicts is not None and decision.verdict.value not in self._verdicts:
            return
        self._log.record(
            snapshot, spec, decision, outcome, seconds, who=witness.who, delivered=delivered,
            directory=witness.directory,
        )

    def close(self) -> None:
        """Closes our own descriptor."""
        self._log.let_go()


def _went_short(outcome: Outcome) -> bool:
    """Whether a node was made the short way, through no symbolic link, which says no path."""
    return outcome.path is None and bool(outcome.how) and not outcome.errno


class Records:
    """All of them, for one session process."""

    def __init__(self, audit: AuditLog | None = None, tracer: Tracer | None = None) -> None:
        self._audit = audit
        self._tracer = tracer
        self._onlookers: dict[int, Onlooker] = {}
        self.wanted = audit is not None or tracer is not None

    def look_on(self, number: int, onlooker: Onlooker) -> None:
        """One more from now on; its number is to forget it by."""
        self.forget(number)
        self._onlookers[number] = onlooker
        self.wanted = True

    def forget(self, number: int) -> None:
        """One less, where it is known."""
        onlooker = self._onlookers.pop(number, None)
        if onlooker is not None:
            onlooker.close()
        self.wanted = bool(self._onlookers or self._audit or self._tracer)

    def witness(self, tid: int, decision: Decision, repeats: bytes | None) -> Witness | None:
        """To be taken while the caller waits; None: nobody wants a record. `repeats`: the key by
        which the audit log counts calls that are the same."""
        if decision.silent or not self.wanted:
            return None
        counted = (
            self._audit is not None and repeats is not None and self._audit.repeated(tid, repeats)
        )
        if self._audit is not None and not counted:
            return Witness(self._audit.who(tid), False)
        if self._onlookers:
            return Witness(identity(tid), counted)
        return Witness("", counted) if self._tracer is not None else None

    def record(
        self, snapshot: Snapshot, spec: CallSpec | None, decision: Decision, outcome: Outcome,
        start: int, witness: Witness, *, delivered: bool, key: bytes | None = None,
    ) -> None:
        """One answered call, which was received at `start` (perf_counter_ns)."""
        if self._tracer is not None:
            self._tracer.show(snapshot, spec, decision, outcome)
        seconds = (time.perf_counter_ns() - start) / 1e9
        if spec is not None and spec.family == "mknod" and _went_short(outcome):
            outcome = outcome._replace(path=plainly(snapshot, spec, witness.directory))
        if self._audit is not None and not witness.counted:
            self._audit.record(
                snapshot, spec, decision, outcome, seconds, who=witness.who, delivered=delivered,
                directory=witness.directory, key=key,
            )
        for onlooker in self._onlookers.values():
            onlooker.show(snapshot, spec, decision, outcome, seconds, witness, delivered)

    def event(self, name: str, **details: Any) -> None:
        """Something that is about the session, for the audit log."""
        if self._audit is not None:
            self._audit.event(name, **details)

    def sweep(self) -> float:
        """As AuditLog.sweep."""
        return self._audit.sweep() if self._audit is not None else float("inf")

    def close(self) -> None:
        """Lets go of the onlookers and ends the trace; the audit log is its owner's."""
        for number in list(self._onlookers):
            self.forget(number)
        if self._tracer is not None:
            self._tracer.close()
