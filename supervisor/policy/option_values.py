"""Rules of socket options: their values, and a section to OptionRules."""

from __future__ import annotations

import re
from typing import Any, Final

from supervisor.kernel.socket_options import (
    LEVELS,
    is_plain,
    level_text,
    named,
    option_name,
    option_text,
    settable,
)
from supervisor.model import Decision, OptionSettings, Verdict
from supervisor.policy.callers import caller_match
from supervisor.policy.options import Option, OptionRule, OptionRules
from supervisor.policy.socket_values import objection
from supervisor.policy.source import Source, place_of, rule_node
from supervisor.policy.values import near, unknown_settings, wrong

_MOST: Final = (1 << 31) - 1
# The settings of `emulate`, for an editor.
VALUE: Final = {"value": {
    "type": ["integer", "boolean", "string"],
    "description": "what the option is set to, or told as, whatever was asked for",
}}  # fmt: skip


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


def parse_emulate(setting: object) -> OptionSettings:
    """The settings of `emulate` for an option: the value that it is set to, or told as."""
    if not isinstance(setting, dict):
        raise wrong("emulate of an option takes settings, such as emulate: {value: 1}")
    unknown_settings(setting, ["value"]).end()
    value = setting.get("value")
    if "value" in setting and all(objection(value, text=text) for text in (False, True)):
        raise wrong(f"value is {objection(value, text=False)}, or {objection(value, text=True)}")
    return OptionSettings(int(value) if isinstance(value, bool) else value)


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
        settings = raw.do.how if isinstance(raw.do.how, OptionSettings) else OptionSettings()
        if raw.do.verdict is Verdict.EMULATE and (why := _not_made(options, settings)):
            source.at(node.at(("do",)), why)
        rules.append(
            OptionRule(
                place=place_of(node), verdict=raw.do.verdict, value=raw.do.value,
                silent=raw.silent, options=options, caller=caller_match(raw),
                audit=audit or raw.mode == "audit", settings=settings,
            )
        )  # fmt: skip
    return OptionRules(tuple(rules), otherwise)


def _not_made(options: tuple[Option, ...] | None, how: OptionSettings) -> str:
    """Why nobody can set these options for somebody else, or to this value; "": they can."""
    named_ones = [(level, name) for level, name in options or () if name is not None]
    for level, name in named_ones:
        if not is_plain(level, name):
            why = "has no name here" if not option_name(level, name) else (
                "has to do with memory, descriptors or processes of who calls"
            )
            return f"seccompd cannot emulate {option_text(level, name)}, which {why}"
        if how.value is None:
            continue
        if (level, name) not in settable():
            return f"{option_text(level, name)} is no number and no text: it takes no value here"
        if why := objection(how.value, text=settable()[level, name]):
            return f"{option_text(level, name)} takes {why}"
    if how.value is not None and not named_ones:
        return "value is for options that are named: by `optname`"
    return ""


def _options(raw: Any) -> tuple[Option, ...] | None:
    if raw.optname is None:
        return None if raw.level is None else tuple((level, None) for level in raw.level)
    every = dict.fromkeys(one for several in raw.optname for one in several)
    return tuple(one for one in every if raw.level is None or one[0] in raw.level)
