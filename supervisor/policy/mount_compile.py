"""A policy's section on mounts to MountRules, with what only whole rules can get wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from supervisor.kernel.mounts import LOCKABLE
from supervisor.model import Decision, MountSettings, Verdict
from supervisor.policy.callers import caller_match
from supervisor.policy.match import NodeRange
from supervisor.policy.mount_values import MountAction, program_for
from supervisor.policy.mounts import OF_THE_MOUNTER, TEXT_TYPES, MountRule, MountRules
from supervisor.policy.source import Source, place_of

Where = tuple[int | str, ...]


def mount_rules(
    source: Source, family: str, section: Any, otherwise: Decision, *, audit: bool
) -> MountRules:
    """The rules of the section `family`; what is wrong with them becomes findings of `source`."""
    rules = []
    for index, raw in enumerate(section.rules):
        where: Where = ("syscalls", family, "rules", index)
        rule = _rule(source, where, raw, audit=audit or raw.mode == "audit")
        if rule.verdict is Verdict.CONTINUE and rule.needs_facts:
            _add(
                source, (*where, "do"),
                "`continue` goes by fstype and options alone: where the kernel's own look leads to "
                "is the caller's to change",
            )  # fmt: skip
        rules.append(rule)
    return MountRules(tuple(rules), otherwise, section.max_mounts)


def _add(source: Source, where: Where, message: str) -> None:
    source.at(source.root.at(where), message)


def _rule(source: Source, where: Where, raw: Any, *, audit: bool) -> MountRule:
    sources = raw.source or ()
    if raw.fstype is not None and TEXT_TYPES.isdisjoint(raw.fstype):
        _need_paths(source, where, sources)
    return MountRule(
        place=place_of(source.root.at(where)),
        verdict=raw.do.verdict,
        value=raw.do.value,
        silent=raw.silent,
        settings=_settings(source, where, raw),
        types=None if raw.fstype is None else tuple(raw.fstype),
        sources=tuple(one for one in sources if isinstance(one, str)) or None,
        devices=tuple(one for one in sources if not isinstance(one, str)),
        targets=None if raw.target is None else tuple(raw.target),
        flags=None if raw.options is None else raw.options.flags,
        options=None if raw.options is None else raw.options.globs,
        caller=caller_match(raw),
        audit=audit,
        required=0 if raw.options is None else raw.options.required,
    )


def _need_paths(source: Source, where: Where, sources: Sequence[NodeRange | str]) -> None:
    for number, one in enumerate(sources):
        if isinstance(one, str) and not one.startswith(("/", "**")):
            at = (*where, "source", number) if len(sources) > 1 else (*where, "source")
            _add(source, at, f"{one!r} is no path: a path glob begins with / or **")


def _settings(source: Source, where: Where, raw: Any) -> MountSettings:
    how = raw.do.how
    if raw.do.verdict is not Verdict.EMULATE or not isinstance(how, MountAction):
        return MountSettings()
    if raw.fstype is None:
        _add(source, (*where, "do"), "emulate needs fstype: each type is another driver to trust")
        return MountSettings()
    text = {name in TEXT_TYPES for name in raw.fstype}
    if len(text) > 1:
        _add(
            source, (*where, "fstype"),
            "types with a device or an image, and types without one, need rules of their own",
        )  # fmt: skip
    for name in raw.fstype:
        if name in OF_THE_MOUNTER:
            _add(
                source, (*where, "fstype"),
                f"emulate of {name} would give the container the host's: it mounts its own by "
                "itself. Write do: continue, or otherwise: kernel",
            )  # fmt: skip
    program: tuple[str, ...] = ()
    if how.via == "fuse":
        if True in text:
            _add(source, (*where, "do"), "via: fuse is for a device or an image")
        try:
            program = program_for(how, raw.fstype)
        except ValueError as error:
            _add(source, (*where, "do"), str(error))
    elif False in text and raw.source is None:
        _add(
            source, (*where, "do"),
            "via: kernel needs source: without one the host's disks could be mounted. "
            'Write source: "**" where that is meant',
        )  # fmt: skip
    # What has to be there stays there: a remount is otherwise the container's own.
    required = 0 if raw.options is None else raw.options.required & LOCKABLE
    force = how.force | required
    return MountSettings(how.via, program, how.inside, how.shift, force, True in text)
