"""What policy and filter have to know of a family of system calls.

The families themselves are in supervisor.handlers, above this room: they are GIVEN to the compiler,
never imported by it. A family states which calls it has, which keys its rules may have, and which
registers make a call worth a notification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from supervisor.kernel.syscalls import CallSpec, Match
from supervisor.model import Verdict
from supervisor.policy.traits import Traits


@dataclass(frozen=True, slots=True)
class NodeMatch:
    """A rule's key for device numbers; `mode` and `dev` name the parameters they stand in."""

    doc: str
    mode: str
    dev: str


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A rule's key for a path; `path` names the parameter."""

    doc: str
    path: str


@dataclass(frozen=True, slots=True)
class IdMatch:
    """A rule's key for ids of the caller."""

    doc: str


@dataclass(frozen=True, slots=True)
class CapabilityMatch:
    """A rule's key for what the caller is capable of."""

    doc: str


@dataclass(frozen=True, slots=True)
class CallerGlobMatch:
    """A rule's key for a path that is not an argument, but belongs to the caller."""

    doc: str


@dataclass(frozen=True, slots=True)
class TypeMatch:
    """A rule's key for the type of a filesystem."""

    doc: str


@dataclass(frozen=True, slots=True)
class SourceMatch:
    """A rule's key for what is mounted: paths, device numbers, or a text."""

    doc: str


@dataclass(frozen=True, slots=True)
class OptionMatch:
    """A rule's key for the flags and options that it allows."""

    doc: str


@dataclass(frozen=True, slots=True)
class AddressMatch:
    """A rule's key for families of addresses."""

    doc: str


@dataclass(frozen=True, slots=True)
class NetworkMatch:
    """A rule's key for IPv4 and IPv6 addresses."""

    doc: str


@dataclass(frozen=True, slots=True)
class PortMatch:
    """A rule's key for ports."""

    doc: str


@dataclass(frozen=True, slots=True)
class NameMatch:
    """A rule's key for abstract names of unix sockets."""

    doc: str


@dataclass(frozen=True, slots=True)
class AccessMatch:
    """A rule's key for how a file is to be opened."""

    doc: str


@dataclass(frozen=True, slots=True)
class LevelMatch:
    """A rule's key for levels of socket options."""

    doc: str


@dataclass(frozen=True, slots=True)
class SocketOptionMatch:
    """A rule's key for socket options."""

    doc: str


@dataclass(frozen=True, slots=True)
class XattrNameMatch:
    """A rule's key for names of extended attributes."""

    doc: str


@dataclass(frozen=True, slots=True)
class XattrValueMatch:
    """A rule's key for values of extended attributes."""

    doc: str


KeyMatch = (
    NodeMatch
    | PathMatch
    | IdMatch
    | CapabilityMatch
    | CallerGlobMatch
    | TypeMatch
    | SourceMatch
    | OptionMatch
    | AddressMatch
    | NetworkMatch
    | PortMatch
    | NameMatch
    | AccessMatch
    | LevelMatch
    | SocketOptionMatch
    | XattrNameMatch
    | XattrValueMatch
)

# Who calls: the keys that the rules of every family have.
CALLER_KEYS: Final[Mapping[str, KeyMatch]] = {
    "uid": IdMatch("the caller's file system uid, as its user namespace numbers it"),
    "gid": IdMatch("the caller's file system gid, as its user namespace numbers it"),
    "host_uid": IdMatch("the caller's file system uid, as the host numbers it"),
    "host_gid": IdMatch("the caller's file system gid, as the host numbers it"),
    "capability": CapabilityMatch(
        "a capability that the caller has in the container's user namespace, such as sys_admin"
    ),
    "executable": CallerGlobMatch(
        "the caller's program, as a glob; the container chooses it: this narrows honest programs"
    ),
    "cgroup": CallerGlobMatch("the caller's cgroup, as a glob"),
}


def may_bind(traits: Traits, realises: frozenset[str]) -> bool:
    """Whether a node may be a bind mount."""
    return traits.nodes != "none" and bool(realises - {"node"})


@dataclass(frozen=True, slots=True)
class Needs:
    """What the rules of a policy may come to, for whose sake there are companions.

    `realises` holds the `realise` setting of every rule that may make a node; `mounts`: a rule
    mounts something; `peer_names`: one has getpeername(2) show what was asked for; `own_names`:
    one leads sockets to another family; `loops`: one gives loop devices; `hosts`: one makes calls
    in the host's network.
    """

    realises: frozenset[str] = frozenset()
    mounts: bool = False
    peer_names: bool = False
    own_names: bool = False
    loops: bool = False
    hosts: bool = False


class FamilySpec:
    """The declarations of one family; subclassed in supervisor.handlers."""

    name: ClassVar[str]
    doc: ClassVar[str]
    calls: ClassVar[tuple[CallSpec, ...]]
    # The keys of a rule, by their names in YAML. None: a companion, which no policy names.
    keys: ClassVar[Mapping[str, KeyMatch] | None] = None
    # What a rule's `do` may be.
    verdicts: ClassVar[frozenset[Verdict]] = frozenset(Verdict) - {Verdict.INJECT}
    # What `otherwise` may be; the first one is what it is where nothing is said.
    otherwise: ClassVar[tuple[str, ...]] = ("refuse", "kernel")
    # Whether io_uring has the same operations: a policy that gates them must refuse io_uring.
    io_uring: ClassVar[bool] = False
    # Whether a rule may lead a call elsewhere.
    redirects: ClassVar[bool] = False

    # Whether `emulate` may have settings.
    settles: ClassVar[bool] = True

    def serves(self, traits: Traits, needs: Needs) -> tuple[CallSpec, ...]:
        """The calls a policy needs from a companion."""
        raise NotImplementedError

    def always(self, spec: CallSpec, rules: object) -> Sequence[Match]:  # noqa: ARG002
        """When a call is worth a notification, as far as registers tell: one of these holds.

        `rules` are the policy's of this family, None for a companion.
        """
        return ((),)
