"""Rules as shapes that can be compared: what of a call a rule matches, for proofs about rules.

A call has a fixed part (registers, and who calls) and a part that lies in the caller's memory, or
that its memory leads to: paths, types, options. The fixed part of a rule is a set of boxes; a
condition that has no numbers (a capability, a glob for the program) is a dimension of its own, in
which 1 stands for "holds". The other part is a list of texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

from supervisor.kernel.device_numbers import MAJOR_MAX, MINOR_MAX
from supervisor.model import Verdict
from supervisor.policy.boxes import Box, Budget, Range, joined, less
from supervisor.policy.globs import includes, text_includes
from supervisor.policy.match import NodeRange
from supervisor.policy.mounts import ALWAYS_ALLOWED, OPERATIONS, MountRule
from supervisor.policy.opens import OpenRule
from supervisor.policy.options import Option, OptionRule, OptionRules
from supervisor.policy.rules import Rule, RuleSet
from supervisor.policy.sockets import AnyRule, AnyRules, SocketRule
from supervisor.policy.values import ID_MAX
from supervisor.policy.xattrs import XattrRule

_BOXES_MAX: Final = 256
_TESTS_MAX: Final = 32
# So many ranges of devices of one rule a proof looks at one by one.
NODES_MAX: Final = 4096
_KINDS: Final = {"c": 0, "b": 1}
_REGISTER: Final = (0, (1 << 32) - 1)
_IDS: Final = (0, ID_MAX)
_WHITEOUT: Final = ((0, 0), (0, 0), (0, 0))


class Texts(Protocol):
    """What a rule asks of one text."""

    @property
    def name(self) -> str:
        """The key in YAML."""
        ...

    @property
    def any(self) -> bool:
        """Whether every text will do."""
        ...

    def parts(self) -> Sequence[Texts]:
        """The same as alternatives."""
        ...

    def covers(self, other: Any, budget: Budget) -> bool:
        """Whether all that one part of another rule's texts matches is matched here.

        Raises TooMany.
        """
        ...


@dataclass(frozen=True, slots=True)
class Globs:
    """A text that is to match one of some globs; None is any text."""

    name: str
    globs: tuple[str, ...] | None
    inside: Callable[[str, str, Budget], bool] = includes

    @property
    def any(self) -> bool:
        """Whether every text will do."""
        return self.globs is None

    def parts(self) -> Sequence[Globs]:
        """One glob each."""
        return [self] if self.globs is None else [Globs(self.name, (one,)) for one in self.globs]

    def covers(self, other: Globs, budget: Budget) -> bool:
        """Whether the one glob of `other` is inside of one of these."""
        if self.globs is None:
            return True
        return other.globs is not None and all(
            any(self.inside(outer, inner, budget) for outer in self.globs) for inner in other.globs
        )


def _same(outer: str, inner: str, budget: Budget) -> bool:  # noqa: ARG001
    return outer == inner


@dataclass(frozen=True, slots=True)
class Numbers:
    """A number in memory that is to be in one of some ranges, all of which begin with its kind (4
    and 6 for addresses); None is any number.
    """

    name: str
    ranges: tuple[tuple[int, ...], ...] | None

    @property
    def any(self) -> bool:
        """Whether every number will do."""
        return self.ranges is None

    def parts(self) -> Sequence[Numbers]:
        """One range each."""
        if self.ranges is None:
            return [self]
        return [Numbers(self.name, (one,)) for one in self.ranges]

    def covers(self, other: Numbers, budget: Budget) -> bool:
        """Whether the one range of `other` is inside of one of these."""
        if self.ranges is None:
            return True
        budget.spend(len(self.ranges))
        return other.ranges is not None and all(
            any(
                outer[:-2] == inner[:-2] and outer[-2] <= inner[-2] and inner[-1] <= outer[-1]
                for outer in self.ranges
            )
            for inner in other.ranges
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a mount: globs, or numbers of devices."""

    globs: tuple[str, ...] | None
    devices: tuple[NodeRange, ...]
    name: str = "source"

    @property
    def any(self) -> bool:
        """Whether every source will do."""
        return self.globs is None and not self.devices

    def parts(self) -> Sequence[Origin]:
        """One glob or one range of devices each."""
        if self.any:
            return [self]
        return [
            *(Origin((one,), ()) for one in self.globs or ()),
            *(Origin(None, (one,)) for one in self.devices),
        ]

    def covers(self, other: Origin, budget: Budget) -> bool:
        """Whether the one source of `other` is inside of one of these."""
        if self.any or "**" in (self.globs or ()):  # which is everything there is
            return True
        if other.any:
            return False
        return all(
            any(_inside(outer, inner, budget) for outer in self.globs or ())
            for inner in other.globs or ()
        ) and all(
            any(
                outer[1] <= inner[1] and inner[2] <= outer[2]
                and outer[3] <= inner[3] and inner[4] <= outer[4]
                for outer in self.devices
            )
            for inner in other.devices
        )  # fmt: skip


def _inside(outer: str, inner: str, budget: Budget) -> bool:
    paths = outer.startswith(("/", "**")), inner.startswith(("/", "**"))
    if paths == (True, True):
        return includes(outer, inner, budget)
    return paths == (False, False) and text_includes(outer, inner, budget)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The options that a rule of mounts allows, all of which a call's have to be among."""

    globs: tuple[str, ...] | None
    name: str = "options"

    @property
    def any(self) -> bool:
        """Whether all options will do."""
        return self.globs is None

    def parts(self) -> Sequence[Allowed]:
        """Itself: they are no alternatives."""
        return [self]

    def covers(self, other: Allowed, budget: Budget) -> bool:
        """Whether every option that `other` allows is allowed here."""
        if self.globs is None:
            return True
        return other.globs is not None and all(
            any(text_includes(outer, inner, budget) for outer in self.globs)
            for inner in other.globs
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """What one rule matches. `exact`: the boxes are not more than that, either.

    `sure`: nothing that it looks at can be unknown. Where something is, a rule that grants does not
    match, and one that refuses does.
    """

    boxes: tuple[Box, ...]
    texts: tuple[Texts, ...]
    exact: bool
    grants: bool
    sure: bool

    @property
    def free(self) -> bool:
        """Whether it decides whatever is in the caller's memory, and its boxes say all of it."""
        return self.blind and self.surely(self)

    @property
    def blind(self) -> bool:
        """The same, where what it asks of the caller is known."""
        return self.exact and all(text.any for text in self.texts)

    def surely(self, other: Shape) -> bool:
        """Whether it matches, where something is unknown, whenever `other` does."""
        return self.sure or not self.grants or (other is not self and other.grants)


def _tests(rule: AnyRule) -> list[Hashable]:
    """The fixed conditions of a rule that are no ranges of numbers."""
    caller = rule.caller
    out: list[Hashable] = []
    if caller is not None:
        for kind in ("capabilities", "executables", "cgroups"):
            values = getattr(caller, kind)
            if values is not None:
                out.append((kind, values))
    if isinstance(rule, MountRule) and rule.flags is not None:
        out.append(("flags", rule.flags | rule.required | ALWAYS_ALLOWED | OPERATIONS))
    if isinstance(rule, MountRule) and rule.required:
        out.append(("required", rule.required))
    return out


def _implies(one: Any, other: Any, budget: Budget) -> bool:
    """Whether a call for which test `one` holds passes test `other` as well."""
    (kind, mine), (another, theirs) = one, other
    if kind != another:
        return False
    if kind == "flags":
        return not mine & ~theirs
    if kind == "required":
        return not theirs & ~mine
    if kind == "capabilities":
        return set(mine) <= set(theirs)
    return all(any(includes(outer, inner, budget) for outer in theirs) for inner in mine)


@lru_cache(maxsize=16)  # thousands of rules may be about the same devices
def _nodes(ranges: tuple[NodeRange, ...] | None) -> tuple[tuple[Box, ...], bool]:
    """Boxes of (type, major, minor), without the whiteout, which the filter never notifies; False:
    they are so many that here is a little more than those.
    """
    every = ranges or (("c", 0, MAJOR_MAX, 0, MINOR_MAX), ("b", 0, MAJOR_MAX, 0, MINOR_MAX))
    different = dict.fromkeys(every)
    if len(different) <= NODES_MAX:
        boxes = [
            ((_KINDS[kind],) * 2, (low, high), (first, last))
            for kind, low, high, first, last in different
        ]
        pieces = tuple(piece for box in boxes for piece in less(box, _WHITEOUT))
        if len(pieces) <= NODES_MAX:
            return pieces, True
    kinds = [_KINDS[kind] for kind in {nodes[0] for nodes in every}]
    majors = min(nodes[1] for nodes in every), max(nodes[2] for nodes in every)
    minors = min(nodes[3] for nodes in every), max(nodes[4] for nodes in every)
    return (((min(kinds), max(kinds)), majors, minors),), False


def _options(options: Sequence[Option] | None) -> tuple[Box, ...]:
    """Boxes of (level, option)."""
    if options is None:
        return ((_REGISTER, _REGISTER),)
    return tuple(
        ((level, level), _REGISTER if name is None else (name, name)) for level, name in options
    )


def _texts(rule: AnyRule) -> tuple[Texts, ...]:
    if isinstance(rule, OpenRule):  # how openat2 opens lies in memory, too
        return (Globs("path", rule.globs), Globs("access", rule.access, _same))
    if isinstance(rule, XattrRule):
        return (
            Globs("name", rule.names, text_includes), Globs("value", rule.values, _same),
            Globs("path", rule.globs),
        )  # fmt: skip
    if isinstance(rule, Rule):
        return (Globs("path", rule.globs),)
    if isinstance(rule, SocketRule):
        return (
            Globs("family", rule.families, _same),
            Numbers("to", rule.networks),
            Numbers("port", rule.ports),
            Globs("path", rule.globs),
            Globs("abstract", rule.names, text_includes),
        )
    if isinstance(rule, OptionRule):
        return ()
    none = () if rule.verdict is Verdict.EMULATE else None
    return (
        Globs("fstype", rule.types, _same),
        Origin(rule.sources, rule.devices),
        Globs("target", rule.targets),
        Allowed(none if rule.options is None else rule.options),
    )


def shapes_of(rules: AnyRules, budget: Budget) -> list[Shape]:
    """The shape of each rule, and last that of `otherwise`, which matches everything.

    Raises TooMany.
    """
    every: list[Hashable] = list(
        dict.fromkeys(test for rule in rules.rules for test in _tests(rule))
    )[:_TESTS_MAX]
    known = set(every)
    nodes = isinstance(rules, RuleSet)

    def shape(rule: AnyRule | None) -> Shape:
        caller = rule.caller if rule is not None else None
        ranges: list[Sequence[Range]] = [
            joined(getattr(caller, name) or (_IDS,)) if caller is not None else (_IDS,)
            for name in ("uids", "gids", "host_uids", "host_gids")
        ]
        mine = _tests(rule) if rule is not None else []
        ranges += [
            ((1, 1),) if any(_implies(one, test, budget) for one in mine) else ((0, 1),)
            for test in every
        ]
        exact = known.issuperset(mine)
        start: tuple[Box, ...] = ((),)
        if nodes:
            start, whole = _nodes(rule.nodes if isinstance(rule, Rule) else None)
            exact = exact and whole
        elif isinstance(rules, OptionRules):
            start = _options(rule.options if isinstance(rule, OptionRule) else None)
        count = len(start)
        for number, one in enumerate(ranges):
            count *= len(one)
            if count > _BOXES_MAX:  # then a little more than it matches
                exact = exact and len(one) == 1
                ranges[number] = ((min(low for low, _ in one), max(high for _, high in one)),)
        boxes = tuple((*front, *rest) for front in start for rest in itertools.product(*ranges))
        if rule is None:
            return Shape(boxes, (), exact=True, grants=rules.otherwise.verdict.grants, sure=True)
        texts = _texts(rule)
        grants = rule.verdict.grants
        # of what was read all is known, but where a path leads; an attribute that could not be read
        # is not decided by rules
        known_texts = isinstance(rule, SocketRule | XattrRule) and rule.globs is None
        sure = known_texts or all(text.any for text in texts)
        sure = sure and (caller is None or not caller.wants)
        return Shape(boxes, texts, exact, grants, sure)

    return [*map(shape, rules.rules), shape(None)]
