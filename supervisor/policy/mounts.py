"""The rules of mounts, and the decision: first match decides, in two looks as for device nodes.

What a call is about (a new mount, its type, its flags and options) is known at the first look.
Where it leads to, what its source really is and who asks is known at the second. So at the first
look a rule that asks for those may match or not: one that emulates makes the call be looked at, and
so does one that refuses in front of a grant. What is done is what the second look says.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from errno import E2BIG, EFAULT, EINVAL
from typing import Any, Final

from supervisor.kernel.mounts import (
    MS,
    MS_BIND,
    MS_REMOUNT,
    NAMED_OPTIONS,
    names_of,
    without_magic,
)
from supervisor.model import Arg, Decision, Facts, MountCeiling, MountSettings, Source, Verdict
from supervisor.policy.callers import CallerMatch
from supervisor.policy.match import NodeRange, glob_matches, node_matches
from supervisor.policy.mount_ceiling import ceilings
from supervisor.policy.mount_index import Met, MountIndex
from supervisor.policy.rules import otherwise_from_json, otherwise_to_json

# What says how much the kernel talks, and what it does anyway: never worth a word in a policy.
ALWAYS_ALLOWED: Final = MS["silent"] | MS["relatime"] | MS["strictatime"]
# Which of several calls it is.
OPERATIONS: Final = sum(
    MS[name]
    for name in (
        "remount", "bind", "move", "rec", "unbindable", "private", "slave", "shared",
    )
)  # fmt: skip
_ALL_FLAGS: Final = 0xFFFFFFFF
_BY_KERNEL: Final = MountSettings()
# mount(8) hands back in a remount what mountinfo shows, and this is there without being asked for.
_HANDED_BACK: Final = ("idmapped", "errors=continue")
# How many mounts a session may have at a time where a policy does not say, and the most it can say,
# which is what a maker can keep in mind (SD_MOST_MOUNTS).
MAX_MOUNTS: Final = 64
MOST_MOUNTS: Final = 256
# Their source is no path.
TEXT_TYPES: Final = frozenset(
    (
        "hugetlbfs", "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "virtiofs", "fuse",
        "tmpfs", "ramfs", "overlay", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2",
        "tracefs", "debugfs", "securityfs", "configfs", "bpf", "binfmt_misc",
    )
)  # fmt: skip

# Mounted for a container these would be the host's, or of files that seccompd alone has: what they
# show goes by the namespaces, the root directory or the descriptors of whoever mounts them.
OF_THE_MOUNTER: Final = frozenset(
    (
        "proc", "sysfs", "mqueue", "cgroup", "cgroup2", "bpf", "binfmt_misc", "overlay", "fuse",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MountRule:
    """One rule; None is "any". `place` is where it stands, as FILE:LINE.

    `sources` are globs for paths (or texts), `devices` numbers of block devices: either matches.
    `flags` is the mask of allowed MS_* flags, `options` the globs for allowed options; both None:
    any flag, and no options. `required` are flags that a call has to have.
    """

    place: str
    verdict: Verdict
    value: int = 0
    silent: bool = False
    settings: MountSettings = _BY_KERNEL
    types: tuple[str, ...] | None = None
    sources: tuple[str, ...] | None = None
    devices: tuple[NodeRange, ...] = ()
    targets: tuple[str, ...] | None = None
    flags: int | None = None
    options: tuple[str, ...] | None = None
    caller: CallerMatch | None = None
    audit: bool = False
    required: int = 0

    @property
    def by_source(self) -> bool:
        """Whether it asks for the source."""
        return self.sources is not None or bool(self.devices)

    @property
    def needs_facts(self) -> bool:
        """Whether it looks at what only path work knows."""
        return (
            self.by_source
            or self.targets is not None
            or self.caller is not None
        )

    @property
    def allowance(self) -> tuple[object, ...]:
        """What `objection` goes by: rules where this is the same have the same objections."""
        if self._allows_all:
            return (self.required,)
        return self.allowed_flags, self.options, self.settings.via == "kernel", self.required

    @property
    def _allows_all(self) -> bool:
        return self.verdict is not Verdict.EMULATE and self.options is None

    def decision(self) -> Decision:
        """What a call gets that this rule decides."""
        return Decision(
            self.verdict, self.place, value=self.value, settings=self.settings,
            silent=self.silent, audit=self.audit,
            caller=self.caller.said() if self.caller else (),
        )  # fmt: skip

    def objection(self, flags: int, options: Sequence[str]) -> str:
        """What the first flag or option is that keeps the rule from matching; "" for none."""
        missing = names_of(self.required & ~flags)
        if missing:
            return f"{missing[0]} is missing, and required"
        if self._allows_all:
            return ""
        names = names_of(flags & ~self.allowed_flags)
        if names:
            return f"{names[0]} is not allowed"
        for option in options:
            if not any(self._allows(glob, option) for glob in self.options or ()):
                return f"{option} is not allowed"
        return ""

    @property
    def allowed_flags(self) -> int:
        """The MS_* flags that a call may have, those of `force` and of other operations too."""
        if self.flags is None:
            return _ALL_FLAGS
        # What is forced is there anyway; a remount has to repeat it.
        return self.flags | self.required | self.settings.force | ALWAYS_ALLOWED | OPERATIONS

    def _allows(self, glob: str, option: str) -> bool:
        name = option.partition("=")[0]
        if (
            self.settings.via == "kernel"
            and name in NAMED_OPTIONS
            and not glob.startswith(f"{name}=")
        ):
            return False
        return fnmatch.fnmatchcase(option, glob)

    def matches(self, facts: Facts) -> bool:
        """Whether what path work found is what the rule asks for.

        What nobody knows is no grant, and refuses where it can.
        """
        unknown = not self.verdict.grants or (facts.nowhere and self.audit)
        if self.targets is not None:
            target = facts.target if facts.target is not None else facts.path
            if target is None:
                if not unknown:
                    return False
            elif not any(glob_matches(glob, target) for glob in self.targets):
                return False
        if self.by_source:
            if facts.source is None:
                if not unknown:
                    return False
            elif not self.matches_source(facts.source):
                return False
        return self.caller is None or self.caller.matches(facts, unknown=not self.verdict.grants)

    def matches_source(self, source: Source) -> bool:
        """A device by its number or by the kernel's name, an image by its path, a text as it is."""
        if source.device is not None and any(
            node_matches(nodes, "b", *source.device) for nodes in self.devices
        ):
            return True
        if source.kind == "text":
            text = source.name.decode("utf-8", "surrogateescape")
            return any(fnmatch.fnmatchcase(text, glob) for glob in self.sources or ())
        paths = (glob for glob in self.sources or () if glob.startswith(("/", "**")))
        return any(glob_matches(glob, source.name) for glob in paths)

    def to_json(self) -> list[Any]:
        """The rule as JSON's types."""
        how = self.settings
        return [
            self.place, self.verdict.value, self.value, self.silent,
            [how.via, how.program, how.inside, how.shift, how.force, how.text],
            self.types, self.sources, self.devices, self.targets, self.flags, self.options,
            None if self.caller is None else self.caller.to_json(), self.audit, self.required,
        ]  # fmt: skip

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> MountRule:
        """The rule that to_json() wrote."""
        place, verdict, value, silent, how = data[:5]
        types, sources, devices, targets, flags, options, caller, audit, required = data[5:]
        via, program, inside, shift, force, text = how
        return cls(
            place, Verdict(verdict), value, silent,
            MountSettings(via, tuple(program), inside, shift, force, text),
            _texts(types), _texts(sources), _rows(devices) or (), _texts(targets), flags,
            _texts(options),
            None if caller is None else CallerMatch.from_json(caller), audit, required,
        )  # fmt: skip


def _texts(values: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _rows(rows: Sequence[Sequence[Any]] | None) -> Any:
    return None if rows is None else tuple(tuple(row) for row in rows)


def split_options(data: bytes) -> list[str]:
    """The options of a data string. A quote means nothing: filesystems and FUSE programs take the
    string apart at each comma, and SELinux alone, in options of its own, does not.
    """
    return [option.decode("utf-8", "surrogateescape") for option in data.split(b",") if option]


@dataclass(frozen=True, slots=True)
class MountRules:
    """The rules of mounts in order, and what becomes of a call that none matches."""

    rules: tuple[MountRule, ...]
    otherwise: Decision
    max_mounts: int = MAX_MOUNTS
    _remount: Decision = field(
        default=Decision(Verdict.EMULATE, "remount", settings=MountSettings(text=True)),
        compare=False,
        repr=False,
    )
    _index: MountIndex | None = field(default=None, init=False, compare=False, repr=False)

    def decide(self, args: Sequence[Arg], facts: Facts | None) -> Decision:
        """The decision on mount(source, target, filesystemtype, mountflags, data)."""
        source, _, fstype, flags, data = args
        for text in (fstype, source, data):  # the kernel's own order
            if isinstance(text, int) and text in (-EFAULT, -EINVAL):
                return self._of_ours(Verdict.ERRNO, "unreadable", -text)
            if isinstance(text, int) and text < 0 and text != -E2BIG:
                return self._of_ours(Verdict.REFUSE, "unreadable")
        if not isinstance(flags, int):
            raise TypeError("flags are a number")
        flags = without_magic(flags)
        if flags >> 31:  # MS_NOUSER, which the kernel sees in all upper bits
            return Decision(Verdict.CONTINUE, self.otherwise.rule, "EINVAL is the kernel's to say")
        if flags & (MS_REMOUNT | MS_BIND) == MS_REMOUNT:
            return self._of_remount(flags, data)
        name = fstype.decode("utf-8", "surrogateescape") if isinstance(fstype, bytes) else ""
        options = split_options(data) if isinstance(data, bytes) else []
        cut = data == -E2BIG  # the kernel would take some of the options
        if facts is not None:
            if cut:
                why = "options longer than the kernel takes"
                return replace(self._of_ours(Verdict.ERRNO, why, EINVAL), rule="on_error")
            found = self._rule_index.second_look(name, flags, options, facts)
            if found is not None:
                return found.decision()
            return self._otherwise(self._rule_index.first_look(name, flags, options).reason)
        decision = self._first(self._rule_index.first_look(name, flags, options))
        if cut and decision.verdict is Verdict.EMULATE:
            # It is refused, but only after what is wrong with the target.
            return replace(decision, settings=MountSettings(text=True))
        return decision

    @property
    def _rule_index(self) -> MountIndex:
        if self._index is None:
            object.__setattr__(self, "_index", MountIndex(self.rules))
        assert self._index is not None
        return self._index

    def _of_ours(self, verdict: Verdict, reason: str, value: int = 0) -> Decision:
        """What no rule decides, but the call's own arguments do."""
        where, audit = self.otherwise.rule, self.otherwise.audit
        return Decision(verdict, where, reason, value=value, audit=audit)

    def _otherwise(self, reason: str) -> Decision:
        return replace(self.otherwise, reason=reason) if reason else self.otherwise

    def _first(self, met: Met) -> Decision:
        if met.emulates is not None:
            decision = replace(met.emulates.decision(), needs_facts=True)
            # A FUSE program is given a device's descriptor, and that has to be opened.
            return replace(decision, settings=(met.by_program or met.emulates).settings)
        if met.first is None:
            return self._otherwise(met.reason)
        if met.first is met.last:
            return met.first.decision()
        # Only refusals that may apply or not: where the call leads to has to be seen.
        return Decision(
            Verdict.EMULATE, met.first.place, settings=MountSettings(text=True), needs_facts=True,
            audit=self.otherwise.audit,
        )  # fmt: skip

    def _of_remount(self, flags: int, data: Arg) -> Decision:
        """What is not ours is the kernel's. What is must stay within every rule that may have made
        it, for nobody remembers which it was.
        """
        options = split_options(data) if isinstance(data, bytes) else []
        options = [option for option in options if option not in _HANDED_BACK]
        if data == -E2BIG:
            return replace(self._remount, reason="options longer than the kernel takes")
        for rule in self._rule_index.by_kernel:
            objection = rule.objection(flags, options)
            if objection:
                reason = f"{objection} by {rule.place}"
                return replace(self._remount, reason=reason)
        return self._remount

    @property
    def emulates(self) -> bool:
        """Whether a rule mounts something."""
        return any(rule.verdict is Verdict.EMULATE and not rule.audit for rule in self.rules)

    @property
    def uses_fuse(self) -> bool:
        """Whether a rule runs FUSE programs."""
        return any(
            rule.verdict is Verdict.EMULATE and rule.settings.via == "fuse" and not rule.audit
            for rule in self.rules
        )

    def ceilings(self) -> tuple[MountCeiling, ...]:
        """All that a maker can be asked for."""
        return tuple(dict.fromkeys(one for rule in self.rules for one in ceilings(rule)))

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON's types."""
        return {
            "mounts": True,
            "max_mounts": self.max_mounts,
            "otherwise": otherwise_to_json(self.otherwise),
            "rules": [rule.to_json() for rule in self.rules],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MountRules:
        """The rules that to_json() wrote."""
        return cls(
            tuple(MountRule.from_json(row) for row in data["rules"]),
            otherwise_from_json(data["otherwise"]),
            data["max_mounts"],
        )
