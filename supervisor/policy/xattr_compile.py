"""Rules of extended attributes: their values, and the section `xattr` of a policy to rules."""

from __future__ import annotations

import re
from typing import Any, Final

from supervisor.kernel.xattrs import NAME_MAX, NAMESPACES, VALUE_SHOWN
from supervisor.model import Decision, Verdict, XattrSettings
from supervisor.policy.callers import caller_match
from supervisor.policy.source import Node, Source, place_of, rule_node
from supervisor.policy.values import near, parse_text, short_text, unknown_settings, wrong
from supervisor.policy.xattrs import TRUSTED, XattrRule, XattrRules

# As whom it is carried out.
WHO: Final = ("caller", "root")
# A maker has to understand it as we do.
_PLAIN: Final = re.compile(r"trusted\.[A-Za-z0-9._*-]*")


def parse_name(value: object) -> str:
    """A glob for names."""
    text = parse_text(value)
    if len(text.encode()) > NAME_MAX:
        raise wrong(f"a name has at most {NAME_MAX} bytes")
    first, dot, _ = text.partition(".")
    plain = not set(first) & set("*?[\\")
    if plain and (not dot or first not in NAMESPACES):
        known = ", ".join(f"{one}.*" for one in NAMESPACES)
        raise wrong(f"{text!r} is no name of an attribute: they are {known}")
    return text


def parse_value(value: object) -> str:
    """A value, whole."""
    return short_text(value, "a value", VALUE_SHOWN)


def parse_emulate(setting: object) -> XattrSettings:
    """The settings of `emulate`."""
    if not isinstance(setting, dict):
        raise wrong("emulate takes settings, such as emulate: {as: root}")
    mistakes = unknown_settings(setting, ["as"])
    who = setting.get("as", "caller")
    if who not in WHO:
        mistakes.add(f"unknown {who!r}" + near(str(who), list(WHO)), "as")
    mistakes.end()
    return XattrSettings(root=who == "root")


def xattr_rules(
    source: Source, family: str, section: Any, otherwise: Decision, *, audit: bool
) -> XattrRules:
    """The rules, with findings where they would hand out what is not to be had."""
    rules = []
    for index, raw in enumerate(section.rules):
        node = rule_node(source, family, index)
        root = raw.do.verdict is Verdict.EMULATE and bool(raw.do.how and raw.do.how.root)
        if root:
            _check_root(source, node, raw)
        rules.append(
            XattrRule(
                place=place_of(node), verdict=raw.do.verdict, value=raw.do.value,
                silent=raw.silent, globs=None if raw.path is None else tuple(raw.path),
                caller=caller_match(raw), audit=audit or raw.mode == "audit",
                names=None if raw.name is None else tuple(raw.name),
                values=None if raw.value is None else tuple(raw.value), root=root,
            )
        )  # fmt: skip
    return XattrRules(tuple(rules), otherwise)


def _check_root(source: Source, node: Node, raw: Any) -> None:
    """Other names say what the host believes of a file's rights, such as security.capability."""
    if raw.name is None:
        source.at(
            node.at(("do",)),
            f"as: root is for names that begin with {TRUSTED}: say which, such as "
            f"name: {TRUSTED}overlay.opaque",
        )
    for name in raw.name or ():
        if not _PLAIN.fullmatch(name):
            source.at(
                node.at(("name",)),
                f"as: root is for names that begin with {TRUSTED}, in letters, digits, '.', '_', "
                f"'-' and '*': not {name!r}",
            )
