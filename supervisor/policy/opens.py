"""The rules of the family `open`, and the decision on one open: first match decides.

A rule that injects adds to what the kernel grants: an open that it does not match is the kernel's,
with the caller's own rights. So what is not known at the first look (a relative path) is worth a
second one only where the name at its end, as it was written, could be the granted one's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from supervisor.kernel.opening import (
    ACCESS_WORDS,
    KNOWN_FLAGS,
    O_ACCMODE,
    O_CREAT,
    O_DIRECTORY,
    O_PATH,
    O_TRUNC,
    O_WRONLY,
    RESOLVE_NO_MAGICLINKS,
    unpack_how,
)
from supervisor.model import Arg, Decision, Facts, Inject, Verdict
from supervisor.policy.callers import CallerMatch
from supervisor.policy.match import GlobError, glob_regex, lexical
from supervisor.policy.rules import (
    Rule,
    RuleSet,
    looks,
    otherwise_from_json,
    passed_by,
    spares,
    until_settled,
)

# What keeps no caller from what the kernel would let it open.
_HARMLESS: Final = (Verdict.CONTINUE, Verdict.INJECT)
_NAMELESS: Final = (b"", b".", b"..")
_TMPFILE: Final = os.O_TMPFILE & ~os.O_DIRECTORY
_MODES: Final = 0o7777


class How(NamedTuple):
    """How a file is to be opened, as struct open_how has it. `strict`: by openat2, which takes no
    flags that it does not know.
    """

    flags: int
    mode: int = 0
    resolve: int = 0
    strict: bool = False

    @property
    def access(self) -> str:
        """The word for its access mode; "" for the fourth one, which can neither read nor write."""
        return ACCESS_WORDS.get(self.flags & O_ACCMODE, "")

    def injectable(self, *, directory: bool) -> bool:
        """Whether a descriptor of ours could be what it asks for; it may ask for a directory where
        that is what is given. O_PATH and O_TMPFILE are none; nor is what resolves a path otherwise
        than all others do, or what the kernel calls invalid.
        """
        if self.flags & (O_PATH | _TMPFILE) or not self.access:
            return False
        if self.flags & O_DIRECTORY and (not directory or self.flags & O_CREAT):
            return False
        if not self.strict:
            return True
        return not (
            self.flags & ~KNOWN_FLAGS
            or self.resolve & ~RESOLVE_NO_MAGICLINKS
            or self.mode & ~(_MODES if self.flags & O_CREAT else 0)
        )


def how_of(name: str, args: Sequence[Arg]) -> How | None:
    """How the call `name` opens; None where that could not be read."""
    if name == "creat":
        return How(O_CREAT | O_WRONLY | O_TRUNC)
    if name == "openat2":
        how = args[2]
        if not isinstance(how, bytes):
            return None
        flags, mode, resolve = unpack_how(how)
        return How(flags, mode, resolve, strict=True)
    found = args[1 if name == "open" else 2]
    if not isinstance(found, int):
        raise TypeError("flags are a number")
    return How(found)


def path_at(name: str) -> int:
    """The position of the path among the arguments of the call `name`."""
    return 0 if name in ("open", "creat") else 1


@dataclass(frozen=True, slots=True)
class OpenRule(Rule):
    """One rule; None is "any". `access` has words of ACCESS_WORDS."""

    access: tuple[str, ...] | None = None
    inject: Inject | None = None

    @property
    def gives_directory(self) -> bool:
        """Whether it gives one."""
        return self.inject is not None and self.inject.directory is not None

    def decision(self) -> Decision:
        """What an open gets that this rule decides."""
        found = Rule.decision(self)
        return found if self.inject is None else replace(found, settings=self.inject)

    def about(self, how: How | None) -> bool:
        """Whether it may decide opens like that. What is not known is no grant."""
        if self.verdict is Verdict.INJECT and (
            how is None or not how.injectable(directory=self.gives_directory)
        ):
            return False
        return how is None or self.access is None or how.access in self.access

    def to_json(self) -> list[Any]:
        """The rule as JSON's types."""
        inject = self.inject
        return [
            *Rule.to_json(self), self.access,
            None if inject is None
            else [
                inject.device, inject.file, inject.content, inject.writes, inject.directory,
                inject.loops, inject.fits,
            ],
        ]  # fmt: skip

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> OpenRule:
        """The rule that to_json() wrote."""
        *rule, access, inject = data
        place, verdict, value, _, silent, _, globs, caller, audit = rule
        what = None
        if inject is not None:
            device, file, content, writes, directory, loops, fits = inject
            what = Inject(
                None if device is None else tuple(device), file, content, writes, directory,
                None if loops is None else tuple(loops), fits,
            )
        return cls(
            place, Verdict(verdict), value, silent=silent,
            globs=None if globs is None else tuple(globs),
            caller=None if caller is None else CallerMatch.from_json(caller), audit=audit,
            access=None if access is None else tuple(access), inject=what,
        )  # fmt: skip


def _names(globs: Sequence[str]) -> Callable[[bytes], object] | None:
    """What the last component of a path has to match for the globs to; None: any."""
    last = [glob.rpartition("/")[2] for glob in globs]
    if any("**" in glob or not glob for glob in last):
        return None
    try:
        return glob_regex(*(f"/{glob}" for glob in last)).fullmatch
    except (GlobError, re.error):
        return None  # a slash within [...]


class _Entry:
    """A rule with its decision, that of the first look (None: it says nothing there), and what it
    looks for. `behind`: a rule in force before it refuses some callers.
    """

    __slots__ = (
        "at_first", "decision", "grants", "injects", "looks", "matches", "may_name", "rule",
    )  # fmt: skip

    def __init__(
        self, rule: OpenRule, otherwise: Decision, *, as_written: bool = False, behind: bool = False
    ) -> None:
        self.rule = rule
        self.decision = rule.decision()
        self.grants = rule.verdict.grants
        self.injects = rule.verdict is Verdict.INJECT
        self.looks = looks(rule, otherwise)
        self.at_first: Decision | None = self.decision
        if self.grants and rule.needs_facts:
            as_written = as_written and not rule.audit
            self.at_first = replace(self.decision, needs_facts=True, as_written=as_written)
        elif spares(rule, otherwise) and (self.looks or behind):
            self.at_first = _to_be_seen(self.decision)
        elif rule.caller is not None and not self.grants:
            self.at_first = None
        self.matches = None if rule.globs is None else glob_regex(*rule.globs).fullmatch
        self.may_name = None if rule.globs is None else _names(rule.globs)

    def may_match(self, written: bytes, path: bytes | None) -> bool:
        """Whether the rule matches a path as it was written, as far as that says where it leads:
        `path`, or nobody knows.
        """
        name = written.rpartition(b"/")[2]
        nameless = name in _NAMELESS  # a directory
        if self.injects and nameless and not self.rule.gives_directory:
            return False
        if path is not None:
            return self.matches is None or bool(self.matches(path))
        if not self.injects or self.may_name is None or nameless:
            return self.looks
        return bool(self.may_name(b"/" + name))


def _to_be_seen(decision: Decision) -> Decision:
    """The same, to be taken again: the open may go on, and nobody has seen yet who calls."""
    return replace(decision, verdict=Verdict.CONTINUE, value=0, needs_facts=True)


def may_match(rule: OpenRule, written: bytes, otherwise: Decision) -> bool:
    """Whether a rule matches a path as it was written, as the first look has it."""
    return _Entry(rule, otherwise).may_match(written, lexical(written))


class _Cell:
    """The rules about one way of opening, in order, up to the first that asks for nothing more."""

    __slots__ = ("_asks", "_blind", "_entries", "_last")

    def __init__(self, rules: Sequence[OpenRule], otherwise: Decision) -> None:
        asking, last = until_settled(rules, otherwise)
        as_written = not any(rule.caller is not None for rule in asking)
        self._entries = []
        behind = False
        for rule in asking:
            self._entries.append(_Entry(rule, otherwise, as_written=as_written, behind=behind))
            behind = behind or passed_by(rule)
        self._last = last
        # What no rule matched as it was written may still be what one refuses.
        refuses = any(not entry.grants for entry in self._entries)
        self._asks = replace(last, needs_facts=True) if refuses and last.verdict.grants else last
        if behind and spares(last, otherwise):
            self._asks = _to_be_seen(last)
        # What could not be read may be there when the kernel reads it: where a rule may say no to
        # this caller, an open does not go on, but has its errno from whoever carries it out.
        self._blind = self.second(None)
        every: list[OpenRule | Decision] = [*asking, last]
        says_no = any(not one.audit and one.verdict not in _HARMLESS for one in every)
        if says_no and (self._blind.audit or self._blind.verdict is Verdict.CONTINUE):
            self._blind = _to_be_seen(self._blind)

    def first(self, written: bytes) -> Decision:
        """The first look at a path; b"" is one that could not be read."""
        if not written:
            return self._blind
        path = lexical(written)
        for entry in self._entries:
            if not entry.may_match(written, path):
                continue
            if entry.at_first is not None:
                return entry.at_first
        return self._asks

    def second(self, facts: Facts | None) -> Decision:
        """The second look; None: the path could not be read, and only what refuses may match."""
        path = None if facts is None else facts.path
        for entry in self._entries:
            if facts is None:
                found = not entry.grants
            elif path is None:
                spared = facts.nowhere and entry.rule.audit
                found = entry.matches is None or not entry.grants or spared
            else:
                found = entry.matches is None or bool(entry.matches(path))
            if found and (facts is None or entry.rule.matches_caller(facts)):
                return entry.decision
        return self._last


@dataclass(frozen=True, slots=True)
class OpenRules(RuleSet):
    """The rules of opens in order, and what becomes of an open that none matches."""

    rules: tuple[OpenRule, ...]
    _ways: dict[tuple[object, ...], _Cell] = field(
        default_factory=dict, compare=False, repr=False
    )

    def decide_open(self, name: str, args: Sequence[Arg], facts: Facts | None) -> Decision:
        """The decision on an open by the call `name`."""
        cell = self._way(how_of(name, args))
        if facts is not None:
            return cell.second(facts)
        written = args[path_at(name)]
        return cell.first(written if isinstance(written, bytes) else b"")

    def narrowed_open(self, name: str, args: Sequence[Arg]) -> Callable[[bytes], Decision]:
        """The first look at opens that differ in their paths alone."""
        return self._way(how_of(name, args)).first

    def _way(self, how: How | None) -> _Cell:
        known = how is not None
        may_give = tuple(how is not None and how.injectable(directory=one) for one in (False, True))
        key = (how.access if how else "", *may_give, known)
        cell = self._ways.get(key)
        if cell is None:
            cell = self._ways[key] = _Cell(
                [rule for rule in self.rules if rule.about(how)], self.otherwise
            )
        return cell

    @property
    def accesses(self) -> frozenset[str]:
        """The access modes that some rule is about; what it lets go on would go on anyway."""
        every = frozenset(ACCESS_WORDS.values())
        return frozenset().union(
            *(
                every if rule.access is None else rule.access
                for rule in self.rules
                if rule.audit or rule.verdict is not Verdict.CONTINUE
            )
        )

    @property
    def gives_directories(self) -> bool:
        """Whether some rule gives one."""
        return any(rule.gives_directory for rule in self.rules)

    @property
    def lent(self) -> tuple[Inject, ...]:
        """All that a maker can be asked to lend."""
        found = [rule.inject for rule in self.rules if rule.inject is not None and not rule.audit]
        return tuple(dict.fromkeys(one for one in found if not one.ours))

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON's types."""
        return {**RuleSet.to_json(self), "opens": True}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> OpenRules:
        """The rules that to_json() wrote."""
        return cls(
            tuple(OpenRule.from_json(row) for row in data["rules"]),
            otherwise_from_json(data["otherwise"]),
        )
