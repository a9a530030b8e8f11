"""The rules of one family, and the decision: first match decides.

A decision is taken twice where a rule looks at something that only the file system knows. The first
look has what the caller wrote, and must not refuse what the second would grant: where it cannot
tell (a relative path, a "..", the caller's ids), a granting rule matches and a refusing rule does
not. The second look has the resolved path and the ids. A call is granted only if both looks grant,
with the settings of the second.

Rules are found by device, then by the literal start of their paths, so that the number of rules in
a policy costs a decision nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from supervisor.model import Decision, Facts, Settings, Verdict
from supervisor.policy.callers import CallerMatch
from supervisor.policy.match import (
    NodeRange,
    glob_regex,
    lexical,
    literal_prefix,
    node_matches,
)

# So many rules are tried one after the other before an index of their paths pays.
_LINEAR: Final = 8
# A caller chooses the devices it asks for: what is remembered of them is bounded.
_CELLS: Final = 4096


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; None is "any". `place` is where it stands, as FILE:LINE."""

    place: str
    verdict: Verdict
    value: int = 0
    realise: str = "auto"
    silent: bool = False
    nodes: tuple[NodeRange, ...] | None = None
    globs: tuple[str, ...] | None = None
    caller: CallerMatch | None = None
    audit: bool = False

    @property
    def needs_facts(self) -> bool:
        """Whether the rule looks at more than the registers."""
        return self.globs is not None or self.caller is not None

    def decision(self) -> Decision:
        """What a call gets that this rule decides."""
        return Decision(
            self.verdict,
            self.place,
            value=self.value,
            settings=Settings(realise=self.realise),
            silent=self.silent,
            audit=self.audit,
            caller=self.caller.said() if self.caller else (),
        )

    def matches_caller(self, facts: Facts) -> bool:
        """Whether the caller is one that the rule asks for."""
        return self.caller is None or self.caller.matches(facts, unknown=not self.verdict.grants)

    def to_json(self) -> list[Any]:
        """The rule as JSON's types."""
        return [
            self.place,
            self.verdict.value,
            self.value,
            self.realise,
            self.silent,
            self.nodes,
            self.globs,
            None if self.caller is None else self.caller.to_json(),
            self.audit,
        ]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> Rule:
        """The rule that to_json() wrote."""
        place, verdict, value, realise, silent, nodes, globs, caller, audit = data
        return cls(
            place,
            Verdict(verdict),
            value,
            realise,
            silent,
            _pairs(nodes),
            None if globs is None else tuple(globs),
            None if caller is None else CallerMatch.from_json(caller),
            audit,
        )


def _pairs(rows: Iterable[Iterable[Any]] | None) -> Any:
    return None if rows is None else tuple(tuple(row) for row in rows)


class _Entry:
    """A rule with its decision, and the same decision where it has to be taken again with Facts."""

    __slots__ = ("at_first", "decision", "grants", "looks", "matches", "prefixes", "rule")

    def __init__(self, rule: Rule, otherwise: Decision, *, as_written: bool, behind: bool) -> None:
        self.rule = rule
        self.decision = rule.decision()
        self.grants = rule.verdict.grants
        self.looks = looks(rule, otherwise)
        self.at_first = (
            to_be_seen(self.decision)
            if spares(rule, otherwise) and (self.looks or behind)
            else _again(self.decision, as_written=as_written)
        )
        self.prefixes = {literal_prefix(glob) for glob in rule.globs or ("**",)}
        # None: every path. Few of many rules are ever tried: a pattern is compiled when it is.
        self.matches: Callable[[bytes], object] | None = (
            None if rule.globs is None else self._compile
        )

    def _compile(self, path: bytes) -> object:
        self.matches = glob_regex(*(self.rule.globs or ())).fullmatch
        return self.matches(path)


_R = TypeVar("_R", bound=Rule)


def until_settled(rules: Iterable[_R], otherwise: Decision) -> tuple[list[_R], Decision]:
    """The rules that ask for facts, in order, and what settles a call that none of them matches."""
    asking: list[_R] = []
    for rule in rules:
        if not rule.needs_facts:
            return asking, rule.decision()
        asking.append(rule)
    return asking, otherwise


class Cell:
    """The rules that one device meets, in order, up to the first that asks for nothing more.

    `fixed` is the decision where no rule asks for more than the device.
    """

    __slots__ = ("_blind", "_entries", "_last", "_near", "fixed")

    def __init__(self, rules: Iterable[Rule], otherwise: Decision) -> None:
        asking, last = until_settled(rules, otherwise)
        # Where no rule looks at who calls, the same path comes to the same again.
        as_written = not any(rule.caller is not None for rule in asking)
        self._entries = []
        behind = False  # a rule in force that refuses some callers
        for rule in asking:
            self._entries.append(_Entry(rule, otherwise, as_written=as_written, behind=behind))
            behind = behind or passed_by(rule)
        self.fixed = None if asking else last
        at_first = _again(last, as_written=as_written)
        self._last = (last, to_be_seen(last) if behind and spares(last, otherwise) else at_first)
        looking = (entry.at_first for entry in self._entries if entry.looks)
        self._blind = replace(next(looking, self._last[1]), as_written=False)
        # By the literal start of paths the rules that may match them, b"" for all others; found
        # when they are asked for.
        self._near: dict[bytes, list[_Entry] | None] | None = None
        if len(asking) > _LINEAR:
            self._near = {prefix: None for entry in self._entries for prefix in entry.prefixes}
            self._near[b""] = None

    def _candidates(self, path: bytes) -> list[_Entry]:
        near = self._near
        if near is None:
            return self._entries
        while path not in near:
            path = path[: path.rfind(b"/")]
        found = near[path]
        if found is None:
            starts = [path]
            while starts[-1]:
                starts.append(starts[-1][: starts[-1].rfind(b"/")])
            found = [entry for entry in self._entries if not entry.prefixes.isdisjoint(starts)]
            near[path] = found
        return found

    def decide(self, written: bytes | int, facts: Facts | None) -> Decision:
        """The decision on a call at the path as written; an errno, or 0: nobody knows the path."""
        if self.fixed is not None:
            return self.fixed
        if facts is not None:
            return self._second(facts)
        return self.first(written) if isinstance(written, bytes) else self._blind

    def first(self, written: bytes) -> Decision:
        """The first look at a path; b"" is one that could not be read."""
        path = lexical(written)
        if path is None:
            return self._blind
        for entry in self._candidates(path):
            matches = entry.matches
            if matches is not None and not matches(path):
                continue
            if entry.looks or entry.rule.caller is None:
                return entry.at_first
        return self._last[1]

    def _second(self, facts: Facts) -> Decision:
        path = facts.path
        for entry in self._entries if path is None else self._candidates(path):
            if path is None:
                # Nobody knows where the call leads: only what refuses may match.
                spared = facts.nowhere and entry.rule.audit
                found = entry.matches is None or not entry.grants or spared
            else:
                found = entry.matches is None or bool(entry.matches(path))
            if found and entry.rule.matches_caller(facts):
                return entry.decision
        return self._last[0]


def passed_by(rule: Any) -> bool:
    """Whether a rule is in force, and the first look passes it by although it may match: it refuses
    some callers, and who calls is not known yet.
    """
    return not rule.audit and not rule.verdict.grants and rule.caller is not None


def spares(rule: Any, otherwise: Decision) -> bool:
    """Whether a rule (or a decision) would refuse, lets go for the records, and others are in
    force. Where none is, the looks are taken as they would be if all were.
    """
    return rule.audit and not rule.verdict.grants and not otherwise.audit


def looks(rule: Any, otherwise: Decision) -> bool:
    """Whether the first look counts a rule as a match where it cannot tell who calls: it may let
    the call go on, be it for the records alone.
    """
    return rule.verdict.grants or (rule.caller is not None and spares(rule, otherwise))


def to_be_seen(decision: Decision) -> Decision:
    """The same, as a grant that has to be looked at again: who calls is seen then."""
    return replace(decision, verdict=Verdict.EMULATE, value=0, needs_facts=True)


def _again(decision: Decision, *, as_written: bool = False) -> Decision:
    if not decision.verdict.grants:
        return decision
    # What is only recorded must not be carried out: it is looked at again.
    return replace(decision, needs_facts=True, as_written=as_written and not decision.audit)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one family in order, and what becomes of a call that none matches."""

    rules: tuple[Rule, ...]
    otherwise: Decision
    _exact: dict[NodeRange, list[int]] = field(default_factory=dict, compare=False, repr=False)
    _major: dict[tuple[str, int], list[int]] = field(
        default_factory=dict, compare=False, repr=False
    )
    _wide: list[int] = field(default_factory=list, compare=False, repr=False)
    # By device, and by the rules that a device meets: many devices meet the same.
    _cells: dict[tuple[str, int, int] | None, Cell] = field(
        default_factory=dict, compare=False, repr=False
    )
    _shared: dict[tuple[int, ...], Cell] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for number, rule in enumerate(self.rules):
            for nodes in rule.nodes or ():
                kind, major, last_major, minor, last_minor = nodes
                if major != last_major:
                    self._wide.append(number)
                elif minor != last_minor:
                    self._major.setdefault((kind, major), []).append(number)
                else:
                    self._exact.setdefault(nodes, []).append(number)
            if rule.nodes is None:
                self._wide.append(number)

    def decide(
        self, device: tuple[str, int, int] | None, written: bytes | int, facts: Facts | None
    ) -> Decision:
        """The decision on a call for `device` (type, major, minor) at the path as written."""
        return self._cell(device).decide(written, facts)

    def narrowed(
        self, device: tuple[str, int, int] | None
    ) -> Decision | Callable[[bytes], Decision]:
        """The first look at calls for `device`: one decision, or one that depends on the path."""
        cell = self._cell(device)
        return cell.fixed or cell.first

    def _cell(self, device: tuple[str, int, int] | None) -> Cell:
        cell = self._cells.get(device)
        if cell is None:
            met = tuple(self.meeting(device))
            cell = self._shared.get(met)
            if len(self._cells) >= _CELLS:
                self._cells.clear()
                self._shared.clear()
            if cell is None:
                cell = Cell((self.rules[number] for number in met), self.otherwise)
                self._shared[met] = cell
            self._cells[device] = cell
        return cell

    def meeting(self, device: tuple[str, int, int] | None) -> list[int]:
        """The indexes of the rules that a call for `device` meets, in order."""
        if device is None:
            return [number for number in self._wide if self.rules[number].nodes is None]
        kind, major, minor = device
        numbers = {
            *self._exact.get((kind, major, major, minor, minor), ()),
            *self._major.get((kind, major), ()),
            *self._wide,
        }
        return [
            number
            for number in sorted(numbers)
            if (some := self.rules[number].nodes) is None
            or any(node_matches(nodes, kind, major, minor) for nodes in some)
        ]

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON's types."""
        return {
            "otherwise": otherwise_to_json(self.otherwise),
            "rules": [rule.to_json() for rule in self.rules],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RuleSet:
        """The rules that to_json() wrote."""
        return cls(
            tuple(Rule.from_json(row) for row in data["rules"]),
            otherwise_from_json(data["otherwise"]),
        )


def otherwise_to_json(decision: Decision) -> list[Any]:
    """What becomes of a call that no rule matches, as JSON's types."""
    return [decision.verdict.value, decision.rule, decision.reason, decision.audit]


def otherwise_from_json(data: Sequence[Any]) -> Decision:
    """What otherwise_to_json() wrote."""
    verdict, place, reason, audit = data
    return Decision(Verdict(verdict), place, reason, audit=audit)
