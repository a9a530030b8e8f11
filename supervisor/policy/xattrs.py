"""The rules of extended attributes, and the decision on one call: first match decides.

Names, values and paths lie in the caller's memory. Name and value are known at the first look,
where the path leads at the second (rules.py). What the kernel would refuse for its flags, its name
or its value is not for a rule to decide.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from errno import EFAULT, EINVAL
from typing import Any, Final, NamedTuple

from supervisor.model import Arg, Decision, Facts, Verdict, XattrCeiling, XattrSettings
from supervisor.policy.callers import CallerMatch
from supervisor.policy.match import text_matches
from supervisor.policy.rules import Cell, Rule, otherwise_from_json, otherwise_to_json

# Names that the host's root alone may set, whose namespace `as: root` is for.
TRUSTED: Final = "trusted."
# What says of a directory, to overlayfs, that it hides what is below it: the one that is asked for.
OPAQUE: Final = "trusted.overlay.opaque"
# What cp -a sets instead of a mode. A device has no default ACL, and user.* is refused on it.
ACCESS_LIST: Final = b"system.posix_acl_access"
# A caller chooses the names and values it asks for: of those so many are remembered, which takes
# less than a megabyte.
_CELLS: Final = 256
_FLAGS: Final = os.XATTR_CREATE | os.XATTR_REPLACE
_MEANS_NOTHING: Final = "its flags, its name or its value mean nothing: the kernel's errno for that"


class XattrCall(NamedTuple):
    """What a call is about. `written` is its path, an errno, or 0 for a descriptor; `name` and
    `value` are negative errnos where they could not be read. `value` is None where the attribute is
    removed, and the beginning of the value where that is longer (`size` bytes).
    """

    written: Arg
    name: Arg
    value: Arg | None = None
    size: int = 0
    flags: int = 0

    @property
    def errno(self) -> int:
        """What the kernel refuses it with before it looks for the file; or 0."""
        if self.flags & ~_FLAGS:
            return EINVAL
        for text in (self.name, b"" if self.value is None else self.value):
            if isinstance(text, int):
                return -text if text < 0 else EFAULT
        return 0

    @property
    def text(self) -> str:
        """The name, as globs have it."""
        return _text(self.name)

    @property
    def whole(self) -> str | None:
        """The value; None where there is none, or more of it than is known."""
        if not isinstance(self.value, bytes) or len(self.value) != self.size:
            return None
        return _text(self.value)


def _text(value: Arg) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else ""


def call_of(call: str, args: Sequence[Arg]) -> XattrCall:
    """What the call named `call` is about."""
    path, name, *rest = args
    written = 0 if call.startswith("f") else path
    if not rest:
        return XattrCall(written, name)
    value, size, flags = rest
    if isinstance(size, bytes) or isinstance(flags, bytes):
        raise TypeError("size and flags are numbers")
    if not size and value == 0:  # NULL is as good as any other pointer then
        value = b""
    return XattrCall(written, name, value, size, flags)


@dataclass(frozen=True, slots=True)
class XattrRule(Rule):
    """One rule; None is "any". `names` are globs; `root`: a maker does it, as the host's root."""

    names: tuple[str, ...] | None = None
    values: tuple[str, ...] | None = None
    root: bool = False

    @property
    def blind(self) -> bool:
        """Whether it looks at nothing that lies in memory, nor at who calls."""
        return not self.needs_facts and self.names is None and self.values is None

    def decision(self) -> Decision:
        """What a call gets that this rule decides."""
        return replace(Rule.decision(self), settings=XattrSettings(root=self.root))

    def objection(self, call: XattrCall) -> str:
        """The first condition that does not hold for a call, by its name in YAML; "": none."""
        if self.names is not None and not any(text_matches(one, call.text) for one in self.names):
            return "name"
        return "value" if self.values is not None and call.whole not in self.values else ""

    def ceilings(self) -> Iterator[XattrCeiling]:
        """What a maker can be asked for by this rule."""
        if self.root and self.verdict is Verdict.EMULATE and not self.audit:
            for name in self.names or ():
                for value in self.values or (None,):
                    yield XattrCeiling(name.encode(), None if value is None else value.encode())

    def to_json(self) -> list[Any]:
        """The rule as JSON's types."""
        return [*Rule.to_json(self), self.names, self.values, self.root]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> XattrRule:
        """The rule that to_json() wrote."""
        place, verdict, value, _, silent, _, globs, caller, audit, names, values, root = data
        return cls(
            place, Verdict(verdict), value, silent=silent,
            globs=None if globs is None else tuple(globs),
            caller=None if caller is None else CallerMatch.from_json(caller), audit=audit,
            names=None if names is None else tuple(names),
            values=None if values is None else tuple(values), root=root,
        )  # fmt: skip


class _Known:
    """What is remembered of rules: the numbers of those about each name, and of those with
    wildcards; cells by name and value, and by the rules that those meet, for many meet the same.
    """

    __slots__ = ("cells", "of_nodes", "plain", "shared", "wide")

    def __init__(self) -> None:
        self.plain: dict[str, list[int]] = {}
        self.wide: list[int] = []
        self.cells: dict[tuple[str, str | None], Cell] = {}
        self.shared: dict[tuple[int, ...], Cell] = {}
        # Decisions, and the same where a call may be about a node of ours: the same objects always.
        self.of_nodes: dict[Decision, Decision] = {}


@dataclass(frozen=True, slots=True)
class XattrRules:
    """The rules in order, and what becomes of a call that none matches. `nodes`: there may be nodes
    of ours whose access list is not to be changed.
    """

    rules: tuple[XattrRule, ...]
    otherwise: Decision
    nodes: bool = False
    _means_nothing: Decision = field(init=False, compare=False, repr=False)
    _known: _Known = field(default_factory=_Known, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        last = self.otherwise
        if self.restricts:  # carried out, for whoever does that says what the kernel would
            last = Decision(Verdict.EMULATE, last.rule, _MEANS_NOTHING, settings=XattrSettings())
        object.__setattr__(self, "_means_nothing", last)
        for number, rule in enumerate(self.rules):
            if rule.names is None or any(set(name) & set("*?[\\") for name in rule.names):
                self._known.wide.append(number)
            else:
                for name in dict.fromkeys(rule.names):
                    self._known.plain.setdefault(name, []).append(number)

    @property
    def restricts(self) -> bool:
        """Whether a call may come to anything else than the kernel would make of it."""
        every: list[XattrRule | Decision] = [*self.rules, self.otherwise]
        return any(not one.audit and one.verdict is not Verdict.CONTINUE for one in every)

    @property
    def ceilings(self) -> tuple[XattrCeiling, ...]:
        """All that a maker can be asked for."""
        found = (one for rule in self.rules for one in rule.ceilings())
        return tuple(dict.fromkeys(found))

    def decide(self, name: str, args: Sequence[Arg], facts: Facts | None) -> Decision:
        """The decision on the call `name`; with `facts` None one that `needs_facts` has to be taken
        again.
        """
        call = call_of(name, args)
        if call.errno:
            return self._means_nothing
        decision = self._cell(call).decide(call.written, facts)
        goes_on = decision.audit or decision.verdict is Verdict.CONTINUE
        if self.nodes and goes_on and call.name == ACCESS_LIST:
            of_nodes = replace(decision, settings=XattrSettings(nodes=True))
            return self._known.of_nodes.setdefault(decision, of_nodes)
        return decision

    def _cell(self, call: XattrCall) -> Cell:
        key = (call.text, call.whole)
        cell = self._known.cells.get(key)
        if cell is None:
            met = tuple(self.meeting(call))
            cell = self._known.shared.get(met)
            if len(self._known.cells) >= _CELLS:
                self._known.cells.clear()
                self._known.shared.clear()
            if cell is None:
                cell = Cell((self.rules[number] for number in met), self.otherwise)
                self._known.shared[met] = cell
            self._known.cells[key] = cell
        return cell

    def meeting(self, call: XattrCall) -> list[int]:
        """The indexes of the rules that match its name and its value, in order."""
        numbers = sorted({*self._known.plain.get(call.text, ()), *self._known.wide})
        return [number for number in numbers if not self.rules[number].objection(call)]

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON's types."""
        return {
            "xattrs": self.nodes,
            "otherwise": otherwise_to_json(self.otherwise),
            "rules": [rule.to_json() for rule in self.rules],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> XattrRules:
        """The rules that to_json() wrote."""
        return cls(
            tuple(XattrRule.from_json(row) for row in data["rules"]),
            otherwise_from_json(data["otherwise"]), bool(data["xattrs"]),
        )  # fmt: skip
