"""The smallest rule that would allow a call: nothing but this device, this path, these options."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from supervisor.kernel.mounts import USERNS_TYPES, names_of, without_magic
from supervisor.kernel.text import printable
from supervisor.model import Decision, Facts, MountSettings, Source, Verdict
from supervisor.policy import write
from supervisor.policy.asked import Asked
from supervisor.policy.devices import NAMES, device_text, protected
from supervisor.policy.directories import DirectoryRules
from supervisor.policy.draft import Draft, read_draft
from supervisor.policy.explain import device_of
from supervisor.policy.families import FamilySpec
from supervisor.policy.lint import lint
from supervisor.policy.match import lexical
from supervisor.policy.mount_values import USUAL_PROGRAMS, option_entry
from supervisor.policy.mounts import (
    ALWAYS_ALLOWED,
    OPERATIONS,
    TEXT_TYPES,
    MountRule,
    MountRules,
    split_options,
)
from supervisor.policy.opens import OpenRules
from supervisor.policy.options import OptionRules, option_of, text_of
from supervisor.policy.socket_write import socket_rule
from supervisor.policy.sockets import OPERATIONS as SOCKET_OPERATIONS
from supervisor.policy.sockets import AnyRules, SocketRules
from supervisor.policy.traits import Nodes
from supervisor.policy.xattr_write import xattr_rule
from supervisor.policy.xattrs import XattrRules

_DRIVER: Final = (
    "a driver of the kernel reads the filesystem, and none is made to withstand one that was "
    "written to attack it"
)


def node_rule(asked: Asked) -> str:
    """A rule for one device at one place."""
    kind, major, minor = device_of(asked)
    pairs = [("devices", write.listed([device_text((kind, major, major, minor, minor))]))]
    paths = [write.glob_of(path) for path in asked.places()] or _by_name(asked)
    if paths:
        pairs.append(("path", write.one_or_list(paths)))
    return write.rule([*pairs, ("do", "emulate")])


def directory_rule(asked: Asked) -> str | None:
    """A rule for a directory at one place."""
    paths = [write.glob_of(path) for path in asked.places()] or _by_name(asked)
    return write.rule([("path", write.one_or_list(paths)), ("do", "emulate")]) if paths else None


def _by_name(asked: Asked) -> list[str]:
    """A glob for the name of what is made, which is all that is known of a relative path."""
    name = (asked.path or b"").rstrip(b"/").rpartition(b"/")[2]
    return [] if name in (b"", b".", b"..") else [f"**/{write.glob_of(name)}"]


def mount_rule(asked: Asked, facts: Facts | None, nodes: Nodes) -> str:
    """A rule for one type, one source and one target, with the options that were asked for. What
    nobody knows of source and target is left open.
    """
    _, _, fstype, flags, data = asked.snapshot.args
    assert isinstance(flags, int)
    name = fstype.decode("utf-8", "surrogateescape") if isinstance(fstype, bytes) else ""
    pairs = [("fstype", write.quoted(name))]
    source = facts.source if facts is not None else _source(asked)
    if source is not None and (wanted := _source_glob(source)):
        pairs.append(("source", write.quoted(wanted)))
    if places := asked.places():
        pairs.append(("target", write.quoted(write.glob_of(places[-1]))))
    options = split_options(data) if isinstance(data, bytes) else []
    words = names_of(without_magic(flags) & ~(ALWAYS_ALLOWED | OPERATIONS))
    words += [option_entry(option) for option in options]
    pairs.append(("options", f"{{allow: {write.listed(words)}}}"))
    fuse = name in USUAL_PROGRAMS and (nodes == "host" or source is None or source.kind == "image")
    return write.rule([*pairs, ("do", "{emulate: {via: fuse}}" if fuse else "emulate")])


def open_rule(asked: Asked) -> str | None:
    """A rule that gives a device at its usual place. What else would be given nobody can guess."""
    places = asked.places()
    name = os.fsdecode(places[-1]).removeprefix("/dev/") if places else ""
    known = NAMES.get(name)
    if known is None or known[0] != "c":
        return None
    what = f"{{inject: {{device: {write.quoted(name)}}}}}"
    return write.rule([("path", write.quoted(f"/dev/{name}")), ("do", what)])


def option_rule(asked: Asked) -> str:
    """A rule that lets this option be set, or asked for."""
    name = write.quoted(text_of(option_of(asked.snapshot)))
    return write.rule([("optname", name), ("do", "continue")])


def _source(asked: Asked) -> Source | None:
    """What is mounted, as far as anybody has said; None for all calls but mount."""
    if asked.facts is not None or asked.spec.family != "mount":
        return None if asked.facts is None else asked.facts.source
    fstype = asked.snapshot.args[2]
    text = isinstance(fstype, bytes) and fstype.decode("utf-8", "replace") in TEXT_TYPES
    look = MountSettings(text=text)
    return asked.known(Decision(Verdict.EMULATE, "", settings=look)).source


def _source_glob(source: Source) -> str:
    if source.device is not None:
        major, minor = source.device
        return device_text(("b", major, major, minor, minor))
    if source.kind == "text":
        return write.text_glob_of(source.name)
    return write.glob_of(source.name) if _is_known(source) else "**" if source.name else ""


def _is_known(source: Source) -> bool:
    return source.kind != "image" or lexical(source.name) == source.name


def smallest(
    rules: AnyRules,
    asked: Asked,
    facts: Facts | None,
    families: Mapping[str, FamilySpec],
    nodes: Nodes,
) -> tuple[str, str] | None:
    """A rule that would allow the call, and the place of the rule that it has to stand before ("":
    anywhere). None where there is no such rule.
    """
    text: str | None
    if isinstance(rules, OpenRules):
        text = open_rule(asked)
    elif isinstance(rules, DirectoryRules):
        text = directory_rule(asked)
    elif isinstance(rules, MountRules):
        text = mount_rule(asked, facts, nodes)
    elif isinstance(rules, OptionRules):
        text = option_rule(asked)
    elif isinstance(rules, SocketRules):
        text = socket_rule(asked)
    elif isinstance(rules, XattrRules):
        text = xattr_rule(asked)
    else:
        text = node_rule(asked)
    added = None if text is None else _read(asked.spec.family, text, families)
    if text is None or added is None:
        return None
    every: Sequence[Any] = rules.rules
    make: Any = type(rules)
    for position in range(len(every), -1, -1):  # as far behind as it still decides
        trial = make((*every[:position], *added, *every[position:]), rules.otherwise)
        if _allows(trial, asked, facts, added[0].place):
            return text, every[position].place if position < len(every) else ""
    return None


def _draft(family: str, text: str, families: Mapping[str, FamilySpec]) -> Draft:
    content = f"version: 1\nsyscalls:\n  {family}:\n    - {text}\n"
    return read_draft(Path("(new)"), content.encode(), families)


def _read(family: str, text: str, families: Mapping[str, FamilySpec]) -> Sequence[Any] | None:
    """The rule that a text is; None where it is none (a type that nobody can write)."""
    draft = _draft(family, text, families)
    if any(finding.severity == "error" for finding in draft.source.everything()):
        return None
    return draft.sets[family].rules


def _allows(rules: AnyRules, asked: Asked, facts: Facts | None, place: str) -> bool:
    def decide(known: Facts | None) -> Any:
        if isinstance(rules, MountRules):
            return rules.decide(asked.snapshot.args, known)
        if isinstance(rules, SocketRules):
            return rules.decide(SOCKET_OPERATIONS[asked.spec.name], asked.address_argument, known)
        if isinstance(rules, OptionRules):
            return rules.decide(asked.snapshot, known)
        if isinstance(rules, OpenRules):
            return rules.decide_open(asked.spec.name, asked.snapshot.args, known)
        if isinstance(rules, XattrRules):
            return rules.decide(asked.spec.name, asked.snapshot.args, known)
        path = asked.path
        device = None if isinstance(rules, DirectoryRules) else device_of(asked)
        return rules.decide(device, -1 if path is None else path, known)

    decision = decide(None)
    if decision.needs_facts:
        decision = decide(facts or asked.facts or asked.known(decision))
    granted = decision.verdict in (Verdict.EMULATE, Verdict.INJECT)
    if isinstance(rules, OptionRules):
        granted = decision.verdict is Verdict.CONTINUE
    return bool(granted and decision.rule == place)


def warnings(asked: Asked, text: str, families: Mapping[str, FamilySpec]) -> list[str]:
    """What somebody who would add the rule `text` ought to know."""
    family = asked.spec.family
    said = list(_open_ends(asked))
    if family == "mknod":
        what = protected(*device_of(asked))
        return [*said, f"it gives away {what}"] if what else said
    draft = _draft(family, text, families)
    lint(draft)
    out = said + [one.message for one in draft.source.everything() if one.severity == "warning"]
    by_driver = any(
        isinstance(rule, MountRule) and rule.settings.via == "kernel" and not rule.settings.text
        for rule in draft.sets[family].rules
    )
    return [*out, _DRIVER] if by_driver else out


def _open_ends(asked: Asked) -> Iterator[str]:
    """What the rule leaves open, for nobody has said it."""
    if asked.path and not asked.places():
        yield (
            f"where {printable(asked.path)} leads is not known: --cwd or --resolved says it, and "
            "makes the rule smaller"
        )
    source = _source(asked)
    if source is not None and not _is_known(source):
        yield "which image that is is not known: --source says it, and makes the rule smaller"


def allowed_already(asked: Asked, decision: Decision) -> str:
    """Why the call needs no rule, where it goes to a kernel that carries it out; else ""."""
    if asked.spec.family != "mount" or decision.verdict is not Verdict.CONTINUE:
        return ""
    fstype = asked.snapshot.args[2]
    name = fstype.decode("utf-8", "replace") if isinstance(fstype, bytes) else ""
    if name not in USERNS_TYPES:
        return ""
    since = ".".join(map(str, USERNS_TYPES[name]))
    return f"root of a container mounts {name} by itself, since Linux {since}: no rule is needed"


def guesses(asked: Asked, facts: Facts | None) -> list[str]:
    """What of the facts nobody said, and what was taken for it."""
    if facts is None or asked.facts is not None:
        return []
    said, out = asked.caller, []
    if "resolved" not in said and asked.path is not None:
        if not asked.path.startswith(b"/") and "cwd" not in said:
            out.append("the working directory (taken as /)")
        out.append("symbolic links on the way (taken as none)")
    out += [f"{key} (taken as 0)" for key in ("uid", "gid") if key not in said]
    if facts.source is not None and "source" not in said:
        out.append("what the source is (taken as it is written)")
    return out
