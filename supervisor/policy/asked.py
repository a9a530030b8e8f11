"""A call that somebody asks about, by the names of its arguments or from a record of an audit log.

Tests, `explain`, `learn` and `replay` all put their questions through here.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from supervisor.kernel.address_text import read
from supervisor.kernel.address_text import written as address_text
from supervisor.kernel.addresses import Address, AddressError, address_of
from supervisor.kernel.bpf import RET_ALLOW, RET_USER_NOTIF
from supervisor.kernel.capabilities import NUMBERS
from supervisor.kernel.device_numbers import join_device
from supervisor.kernel.mounts import MS
from supervisor.kernel.simulate import Run
from supervisor.kernel.simulate import run as run_filter
from supervisor.kernel.strace import arguments
from supervisor.kernel.strace_read import read_argument, sum_of
from supervisor.kernel.syscalls import (
    ARCH_NAMES,
    AT_FDCWD,
    X86_64,
    CallSpec,
    Kind,
    Param,
    as_filtered,
    cut,
    number,
)
from supervisor.kernel.xattrs import measure
from supervisor.model import Arg, Decision, Facts, MountSettings, Snapshot, Source, Verdict
from supervisor.policy.argument_names import own_names
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.devices import DeviceError, parse_device
from supervisor.policy.doors import DOORS
from supervisor.policy.families import FamilySpec
from supervisor.policy.match import lexical
from supervisor.policy.open_values import parse_how
from supervisor.policy.options import OptionRules
from supervisor.policy.sockets import OPERATIONS
from supervisor.policy.values import slip

_MODES: Final = {
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "file": stat.S_IFREG,
}
_ARCHES: Final[Mapping[str, int]] = {name: arch for arch, name in ARCH_NAMES.items()}
# What a case or a command line may say of the caller, and of what path work would find out.
CALLER: Final[Mapping[str, str]] = {
    "uid": "the caller's file system uid in its user namespace (0 if left out)",
    "gid": "the same for its gid",
    "host_uid": "the same uid as the host numbers it",
    "host_gid": "the same for its gid",
    "capability": "a capability that the caller has; there can be several",
    "executable": "the caller's program",
    "cgroup": "the caller's cgroup",
    "resolved": "where the call's path leads, where that is not plain from it",
    "source": 'what a mount\'s source is: "image PATH" or "device MAJOR:MINOR NAME"',
    "peer": "who has connected, where a connection is accepted: 10.0.0.1:1024",
    "cwd": "the caller's working directory (/ if left out)",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A call, with what is said of its caller (the keys are those of CALLER).

    `facts` are those of a record, where the decision was taken with some; `recorded` is the record.
    """

    spec: CallSpec
    snapshot: Snapshot
    caller: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts | None = None
    recorded: Mapping[str, Any] | None = None

    @property
    def path(self) -> bytes | None:
        """The call's path as it was written; None where it has none, or it could not be read."""
        for param, arg in zip(self.spec.params, self.snapshot.args, strict=True):
            if param.kind is Kind.PATH and isinstance(arg, bytes):
                return arg
        address = self.address
        return None if address is None else address.path

    @property
    def address(self) -> Address | None:
        """What a call on a socket leads to; None where it has no address that can be known."""
        given = self.address_argument
        if not isinstance(given, bytes):
            return None
        try:
            return address_of(given, OPERATIONS[self.spec.name])
        except AddressError:
            return None

    @property
    def address_argument(self) -> Arg:
        """The argument that is an address, 0 where the call has none; of accept that of its peer.
        """
        if OPERATIONS.get(self.spec.name) == "accept":
            return 0 if self.peer is None else self.peer
        args = zip(self.spec.params, self.snapshot.args, strict=True)
        return next((arg for param, arg in args if param.kind.is_address), 0)

    @property
    def peer(self) -> bytes | None:
        """Who has connected, where a connection is accepted and that is known."""
        if self.facts is not None:
            return self.facts.peer
        return read(str(self.caller["peer"])) if "peer" in self.caller else None

    @property
    def is_for_nobody(self) -> bool:
        """Whether it is about a connection that nobody has made, and no rule has settled it before.
        """
        settled = (self.recorded or {}).get("verdict", Verdict.EMULATE) != Verdict.EMULATE
        return OPERATIONS.get(self.spec.name) == "accept" and self.peer is None and not settled

    def told(self, caller: Mapping[str, Any]) -> Asked:
        """The same, with more said of its caller: that beats what a record says. ValueError where
        what is said means nothing, though no rule may ask for it.
        """
        if not caller:
            return self
        told = replace(self, caller={**self.caller, **caller}, facts=None)
        told.known(Decision(Verdict.REFUSE, ""))
        if "source" in caller:
            _source(caller["source"])
        return told

    def text(self) -> str:
        """The call as strace would write it, and who connects where that is known."""
        written = arguments(self.snapshot.args, self.spec.params)
        peer = "" if self.peer is None else f" from {address_text(self.peer)}"
        return f"{self.snapshot.name}({written}){peer}"

    def filtered(self, program: bytes) -> Run:
        """What the filter does with the call."""
        # The filter sees an address where the call has a string; no rule of it looks at that.
        registers = [arg if isinstance(arg, int) else 1 for arg in self.snapshot.args]
        nr, seen = as_filtered(self.snapshot.nr, registers)
        return run_filter(program, nr, self.snapshot.arch, seen)

    def decided(self, policy: CompiledPolicy) -> tuple[Decision, Facts | None]:
        """The policy's decision, and the facts that it took; None where it took one look alone. Of
        an accept that nobody has said a peer of it may be a refusal, for nobody knows.
        """
        first = policy.decide(self.spec.family, self.snapshot)
        if not first.needs_facts:
            return first, None
        facts = self.facts or self.known(first)
        decision = policy.decide(self.spec.family, self.snapshot, facts)
        if decision.needs_facts:
            decision = replace(decision, verdict=Verdict.REFUSE, needs_facts=False)
        return decision, facts

    def granted(self, policy: CompiledPolicy) -> bool:
        """Whether the policy has the call carried out; an option of a socket it may let be set."""
        if self.spec.family not in policy.families:
            return False
        options = isinstance(policy.families[self.spec.family], OptionRules)
        action = self.filtered(policy.filter).action
        if action != RET_USER_NOTIF:
            return options and action == RET_ALLOW
        decision, _ = self.decided(policy)
        goes_on = options and decision.verdict is Verdict.CONTINUE
        made = decision.verdict in (Verdict.EMULATE, Verdict.INJECT)
        return (goes_on or made) and not decision.audit

    def known(self, first: Decision) -> Facts:
        """What path work would have found out, as far as the caller's description says."""
        said = self.caller
        path = self.known_path()
        held = said.get("capability")
        settings = first.settings
        return Facts(
            path,
            id_of(said, "uid") or 0,
            id_of(said, "gid") or 0,
            _source_of(self, settings) if isinstance(settings, MountSettings) else None,
            path,
            id_of(said, "host_uid"),
            id_of(said, "host_gid"),
            None if held is None else frozenset(_capabilities(held)),
            as_bytes(said["executable"]) if "executable" in said else None,
            as_bytes(said["cgroup"]) if "cgroup" in said else None,
            self.peer,
        )

    def places(self) -> list[bytes]:
        """The path as it was written, where that says where it leads, and where it was found to
        lead; none where nobody has said what a relative one, or one with "..", starts from.
        """
        plain = lexical(self.path) if self.path else None
        found = self.facts.path if self.facts else None
        if found is None and (plain or self.caller.keys() & {"resolved", "cwd"}):
            found = self.known_path()
        return list(dict.fromkeys(path for path in (plain, found) if path))

    def known_path(self) -> bytes | None:
        """Where the path leads: as it is said, or if no symbolic link is on its way."""
        if (resolved := self.caller.get("resolved")) is not None:
            return as_bytes(resolved)
        written = self.path
        if written is None:
            return None
        if not written.startswith(b"/"):
            written = as_bytes(self.caller.get("cwd", "/")) + b"/" + written
        parts: list[bytes] = []
        for part in written.split(b"/"):
            if part == b"..":
                del parts[-1:]
            elif part not in (b"", b"."):
                parts.append(part)
        return lexical(b"/" + b"/".join(parts))


def as_bytes(value: object) -> bytes:
    """A text as the bytes that it stands for."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value.encode("utf-8", "surrogateescape")


def id_of(said: Mapping[str, Any], key: str) -> int | None:
    """The id that is said under `key`; None where nothing is. ValueError where it is none."""
    value = said.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{key} is a number")
    return value


def whole_of(said: Mapping[str, Any], key: str) -> int:
    """The same, where it has to be there: KeyError."""
    value = id_of(said, key)
    if value is None:
        raise KeyError(key)
    return value


def _capabilities(value: object) -> Iterable[str]:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if name not in NUMBERS:
            raise ValueError(f"{name!r} is no capability")
        yield str(name)


def _source_of(asked: Asked, settings: MountSettings) -> Source:
    """What the source of a mount really is; as it was written where nothing is said of it."""
    if "source" in asked.caller:
        return _source(asked.caller["source"])
    text = asked.snapshot.args[0]
    return Source("text" if settings.text else "image", text if isinstance(text, bytes) else b"")


def _source(said: object) -> Source:
    """A source as it is said. ValueError where it is none."""
    kind, _, rest = str(said).partition(" ")
    if kind in ("image", "text"):
        return Source(kind, as_bytes(rest))
    numbers, _, name = rest.partition(" ")
    if kind != "device" or not re.fullmatch("[0-9]+:[0-9]+", numbers):
        raise ValueError(f"a source is device MAJOR:MINOR NAME or image PATH: {said!r}")
    major, _, minor = numbers.partition(":")
    return Source(kind, as_bytes(name), (int(major), int(minor)))


def specs(families: Mapping[str, FamilySpec]) -> dict[str, CallSpec]:
    """Every call that a policy can be asked about, by name."""
    return {spec.name: spec for family in families.values() for spec in family.calls}


def named(
    families: Mapping[str, FamilySpec], call: str, args: Mapping[str, object], arch: int = X86_64
) -> Asked:
    """The call with its arguments by name; what is left out is 0 (for `dirfd` AT_FDCWD).

    ValueError where the call, an argument or the architecture means nothing.
    """
    spec = spec_of(families, call)
    args = own_names(spec, args)
    values = [_argument(param, args.get(param.name)) for param in spec.params]
    at = spec.index("addrlen")
    if at is not None and "addrlen" not in args:  # which is that of the address
        address = values[at - 1]
        values[at] = len(address) if isinstance(address, bytes) else 0
    if (at := spec.index("size")) is not None and spec.params[at - 1].kind is Kind.XATTR:
        measure(values, at, said="size" in args)
    return asked_of(spec, tuple(values), arch)


def spec_of(families: Mapping[str, FamilySpec], call: str) -> CallSpec:
    """The call of that name: one of a family's, or one that a filter answers. ValueError."""
    known = specs(families) | {name: door.spec for name, door in DOORS.items()}
    if call not in known:
        meant = slip(call, sorted(known))
        raise ValueError(
            f"no policy is about {call}{f' (did you mean {meant}?)' if meant else ''}: it is the "
            "kernel's, or what the policy's own `otherwise` says, where a runtime's own profile "
            "notifies it"
        )
    return known[call]


def asked_of(spec: CallSpec, values: tuple[Arg, ...], arch: int) -> Asked:
    """The call with these arguments. ValueError for what the kernel could not be given."""
    nr = number(spec.name, arch)
    if nr is None:
        raise ValueError(f"{ARCH_NAMES.get(arch, hex(arch))} has no {spec.name}")
    strings = [
        value for value, param in zip(values, spec.params, strict=True)
        if isinstance(value, bytes) and not param.kind.is_address and not param.kind.is_struct
    ]  # fmt: skip
    if any(b"\0" in value for value in strings):
        raise ValueError("no argument has a NUL in it: the kernel would read no further")
    args = tuple(
        value if isinstance(value, bytes) or (param.kind.is_string and value <= 0)
        else cut(value, param.kind)
        for value, param in zip(values, spec.params, strict=True)
    )  # fmt: skip
    return Asked(spec, Snapshot(0, 0, arch, nr, 0, spec.name, args))


def _argument(param: Param, value: object) -> Arg:
    if value is None and param.kind is Kind.FD:
        return AT_FDCWD if param.name.endswith("dirfd") else 0
    try:
        return _value(param.kind, value)
    except ValueError as error:
        raise ValueError(f"{param.name}: {error}") from None


def _value(kind: Kind, value: object) -> Arg:
    if kind.is_address:
        return 0 if value is None or value == 0 else read(str(value))
    if kind in (Kind.PATH, Kind.NAME):
        if isinstance(value, int) and value < 0:
            return value
        return b"" if value is None else as_bytes(value)
    if kind is Kind.HOW:
        return parse_how(value)
    if kind in (Kind.VALUE, Kind.ROOM):
        return 0  # no policy looks at what is there
    if kind.is_string:
        return 0 if value is None or value == 0 else as_bytes(value)
    if value is None:
        return 0
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is no {kind.value}")
    if isinstance(value, int):
        return value
    if kind is Kind.MOUNT_FLAGS:
        return _mount_flags(value)
    if kind is Kind.MODE and value in _MODES:
        return _MODES[str(value)] | 0o666
    if kind is Kind.DEV and isinstance(value, str) and not value[:1].isdigit():
        return _device(value)
    if kind is Kind.DEV and isinstance(value, str) and ":" in value:
        if not (found := re.fullmatch("([0-9]{1,9}):([0-9]{1,9})", value)):
            raise ValueError(f"{value!r} is no device: write MAJOR:MINOR, or its name")
        return join_device(int(found[1]), int(found[2]))
    if isinstance(value, str):
        return sum_of(value)
    raise ValueError(f"{value!r} is no {kind.value}")


def _device(text: str) -> int:
    """A device as a policy names it: "kvm", "char 10:232"; or a number as strace writes it."""
    try:
        _, major, last_major, minor, last_minor = parse_device(text)
    except DeviceError:
        if re.match(r"makedev\b", text):
            value = read_argument(text, Kind.DEV)
            assert isinstance(value, int)
            return value
        raise
    if (major, minor) != (last_major, last_minor):
        raise ValueError(f"{text} is more than one device")
    return join_device(major, minor)


def _mount_flags(value: object) -> int:
    words = value if isinstance(value, list) else str(value).split(",")
    flags = 0
    for word in words:
        flags |= MS[word] if word in MS else sum_of(str(word))
    return flags
