"""A policy file read, understood and made into rules: all that is there before there is a filter.

A draft may have findings. What is wrong with it stops compile.py, and is shown by `check`, which
looks for what is merely odd as well (lint.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supervisor.model import Decision, Verdict
from supervisor.policy import keys, schema
from supervisor.policy.callers import caller_match
from supervisor.policy.compiled import Included
from supervisor.policy.directory_compile import directory_rules
from supervisor.policy.families import FamilySpec
from supervisor.policy.includes import assemble
from supervisor.policy.mount_compile import mount_rules
from supervisor.policy.open_compile import open_rules
from supervisor.policy.option_values import option_rules
from supervisor.policy.races import report_races
from supervisor.policy.rules import Rule, RuleSet
from supervisor.policy.socket_compile import socket_rules
from supervisor.policy.sockets import AnyRules, SocketRules
from supervisor.policy.source import Node, Source, place_of, rule_node
from supervisor.policy.validate import validate
from supervisor.policy.xattr_compile import xattr_rules

Sets = Mapping[str, AnyRules]
# Why `otherwise` decides, in records as well.
NO_RULE: Final = "no rule matches"


@dataclass(frozen=True, slots=True)
class Draft:
    """A policy as it was written (`source`, `document`) and as rules (`sets`, by family).

    `included` says which other files are part of it; `unused` are keys of lists without a use.
    """

    file: Path
    source: Source
    document: Any
    sets: Sets
    included: tuple[Included, ...]
    unused: tuple[Node, ...]

    def node(self, family: str, index: int) -> Node:
        """The text of a rule; of `otherwise`, or of the family where that is not there, for -1."""
        return rule_node(self.source, family, index)


def read_draft(
    file: Path,
    content: bytes,
    families: Mapping[str, FamilySpec],
    *,
    search: Sequence[Path] | None = None,
) -> Draft:
    """The draft of a policy file's content; its errors are findings of `source`.

    `search` is where included names are looked for. Raises PolicyFindings where there are errors
    that leave nothing to look at.
    """
    source = Source(str(file), content)
    model = schema.model_of(families, _named(source.root, families))
    assembly = assemble(source, file.parent, model, search)
    # With errors already, this is what of the policy can still be looked at.
    document, partly = validate(source.root, model)
    sets: dict[str, AnyRules] = {}
    for name, family in families.items():
        section = getattr(document.syscalls, name, None) if family.keys is not None else None
        if section is not None:
            audit = document.mode == "audit"
            otherwise = _otherwise(source, name, section, audit=audit)
            rules = _rules_of(source, family, section, otherwise, audit=audit)
            if name not in partly:
                sets[name] = rules
                report_races(source, name, section, rules)
    _hold_together(source, sets)
    return Draft(file, source, document, sets, tuple(assembly.files), tuple(assembly.unused))


def _named(root: Node, families: Mapping[str, FamilySpec]) -> Collection[str] | None:
    """The families that a policy names. None where a name is none, so that it can be said which
    there are, and where other files say more.
    """
    if root.kind != "mapping" or "include" in root.pairs or "syscalls" not in root.pairs:
        return None
    written = root.pairs["syscalls"][1].pairs
    return written.keys() if written and written.keys() <= families.keys() else None


def _hold_together(source: Source, sets: Mapping[str, AnyRules]) -> None:
    """What only several families together can get wrong."""
    those = {name: rules for name, rules in sets.items() if isinstance(rules, SocketRules)}
    for name, rules in those.items():
        for other in ("connect", "bind"):
            other_rules = those.get(other)
            if rules.hosts and (other_rules is None or not other_rules.restricts):
                source.at(
                    source.root.at(("syscalls", name), key=True),
                    f"network: host needs rules on {other}, too: what a container has of the "
                    f"host's network it could {other} there as it likes. Where all else is its own "
                    f"affair, write {other}: [{{do: emulate}}]",
                )


def _rules_of(
    source: Source, family: FamilySpec, section: Any, otherwise: Decision, *, audit: bool
) -> AnyRules:
    if keys.mounts(family):
        return mount_rules(source, family.name, section, otherwise, audit=audit)
    if keys.sockets(family):
        return socket_rules(source, family.name, section, otherwise, audit=audit)
    if keys.options_of_sockets(family):
        return option_rules(source, family.name, section, otherwise, audit=audit)
    if family.name == "mkdir":
        return directory_rules(source, family.name, section, otherwise, audit=audit)
    if family.name == "open":
        return open_rules(source, family.name, section, otherwise, audit=audit)
    if family.name == "xattr":
        return xattr_rules(source, family.name, section, otherwise, audit=audit)
    return _node_rules(source, family.name, section, otherwise, audit=audit)


def _otherwise(source: Source, family: str, section: Any, *, audit: bool) -> Decision:
    node = source.root.at(("syscalls", family))
    if node.kind != "mapping":
        node = source.root.at(("syscalls", family), key=True)
    verdict = Verdict.CONTINUE if section.otherwise == "kernel" else Verdict.REFUSE
    return Decision(verdict, place_of(node), NO_RULE, audit=audit)


def _node_rules(
    source: Source, family: str, section: Any, otherwise: Decision, *, audit: bool
) -> RuleSet:
    rules = [
        Rule(
            place=place_of(rule_node(source, family, index)),
            verdict=raw.do.verdict,
            value=raw.do.value,
            realise=raw.do.realise,
            silent=raw.silent,
            nodes=_tuple(getattr(raw, "devices", None)),
            globs=_tuple(getattr(raw, "path", None)),
            caller=caller_match(raw),
            audit=audit or raw.mode == "audit",
        )
        for index, raw in enumerate(section.rules)
    ]
    return RuleSet(tuple(rules), otherwise)


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
