"""The policies of the daemon, in order, and which of them is a container's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from supervisor.errors import PolicyError
from supervisor.policy import store
from supervisor.policy.applies import Applies, Subject
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.families import FamilySpec
from supervisor.policy.notified import Notified
from supervisor.policy.traits import Traits

_keys = count(1)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One policy as it was loaded. `key` names it to the zygote, and never names another one.

    `applies` None: to nobody by itself. `notified`: what a filter made for it notifies.
    """

    name: str
    policy: CompiledPolicy
    applies: Applies | None
    key: str
    notified: Notified


@dataclass(frozen=True, slots=True)
class Choice:
    """`entry` None: no policy applies. `passed_over` has the policies that were considered before,
    and why each does not apply.
    """

    entry: Entry | None
    passed_over: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """Why there is no policy, for the log."""
        if not self.passed_over:
            return "there is no policy at all"
        return "; ".join(f"{name}: {why}" for name, why in self.passed_over)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All policies, those of the admin before those that ship, each group by name."""

    entries: tuple[Entry, ...]

    @classmethod
    def load(
        cls, search: Sequence[Path] | None, traits: Traits, families: Mapping[str, FamilySpec],
        before: PolicySet | None = None,
    ) -> PolicySet:
        """Loads every policy. PolicyError has the errors of all files; one wrong file is one. What
        is the same as in `before` is the same entry."""
        known = {entry.name: entry for entry in before.entries} if before else {}
        found = store.available(search)
        shipped = store.shipped()
        entries: list[Entry] = []
        errors: list[str] = []
        for name, file in sorted(found.items(), key=lambda item: (item[1].parent == shipped, item)):
            try:
                policy = store.load(str(file), traits, families=families)
            except PolicyError as error:
                errors.append(str(error))
            else:
                old = known.get(name)
                if old is not None and _text(old.policy) == _text(policy):
                    entries.append(old)
                    continue
                applies = None if policy.match is None else Applies.from_json(policy.match)
                notified = Notified.of(policy, families)
                entries.append(Entry(name, policy, applies, f"{next(_keys)}:{name}", notified))
        if errors:
            raise PolicyError("\n".join(errors))
        return cls(tuple(entries))

    def choose(self, subject: Subject) -> Choice:
        """The first policy that applies to `subject`."""
        passed_over: list[tuple[str, str]] = []
        for entry in self.entries:
            if subject.policy not in (None, entry.name):
                passed_over.append((entry.name, f"{subject.policy} was asked for"))
                continue
            applies = entry.applies
            why = "it has no match" if applies is None else applies.why_not(subject)
            if why is None:
                return Choice(entry, tuple(passed_over))
            passed_over.append((entry.name, why))
        return Choice(None, tuple(passed_over))


def _text(policy: CompiledPolicy) -> str:
    """All of it: from a file or from the cache it is the same."""
    return json.dumps(policy.to_json())
