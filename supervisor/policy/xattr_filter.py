"""What registers settle of extended attributes: whether one is set or removed, how long its value
is, and flags that mean nothing, which the kernel refuses by itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from supervisor.kernel import bpf
from supervisor.kernel.syscalls import CallSpec, Condition, Match
from supervisor.policy.cubes import Cube
from supervisor.policy.settle import Part, action_of, settle
from supervisor.policy.xattrs import XattrRule, XattrRules

_EVERY: Final = (Cube("", 0, 0),)
_LOW: Final = (1 << 32) - 1
_UNKNOWN_FLAGS: Final = _LOW & ~(os.XATTR_CREATE | os.XATTR_REPLACE)


def settle_xattrs(rules: XattrRules, spec: CallSpec) -> dict[int, list[Cube]]:
    """What the filter does with a call, by the size of the value where it sets one: as cubes of its
    lower 32 bits.
    """
    if rules.nodes:
        return {bpf.RET_USER_NOTIF: list(_EVERY)}
    sets = spec.index("size") is not None
    parts = [
        Part(_sizes(rule), action_of(rule), not rule.blind)
        for rule in rules.rules if sets or rule.values is None
    ]  # fmt: skip
    return settle(parts, _EVERY, action_of(rules.otherwise))


def _sizes(rule: XattrRule) -> Sequence[Cube]:
    if rule.values is None:
        return _EVERY
    sizes = dict.fromkeys(len(value.encode()) for value in rule.values)
    return [Cube("", _LOW, size) for size in sizes]


def filter_of(rules: XattrRules, spec: CallSpec) -> list[tuple[int, Match]]:
    """The same as the filter has it."""
    size, flags = spec.index("size"), spec.index("flags")
    always = () if flags is None else (Condition(flags, _UNKNOWN_FLAGS, 0),)
    return [
        (action, always if size is None or not cube.mask
         else (Condition(size, cube.mask, cube.value), *always))
        for action, cubes in settle_xattrs(rules, spec).items() for cube in cubes
    ]  # fmt: skip
