"""What a handler of one family of system calls is made of.

A handler is data and one pure function: the calls with their parameters, the keys its rules may
match on, the registers that make a call worth a notification, and `plan`, which turns a snapshot
that the policy grants into what resolver and maker are to do. A handler does no I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from errno import E2BIG, EFAULT, EINVAL, EMSGSIZE, ENAMETOOLONG, ENOBUFS, ERANGE
from typing import Final

from supervisor.kernel.syscalls import AT_FDCWD, CallSpec, Condition, Kind, Match, Param
from supervisor.model import Arg, Decision, Snapshot
from supervisor.plans import Place, Plan
from supervisor.policy.families import (
    CALLER_KEYS,
    AccessMatch,
    AddressMatch,
    FamilySpec,
    KeyMatch,
    LevelMatch,
    NameMatch,
    Needs,
    NetworkMatch,
    NodeMatch,
    OptionMatch,
    PathMatch,
    PortMatch,
    SocketOptionMatch,
    SourceMatch,
    TypeMatch,
    XattrNameMatch,
    XattrValueMatch,
    may_bind,
)
from supervisor.policy.traits import Traits

__all__ = [
    "AT_FDCWD",
    "CALLER_KEYS",
    "UNREADABLE",
    "AccessMatch",
    "AddressMatch",
    "CallSpec",
    "Condition",
    "Family",
    "FamilySpec",
    "KeyMatch",
    "Kind",
    "LevelMatch",
    "Match",
    "NameMatch",
    "Named",
    "Needs",
    "NetworkMatch",
    "NodeMatch",
    "OptionMatch",
    "Param",
    "PathMatch",
    "PortMatch",
    "SocketOptionMatch",
    "SourceMatch",
    "Traits",
    "TypeMatch",
    "UnreadableArgument",
    "XattrNameMatch",
    "XattrValueMatch",
    "call",
    "flag",
    "may_bind",
    "number",
    "place",
]


# What the kernel itself says of a string, an address or a message that it cannot read.
UNREADABLE: Final = frozenset((EFAULT, ENAMETOOLONG, EINVAL, EMSGSIZE, ENOBUFS, ERANGE, E2BIG))


class UnreadableArgument(Exception):
    """A string that the plan needs could not be read; `errno` is what the kernel answers then."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Family(FamilySpec, ABC):
    """One family of system calls: what the policy knows of it, and how a grant is carried out."""

    @abstractmethod
    def plan(self, snapshot: Snapshot, decision: Decision) -> Plan | None:
        """What is to be done for a granted call. Pure; reads nothing but its arguments.

        None (companions alone): the call is about nothing of ours, and the kernel's to do.
        Raises UnreadableArgument where a path is an errno: the answer the kernel would give.
        """


def call(family: str, name: str, *params: tuple[str, Kind]) -> CallSpec:
    """A CallSpec, its parameters as (name, kind) pairs in the order of the registers."""
    return CallSpec(family, name, tuple(Param(*param) for param in params))


class Named:
    """The arguments of a snapshot by the names of the parameters."""

    __slots__ = ("_args",)

    def __init__(self, spec: CallSpec, args: Iterable[Arg]) -> None:
        self._args = dict(zip(spec.names, args, strict=True))

    def __contains__(self, name: str) -> bool:
        return name in self._args

    def __getitem__(self, name: str) -> Arg:
        return self._args[name]


def number(args: Named, name: str) -> int:
    """An argument that is an integer."""
    value = args[name]
    if isinstance(value, bytes):
        raise TypeError(f"{name} is a string")
    return value


def flag(args: Named, name: str, bit: int) -> bool:
    """Whether `bit` is set in the argument `name`; False where the call has no such argument."""
    return name in args and bool(number(args, name) & bit)


def place(args: Named, path: str, dirfd: str) -> Place:
    """The Place that `path`, relative to `dirfd` where the call has one, names.

    Raises UnreadableArgument where the path could not be read.
    """
    text = args[path]
    if isinstance(text, int):
        raise UnreadableArgument(-text)
    return Place(number(args, dirfd) if dirfd in args else AT_FDCWD, text)
