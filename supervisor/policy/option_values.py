"""Rules of socket options: their values, and a section to OptionRules."""

from __future__ import annotations

import re
from typing import Any, Final

from supervisor.kernel.socket_options import LEVELS, level_text, named
from supervisor.model import Decision
from supervisor.policy.callers import caller_match
from supervisor.policy.options import Option, OptionRule, OptionRules
from supervisor.policy.source import Source, place_of, rule_node
from supervisor.policy.values import near, wrong

_MOST: Final = (1 << 31) - 1


def parse_level(value: object) -> int:
    """A level by its name, or its number."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return value
    if not isinstance(value, str) or value not in LEVELS:
        raise wrong(f"unknown level {value!r}" + near(str(value), list(LEVELS)))
    return LEVELS[value]


def parse_option(value: object) -> tuple[Option, ...]:
    """An option by its name, or as LEVEL:NUMBER. Those that keep times have two numbers."""
    if isinstance(value, str) and (found := re.fullmatch("([0-9]{1,10}):([0-9]{1,10})", value)):
        level, number = int(found[1]), int(found[2])
        if level <= _MOST and number <= _MOST:
            return ((level, number),)
    if not isinstance(value, str) or value not in named():
        text = f"unknown option {value!r}" + near(str(value), list(named()))
        raise wrong(f'{text}; what has no name here is written "LEVEL:NUMBER"')
    return named()[value]


def option_rules(
    source: Source, family: str, section: Any, otherwise: Decision, *, audit: bool
) -> OptionRules:
    """The rules of the section `family`; what is wrong with them becomes findings of `source`."""
    rules = []
    for index, raw in enumerate(section.rules):
        node = rule_node(source, family, index)
        options = _options(raw)
        if options == ():
            levels = " or ".join(map(level_text, raw.level))
            text = f"no option here is one of {levels}: this rule never matches"
            source.at(node.at(("optname",), key=True), text)
        rules.append(
            OptionRule(
                place=place_of(node), verdict=raw.do.verdict, value=raw.do.value,
                silent=raw.silent, options=options, caller=caller_match(raw),
                audit=audit or raw.mode == "audit",
            )
        )  # fmt: skip
    return OptionRules(tuple(rules), otherwise)


def _options(raw: Any) -> tuple[Option, ...] | None:
    if raw.optname is None:
        return None if raw.level is None else tuple((level, None) for level in raw.level)
    every = dict.fromkeys(one for several in raw.optname for one in several)
    return tuple(one for one in every if raw.level is None or one[0] in raw.level)
