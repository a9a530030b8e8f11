"""Writes a policy from recorded calls: minimal, readable, and one under which they come out as they
did. What is the host's own (devices.py: PROTECTED) is never learned, whatever was granted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from supervisor.errors import PolicyError
from supervisor.kernel.mounts import names_of, without_magic
from supervisor.model import Source
from supervisor.policy import write
from supervisor.policy.asked import Asked
from supervisor.policy.compile import compile_policy
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.devices import device_text, protected
from supervisor.policy.explain import device_of
from supervisor.policy.families import FamilySpec
from supervisor.policy.generalise import globs_for
from supervisor.policy.match import lexical
from supervisor.policy.mount_values import option_entry
from supervisor.policy.mounts import ALWAYS_ALLOWED, OPERATIONS, split_options
from supervisor.policy.socket_write import socket_rules
from supervisor.policy.traits import Traits

_REFUSED_SHOWN: Final = 40
_CALLS_MAX: Final = 100_000


@dataclass(slots=True)
class Learned:
    """What was found in the records: calls to be granted, and calls that were not, with counts."""

    granted: dict[str, Asked] = field(default_factory=dict)
    refused: dict[str, tuple[Asked, int]] = field(default_factory=dict)
    calls: int = 0

    def add(self, asked: Asked, weight: int) -> None:
        """One recorded decision. PolicyError where there are too many different ones."""
        record = asked.recorded or {}
        self.calls += weight
        # What came of it is part of what is learned: the same call at two places are two.
        key = f"{asked.text()} {record.get('resolved')} {record.get('how')}"
        if record.get("verdict") == "emulate" and not self.protects(asked):
            self.granted.setdefault(key, asked)
        elif record.get("verdict") not in ("continue", "inject"):
            known = self.refused.get(key, (asked, 0))
            self.refused[key] = (asked, known[1] + weight)
        if len(self.granted) + len(self.refused) > _CALLS_MAX:
            raise PolicyError(f"more than {_CALLS_MAX} different calls: learn from less at a time")

    def missing(self, policy: CompiledPolicy) -> dict[str, Asked]:
        """The granted calls that a policy does not grant."""
        return {key: one for key, one in self.granted.items() if not one.granted(policy)}

    def beyond(self, policy: CompiledPolicy) -> set[str]:
        """The refused calls that a policy grants, by their keys."""
        return {key for key, (one, _) in self.refused.items() if one.granted(policy)}

    @staticmethod
    def protects(asked: Asked) -> str:
        """What of the host's a call is about, so that it is never learned; "" for all others."""
        if asked.spec.family == "mknod":
            kind, major, minor = device_of(asked)
            # The console is made so that nobody can open it, or not at all.
            return "" if (kind, major, minor) == _CONSOLE else protected(kind, major, minor)
        facts = asked.facts
        source = facts.source if facts else None
        via_kernel = str((asked.recorded or {}).get("how", "")).startswith("kernel")
        if source is not None and source.device is not None and via_kernel:
            return "the host's block devices"
        return ""


_CONSOLE: Final = ("c", 5, 1)
_Pick = Callable[[Iterable[bytes]], list[str]]


def _plain(paths: Iterable[bytes]) -> list[str]:
    return [write.glob_of(path) for path in sorted(set(paths))]


def _places(asked: Asked) -> list[bytes]:
    """The path as it was written, where that says where it leads, and as it was found."""
    written = lexical(asked.path) if asked.path is not None else None
    found = asked.facts.path if asked.facts else asked.known_path()
    return list(dict.fromkeys(path for path in (written, found) if path))


def node_rules(calls: Sequence[Asked], pick: _Pick) -> list[str]:
    """Rules for device nodes: devices that were made at the same places share one."""
    places: dict[tuple[str, int, int], list[bytes]] = {}
    for asked in calls:
        places.setdefault(device_of(asked), []).extend(_places(asked))
    shared: dict[tuple[str, ...], list[tuple[str, int, int]]] = {}
    everywhere = pick([path for paths in places.values() for path in paths])
    for device, paths in places.items():
        globs = everywhere if pick is not _plain else pick(paths)
        shared.setdefault(tuple(globs), []).append(device)
    out = []
    for globs_, devices in shared.items():
        for closed in (False, True):
            some = [device for device in devices if (device == _CONSOLE) == closed]
            if some:
                names = [device_text((kind, one, one, two, two)) for kind, one, two in some]
                do = "{emulate: {realise: closed}}" if closed else "emulate"
                paths_ = write.listed(globs_) if len(globs_) != 1 else write.quoted(globs_[0])
                pairs = [("devices", write.listed(names))]
                pairs += [("path", paths_)] if globs_ else []
                out.append(write.rule([*pairs, ("do", do)]))
    return out


def mount_rules(calls: Sequence[Asked], pick: _Pick) -> list[str]:
    """Rules for mounts: one for each type and way, with its sources, targets and options."""
    groups: dict[tuple[str, bool], list[Asked]] = {}
    for asked in calls:
        fstype = asked.snapshot.args[2]
        name = fstype.decode("utf-8", "surrogateescape") if isinstance(fstype, bytes) else ""
        fuse = str((asked.recorded or {}).get("how", "")).startswith("fuse")
        groups.setdefault((name, fuse), []).append(asked)
    out = []
    for (name, fuse), some in groups.items():
        sources = [facts.source for asked in some if (facts := asked.facts) and facts.source]
        targets = pick([path for asked in some for path in _places(asked)[-1:]])
        pairs = [
            ("fstype", write.quoted(name)),
            ("source", write.listed(_sources(sources, pick))),
            ("target", write.listed(targets)),
            ("options", f"{{allow: {write.listed(_words(some))}}}"),
            ("do", "{emulate: {via: fuse}}" if fuse else "emulate"),
        ]
        out.append(write.rule(pairs))
    return out


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
    out = [
        device_text(("b", major, major, minor, minor))
        for major, minor in sorted({one.device for one in sources if one.device is not None})
    ]
    out += pick([one.name for one in sources if one.kind == "image"])
    return out + sorted({write.text_glob_of(one.name) for one in sources if one.kind == "text"})


_RULES: Final[Mapping[str, Callable[[Sequence[Asked], _Pick], list[str]]]] = {
    "mknod": node_rules,
    "mount": mount_rules,
    "connect": socket_rules,
    "bind": socket_rules,
}


def rules_for(
    learned: Learned, families: Mapping[str, FamilySpec], *, general: bool
) -> dict[str, list[str]]:
    """The rules by family, as text."""
    out: dict[str, list[str]] = {}
    for family in families:
        calls = [asked for asked in learned.granted.values() if asked.spec.family == family]
        if calls and family in _RULES:
            out[family] = _RULES[family](calls, globs_for if general else _plain)
    return out


def new_policy(
    learned: Learned, families: Mapping[str, FamilySpec], name: str, traits: Traits,
    notes: Sequence[str] = (),
) -> str:
    """A whole policy. PolicyError where there is none that grants the calls again."""
    for general in (True, False):
        rules = rules_for(learned, families, general=general)
        text = _text(learned, rules, name, notes)
        policy = compile_policy(Path("learned.yaml"), text.encode(), traits, families)
        beyond = learned.beyond(policy)
        if learned.missing(policy) or (general and beyond):
            continue
        # What was refused at one time and granted at another is not said to be refused.
        refused = {key: what for key, what in learned.refused.items() if key not in beyond}
        return _text(replace(learned, refused=refused), rules, name, notes) if beyond else text
    raise PolicyError("no policy grants all of these calls: this is a mistake of seccompd's")


def _text(
    learned: Learned, rules: Mapping[str, Sequence[str]], name: str, notes: Sequence[str]
) -> str:
    different = len(learned.granted)
    lines = [f"# Learned from {learned.calls} calls, {different} different ones of them granted."]
    lines += [f"# {note}" for note in notes]
    if learned.refused:
        lines += ["#", "# Asked for and refused, and not allowed here either:"]
        every = sorted(learned.refused.values(), key=lambda pair: -pair[1])
        for asked, count in every[:_REFUSED_SHOWN]:
            what = Learned.protects(asked)
            why = f"  ({what}: never learned)" if what else ""
            lines.append(f"#   {count} x {asked.text()}{why}")
        if len(every) > _REFUSED_SHOWN:
            lines.append(f"#   and {len(every) - _REFUSED_SHOWN} others")
    lines += ["version: 1", f"name: {name}", "description: learned, to be read before it is used"]
    lines.append("syscalls:" if rules else "syscalls: {}")
    for family, some in rules.items():
        indent = "    "
        lines.append(f"  {family}:")
        if family == "mount":
            # What the kernel mounts for a container by itself was left to it, and stays so.
            lines += ["    otherwise: kernel", "    rules:"]
            indent = "      "
        calls = [asked for asked in learned.granted.values() if asked.spec.family == family]
        if calls:
            more = f", and {len(calls) - 1} more" if len(calls) > 1 else ""
            lines.append(f"{indent}# {calls[0].text()}{more}")
        lines += [f"{indent}- {rule}" for rule in some]
    return "\n".join(lines) + "\n"
