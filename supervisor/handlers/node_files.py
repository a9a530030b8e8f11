"""The companion of device nodes: what is done later to a node that is a bind mount.

Such a node answers unlink, rename and link with EBUSY or EXDEV, and where it is a bind mount of the
host's own node, chmod, chown and utimens with EPERM. No policy names this family: a session serves
it only where its policy can make such nodes, and what does not concern one of them is left to the
kernel, with the caller's own rights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from supervisor.handlers.base import (
    AT_FDCWD,
    CallSpec,
    Condition,
    Family,
    Kind,
    Match,
    Named,
    Needs,
    Traits,
    call,
    flag,
    may_bind,
    number,
    place,
)
from supervisor.model import Decision, Snapshot
from supervisor.plans import ChangeNode, LinkNode, Place, Plan, RemoveNode, RenameNode

AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_REMOVEDIR: Final = 0x200
AT_EMPTY_PATH: Final = 0x1000

_NAME: Final = "node_files"
_PATH = ("pathname", Kind.PATH)
_OLD = ("oldpath", Kind.PATH)
_NEW = ("newpath", Kind.PATH)
_AT = ("dirfd", Kind.FD)
_OLD_AT = ("olddirfd", Kind.FD)
_NEW_AT = ("newdirfd", Kind.FD)
_FD = ("fd", Kind.FD)
_MODE = ("mode", Kind.MODE)
_FLAGS = ("flags", Kind.FLAGS)
_OWNER = (("owner", Kind.ID), ("group", Kind.ID))
_TIMES = ("times", Kind.POINTER)
_ATTRIBUTE = ("name", Kind.PATH)
_VALUE = (("value", Kind.POINTER), ("size", Kind.SIZE), _FLAGS)
# What cp -a sets instead of the mode. A device has no default ACL, and user.* is refused on it.
_ACCESS_LIST: Final = b"system.posix_acl_access"


def _call(name: str, *params: tuple[str, Kind]) -> CallSpec:
    return call(_NAME, name, *params)


_NAMES: Final = (
    _call("unlink", _PATH),
    _call("unlinkat", _AT, _PATH, _FLAGS),
    _call("rename", _OLD, _NEW),
    _call("renameat", _OLD_AT, _OLD, _NEW_AT, _NEW),
    _call("renameat2", _OLD_AT, _OLD, _NEW_AT, _NEW, _FLAGS),
    _call("link", _OLD, _NEW),
    _call("linkat", _OLD_AT, _OLD, _NEW_AT, _NEW, _FLAGS),
)
# chown, lchown and fchown have 16-bit ids on i386 alone; nothing here looks at the ids.
_INODES: Final = (
    _call("chmod", _PATH, _MODE),
    _call("fchmod", _FD, _MODE),
    _call("fchmodat", _AT, _PATH, _MODE),
    _call("fchmodat2", _AT, _PATH, _MODE, _FLAGS),
    _call("chown", _PATH, *_OWNER),
    _call("lchown", _PATH, *_OWNER),
    _call("fchown", _FD, *_OWNER),
    _call("fchownat", _AT, _PATH, *_OWNER, _FLAGS),
    _call("chown32", _PATH, *_OWNER),
    _call("lchown32", _PATH, *_OWNER),
    _call("fchown32", _FD, *_OWNER),
    _call("utime", _PATH, _TIMES),
    _call("utimes", _PATH, _TIMES),
    _call("futimesat", _AT, _PATH, _TIMES),
    _call("utimensat", _AT, _PATH, _TIMES, _FLAGS),
    _call("utimensat_time64", _AT, _PATH, _TIMES, _FLAGS),
    _call("setxattr", _PATH, _ATTRIBUTE, *_VALUE),
    _call("lsetxattr", _PATH, _ATTRIBUTE, *_VALUE),
    _call("fsetxattr", _FD, _ATTRIBUTE, *_VALUE),
    _call("removexattr", _PATH, _ATTRIBUTE),
    _call("lremovexattr", _PATH, _ATTRIBUTE),
    _call("fremovexattr", _FD, _ATTRIBUTE),
)


class NodeFiles(Family):
    """The companion family "node_files"."""

    name: ClassVar[str] = _NAME
    doc: ClassVar[str] = "what is done to a device node that is a bind mount"
    calls: ClassVar[tuple[CallSpec, ...]] = _NAMES + _INODES
    # A caller that unlinks through io_uring would meet the EBUSY that this family hides.
    io_uring: ClassVar[bool] = True

    def serves(self, traits: Traits, needs: Needs) -> tuple[CallSpec, ...]:
        """Nothing, the calls on names, or (for bind mounts of the host's nodes) all."""
        if not may_bind(traits, needs.realises):
            return ()
        return self.calls if traits.nodes == "host" else _NAMES

    def always(self, spec: CallSpec, rules: object) -> Sequence[Match]:  # noqa: ARG002
        """Each call, but not unlinkat of a directory: no node is one."""
        if spec.name == "unlinkat":
            return ((Condition(2, AT_REMOVEDIR, 0),),)
        return ((),)

    def plan(self, snapshot: Snapshot, decision: Decision) -> Plan | None:  # noqa: ARG002
        """What is to be done if the call concerns a node of ours."""
        name = snapshot.name
        args = Named(_CALLS[name], snapshot.args)
        if name.startswith("unlink"):
            return RemoveNode(place(args, "pathname", "dirfd"))
        flags = number(args, "flags") if "flags" in args else 0
        if name.startswith(("rename", "link")):
            old = place(args, "oldpath", "olddirfd")
            new = place(args, "newpath", "newdirfd")
            return RenameNode(old, new, flags) if name[0] == "r" else LinkNode(old, new, flags)
        attribute = name.endswith("xattr")
        if attribute and args["name"] != _ACCESS_LIST:
            return None
        no_follow = not attribute and flag(args, "flags", AT_SYMLINK_NOFOLLOW)
        return ChangeNode(
            place=_inode(args),
            follow=not (name[0] == "l" or no_follow),
            capability="chown" if "chown" in name else "fowner",
        )


def _inode(args: Named) -> Place:
    """The inode that a chmod, chown or utimens is about; an open file is Place(fd, None)."""
    if "fd" in args:
        return Place(number(args, "fd"), None)
    # utimensat and futimesat with a NULL path mean the open file `dirfd`. NULL arrives as a path
    # that could not be read; where it was another bad pointer, the file is not one of ours or
    # loses nothing by a change that is not shown anyway.
    at = "dirfd" in args
    unreadable = isinstance(args["pathname"], int)
    if unreadable and "times" in args and at and number(args, "dirfd") != AT_FDCWD:
        return Place(number(args, "dirfd"), None)
    if at and args["pathname"] == b"" and flag(args, "flags", AT_EMPTY_PATH):
        return Place(number(args, "dirfd"), None)
    return place(args, "pathname", "dirfd")


_CALLS = {spec.name: spec for spec in NodeFiles.calls}
