"""What registers settle: which calls of a family the filter answers, and which it notifies.

The rules are taken from the last to the first, so that each set has, for the calls that come as far
as that rule, the one answer that they can get. Where they can get several, they are notified.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final, NamedTuple

from supervisor.kernel import bpf
from supervisor.kernel.syscalls import Condition, Match
from supervisor.model import Decision, Verdict
from supervisor.policy.cubes import UNIVERSE, Cube, common, cubes, overlap, subtract
from supervisor.policy.mounts import ALWAYS_ALLOWED, OPERATIONS, MountRule, MountRules
from supervisor.policy.options import OptionRule, OptionRules
from supervisor.policy.rules import RuleSet
from supervisor.policy.sockets import AnyRule

# Past so many tests the filter notifies more, and the session decides.
_CUBES_MAX: Final = 128
_SUM_MAX: Final = 4096
# A list of options that are allowed takes more: all others are what differs in some bit.
_OPTIONS_MAX: Final = 256
_FLAGS: Final = (1 << 32) - 1
_EVERY_OPTION: Final = (Cube("", 0, 0),)


class Part(NamedTuple):
    """One rule as the filter sees it: where it may decide, how, and whether something else than
    registers has a say in that.
    """

    region: Sequence[Cube]
    action: int
    asks: bool


def action_of(rule: AnyRule | Decision) -> int:
    """What the filter does where this decides: answer, if nobody wants to know of it."""
    if rule.audit:
        return bpf.RET_USER_NOTIF
    if rule.verdict is Verdict.CONTINUE:
        return bpf.RET_ALLOW
    if not rule.silent:
        return bpf.RET_USER_NOTIF
    if rule.verdict is Verdict.KILL:
        return bpf.RET_KILL_PROCESS
    return bpf.ret_errno(rule.value if rule.verdict is Verdict.ERRNO else errno.EPERM)


def settle(
    parts: Sequence[Part], universe: Sequence[Cube], last: int, most: int = _CUBES_MAX
) -> dict[int, list[Cube]]:
    """The calls of each action but "allow", as cubes; those of different actions do not overlap.

    `last` is the action for calls that no rule matches.
    """
    out: dict[int, list[Cube]] = {last: list(universe)}
    out.setdefault(bpf.RET_USER_NOTIF, [])
    for region, action, asks in reversed(parts):
        notified = asks or action == bpf.RET_USER_NOTIF
        others = [one for one in out if one not in (action, bpf.RET_USER_NOTIF)]
        if notified:
            moved = [cube for one in others for cube in common(out[one], region)]
            answered = any(overlap(cube, hole) for one in others if one != bpf.RET_ALLOW
                           for cube in out[one] for hole in region)  # fmt: skip
            for one in others:
                out[one] = subtract(out[one], region)
            # whole cubes are fewer; what is notified already may be so twice
            whole = not answered and action == bpf.RET_USER_NOTIF
            out[bpf.RET_USER_NOTIF] += [
                cube for cube in (region if whole else moved)
                if moved and cube not in out[bpf.RET_USER_NOTIF]
            ]  # fmt: skip
        else:
            for one in list(out):
                out[one] = subtract(out[one], region)
            out.setdefault(action, []).extend(region)
        if sum(map(len, out.values())) > _SUM_MAX:
            return {bpf.RET_USER_NOTIF: list(universe)}
    out.pop(bpf.RET_ALLOW, None)
    if sum(map(len, out.values())) > most:
        return {bpf.RET_USER_NOTIF: list(universe)}
    return out


def settle_options(rules: OptionRules) -> dict[int, list[Cube]]:
    """What the filter does with each option of a socket."""
    parts = [
        Part(_options(rule), action_of(rule), rule.needs_facts) for rule in rules.rules
    ]
    return settle(parts, _EVERY_OPTION, action_of(rules.otherwise), _OPTIONS_MAX)


def _options(rule: OptionRule) -> Sequence[Cube]:
    if rule.options is None:
        return _EVERY_OPTION
    return [
        Cube("", _FLAGS << 32 | (0 if name is None else _FLAGS), level << 32 | (name or 0))
        for level, name in rule.options
    ]


def settle_nodes(rules: RuleSet) -> dict[int, list[Cube]]:
    """What the filter does with each device."""
    last = action_of(rules.otherwise)
    if not _many(rules):
        parts = [Part(cubes(rule.nodes), action_of(rule), rule.needs_facts) for rule in rules.rules]
        return settle(parts, UNIVERSE, last)
    wanted: dict[Cube, None] = {}
    for rule in rules.rules:
        if last == bpf.RET_USER_NOTIF or len(wanted) > _CUBES_MAX:
            return {bpf.RET_USER_NOTIF: list(UNIVERSE)}
        wanted |= dict.fromkeys(cubes(rule.nodes))
    return {bpf.RET_USER_NOTIF: list(wanted if len(wanted) <= _CUBES_MAX else UNIVERSE)}


def _many(rules: RuleSet) -> bool:
    """Whether the rules are more than a filter is made of: then it notifies what they are about."""
    count = 0
    if len(rules.rules) > _CUBES_MAX:
        return True
    for rule in rules.rules:
        for nodes in rule.nodes or ():
            count += len(cubes([nodes]))
            if count > _SUM_MAX:
                return True
    return False


def settle_mounts(rules: MountRules, news: Sequence[Match]) -> list[tuple[int, Match]]:
    """What the filter does with new mounts, which `news` tells by their flags alone: the actions
    but "allow", and when each applies.
    """
    every = [test for (test,) in news]  # each looks at one register
    at = every[0].arg
    universe = [Cube(str(number), test.mask, test.value) for number, test in enumerate(every)]
    parts = [
        Part(_with_flags(rule, universe), action_of(rule), _asks(rule)) for rule in rules.rules
    ]
    if len(parts) > _CUBES_MAX:
        parts = [part._replace(action=bpf.RET_USER_NOTIF) for part in parts[:1]]
        parts = [part._replace(region=universe) for part in parts]
    found = settle(parts, universe, action_of(rules.otherwise))
    return [
        (action, (Condition(at, cube.mask, cube.value),))
        for action, those in found.items()
        for cube in those
    ]


def _with_flags(rule: MountRule, universe: Sequence[Cube]) -> list[Cube]:
    """The mounts whose flags the rule allows (MountRule.objection)."""
    needed, never = rule.required, 0
    if rule.flags is not None and (rule.verdict is Verdict.EMULATE or rule.options is not None):
        never = _FLAGS & ~(rule.flags | needed | ALWAYS_ALLOWED | OPERATIONS)
    # where the magic number of old stands, its bits are no flags
    return [
        Cube(cube.kind, cube.mask | never | needed, cube.value | (needed & ~cube.mask))
        for cube in universe
    ]


def _asks(rule: MountRule) -> bool:
    """Whether more than the flags has a say in whether it decides."""
    if rule.types is not None or rule.needs_facts or rule.required:
        return True
    return rule.options is not None and "*" not in rule.options
