"""Who calls, as far as rules ask: read from /proc/TID at the second look, and no further.

What is read here is the kernel's, never the caller's memory; nothing of it can stall a session.
Whoever uses it asks afterwards whether that call still waits, which says whose it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from supervisor.kernel.capabilities import NAMES
from supervisor.kernel.task import field, read
from supervisor.model import Decision, Facts, Outcome, Verdict, XattrSettings

_DELETED = b" (deleted)"
Map = Sequence[tuple[int, int, int]]


class Callers:
    """Completes Facts by what `wants` names (see Facts).

    `uids` and `gids` are the maps of the session's user namespace, as (inside, outside, count);
    None where it has none of its own.
    """

    def __init__(
        self, wants: frozenset[str] = frozenset(), uids: Map | None = None, gids: Map | None = None
    ) -> None:
        self.wants = wants
        self._uids = uids
        self._gids = gids

    def complete(self, facts: Facts, task: int) -> Facts:
        """The facts with what rules want of the caller whose /proc/TID `task` is."""
        found: dict[str, Any] = {}
        status = b""
        if self.wants & {"host_uid", "host_gid", "capabilities"}:
            status = read("status", task)
        if "host_uid" in self.wants:
            found["host_uid"] = _outside(_last_id(status, b"Uid"), self._uids)
        if "host_gid" in self.wants:
            found["host_gid"] = _outside(_last_id(status, b"Gid"), self._gids)
        if "capabilities" in self.wants and _in_our_namespace(task):
            held = field(status, b"CapEff")
            if held:
                found["capabilities"] = frozenset(
                    name for bit, name in enumerate(NAMES) if int(held, 16) >> bit & 1
                )
        if "executable" in self.wants:
            found["executable"] = _executable(task)
        if "cgroup" in self.wants:
            found["cgroup"] = _cgroup(read("cgroup", task))
        return facts._replace(**found)


def _last_id(status: bytes, name: bytes) -> int | None:
    """The file system id of the four that stand there."""
    text = field(status, name)
    return int(text.rpartition(b"\t")[2]) if text else None


def _outside(inside: int | None, ranges: Map | None) -> int | None:
    """An id of the session's user namespace as that of seccompd numbers it."""
    if inside is None or ranges is None:
        return inside
    for first, outside, count in ranges:
        if first <= inside < first + count:
            return outside + inside - first
    return None


def _in_our_namespace(task: int) -> bool:
    """Whether capabilities mean anything here: those of a nested user namespace do not."""
    try:
        return os.readlink("ns/user", dir_fd=task) == os.readlink("/proc/self/ns/user")
    except OSError:
        return False


def _executable(task: int) -> bytes | None:
    try:
        path = os.readlink(b"exe", dir_fd=task)
    except OSError:
        return None
    # The file may have been replaced since; a name that ends so is not told from that.
    return None if path.endswith(_DELETED) or not path.startswith(b"/") else path


def _cgroup(text: bytes) -> bytes | None:
    """The path in the unified hierarchy; where that is not used, the one that systemd keeps."""
    paths = {}
    for line in text.splitlines():
        _, names, path = line.split(b":", 2)
        paths[names] = path
    unified = paths.get(b"")
    if unified is not None and (unified != b"/" or b"name=systemd" not in paths):
        return unified
    return paths.get(b"name=systemd", unified)


def who_calls(task: int) -> Facts:
    """The ids of the caller whose /proc/TID `task` is, where no path is looked at; -1: it has
    gone."""
    status = read("status", task)
    uid, gid = (_last_id(status, name) for name in (b"Uid", b"Gid"))
    return Facts(None, -1 if uid is None else uid, -1 if gid is None else gid)


class SecondLook:
    """A decision taken again with Facts: as the engine asks for it, and what came of it.

    Whoever carries out a plan is told to stop where the decision is only to be recorded.
    """

    def __init__(
        self, decide: Callable[[Facts], Decision], callers: Callers,
        valid: Callable[[], bool], on_error: int,
    ) -> None:
        self._decide = decide
        self._callers = callers
        self._valid = valid
        self._on_error = on_error
        # /proc/TID; None where no rule that could decide asks who calls (Decision.as_written).
        self.task: int | None = None
        self.facts: Facts | None = None
        self.found: Decision | None = None

    def __call__(self, facts: Facts) -> Decision:
        """The decision for what path work found, and for who calls."""
        if self._callers.wants and self.task is not None:
            facts = self._callers.complete(facts, self.task)
            if not self._valid():
                gone = "the caller has gone"
                return Decision(Verdict.ERRNO, "on_error", gone, value=self._on_error)
        self.facts = facts
        found = self._decide(facts)
        if found.needs_facts:
            return found  # of an accept: nobody has connected yet
        self.found = found
        return replace(self.found, verdict=Verdict.CONTINUE) if self.found.audit else self.found

    def outcome(self, first: Decision, outcome: Outcome) -> Outcome:
        """What became of the call, with the decision that counts.

        What is only recorded goes on as it would have gone without us, errors of its path
        included; errors of ours (they say `how`) stay what they are.
        """
        decision = self.found or first
        settings = decision.settings
        if first.needs_facts and self.found is None and not outcome.how:
            outcome = outcome._replace(nowhere=outcome.errno)
        # of a node of ours, which does not go on without rules either
        of_nodes = isinstance(settings, XattrSettings) and settings.nodes
        accepted = of_nodes and not (outcome.errno or outcome.left_alone)
        if decision.audit and (accepted or outcome.give is not None):
            # a connection that was taken is given, whatever the rules would have said
            outcome = outcome._replace(decision=decision)
        elif decision.audit and (self.found is not None or (not outcome.how and self._lets_go())):
            outcome = Outcome(
                0, path=outcome.path, left_alone=True, decision=decision, nowhere=outcome.nowhere
            )
        if self.facts is None:
            return outcome
        return outcome._replace(facts=self.facts, path=outcome.path or self.facts.path)

    def _lets_go(self) -> bool:
        """Whether a call whose path leads nowhere may go on all the same.

        Another thread may make something else of that path next. So it has to be the caller's own
        rules that let it go: what those make of paths does not race (supervisor/policy/races.py),
        but of who calls the first look knows nothing, and another rule may refuse just that caller.
        """
        if self.task is None:
            return False
        facts = who_calls(self.task)._replace(nowhere=True)
        if self._callers.wants:
            facts = self._callers.complete(facts, self.task)
        if min(facts.uid, facts.gid) < 0 or not self._valid():
            return False
        decision = self._decide(facts)
        return decision.audit or decision.verdict is Verdict.CONTINUE
