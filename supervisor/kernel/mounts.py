"""The flags of mount(2) by name, and what they are for mount_setattr(2): the only such table.

MS_* bits and MOUNT_ATTR_* bits coincide for four flags alone. Flags that are not of one mount but
of its superblock (sync, dirsync, lazytime, ...) have no MOUNT_ATTR_*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MS_RDONLY: Final = 1
MS_REMOUNT: Final = 1 << 5
MS_BIND: Final = 1 << 12
MS_MOVE: Final = 1 << 13
MS_REC: Final = 1 << 14
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_MGC_VAL: Final = 0xC0ED0000
MS_MGC_MSK: Final = 0xFFFF0000

# name: (MS_*, MOUNT_ATTR_* or 0)
_TABLE: Final[Mapping[str, tuple[int, int]]] = {
    "ro": (MS_RDONLY, 0x1),
    "nosuid": (1 << 1, 0x2),
    "nodev": (1 << 2, 0x4),
    "noexec": (1 << 3, 0x8),
    "sync": (1 << 4, 0),
    "remount": (MS_REMOUNT, 0),
    "mand": (1 << 6, 0),
    "dirsync": (1 << 7, 0),
    "nosymfollow": (1 << 8, 0x200000),
    "noatime": (1 << 10, 0x10),
    "nodiratime": (1 << 11, 0x80),
    "bind": (MS_BIND, 0),
    "move": (MS_MOVE, 0),
    "rec": (MS_REC, 0),
    "silent": (1 << 15, 0),
    "posixacl": (1 << 16, 0),
    "unbindable": (MS_UNBINDABLE, 0),
    "private": (MS_PRIVATE, 0),
    "slave": (MS_SLAVE, 0),
    "shared": (MS_SHARED, 0),
    "relatime": (1 << 21, 0),
    "iversion": (1 << 23, 0),
    "strictatime": (1 << 24, 0x20),
    "lazytime": (1 << 25, 0),
}

# Options that hand a filesystem more than its source: other devices, by name or number, and
# descriptors of whoever mounts. That a rule allows any option is no word about these.
NAMED_OPTIONS: Final = (
    "device", "fd", "jdev", "journal_dev", "journal_path", "logdev", "rfdno", "rtdev", "wfdno",
)  # fmt: skip

# Flags of umount2(2).
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
MNT_EXPIRE: Final = 4
UMOUNT_NOFOLLOW: Final = 8

# What the kernel lets root of a user namespace mount by itself (FS_USERNS_MOUNT), and since when.
USERNS_TYPES: Final[Mapping[str, tuple[int, int]]] = {
    "proc": (3, 8), "sysfs": (3, 8), "tmpfs": (3, 9), "ramfs": (3, 9), "devpts": (3, 8),
    "mqueue": (3, 9), "cgroup": (4, 6), "cgroup2": (4, 6), "fuse": (4, 18), "overlay": (5, 11),
    "binfmt_misc": (6, 7),
}  # fmt: skip

MS: Final[Mapping[str, int]] = {name: bits for name, (bits, _) in _TABLE.items()}
# What stays when somebody else takes it away: the kernel locks these, and no others.
LOCKABLE: Final = MS["ro"] | MS["nosuid"] | MS["nodev"] | MS["noexec"]
# Flags of a mount that can be given and taken one by one; those of atime cannot.
_PLAIN: Final = LOCKABLE | MS["nosymfollow"]
ATIME: Final = MS["noatime"] | MS["nodiratime"] | MS["relatime"] | MS["strictatime"]
_ATTR_ATIME: Final = 0x70 | 0x80


def without_magic(flags: int) -> int:
    """What the kernel makes of `flags`: the magic number of old is taken off, and all above it."""
    return flags & 0xFFFF if flags & MS_MGC_MSK == MS_MGC_VAL else flags


def attr_of(flags: int) -> int:
    """The MOUNT_ATTR_* bits of those MS_* flags that are a mount's own, atime left out."""
    bits = 0
    for ms, attr in _TABLE.values():
        if flags & ms & _PLAIN:
            bits |= attr
    return bits


def remounted(flags: int) -> tuple[int, int]:
    """(set, clear) for mount_setattr(2), as mount(2) with MS_REMOUNT and `flags` would have it.

    Without a flag of atime, all that is of atime stays as it is.
    """
    wanted, all_of = attr_of(flags), attr_of(_PLAIN)
    if flags & ATIME:
        all_of |= _ATTR_ATIME
        wanted |= _TABLE["nodiratime"][1] if flags & MS["nodiratime"] else 0
        if flags & MS["strictatime"]:  # beside noatime, which mount(8) repeats, it counts
            wanted |= _TABLE["strictatime"][1]
        elif flags & MS["noatime"]:
            wanted |= _TABLE["noatime"][1]
    # the kernel wants the whole field of atime cleared where any of it is set
    return wanted, (all_of & ~wanted) | (all_of & 0x70)


def names_of(flags: int) -> list[str]:
    """The flags by name, in the table's order; what has none as a number in hexadecimal."""
    names = [name for name, bits in MS.items() if flags & bits]
    rest = flags & ~sum(MS.values())
    return [*names, hex(rest)] if rest else names
