"""setxattr, removexattr and their relatives: which extended attributes files may be given.

setxattrat and removexattrat have a structure in memory in the place of arguments: the filter says
that there are none, wherever a rule restricts the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from supervisor.handlers.base import (
    AT_FDCWD,
    CALLER_KEYS,
    CallSpec,
    Family,
    KeyMatch,
    Kind,
    PathMatch,
    UnreadableArgument,
    XattrNameMatch,
    XattrValueMatch,
    call,
)
from supervisor.model import Decision, Snapshot, XattrSettings
from supervisor.plans import ChangeXattr, Place
from supervisor.policy.xattrs import call_of

_NAME: Final = "xattr"
_PATH: Final = ("pathname", Kind.PATH)
_FD: Final = ("fd", Kind.FD)
_ATTRIBUTE: Final = ("name", Kind.NAME)
_VALUE: Final = (("value", Kind.XATTR), ("size", Kind.SIZE), ("flags", Kind.FLAGS))


class Xattrs(Family):
    """The family "xattr" of a policy."""

    name: ClassVar[str] = _NAME
    doc: ClassVar[str] = "setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr, fremovexattr"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call(_NAME, "setxattr", _PATH, _ATTRIBUTE, *_VALUE),
        call(_NAME, "lsetxattr", _PATH, _ATTRIBUTE, *_VALUE),
        call(_NAME, "fsetxattr", _FD, _ATTRIBUTE, *_VALUE),
        call(_NAME, "removexattr", _PATH, _ATTRIBUTE),
        call(_NAME, "lremovexattr", _PATH, _ATTRIBUTE),
        call(_NAME, "fremovexattr", _FD, _ATTRIBUTE),
    )
    keys: ClassVar[Mapping[str, KeyMatch] | None] = {
        "name": XattrNameMatch('the attribute\'s name, as a glob: "user.*"'),
        "value": XattrValueMatch(
            "what it is set to, whole; a call that removes an attribute has no value"
        ),
        "path": PathMatch(
            "the file, as a glob below the caller's root directory", path="pathname"
        ),
        **CALLER_KEYS,
    }
    # IORING_OP_SETXATTR, IORING_OP_FSETXATTR.
    io_uring: ClassVar[bool] = True

    def plan(self, snapshot: Snapshot, decision: Decision) -> ChangeXattr:
        """What is set or removed. What the kernel refuses before it looks for the file is an
        UnreadableArgument.
        """
        name, args = snapshot.name, snapshot.args
        asked = call_of(name, args)
        if asked.errno:
            raise UnreadableArgument(asked.errno)
        first = args[0]
        if name.startswith("f"):
            if isinstance(first, bytes):
                raise TypeError("fd is a number")
            place = Place(first, None)
        elif isinstance(first, bytes):
            place = Place(AT_FDCWD, first)
        else:
            raise UnreadableArgument(-first)
        settings = decision.settings
        if not isinstance(settings, XattrSettings):
            settings = XattrSettings()  # of a refusal that no rule has decided
        assert isinstance(asked.name, bytes)
        value = None if asked.value is None else _all_of(snapshot)
        return ChangeXattr(place, name[0] != "l", asked.name, value, asked.flags, settings)


def _all_of(snapshot: Snapshot) -> bytes:
    if snapshot.message is None:
        raise TypeError("a value that nobody has read")
    return snapshot.message.payload
