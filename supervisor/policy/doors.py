"""Calls that no rule is about, and that a filter may answer: the doors around a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from supervisor.kernel.syscalls import CallSpec, Kind, Param

# What is none of a family's; "" so that no policy has rules of that name.
NO_FAMILY: Final = ""


@dataclass(frozen=True, slots=True)
class Door:
    """A call, and when and why the filter answers it."""

    spec: CallSpec
    why: str


def _door(name: str, why: str, **params: Kind) -> Door:
    some = tuple(Param(param, kind) for param, kind in params.items())
    return Door(CallSpec(NO_FAMILY, name, some), why)


_MOUNTS: Final = "the options of a mount would come in calls of their own"
_XATTRS: Final = "programs take setxattr and removexattr then, which the rules are about"
DOORS: Final[Mapping[str, Door]] = {
    door.spec.name: door
    for door in (
        _door("fsopen", _MOUNTS, fsname=Kind.TEXT, flags=Kind.FLAGS),
        _door("fspick", _MOUNTS, dirfd=Kind.FD, pathname=Kind.PATH, flags=Kind.FLAGS),
        _door(
            "setxattrat", _XATTRS, dirfd=Kind.FD, pathname=Kind.PATH, at_flags=Kind.FLAGS,
            attribute=Kind.NAME, uargs=Kind.POINTER, usize=Kind.SIZE,
        ),
        _door(
            "removexattrat", _XATTRS, dirfd=Kind.FD, pathname=Kind.PATH, at_flags=Kind.FLAGS,
            attribute=Kind.NAME,
        ),
        _door(
            "io_uring_setup",
            "what goes through a ring passes no filter",
            entries=Kind.FLAGS, p=Kind.BUFFER,
        ),
        _door(
            "socket",
            "where rules restrict sockets, there is no SCTP: it connects by setsockopt as well",
            domain=Kind.INT, type=Kind.FLAGS, protocol=Kind.INT,
        ),
        _door(
            "seccomp",
            "no target has a listener of its own (NEW_LISTENER)",
            operation=Kind.INT, flags=Kind.FLAGS, args=Kind.BUFFER,
        ),
        _door(
            "ioctl",
            "nobody types into the terminal outside (TIOCSTI, TIOCLINUX), where the command has a "
            "user namespace of its own",
            fd=Kind.FD, request=Kind.FLAGS, argp=Kind.BUFFER,
        ),
    )
}  # fmt: skip
# What the filter tells these calls apart by, as strace calls it.
TOLD_BY: Final = (
    "TIOCSTI", "TIOCLINUX", "SECCOMP_SET_MODE_FILTER", "SECCOMP_FILTER_FLAG_NEW_LISTENER",
)  # fmt: skip
