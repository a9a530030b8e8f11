"""The rules of the family `mkdir`: they look at where a directory would be, and at who calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from supervisor.model import Decision, DirectorySettings, Verdict
from supervisor.policy.rules import Rule, RuleSet, otherwise_from_json, until_settled


@dataclass(frozen=True, slots=True)
class DirectoryRule(Rule):
    """One rule. `redirect`: the directory that is made instead, or ""."""

    redirect: str = ""

    def decision(self) -> Decision:
        """What a call gets that this rule decides."""
        settings = DirectorySettings(self.redirect.encode("utf-8", "surrogateescape"))
        return replace(Rule.decision(self), settings=settings)

    def to_json(self) -> list[Any]:
        """The rule as JSON's types."""
        return [*Rule.to_json(self), self.redirect]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> DirectoryRule:
        """The rule that to_json() wrote."""
        *some, redirect = data
        rule = Rule.from_json(some)
        values: dict[str, Any] = {one.name: getattr(rule, one.name) for one in fields(rule)}
        return cls(**values, redirect=redirect)


@dataclass(frozen=True, slots=True)
class DirectoryRules(RuleSet):
    """The rules in order, and what becomes of a call that none matches."""

    rules: tuple[DirectoryRule, ...]

    @property
    def watches(self) -> bool:
        """Whether a call may come to anything but the kernel's own answer, or is recorded."""
        asking, last = until_settled(self.rules, self.otherwise)
        every: list[Rule | Decision] = [*asking, last]
        return any(one.audit or one.verdict is not Verdict.CONTINUE for one in every)

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON's types."""
        return {**RuleSet.to_json(self), "directories": True}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DirectoryRules:
        """The rules that to_json() wrote."""
        return cls(
            tuple(DirectoryRule.from_json(row) for row in data["rules"]),
            otherwise_from_json(data["otherwise"]),
        )
