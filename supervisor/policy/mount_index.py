"""Finds the rules of mounts that a call can meet, so that how many there are costs it nothing.

A call has a type, flags and options: rules are found by their type, and those of them that allow
the same flags and options (few of many rules differ there) are asked once. What path work finds
out, the source and the target, is looked up by its number or by the literal start of a glob.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from supervisor.model import Facts, Verdict
from supervisor.policy.match import literal_prefix

if TYPE_CHECKING:
    from supervisor.policy.mounts import MountRule

_NEVER: Final = 1 << 62  # a number behind every rule


@dataclass(slots=True)
class _Group:
    """Rules that allow the same; of each kind that matters the number of the first (`settles`: it
    asks for nothing that path work finds out).
    """

    sample: MountRule
    first: int
    emulates: int = _NEVER
    by_program: int = _NEVER
    settles: int = _NEVER

    def add(self, number: int, rule: MountRule) -> None:
        """Takes in a rule; they come in order."""
        if rule.verdict is Verdict.EMULATE:
            self.emulates = min(self.emulates, number)
            if rule.settings.via == "fuse":
                self.by_program = min(self.by_program, number)
        if not rule.needs_facts:
            self.settles = min(self.settles, number)


class Met(NamedTuple):
    """The rules that allow a call's flags and options, up to the first that asks for nothing more
    (`last`): the first of them, the first that mounts, and the first that does by a FUSE program.
    None where there is none. `reason`: why the first one of the others does not allow the call.
    """

    first: MountRule | None
    last: MountRule | None
    emulates: MountRule | None
    by_program: MountRule | None
    reason: str


class _Part:
    """The rules for one type, or those for any type."""

    def __init__(self) -> None:
        self.groups: dict[object, _Group] = {}
        self._numbers: list[int] = []
        self._by_device: dict[tuple[int, int], list[int]] = {}
        self._by_source: dict[bytes, list[int]] = {}
        self._by_target: dict[bytes, list[int]] = {}
        self._anywhere: list[int] = []

    def add(self, number: int, rule: MountRule) -> None:
        """Takes in a rule; they come in order."""
        if rule.allowance not in self.groups:
            self.groups[rule.allowance] = _Group(rule, number)
        self.groups[rule.allowance].add(number, rule)
        self._numbers.append(number)
        sources = {_start(glob) for glob in rule.sources or ()}
        targets = {literal_prefix(glob) for glob in rule.targets or ("**",)}
        single = all((low, first) == (high, last) for _, low, high, first, last in rule.devices)
        if rule.by_source and single and b"" not in sources:
            for _, major, _, minor, _ in dict.fromkeys(rule.devices):
                self._by_device.setdefault((major, minor), []).append(number)
            for start in sources:
                self._by_source.setdefault(start, []).append(number)
        elif b"" not in targets:
            for start in targets:
                self._by_target.setdefault(start, []).append(number)
        else:
            self._anywhere.append(number)

    def near(self, facts: Facts) -> Iterator[int]:
        """The numbers of all rules that may match, in no order."""
        target = facts.target if facts.target is not None else facts.path
        source = facts.source
        if source is None or target is None:  # what refuses matches what nobody knows
            yield from self._numbers
            return
        yield from self._anywhere
        if self._by_device and source.device is not None:
            yield from self._by_device.get(source.device, ())
        for index, path in ((self._by_source, source.name), (self._by_target, target)):
            for start in _starts(path) if index else ():
                yield from index.get(start, ())


class MountIndex:
    """All rules of a policy's mounts. Built once: that takes as long as a look at each of them."""

    def __init__(self, rules: Sequence[MountRule]) -> None:
        self._rules = rules
        self._any = _Part()
        self._of_type: dict[str, _Part] = {}
        by_kernel: dict[object, MountRule] = {}
        for number, rule in enumerate(rules):
            if rule.types is None:
                self._any.add(number, rule)
            for name in dict.fromkeys(rule.types or ()):
                self._of_type.setdefault(name, _Part()).add(number, rule)
            if rule.verdict is Verdict.EMULATE and rule.settings.via == "kernel":
                by_kernel.setdefault(rule.allowance, rule)
        # Of the rules that have the kernel mount, the first of each that allow the same.
        self.by_kernel = tuple(by_kernel.values())

    def _parts(self, fstype: str) -> Iterable[_Part]:
        own = self._of_type.get(fstype)
        return (self._any,) if own is None else (self._any, own)

    def first_look(self, fstype: str, flags: int, options: Sequence[str]) -> Met:
        """What a call meets, as far as its arguments tell."""
        fit: list[_Group] = []
        others: list[_Group] = []
        for part in self._parts(fstype):
            for group in part.groups.values():
                (others if group.sample.objection(flags, options) else fit).append(group)
        settles = min((group.settles for group in fit), default=_NEVER)

        def rule(number: int) -> MountRule | None:
            return self._rules[number] if number <= settles and number != _NEVER else None

        reason = ""
        denying = min(others, key=lambda group: group.first, default=None)
        if denying is not None and denying.first < settles:
            objection = denying.sample.objection(flags, options)
            reason = f"{objection} by {denying.sample.place}"
        return Met(
            rule(min((group.first for group in fit), default=_NEVER)),
            rule(settles),
            rule(min((group.emulates for group in fit), default=_NEVER)),
            rule(min((group.by_program for group in fit), default=_NEVER)),
            reason,
        )

    def second_look(
        self, fstype: str, flags: int, options: Sequence[str], facts: Facts
    ) -> MountRule | None:
        """The first rule that matches a call of which all is known."""
        fits: dict[object, bool] = {}
        near = {number for part in self._parts(fstype) for number in part.near(facts)}
        for number in sorted(near):
            rule = self._rules[number]
            if rule.allowance not in fits:
                fits[rule.allowance] = not rule.objection(flags, options)
            if fits[rule.allowance] and rule.matches(facts):
                return rule
        return None


def _start(glob: str) -> bytes:
    """How what a glob matches begins; b"" where nobody knows. What is no path is known whole."""
    if glob.startswith(("/", "**")):
        return literal_prefix(glob)
    wild = any(char in glob for char in "*?[")
    return b"" if wild else glob.encode("utf-8", "surrogateescape")


def _starts(path: bytes) -> Iterator[bytes]:
    """A path, and every directory above it but the uppermost."""
    while path:
        yield path
        path = path[: max(path.rfind(b"/"), 0)]
