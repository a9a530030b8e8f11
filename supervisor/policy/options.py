"""The rules of socket options, and the decision: first match decides.

Level and option are registers, which no caller can change any more: one look is enough, but where a
rule asks who calls. By way of socketcall(2) of i386 they lie in memory, and another thread can make
an option of them that is refused: what would go on is carried out there, unless nothing is ever
refused. The value of one that is carried out was read once, and is what is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from errno import ENOPROTOOPT
from typing import Any, Final, NamedTuple

from supervisor.kernel.socket_options import is_plain, level_text, option_text
from supervisor.kernel.syscalls import is_wrapped
from supervisor.model import Decision, Facts, OptionSettings, Snapshot, Verdict
from supervisor.policy.callers import CallerMatch
from supervisor.policy.rules import otherwise_from_json, otherwise_to_json, to_be_seen

# A level, and one of its options; None is all of them.
Option = tuple[int, int | None]

_IN_MEMORY: Final = "by socketcall: made by seccompd, since its arguments lie in memory"
_UNREADABLE: Final = "by socketcall: its arguments cannot be read"
_NOT_PLAIN: Final = "an option that nobody else can set or ask for"
_AS_ASKED: Final = OptionSettings()


@dataclass(frozen=True, slots=True)
class OptionRule:
    """One rule; None is "any". `place` is where it stands, as FILE:LINE."""

    place: str
    verdict: Verdict
    value: int = 0
    silent: bool = False
    options: tuple[Option, ...] | None = None
    caller: CallerMatch | None = None
    audit: bool = False
    settings: OptionSettings = _AS_ASKED

    @property
    def needs_facts(self) -> bool:
        """Whether it looks at more than the registers."""
        return self.caller is not None

    def decision(self) -> Decision:
        """What a call gets that this rule decides."""
        return Decision(
            self.verdict, self.place, value=self.value, settings=self.settings,
            silent=self.silent, audit=self.audit,
            caller=self.caller.said() if self.caller else (),
        )  # fmt: skip

    def about(self, level: int, name: int) -> bool:
        """Whether the option is one of those asked for."""
        return self.options is None or any(
            level == one and other in (None, name) for one, other in self.options
        )

    def to_json(self) -> list[Any]:
        """The rule as JSON's types."""
        return [
            self.place, self.verdict.value, self.value, self.silent, self.options,
            None if self.caller is None else self.caller.to_json(), self.audit,
            self.settings.value,
        ]  # fmt: skip

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> OptionRule:
        """The rule that to_json() wrote."""
        place, verdict, value, silent, options, caller, audit, said = data
        return cls(
            place, Verdict(verdict), value, silent,
            None if options is None else tuple((level, name) for level, name in options),
            None if caller is None else CallerMatch.from_json(caller), audit, OptionSettings(said),
        )  # fmt: skip


class _Said(NamedTuple):
    """What a rule makes of calls: the same objects each time."""

    decision: Decision
    asks: Decision  # until it is known who calls
    carried_out: Decision
    not_plain: Decision

    @property
    def goes_on(self) -> bool:
        """Whether it would be the kernel's to do."""
        return self.decision.audit or self.decision.verdict is Verdict.CONTINUE


def _all_of(decision: Decision) -> _Said:
    return _Said(
        decision, to_be_seen(decision),
        Decision(Verdict.EMULATE, decision.rule, _IN_MEMORY, caller=decision.caller),
        Decision(Verdict.ERRNO, decision.rule, _NOT_PLAIN, value=ENOPROTOOPT),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class OptionRules:
    """The rules of one call in order, and what becomes of a call that none matches."""

    rules: tuple[OptionRule, ...]
    otherwise: Decision
    _said: list[_Said] = field(default_factory=list, compare=False, repr=False)
    _unreadable: Decision = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._said.extend(_all_of(rule.decision()) for rule in self.rules)
        self._said.append(_all_of(self.otherwise))
        unreadable = Decision(Verdict.EMULATE, self.otherwise.rule, _UNREADABLE)
        object.__setattr__(self, "_unreadable", unreadable)

    @property
    def restricts(self) -> bool:
        """Whether a call may come to anything else than the kernel would make of it."""
        every: list[OptionRule | Decision] = [*self.rules, self.otherwise]
        return any(not one.audit and one.verdict is not Verdict.CONTINUE for one in every)

    @property
    def watches(self) -> bool:
        """Whether somebody has to look at the calls: not where all of them go on anyway."""
        every: list[OptionRule | Decision] = [*self.rules, self.otherwise]
        return self.restricts or any(one.audit for one in every)

    def decide(self, snapshot: Snapshot, facts: Facts | None) -> Decision:
        """The decision on a call; with `facts` None one that `needs_facts` has to be taken again.
        """
        level, name = option_of(snapshot)
        in_memory = is_wrapped(snapshot.nr) and self.restricts
        if in_memory and any(isinstance(arg, int) and arg < 0 for arg in snapshot.args[3:]):
            # level and option may not have been read either; whoever carries it out says so
            return self._unreadable
        at = self._first(level, name, facts)
        said = self._said[at]
        if facts is None and at < len(self.rules) and self.rules[at].caller is not None:
            return said.asks
        made = in_memory if said.goes_on else said.decision.verdict is Verdict.EMULATE
        if made and not is_plain(level, name):
            return said.not_plain
        return said.carried_out if made and said.goes_on else said.decision

    def _first(self, level: int, name: int, facts: Facts | None) -> int:
        for at, rule in enumerate(self.rules):
            if rule.about(level, name) and (
                facts is None or rule.caller is None
                or rule.caller.matches(facts, unknown=not rule.verdict.grants)
            ):  # fmt: skip
                return at
        return len(self.rules)

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON's types."""
        return {
            "options": True,
            "otherwise": otherwise_to_json(self.otherwise),
            "rules": [rule.to_json() for rule in self.rules],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> OptionRules:
        """The rules that to_json() wrote."""
        return cls(
            tuple(OptionRule.from_json(row) for row in data["rules"]),
            otherwise_from_json(data["otherwise"]),
        )


def option_of(snapshot: Snapshot) -> tuple[int, int]:
    """The level and the option that a call is about."""
    _, level, name, *_ = snapshot.args
    if not isinstance(level, int) or not isinstance(name, int):
        raise TypeError("level and option are numbers")
    return level, name


def text_of(option: Option) -> str:
    """An option, or a level, for a person and for a policy."""
    level, name = option
    return level_text(level) if name is None else option_text(level, name)
