"""Writes a policy from recorded calls (learned.py): minimal, readable, and one under which they
come out as they did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from supervisor.errors import PolicyError
from supervisor.kernel.fuse_programs import PROGRAMS
from supervisor.kernel.mounts import names_of, without_magic
from supervisor.model import Source
from supervisor.policy import write
from supervisor.policy.asked import Asked
from supervisor.policy.base import NO_BASE, Base, less_of, sections_for, useful
from supervisor.policy.callers import CHOSEN
from supervisor.policy.compile import compile_policy
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.devices import device_text, parse_device
from supervisor.policy.explain import device_of
from supervisor.policy.families import FamilySpec
from supervisor.policy.generalise import globs_for
from supervisor.policy.learned import (
    Counted,
    Learned,
    briefly,
    conditions,
    nameless,
    protects,
    settings,
)
from supervisor.policy.match import glob_matches
from supervisor.policy.merge import reaching
from supervisor.policy.mount_values import USUAL_PROGRAMS, option_entry
from supervisor.policy.mounts import ALWAYS_ALLOWED, OPERATIONS, split_options
from supervisor.policy.opens import how_of
from supervisor.policy.options import Option, option_of, text_of
from supervisor.policy.recorded import redirect_of
from supervisor.policy.socket_write import socket_rules
from supervisor.policy.traits import Traits
from supervisor.policy.write import NewRule
from supervisor.policy.xattr_write import xattr_rules

_SHOWN: Final = 40
_Device = tuple[str, int, int]
_Pick = Callable[[Iterable[bytes]], list[str]]
Rules = Mapping[str, Sequence[NewRule]]


def _plain(paths: Iterable[bytes]) -> list[str]:
    return [write.glob_of(path) for path in sorted(set(paths))]


def _made_of(calls: Sequence[Asked]) -> str:
    more = f", and {len(calls) - 1} more" if len(calls) > 1 else ""
    return f"{calls[0].text()}{more}"


def node_rules(calls: Sequence[Asked], pick: _Pick) -> list[NewRule]:
    """Rules for device nodes: devices that were made in the same way at the same places share one.

    Those that are not made openly come first, and lend no place to others.
    """
    ways: dict[str, list[Asked]] = {}
    for asked in calls:
        ways.setdefault(str(settings(asked).get("realise", "auto")), []).append(asked)
    out = []
    for way, some in sorted(ways.items(), key=lambda pair: pair[0] == "auto"):
        do = "emulate" if way == "auto" else f"{{emulate: {{realise: {write.quoted(way)}}}}}"
        globs = pick([path for asked in some for path in asked.places()])
        shared: dict[tuple[str, ...], dict[_Device, list[Asked]]] = {}
        for device, made in _by_device(some).items():
            paths = [path for asked in made for path in asked.places()]
            mine = [glob for glob in globs if any(glob_matches(glob, path) for path in paths)]
            shared.setdefault(tuple(mine), {})[device] = made
        for mine_, devices in shared.items():
            names = [device_text((kind, one, one, two, two)) for kind, one, two in devices]
            pairs = [("devices", write.listed(names)), ("path", mine_), ("do", do)]
            out.append(NewRule(pairs, _made_of([one for made in devices.values() for one in made])))
    return out


def _by_device(calls: Sequence[Asked]) -> dict[_Device, list[Asked]]:
    found: dict[_Device, list[Asked]] = {}
    for asked in calls:
        found.setdefault(device_of(asked), []).append(asked)
    return found


def mount_rules(calls: Sequence[Asked], pick: _Pick) -> list[NewRule]:
    """Rules for mounts: one for each type and way, with its sources, targets and options."""
    groups: dict[tuple[str, str], list[Asked]] = {}
    for asked in calls:
        fstype = asked.snapshot.args[2]
        name = fstype.decode("utf-8", "surrogateescape") if isinstance(fstype, bytes) else ""
        groups.setdefault((name, _action(name, asked)), []).append(asked)
    out = []
    for (name, do), some in groups.items():
        sources = [facts.source for asked in some if (facts := asked.facts) and facts.source]
        pairs: list[tuple[str, str | Sequence[str]]] = [
            ("fstype", write.quoted(name)),
            ("source", _sources(sources, pick)),
            ("target", pick([path for asked in some for path in asked.places()[-1:]])),
            ("options", f"{{allow: {write.listed(_words(some))}}}"),
            ("do", do),
        ]
        out.append(NewRule(pairs, _made_of(some)))
    return out


def _action(fstype: str, asked: Asked) -> str:
    """How it was mounted, as a policy says it. Not `devices: true`: an image may hold any node, the
    host's disks as well."""
    said: Mapping[str, Any] = settings(asked)
    if not said:  # the record of an earlier version
        fuse = str((asked.recorded or {}).get("how", "")).startswith("fuse")
        said = {"via": "fuse" if fuse else "kernel", "force": ["nosuid"]}
    pairs = []
    if said.get("via") == "fuse":
        pairs.append(("via", "fuse"))
        program = tuple(said.get("program", ()))
        usual = USUAL_PROGRAMS.get(fstype)
        if program and program != (PROGRAMS[usual] if usual else ()):
            named = [name for name, words in PROGRAMS.items() if words == program]
            pairs.append(("program", named[0] if named else write.listed(program)))
    pairs += [(key, str(said[key]).lower()) for key in ("from", "shift") if key in said]
    if said.get("force"):
        pairs.append(("force", write.listed(said["force"])))
    return f"{{emulate: {write.rule(pairs)}}}" if pairs else "emulate"


def _words(calls: Sequence[Asked]) -> list[str]:
    words: dict[str, None] = {}
    for asked in calls:
        flags, data = asked.snapshot.args[3:]
        assert isinstance(flags, int)
        for name in names_of(without_magic(flags) & ~(ALWAYS_ALLOWED | OPERATIONS)):
            words[name] = None
        for option in split_options(data) if isinstance(data, bytes) else ():
            words[option_entry(option)] = None
    return list(words)


def _sources(sources: Sequence[Source], pick: _Pick) -> list[str]:
    out = pick([one.name for one in sources if one.kind == "image"])
    return out + sorted({write.text_glob_of(one.name) for one in sources if one.kind == "text"})


def open_rules(calls: Sequence[Asked], pick: _Pick) -> list[NewRule]:
    """Rules for opens: one for each thing that was given, with the paths that it was given at."""
    groups: dict[str, list[Asked]] = {}
    for asked in calls:
        groups.setdefault(json.dumps(briefly(asked), sort_keys=True), []).append(asked)
    out = []
    for some in groups.values():
        ways = (how_of(asked.snapshot.name, asked.snapshot.args) for asked in some)
        pairs: list[tuple[str, str | Sequence[str]]] = [
            ("path", pick([path for asked in some for path in asked.places()])),
            ("access", sorted({how.access for how in ways if how is not None})),
            ("do", f"{{inject: {_given(settings(some[0]))}}}"),
        ]
        out.append(NewRule(pairs, _made_of(some)))
    return out


def option_rules(calls: Sequence[Asked], pick: _Pick) -> list[NewRule]:  # noqa: ARG001
    """Rules for options of sockets: one for all that were as they were asked for, and one for each
    value that a rule said. The kernel sets, or tells, the former for everybody alike.
    """
    groups: dict[str, dict[Option, None]] = {}
    for asked in calls:
        said = settings(asked).get("value")
        value = write.quoted(said) if isinstance(said, str) else said
        do = "continue" if said is None else f"{{emulate: {{value: {value}}}}}"
        groups.setdefault(do, {})[option_of(asked.snapshot)] = None
    return [
        NewRule([("optname", list(dict.fromkeys(map(text_of, sorted(some))))), ("do", do)])
        for do, some in sorted(groups.items(), key=lambda pair: pair[0] == "continue")
    ]


def _given(said: Mapping[str, Any]) -> str:
    """What `inject` gives, as a policy says it; what goes without saying is left out."""
    pairs = [(key, write.quoted(str(value))) for key, value in said.items() if key != "access"]
    if "device" in said:
        pairs = [("device", write.quoted(device_text(parse_device(said["device"]))))]
    usual = "read-write" if "device" in said else "read-only"
    if said.get("access", usual) != usual:
        pairs.append(("access", said["access"]))
    return write.rule(pairs)


def directory_rules(calls: Sequence[Asked], pick: _Pick) -> list[NewRule]:
    """Rules for directories: one for each that others were made as, and behind them one for all
    that were made where they were asked for.
    """
    groups: dict[str, list[Asked]] = {}
    for asked in calls:
        groups.setdefault(redirect_of(settings(asked)), []).append(asked)
    out = []
    for redirect, some in sorted(groups.items(), key=lambda pair: not pair[0]):
        do = f"{{redirect: {write.quoted(redirect)}}}" if redirect else "emulate"
        paths = pick([path for asked in some for path in asked.places()])
        out.append(NewRule([("path", paths), ("do", do)], _made_of(some)))
    return out


_RULES: Final[Mapping[str, Callable[[Sequence[Asked], _Pick], list[NewRule]]]] = {
    "mknod": node_rules,
    "mkdir": directory_rules,
    "mount": mount_rules,
    "connect": socket_rules,
    "bind": socket_rules,
    "accept": socket_rules,
    "setsockopt": option_rules,
    "getsockopt": option_rules,
    "open": open_rules,
    "xattr": xattr_rules,
}


def rules_for(
    granted: Iterable[Asked], families: Mapping[str, FamilySpec], *, exact: Container[str] = ()
) -> dict[str, list[NewRule]]:
    """The rules by family; those of `exact` with each path as it is."""
    out: dict[str, list[NewRule]] = {}
    every = list(granted)
    for family in families:
        calls = [asked for asked in every if asked.spec.family == family]
        rules = [
            NewRule([*rule.pairs[:-1], *asks, rule.pairs[-1]], rule.why)
            for asks, some in _by_caller(calls)
            for rule in _RULES[family](some, _plain if family in exact else globs_for)
        ]
        if rules:
            out[family] = rules
    return out


def _by_caller(calls: Sequence[Asked]) -> Iterator[tuple[list[tuple[str, str]], list[Asked]]]:
    """The calls that were granted to the same callers, with the keys that say to whom: those of the
    most keys first. Keys that are no protection are left out, for `check` warns of them.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Asked]] = {}
    for asked in calls:
        asks = tuple(
            (key, write.one_or_list(entries)) for key, entries in conditions(asked).items()
            if key not in CHOSEN
        )  # fmt: skip
        groups.setdefault(asks, []).append(asked)
    for asks, some in sorted(groups.items(), key=lambda pair: -len(pair[0])):
        yield list(asks), some


def new_policy(
    learned: Learned, families: Mapping[str, FamilySpec], name: str, traits: Traits,
    notes: Sequence[str] = (), base: Base = NO_BASE,
) -> str:
    """A whole policy. PolicyError where there is none that grants the calls again.

    Calls that no rule grants, whatever their records say, are left out and told of.
    """
    text = _granting(learned, families, name, traits, notes, base)
    if text is None:
        for key, asked in list(learned.granted.items()):
            if _granting(Learned({key: asked}), families, name, traits, (), base) is None:
                learned.unknown[key] = (learned.granted.pop(key), 1)
        text = _granting(learned, families, name, traits, notes, base)
    if text is None:
        raise PolicyError("no policy grants all of these calls: this is a mistake of seccompd's")
    return text


def _granting(
    learned: Learned, families: Mapping[str, FamilySpec], name: str, traits: Traits,
    notes: Sequence[str], base: Base,
) -> str | None:
    exact: set[str] = set()
    levels: dict[str, int] = {}
    while True:
        rules = rules_for(learned.granted.values(), families, exact=exact)
        sections = sections_for(rules, learned, base, levels)
        counts = {family: len(some) for family, some in rules.items()}
        sections = useful(sections, counts, families)
        body = write.policy(name, sections)
        try:
            policy = compile_policy(Path("learned.yaml"), body.encode(), traits, families)
        except PolicyError:
            less = less_of(sections, levels, families) if base.known else levels
            if less == levels:
                return None
            levels = less
            continue
        beyond = learned.beyond(policy)
        missing, changed = learned.missing(policy), learned.changed(policy)
        wrong = [*missing.values(), *changed.values()]
        wrong += (learned.refused[key][0] for key in beyond)
        # Names that were written one by one, and not as folders, may leave the others in peace.
        again = {one.spec.family for one in wrong} | reaching(policy, counts)
        if not again <= exact:
            exact |= again
            continue
        if missing or any(settings(one).get("realise") == "closed" for one in changed.values()):
            return None
        # What was refused at one time and granted at another is not said to be refused.
        refused = {key: what for key, what in learned.refused.items() if key not in beyond}
        notes = [*notes, *base.left_out(levels)]
        return _head(learned, refused, policy, notes) + body


def _head(
    learned: Learned, refused: Counted, policy: CompiledPolicy, notes: Sequence[str]
) -> str:
    taken, loose = learned.taken(policy), learned.loose(policy)
    different = len(learned.granted)
    calls = "1 call" if learned.calls == 1 else f"{learned.calls} calls"
    lines = [f"Learned from {calls}; different ones that were granted: {different}."]
    lines += notes
    lines += _left_out(learned.granted.values())
    never = {key: what for key, (one, _) in refused.items() if (what := protects(one))}
    errnos = {key: (one.recorded or {}).get("errno") for key, (one, _) in learned.failed.items()}
    said = dict.fromkeys(loose, "the kernel's to refuse")
    said |= {key: f"{what}: never learned" for key, what in never.items()}
    lines += _listed("Asked for and refused, and not allowed here either:", refused, said)
    lines += _listed("Allowed, failed all the same, and not allowed here:", learned.failed, errnos)
    lines += _listed(
        "Left to the kernel, whose answer is in no record:", learned.left,
        dict.fromkeys(taken, "refused here"),
    )  # fmt: skip
    lines += _listed(
        "Allowed, and no rule is made of it (nobody wrote down where, or what):", learned.unknown,
        {key: f"the content of {rule}" for key, rule in _contents(learned.unknown)},
    )  # fmt: skip
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _contents(calls: Counted) -> Iterator[tuple[str, str]]:
    """The calls that were given a content, by their keys, and the rules that gave it."""
    for key, (asked, _) in calls.items():
        if nameless(asked):
            yield key, str((asked.recorded or {}).get("rule"))


def _left_out(granted: Iterable[Asked]) -> list[str]:
    """What the rules had by which it was granted, and these have not."""
    every = list(granted)
    keys = sorted({key for asked in every for key in conditions(asked) if key in CHOSEN})
    lines = [f"Not taken over: {key}, for {CHOSEN[key]}." for key in keys]
    if any(settings(asked).get("devices") for asked in every):
        lines.append(
            "Not taken over: devices: true, for an image may hold nodes of the host's disks."
        )
    return lines


def _listed(title: str, calls: Counted, why: Mapping[str, object]) -> list[str]:
    """Calls as a comment, those that came most often first; `why` by their keys."""
    if not calls:
        return []
    lines = ["", title]
    every = sorted(calls.items(), key=lambda pair: -pair[1][1])
    for key, (asked, count) in every[:_SHOWN]:
        lines.append(f"  {count} x {asked.text()}" + (f"  ({why[key]})" if key in why else ""))
    if len(every) > _SHOWN:
        lines.append(f"  and {len(every) - _SHOWN} others")
    return lines
