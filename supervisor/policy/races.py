"""Proves of a policy that no pointer switches a call between a refusal and a `continue`.

What lies in the caller's memory can be changed by another thread after it was looked at and before
the kernel looks again. So for calls that are equal in all that is fixed (registers, and who calls)
every rule can be the one that decides, up to the first that asks for nothing in memory. Where one
of those refuses, or leads the call elsewhere, and another one continues, the `continue` is a
promise that nobody keeps.

The proof is arithmetic on boxes of fixed parts, and errs to one side: what cannot be told apart is
a race.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from supervisor.model import Decision, DirectorySettings, SocketSettings, Verdict
from supervisor.policy.boxes import Box, Budget, Index, TooMany, meet, without
from supervisor.policy.shapes import Shape, shapes_of
from supervisor.policy.sockets import ADDRESS_KEYS, AnyRule, AnyRules
from supervisor.policy.source import Source, rule_node
from supervisor.policy.values import REFUSALS

# More than policies of ten thousand rules need that somebody has written.
_STEPS_MAX: Final = 5_000_000

@dataclass(frozen=True, slots=True)
class Race:
    """Rule `index` lets go on what rule `against` refuses or leads elsewhere (-1: `otherwise`).

    `texts` are the names of what the caller can change to get from one to the other.
    """

    index: int
    against: int
    texts: tuple[str, ...]


def continues(rule: AnyRule | Decision) -> bool:
    """Whether a call that this decides goes on as it is."""
    return rule.audit or rule.verdict is Verdict.CONTINUE


def refuses(rule: AnyRule | Decision) -> bool:
    """Whether a call that this decides does not happen."""
    return not rule.audit and (rule.verdict in REFUSALS or rule.verdict is Verdict.RETURN)


def diverts(rule: AnyRule | Decision) -> bool:
    """Whether a call that this decides is not the one that the kernel would make of it: it is led
    elsewhere, or its socket is changed before.
    """
    decision = rule if isinstance(rule, Decision) else rule.decision()
    how = decision.settings
    if decision.audit or decision.verdict is not Verdict.EMULATE:
        return False
    if isinstance(how, DirectorySettings):
        return bool(how.redirect)
    return isinstance(how, SocketSettings) and bool(
        how.redirect or how.prefix or how.balance or how.options
    )


def races(rules: AnyRules) -> Iterator[Race]:
    """Each rule that continues, with the first one found that it races with.

    Raises TooMany where that cannot be told of all of them.
    """
    every: list[AnyRule | Decision] = [*rules.rules, rules.otherwise]
    last = len(every) - 1
    going = [number for number, rule in enumerate(every) if continues(rule)]
    refusing = [number for number, rule in enumerate(every) if refuses(rule) or diverts(rule)]
    if not going or not refusing:
        return
    budget = Budget(_STEPS_MAX)
    shapes = shapes_of(rules, budget)
    memory = [any(not text.any for text in shape.texts) for shape in shapes]
    if not any(memory):
        return
    free = Index([shape.boxes if shape.free else () for shape in shapes])
    looks = Index([shape.boxes if told else () for shape, told in zip(shapes, memory, strict=True)])
    refused = Index([shapes[one].boxes if one in set(refusing) else () for one in range(last)])
    for one in going:
        otherwise = last if refuses(rules.otherwise) else None
        found = _race(shapes, free, looks, refused, one, otherwise, budget)
        if found is not None:
            texts = {
                text.name for number in (one, found) for text in shapes[number].texts
                if not text.any
            }  # fmt: skip
            # Which of them leads from one to the other may be told by rules in between alone.
            texts = texts or {
                text.name for shape in shapes[: max(one, found)] for text in shape.texts
                if not text.any
            }  # fmt: skip
            names = tuple(text.name for text in shapes[0].texts if text.name in texts)
            yield Race(-1 if one == last else one, -1 if found == last else found, names)


def _race(
    shapes: list[Shape], free: Index, looks: Index, refused: Index, one: int, last: int | None,
    budget: Budget,
) -> int | None:
    """The number of a rule that refuses some of what `one` continues, if only memory changes."""
    if last is not None and _meet(shapes, free, looks, one, last, budget):
        return last
    others = dict.fromkeys(
        other for box in shapes[one].boxes for other in refused.near(box, budget) if other != one
    )
    met = (other for other in others if _meet(shapes, free, looks, one, other, budget))
    return next(met, None)


def _meet(
    shapes: list[Shape], free: Index, looks: Index, one: int, other: int, budget: Budget
) -> bool:
    """Whether some call, but for its memory, can be decided by either rule; `one` lets it go on.

    Where no rule as far as the later one looks at memory, nothing but who calls leads from one to
    the other, and what was decided of a caller stays decided of that very call.
    """
    mine = shapes[one]
    if other > one and mine.blind:
        return False  # whoever it lets go on comes no further, whatever is in memory
    later = max(one, other)
    for box in mine.boxes:
        budget.spend(len(shapes[other].boxes))
        for theirs in shapes[other].boxes:
            both = meet(box, theirs)
            if both is None or not _reached(shapes, free, both, later, budget):
                continue
            near = (number for number in looks.near(both, budget) if number <= later)
            if any(meet(both, box) for number in near for box in shapes[number].boxes):
                return True
    return False


def _reached(shapes: list[Shape], free: Index, box: Box, number: int, budget: Budget) -> bool:
    """Whether some of `box` comes as far as rule `number`, where memory can let it pass."""
    holes = [
        hole
        for earlier in free.near(box, budget)
        if earlier < number
        for hole in shapes[earlier].boxes
    ]
    return bool(without([box], holes, budget))


def can_race(family: str) -> bool:
    """Whether what its rules look at lies in the caller's memory: who has connected does not."""
    return family != "accept"


def report_races(source: Source, family: str, section: Any, rules: AnyRules) -> None:
    """Makes errors of the races that no rule accepts."""
    if not can_race(family):
        return
    try:
        _report(source, family, section, rules)
    except TooMany:
        source.at(
            rule_node(source, family, -1),
            "so many rules cannot be held against each other, and a `continue` or `mode: audit` "
            "may race with a refusal: have fewer of them, or of ranges and ids that overlap",
        )


def _report(source: Source, family: str, section: Any, rules: AnyRules) -> None:
    for race in races(rules):
        if race.index >= 0 and section.rules[race.index].accept_race:
            continue
        if source.full:
            return
        node = rule_node(source, family, race.index)
        if race.index < 0:
            what = "`otherwise: kernel`"
        elif rules.rules[race.index].audit:
            what = "`mode: audit`, which lets a call go on,"
        else:
            what = "`continue`"
            node = node.at(("do",))
        named = [ADDRESS_KEYS.get(family, text) if text == "to" else text for text in race.texts]
        texts = " and ".join(named)
        source.at(
            node,
            f"{what} beside {_beside(race, rules)} by {texts} is a race with "
            f"{place_against(race, rules)}: the caller can change the {texts} after it was looked "
            f"at. {_advice(race)}",
        )


def _beside(race: Race, rules: AnyRules) -> str:
    diverted = race.against >= 0 and diverts(rules.rules[race.against])
    return "a rule that leads elsewhere" if diverted else "a refusal"


def place_against(race: Race, rules: AnyRules) -> str:
    """FILE:LINE of what refuses."""
    if race.against >= 0:
        return rules.rules[race.against].place
    return f"{rules.otherwise.rule} (otherwise)"


def _advice(race: Race) -> str:
    if race.index < 0:
        return (
            "Refuse nothing, or end with a rule that emulates; or with one that has do: continue "
            "and accept_race: true, where that is meant"
        )
    return "Refuse or emulate instead, or write accept_race: true in the rule"
