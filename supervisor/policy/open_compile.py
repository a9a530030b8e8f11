"""The section `open` of a policy to rules."""

from __future__ import annotations

from typing import Any, Final

from supervisor.model import Decision, Inject, Verdict
from supervisor.policy.callers import caller_match
from supervisor.policy.opens import OpenRule, OpenRules
from supervisor.policy.source import Source, place_of, rule_node

# As many things as a maker can lend (SD_MOST_LENT).
MOST_LENT: Final = 256


def open_rules(
    source: Source, family: str, section: Any, otherwise: Decision, *, audit: bool
) -> OpenRules:
    """The rules, with findings where they mean nothing."""
    out: list[OpenRule] = []
    for index, raw in enumerate(section.rules):
        node = rule_node(source, family, index)
        injects = raw.do.verdict is Verdict.INJECT
        if injects and raw.path is None:
            source.at(node.at(("do",)), "inject needs a path: it would be in place of every file")
        out.append(
            OpenRule(
                place=place_of(node),
                verdict=raw.do.verdict,
                value=raw.do.value,
                silent=raw.silent,
                globs=None if raw.path is None else tuple(raw.path),
                caller=caller_match(raw),
                audit=audit or raw.mode == "audit",
                access=None if raw.access is None else tuple(raw.access),
                inject=raw.do.how if injects and isinstance(raw.do.how, Inject) else None,
            )
        )
    rules = OpenRules(tuple(out), otherwise)
    if len(rules.lent) > MOST_LENT:
        text = f"at most {MOST_LENT} devices and files can be given"
        source.at(rule_node(source, family, -1), text)
    return rules
