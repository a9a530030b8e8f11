"""mount(2) of a new filesystem, and the remount of one.

Bind mounts, moves, changes of propagation and of one mount's flags are the kernel's own business,
with the caller's rights: registers tell them, and the filter never notifies them. umount is the
kernel's too: what was mounted here belongs to the caller's mount namespace as any other mount.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from errno import E2BIG, EFAULT, EINVAL
from typing import ClassVar, Final

from supervisor.handlers.base import (
    AT_FDCWD,
    CALLER_KEYS,
    CallSpec,
    Condition,
    Family,
    KeyMatch,
    Kind,
    Match,
    OptionMatch,
    PathMatch,
    SourceMatch,
    TypeMatch,
    UnreadableArgument,
    call,
)
from supervisor.kernel.mounts import (
    MS_BIND,
    MS_MGC_MSK,
    MS_MGC_VAL,
    MS_MOVE,
    MS_PRIVATE,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    without_magic,
)
from supervisor.model import Arg, Decision, MountSettings, Snapshot, Verdict
from supervisor.plans import Mount, Place, Remount
from supervisor.policy.mounts import MountRules

_FLAGS_AT: Final = 3
# The kernel answers EINVAL. The magic number of old has this bit; with it go all upper bits.
_NOUSER: Final = 1 << 31
_PROPAGATION: Final = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE
# REMOUNT with BIND changes one mount alone; REMOUNT wins over all others; then come BIND, the types
# of propagation and MOVE; what has none of them is a new mount.
_NEW: Final[Sequence[Match]] = (
    (Condition(_FLAGS_AT, _NOUSER | MS_REMOUNT | MS_BIND | MS_MOVE | _PROPAGATION, 0),),
    (Condition(_FLAGS_AT, MS_MGC_MSK | MS_REMOUNT | MS_BIND | MS_MOVE, MS_MGC_VAL),),
)
_REMOUNT: Final[Sequence[Match]] = (
    (Condition(_FLAGS_AT, _NOUSER | MS_REMOUNT | MS_BIND, MS_REMOUNT),),
    (Condition(_FLAGS_AT, MS_MGC_MSK | MS_REMOUNT | MS_BIND, MS_MGC_VAL | MS_REMOUNT),),
)


class Mounts(Family):
    """The family "mount" of a policy."""

    name: ClassVar[str] = "mount"
    doc: ClassVar[str] = "mount of a new filesystem"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call(
            "mount",
            "mount",
            ("source", Kind.TEXT),
            ("target", Kind.PATH),
            ("filesystemtype", Kind.TEXT),
            ("mountflags", Kind.MOUNT_FLAGS),
            ("data", Kind.DATA),
        ),
    )
    keys: ClassVar[Mapping[str, KeyMatch] | None] = {
        "fstype": TypeMatch("types of filesystems by name: ext4, squashfs"),
        "source": SourceMatch(
            'what is mounted: globs for image files and for the kernel\'s names of devices, "block '
            '7:0-7", or globs for the text that nfs and cifs take'
        ),
        "target": PathMatch(
            "where it is mounted, as a glob below the caller's root directory", path="target"
        ),
        "options": OptionMatch(
            "{allow: [...]}: flags by name, and globs for options; any flag and no option if left "
            "out"
        ),
        **CALLER_KEYS,
    }

    def always(self, spec: CallSpec, rules: object) -> Sequence[Match]:  # noqa: ARG002
        """New mounts, and remounts of a whole filesystem where one may belong to the host."""
        ours = isinstance(rules, MountRules) and rules.ceilings()
        return (*_NEW, *_REMOUNT) if ours else _NEW

    def plan(self, snapshot: Snapshot, decision: Decision) -> Mount | Remount:
        """The mount, its flags without the magic number of old."""
        source, target, fstype, flags, data = snapshot.args
        if not isinstance(target, bytes):
            raise UnreadableArgument(-target or EFAULT)
        if not isinstance(flags, int):
            raise TypeError("flags are a number")
        flags = without_magic(flags)
        where = Place(AT_FDCWD, target)
        if flags & MS_REMOUNT:
            if data == -E2BIG:
                return Remount(where, flags, None, decision.reason, EINVAL)
            return Remount(where, flags, _text(data), decision.reason)
        settings = decision.settings
        if decision.verdict is not Verdict.EMULATE or not isinstance(settings, MountSettings):
            # A refusal comes after what is wrong with the target, and before all else.
            settings = MountSettings(text=True)
        options = None if data == -E2BIG else _text(data)  # such a call is refused in the end
        return Mount(_text(source), where, _text(fstype) or b"", flags, options, settings)


def _text(value: Arg) -> bytes | None:
    """A string, or None for a NULL pointer."""
    if isinstance(value, bytes):
        return value
    if value:
        raise UnreadableArgument(-value)
    return None
