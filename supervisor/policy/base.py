"""The policy that records were written under: what it let go is in no record, and what learns from
those takes over the rules that say so. And the text of a family of a learned policy with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from supervisor.errors import PolicyError
from supervisor.model import Verdict
from supervisor.policy import store, write
from supervisor.policy.draft import Draft, read_draft
from supervisor.policy.families import FamilySpec
from supervisor.policy.learned import Learned
from supervisor.policy.races import continues
from supervisor.policy.shadows import TooMany, shadows
from supervisor.policy.socket_write import beside
from supervisor.policy.sockets import AnyRule
from supervisor.policy.source import rule_node
from supervisor.policy.write import NewRule, Section

# Where `emulate` makes of a call what the kernel would: it is done as the caller.
_AS_CALLER: Final = frozenset(("mkdir", "connect", "bind", "accept", "xattr"))
# What the kernel does for a container by itself in these is left to it, where nobody knows better.
_LEFT_TO_KERNEL: Final = frozenset({"mount", "xattr"})
_NO_CONDITION: Final = frozenset(("do", "mode", "silent", "accept_race"))
# How much of a family of the base is kept: as it is; with `emulate` in the place of what goes on,
# which races with nothing; nothing.
AS_IT_IS: Final = 0
EMULATED: Final = 1
NOTHING: Final = 2


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule that grants nothing: what it lets go on (`goes`) or refuses with, as it is written."""

    place: str
    verdict: Verdict
    goes: bool
    value: Mapping[str, Any]

    def rule(self, level: int, *, races: bool) -> NewRule:
        """The rule as text; `races`: as it is accepted there that it may."""
        said = {key: one for key, one in self.value.items() if races or key != "accept_race"}
        if self.goes and level == EMULATED:
            said = {key: one for key, one in said.items() if key != "mode"} | {"do": "emulate"}
        pairs = [(key, write.value(one)) for key, one in said.items()]
        return NewRule(pairs, f"as {self.place} has it")


@dataclass(frozen=True, slots=True)
class _Family:
    kernel: bool = False
    kept: tuple[Kept, ...] = ()
    blanket: bool = False
    restricts: bool = False


@dataclass(frozen=True, slots=True)
class Base:
    """What a policy lets go and what it refuses, by family; `name` is for people."""

    name: str = ""
    families: Mapping[str, _Family] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether there is one."""
        return bool(self.name)

    @property
    def restricting(self) -> set[str]:
        """The families of which some is refused."""
        return {name for name, own in self.families.items() if own.restricts}

    def left_out(self, levels: Mapping[str, int]) -> Iterator[str]:
        """What a learned policy has not of this one, for its head."""
        for family, level in levels.items():
            if level != NOTHING:
                continue
            if family == "open":
                yield f"open: what {self.name} refuses goes on here; beside it that is a race."
            else:
                yield (
                    f"{family}: refused but for the rules below. {self.name} let more go, of which "
                    "there is no record, and that would be a race."
                )

    def otherwise(self, family: str) -> bool:
        """Whether what no rule of a family matches is left to the kernel."""
        return self.families[family].kernel if family in self.families else False

    def lets_go(self, family: str) -> bool:
        """Whether some of a family goes on, of which there may be no record."""
        own = self.families.get(family)
        return own is not None and (own.kernel or any(rule.goes for rule in own.kept))

    def takes_all(self, family: str) -> bool:
        """Whether every call of a family is granted or goes on at last; so it is without rules."""
        own = self.families.get(family)
        return own is None or own.kernel or own.blanket

    def kept(self, family: str, used: Collection[str]) -> tuple[Kept, ...]:
        """The rules of a family that are to be taken over: what refuses stands between the calls
        that go on and those that must not; where none goes on, what only says how it is refused
        counts where it has been `used`.
        """
        own = self.families.get(family, _Family())
        if self.lets_go(family):
            return own.kept
        said = (rule for rule in own.kept if rule.verdict is not Verdict.REFUSE)
        return tuple(rule for rule in said if rule.place in used)


NO_BASE: Final = Base()


def read_base(name: str, families: Mapping[str, FamilySpec]) -> Base:
    """The policy that `name` means. PolicyError where there is none, or where it has errors."""
    file = store.find(name)
    content = store.read(file, name if "/" in name else None)
    draft = read_draft(file, content, families)
    draft.source.fail()
    return Base(file.name, dict(_families(draft)))


def _families(draft: Draft) -> Iterator[tuple[str, _Family]]:
    if draft.document.mode == "audit":
        return  # nothing is refused, and nothing granted that a rule would be made of
    for name, rules in draft.sets.items():
        kept, blanket = [], False
        every: Sequence[AnyRule] = rules.rules
        for index, rule in enumerate(every):
            goes = continues(rule)
            said = rule_node(draft.source, name, index).value()
            grants = not goes and rule.verdict in (Verdict.EMULATE, Verdict.INJECT)
            blanket |= (goes or grants) and not said.keys() - _NO_CONDITION
            if not grants:
                kept.append(Kept(rule.place, rule.verdict, goes, said))
        kernel = continues(rules.otherwise)
        restricts = any(not one.goes for one in kept) or not (kernel or blanket)
        yield name, _Family(kernel, tuple(kept), blanket, restricts)


def _text_of(
    family: str, rules: Sequence[NewRule], base: Base, used: Collection[str], level: int
) -> Section:
    """A family of a learned policy: the rules that were learned, behind them what is kept of the
    base, and what becomes of all else."""
    if level == NOTHING:
        return Section(rules, kernel=family == "open")
    # An open that no rule is about goes on, whatever is said; there a refusal is one that races.
    kept = [one.rule(level, races=family == "open") for one in base.kept(family, used)]
    kernel = base.otherwise(family)
    why = f"as {base.name} has it: what it left to the kernel is in no record" if kernel else ""
    if kernel and level == EMULATED:
        kept.append(NewRule([("do", "emulate")], why))
        kernel, why = False, ""
    return Section([*rules, *kept], kernel=kernel or family == "open", why=why)


def sections_for(
    rules: Mapping[str, Sequence[NewRule]], learned: Learned, base: Base,
    levels: Mapping[str, int],
) -> dict[str, Section]:
    """The families of a policy that has these rules: those, what refused something, and what the
    base refuses, which would be the kernel's otherwise.
    """
    needed = [*rules, *beside(rules), *sorted(learned.held | base.restricting)]
    # The filter of a container that runs notifies them still: refused without a line.
    left = learned.unmatched | ({"mount"} if learned.left_mounts else set())
    needed += sorted(left)
    out = {}
    for family in dict.fromkeys(needed):
        own = rules.get(family, ())
        if base.known:
            level = levels.get(family, AS_IT_IS)
            out[family] = _text_of(family, own, base, learned.refusing, level)
        else:
            kernel = family in _LEFT_TO_KERNEL or family in learned.unmatched
            refused = learned.refuses(family) and family != "mount"
            out[family] = Section(own, kernel=(kernel and not refused) or family == "open")
    return {name: one for name, one in out.items() if one.rules or not one.kernel or name in left}


def less_of(
    sections: Mapping[str, Section], levels: Mapping[str, int], families: Mapping[str, FamilySpec]
) -> dict[str, int]:
    """Levels under which each family loads by itself, where it can; a family's race is its own."""
    out = dict(levels)
    for family, section in sections.items():
        some = {family: section} | {
            one: Section([]) for one in ("connect", "bind") if one in sections and one != family
        }
        try:
            text = write.policy("learned", some)
            read_draft(Path("learned.yaml"), text.encode(), families).source.fail()
        except PolicyError:
            at = levels.get(family, AS_IT_IS)
            out[family] = EMULATED if at == AS_IT_IS and family in _AS_CALLER else NOTHING
    return out


def useful(
    sections: Mapping[str, Section], learned: Mapping[str, int], families: Mapping[str, FamilySpec]
) -> dict[str, Section]:
    """The same without the rules behind the first so many that never decide."""
    if all(len(one.rules) == learned.get(name, 0) for name, one in sections.items()):
        return dict(sections)
    text = write.policy("learned", sections).encode()
    out = dict(sections)
    with contextlib.suppress(PolicyError):
        for family, rules in read_draft(Path("learned.yaml"), text, families).sets.items():
            first = learned.get(family, 0)
            with contextlib.suppress(TooMany):
                never = {one.index for one in shadows(rules) if one.by and one.index >= first}
                out[family] = sections[family].without(never)
    return out
