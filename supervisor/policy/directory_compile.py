"""The section `mkdir` of a policy: what `do` may say there, and the section to rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from supervisor.model import Decision, DirectorySettings
from supervisor.policy.callers import caller_match
from supervisor.policy.directories import DirectoryRule, DirectoryRules
from supervisor.policy.match import lexical
from supervisor.policy.source import Source, place_of, rule_node
from supervisor.policy.values import wrong

_PATH_MAX: Final = 4096


def parse_emulate(setting: object) -> DirectorySettings:
    """The settings of `emulate`: none."""
    if setting != {}:
        raise wrong("emulate of mkdir takes no settings")
    return DirectorySettings()


def parse_redirect(setting: object) -> DirectorySettings:
    """The directory that is made in the place of the one that was asked for."""
    if not isinstance(setting, str) or not setting.startswith("/") or "\0" in setting:
        raise wrong("redirect takes an absolute path, as the caller sees it")
    try:
        path = setting.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise wrong(f"redirect: {error}") from None
    if len(path) >= _PATH_MAX:
        raise wrong("no path is as long as that")
    if lexical(path) != path or path == b"/":
        raise wrong('redirect takes a path without "..", ".", "//" and a slash at its end')
    return DirectorySettings(path)


# What the setting may be, for an editor.
LEADS: Final[Mapping[str, tuple[Callable[[object], DirectorySettings], dict[str, Any]]]] = {
    "redirect": (parse_redirect, {
        "type": "string", "pattern": "^/", "examples": ["/srv/data-bar"],
        "description": "this directory is made in its place, as the caller would make it",
    }),
}  # fmt: skip


def directory_rules(
    source: Source, family: str, section: Any, otherwise: Decision, *, audit: bool
) -> DirectoryRules:
    """The rules of the section `family`, with findings where they mean nothing."""
    rules = []
    for index, raw in enumerate(section.rules):
        node = rule_node(source, family, index)
        redirect = _redirect(raw.do.how)
        if redirect and raw.path is None:
            text = "redirect needs a path: it would be in place of every directory"
            source.at(node.at(("do",)), text)
        rules.append(
            DirectoryRule(
                place=place_of(node), verdict=raw.do.verdict, value=raw.do.value,
                silent=raw.silent, globs=None if raw.path is None else tuple(raw.path),
                caller=caller_match(raw), audit=audit or raw.mode == "audit", redirect=redirect,
            )
        )  # fmt: skip
    return DirectoryRules(tuple(rules), otherwise)


def _redirect(how: object) -> str:
    if not isinstance(how, DirectorySettings):
        return ""
    return how.redirect.decode("utf-8", "surrogateescape")
