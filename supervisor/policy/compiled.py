"""A compiled policy: what a session decides by, and what the cache holds.

Nothing here imports YAML, pydantic or libseccomp: a session and a start from the cache must not
pay for them.
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.kernel.device_numbers import split_device
from supervisor.kernel.syscalls import NATIVE_ARCHES, X32_BIT, CallSpec, Kind, Param, known, numbers
from supervisor.model import (
    Balance,
    Decision,
    Facts,
    Inject,
    MountCeiling,
    Snapshot,
    Verdict,
    XattrCeiling,
)
from supervisor.policy.directories import DirectoryRules
from supervisor.policy.mounts import MountRules
from supervisor.policy.opens import OpenRules
from supervisor.policy.options import OptionRules
from supervisor.policy.rules import RuleSet
from supervisor.policy.sockets import OPERATIONS, AnyRules, SocketRules
from supervisor.policy.xattrs import XattrRules

# The layout of to_json(); another number is another cache entry.
FORMAT: Final = 17

# Calls of a family that no other family's rules rest on: where there are no rules about them, they
# are as those are that no family is about.
_ALONE: Final = ("mkdir", "mkdirat")
_COMPANION: Final = Decision(Verdict.EMULATE, "companion")
# What a mknod makes that is no device (the filter lets those pass).
_NO_DEVICE: Final = ("", 0, 0)


@dataclass(frozen=True, slots=True)
class Included:
    """A file that a policy includes: how it was named, from which folder, what was found there."""

    given: str
    folder: str
    file: str
    digest: str


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy, frozen.

    `source` is the file it came from, `digest` the sha256 of its content, in hexadecimal.
    `on_error` is the errno (> 0) of everything that goes wrong on the way to an answer.
    `filter` is a packed `struct sock_filter[]`, in host byte order.
    `calls` has, by (audit architecture, number), each call that the filter may notify.
    `ceiling` has the device ranges that any `emulate` rule may make, each with whether all rules
    that make it say `realise: closed`; `mounts` what any may have the kernel mount; `fuse` says
    whether any runs FUSE programs.
    `families` has the rules by family; a family in `calls` that is not there is a companion.
    `match` (Applies.to_json) says whom the policy applies to; None: those it is chosen for by name.
    `limits` has what the policy says of limits: seconds, and numbers. `included` says which other
    files are part of it. `wants` names the Facts that rules ask for, but those that always are
    there. `otherwise` is where the policy says that calls which no family is about are the
    kernel's; "": it does not.
    """

    name: str
    source: str
    digest: str
    on_error: int
    filter: bytes
    calls: Mapping[tuple[int, int], CallSpec]
    ceiling: tuple[tuple[str, int, int, int, int, bool], ...]
    families: Mapping[str, AnyRules]
    match: Mapping[str, Any] | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    included: tuple[Included, ...] = ()
    otherwise: str = ""
    wants: frozenset[str] = field(default=frozenset(), init=False, compare=False)
    # For each call the positions of mode, dev, path and address among its arguments.
    _where: dict[tuple[int, int], tuple[int | None, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        for key, spec in self.calls.items():
            path = next(
                (number for number, param in enumerate(spec.params) if param.kind is Kind.PATH),
                None,
            )
            address = next(
                (number for number, param in enumerate(spec.params) if param.kind.is_address), None
            )
            self._where[key] = (spec.index("mode"), spec.index("dev"), path, address)
        callers = [rule.caller for rules in self.families.values() for rule in rules.rules]
        wants = frozenset(name for caller in callers if caller for name in caller.wants)
        object.__setattr__(self, "wants", wants)

    @property
    def mounts(self) -> tuple[MountCeiling, ...]:
        """All that a maker can be asked to mount."""
        return tuple(one for rules in self._mount_rules() for one in rules.ceilings())

    @property
    def fuse(self) -> bool:
        """Whether a rule mounts by a FUSE program."""
        return any(rules.uses_fuse for rules in self._mount_rules())

    @property
    def lent(self) -> tuple[Inject, ...]:
        """All that a maker can be asked to lend for opens, in the order of their numbers there."""
        rules = self.families.get("open")
        return rules.lent if isinstance(rules, OpenRules) else ()

    @property
    def xattrs(self) -> tuple[XattrCeiling, ...]:
        """All that a maker can be asked to do with extended attributes."""
        rules = self.families.get("xattr")
        return rules.ceilings if isinstance(rules, XattrRules) else ()

    @property
    def max_mounts(self) -> int:
        """How many mounts a session may have at a time."""
        return max((rules.max_mounts for rules in self._mount_rules()), default=0)

    @property
    def balances(self) -> frozenset[Balance]:
        """The backends of all rules that share calls out."""
        return frozenset().union(*(rules.balances for rules in self._socket_rules()))

    @property
    def hosts(self) -> bool:
        """Whether a rule makes calls in the host's network."""
        return any(rules.hosts for rules in self._socket_rules())

    def _socket_rules(self) -> list[SocketRules]:
        return [rules for rules in self.families.values() if isinstance(rules, SocketRules)]

    def _mount_rules(self) -> list[MountRules]:
        return [rules for rules in self.families.values() if isinstance(rules, MountRules)]

    def decide(self, family: str, snapshot: Snapshot, facts: Facts | None = None) -> Decision:
        """The policy's answer. Pure: no I/O, and the same answer for the same arguments.

        With `facts` None this is the first look, on what the caller wrote; a Decision whose
        `needs_facts` is set holds only if the second look, with Facts, grants as well.
        A companion's call is always EMULATE: what is none of ours the engine leaves to the kernel.
        """
        rules = self.families.get(family)
        if rules is None:
            return _COMPANION
        if isinstance(rules, MountRules):
            return rules.decide(snapshot.args, facts)
        if isinstance(rules, SocketRules):
            operation = OPERATIONS[snapshot.name]
            if operation == "accept":
                peer = facts.peer if facts is not None else None
                return rules.decide(operation, 0 if peer is None else peer, facts)
            at = self._where[snapshot.arch, snapshot.nr][3] or 0
            return rules.decide(operation, snapshot.args[at], facts)
        if isinstance(rules, OptionRules):
            return rules.decide(snapshot, facts)
        if isinstance(rules, OpenRules):
            return rules.decide_open(snapshot.name, snapshot.args, facts)
        if isinstance(rules, XattrRules):
            return rules.decide(snapshot.name, snapshot.args, facts)
        device = self._device(snapshot)
        if device is _NO_DEVICE:
            return rules.otherwise
        path_at = self._where[snapshot.arch, snapshot.nr][2]
        return rules.decide(device, snapshot.args[path_at] if path_at is not None else 0, facts)

    def unnamed(self, arch: int, nr: int) -> Decision:
        """The decision on a call that no rule can be about, and that another filter than this
        policy's own has notified. One that seccompd knows is never left to the kernel: some policy
        refuses it, or closes it as a way around its rules. But for those of _ALONE.
        """
        native = arch in NATIVE_ARCHES and 0 <= nr < X32_BIT
        if self.otherwise and native and not _is_ours(nr, arch):
            return Decision(Verdict.CONTINUE, self.otherwise, "no family is about it")
        reason = "the filter notified a call that no rule is about"
        return Decision(Verdict.ERRNO, self.source, reason, self.on_error)

    def narrowed(self, family: str, snapshot: Snapshot) -> Decision | Callable[[bytes], Decision]:
        """What the policy comes to for every call with the registers of `snapshot`.

        That is the first look of `decide`: either the same for all of them, or a function of the
        path as it is written (b"" where it could not be read: either way nobody knows the path).
        """
        rules = self.families.get(family)
        if rules is None:
            return _COMPANION
        if isinstance(rules, MountRules):
            raise TypeError("a mount is decided by more than one string")
        if isinstance(rules, SocketRules | OptionRules | XattrRules):
            return rules.otherwise  # by no more than that all the same
        if isinstance(rules, OpenRules):
            return rules.narrowed_open(snapshot.name, snapshot.args)
        device = self._device(snapshot)
        return rules.otherwise if device is _NO_DEVICE else rules.narrowed(device)

    def _device(self, snapshot: Snapshot) -> tuple[str, int, int] | None:
        """The device that a call is about; None where it is about none."""
        mode_at, dev_at, *_ = self._where[snapshot.arch, snapshot.nr]
        if mode_at is None or dev_at is None:
            return None
        mode, dev = snapshot.args[mode_at], snapshot.args[dev_at]
        if isinstance(mode, bytes) or isinstance(dev, bytes):
            raise TypeError("mode and dev are integers")
        kind = _TYPES.get(stat.S_IFMT(mode))
        if kind is None:
            return _NO_DEVICE
        return kind, *split_device(dev)

    def to_json(self) -> dict[str, Any]:
        """The policy as JSON's types."""
        specs = {(spec.family, spec.name): spec.params for spec in self.calls.values()}
        return {
            "format": FORMAT,
            "name": self.name,
            "source": self.source,
            "digest": self.digest,
            "on_error": self.on_error,
            "filter": base64.b64encode(self.filter).decode(),
            "specs": [
                [family, name, [[param.name, param.kind.value] for param in params]]
                for (family, name), params in specs.items()
            ],
            "calls": [
                [arch, nr, spec.family, spec.name] for (arch, nr), spec in self.calls.items()
            ],
            "ceiling": self.ceiling,
            "families": {name: rules.to_json() for name, rules in self.families.items()},
            "match": self.match,
            "limits": dict(self.limits),
            "otherwise": self.otherwise,
            "included": [[one.given, one.folder, one.file, one.digest] for one in self.included],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CompiledPolicy:
        """The policy that to_json() wrote. Raises KeyError, TypeError, ValueError on others."""
        if data["format"] != FORMAT:
            raise ValueError("another format")
        specs = {
            (family, name): CallSpec(
                family, name, tuple(Param(text, Kind(kind)) for text, kind in params)
            )
            for family, name, params in data["specs"]
        }
        return cls(
            name=data["name"],
            source=data["source"],
            digest=data["digest"],
            on_error=data["on_error"],
            filter=base64.b64decode(data["filter"], validate=True),
            calls={(arch, nr): specs[family, name] for arch, nr, family, name in data["calls"]},
            ceiling=tuple((kind, a, b, c, d, only) for kind, a, b, c, d, only in data["ceiling"]),
            families={
                name: _kind_of(rows).from_json(rows)
                for name, rows in data["families"].items()
            },
            match=data["match"],
            limits=data["limits"],
            otherwise=data["otherwise"],
            included=tuple(Included(*row) for row in data["included"]),
        )


def _is_ours(nr: int, arch: int) -> bool:
    return known(nr, arch) and not any(nr in numbers(name, arch) for name in _ALONE)


def _kind_of(rows: Mapping[str, Any]) -> type[AnyRules]:
    kinds = {
        "mounts": MountRules, "sockets": SocketRules, "opens": OpenRules, "options": OptionRules,
        "directories": DirectoryRules, "xattrs": XattrRules,
    }  # fmt: skip
    return next((kind for name, kind in kinds.items() if name in rows), RuleSet)


_TYPES: Final[Mapping[int, str]] = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}

