"""What is to be done for a caller: one frozen value for each kind of call that is carried out.

Paths, device numbers and errnos are as in supervisor.model.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EPERM
from typing import Final

from supervisor.model import (
    DirectorySettings,
    Inject,
    Message,
    MountSettings,
    Settings,
    SocketSettings,
    XattrSettings,
)

_NOT_LED: Final = SocketSettings()

@dataclass(frozen=True, slots=True)
class Place:
    """A path as a caller gives it: relative to `dirfd` (the caller's; AT_FDCWD for its cwd).

    `path` is None where the call names an open file (`dirfd` then is the file itself).
    """

    dirfd: int
    path: bytes | None


@dataclass(frozen=True, slots=True)
class MakeNode:
    """mknod, mknodat of a character or block device. `mode` is before the umask."""

    place: Place
    mode: int
    device: tuple[int, int]
    settings: Settings


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """mkdir, mkdirat. `mode` is before the umask. What is taken from `settings` is that of the
    decision taken again with Facts, wherever there is one.
    """

    place: Place
    mode: int
    settings: DirectorySettings


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """unlink, unlinkat (without AT_REMOVEDIR) of what may be a node of ours."""

    place: Place


@dataclass(frozen=True, slots=True)
class RenameNode:
    """rename, renameat, renameat2 where either name may be a node of ours."""

    old: Place
    new: Place
    flags: int


@dataclass(frozen=True, slots=True)
class LinkNode:
    """link, linkat where the old name may be a node of ours."""

    old: Place
    new: Place
    flags: int


@dataclass(frozen=True, slots=True)
class ChangeNode:
    """chmod, chown, utimens and their relatives on what may be a bind mount of the host's node.

    `capability` is what a caller that does not own the inode needs ("fowner" or "chown").
    """

    place: Place
    follow: bool
    capability: str


@dataclass(frozen=True, slots=True)
class Mount:
    """mount of a new filesystem. `flags` are MS_*, without MS_MGC_VAL; `data` is as the kernel
    copies it, without the NUL. What is taken from `settings` is that of the decision taken again
    with Facts, wherever there is one.
    """

    source: bytes | None
    target: Place
    fstype: bytes
    flags: int
    data: bytes | None
    settings: MountSettings


@dataclass(frozen=True, slots=True)
class Remount:
    """mount with MS_REMOUNT and without MS_BIND, of what may be a mount of ours.

    `refusal`: why a mount of ours must not be changed like that, with `error`; "" where it may be.
    """

    target: Place
    flags: int
    data: bytes | None
    refusal: str = ""
    error: int = EPERM


@dataclass(frozen=True, slots=True)
class SocketCall:
    """connect, bind, getsockname, getpeername, and the calls that send, on the descriptor `fd`.

    `operation` is "connect", "bind", "send", "name", "peer", "listen" (`flags`: how many may wait),
    "accept" (`flags` are SOCK_*), "set-option" (`message` has what was read of the value, and
    `length` is how long that is said to be) or "get-option" (`length` is how long it may be).
    `address` is a struct sockaddr in which nothing can be understood in two ways, None where the
    call has none; `path` what it names of the file system, as it was written; `length` how long the
    caller's own is. `flags` are MSG_*.
    `several`: the call wants to hear how many messages were sent, and is told how much of the
    first. `unspecified`: see Address. `shown_at`: where "name", "peer" and "accept" write an
    address, and its length, and "get-option" a value. `option`: its level and number. `value`:
    what it is set to, or told as, whatever was asked for.
    What is taken from `settings` is that of the decision taken again with Facts, wherever there
    is one.
    """

    operation: str
    fd: int
    address: bytes | None
    path: bytes | None = None
    flags: int = 0
    message: Message | None = None
    several: bool = False
    unspecified: bool = False
    settings: SocketSettings = _NOT_LED
    shown_at: tuple[int, int] = (0, 0)
    length: int = 0
    option: tuple[int, int] = (0, 0)
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Unmount:
    """umount, umount2 of a file system that nodes of ours may stand on."""

    place: Place
    flags: int


@dataclass(frozen=True, slots=True)
class Open:
    """open, openat, openat2, creat of what may be given by a rule. `flags` are O_*.

    `granted`: where the path is written to lead; if it does, `inject` is given, and the decision
    need not be taken again.
    """

    place: Place
    flags: int
    inject: Inject | None = None
    granted: bytes | None = None


@dataclass(frozen=True, slots=True)
class LoopCall:
    """ioctl of what may be a loop device of ours, by the caller's descriptor `fd`. `data` is what
    the command takes: a structure, or the register, as 8 bytes.
    """

    fd: int
    command: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ChangeXattr:
    """setxattr, removexattr and their relatives. `value` is None where the attribute is removed;
    `flags` are XATTR_*. What is taken from `settings` is that of the decision taken again with
    Facts, wherever there is one.
    """

    place: Place
    follow: bool
    name: bytes
    value: bytes | None
    flags: int
    settings: XattrSettings


@dataclass(frozen=True, slots=True)
class AskCaller:
    """A call that is let go on or refused by who calls. `call`: what neither becomes of is made by
    us; an accept with another look, once it is known who connects. `errno`: what it comes to
    instead, for not all of it could be read.
    """

    call: SocketCall | None = None
    errno: int = 0


Plan = (
    MakeNode
    | MakeDirectory
    | RemoveNode
    | RenameNode
    | LinkNode
    | ChangeNode
    | Mount
    | Remount
    | Unmount
    | SocketCall
    | Open
    | LoopCall
    | ChangeXattr
    | AskCaller
)
# What is not done to a path alone, in one go.
NoPathWork = Mount | Remount | SocketCall | Open | LoopCall | ChangeXattr | AskCaller
