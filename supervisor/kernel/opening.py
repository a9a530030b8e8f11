"""The flags of open(2), and of struct open_how, as x86 and i386 have them."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Final

O_ACCMODE: Final = 0o3
O_RDONLY: Final = os.O_RDONLY
O_WRONLY: Final = os.O_WRONLY
O_RDWR: Final = os.O_RDWR
O_CREAT: Final = os.O_CREAT
O_EXCL: Final = os.O_EXCL
O_TRUNC: Final = os.O_TRUNC
O_NONBLOCK: Final = os.O_NONBLOCK
O_NOFOLLOW: Final = os.O_NOFOLLOW
O_DIRECTORY: Final = os.O_DIRECTORY
O_CLOEXEC: Final = os.O_CLOEXEC
O_NOATIME: Final = os.O_NOATIME
O_PATH: Final = os.O_PATH
_LARGEFILE: Final = 0o100000  # 0 in the C library of a 64-bit machine
# Those with more than one bit first: they have others in them.
FLAGS: Final[Mapping[str, int]] = {
    "O_SYNC": os.O_SYNC, "O_TMPFILE": os.O_TMPFILE,
    "O_WRONLY": O_WRONLY, "O_RDWR": O_RDWR, "O_CREAT": O_CREAT, "O_EXCL": O_EXCL,
    "O_NOCTTY": os.O_NOCTTY, "O_TRUNC": O_TRUNC, "O_APPEND": os.O_APPEND,
    "O_NONBLOCK": O_NONBLOCK, "O_DSYNC": os.O_DSYNC, "O_ASYNC": os.O_ASYNC,
    "O_DIRECT": os.O_DIRECT, "O_LARGEFILE": _LARGEFILE,
    "O_DIRECTORY": O_DIRECTORY, "O_NOFOLLOW": O_NOFOLLOW, "O_NOATIME": O_NOATIME,
    "O_CLOEXEC": O_CLOEXEC, "O_PATH": O_PATH,
}  # fmt: skip
KNOWN_FLAGS: Final = (
    O_ACCMODE | os.O_NOCTTY | os.O_APPEND | os.O_SYNC | os.O_ASYNC | os.O_DIRECT | _LARGEFILE
    | os.O_TMPFILE | O_CREAT | O_EXCL | O_TRUNC | O_NONBLOCK | O_NOFOLLOW | O_NOATIME | O_CLOEXEC
    | O_PATH
)  # fmt: skip
# What of a caller's flags is for the open of what is given; the others are about its path. So are
# O_NOFOLLOW and O_DIRECTORY, but a descriptor has them from then on. O_EXCL alone claims a disk.
FILE_FLAGS: Final = (
    O_ACCMODE | os.O_APPEND | os.O_SYNC | os.O_DIRECT | os.O_ASYNC | _LARGEFILE | O_TRUNC
    | O_NONBLOCK | O_EXCL | O_NOFOLLOW | O_DIRECTORY
)  # fmt: skip

CALLS: Final = frozenset(("open", "creat", "openat", "openat2"))

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE: Final[Mapping[str, int]] = {
    "RESOLVE_NO_XDEV": 0x01, "RESOLVE_NO_MAGICLINKS": RESOLVE_NO_MAGICLINKS,
    "RESOLVE_NO_SYMLINKS": 0x04, "RESOLVE_BENEATH": 0x08, "RESOLVE_IN_ROOT": 0x10,
    "RESOLVE_CACHED": 0x20,
}  # fmt: skip
_HOW: Final = struct.Struct("=QQQ")

ACCESS_WORDS: Final[Mapping[int, str]] = {
    O_RDONLY: "read-only", O_WRONLY: "write-only", O_RDWR: "read-write",
}  # fmt: skip


def unpack_how(how: bytes) -> tuple[int, int, int]:
    """(flags, mode, resolve) of a struct open_how."""
    flags, mode, resolve = _HOW.unpack(how)
    return flags, mode, resolve


def pack_how(flags: int = 0, mode: int = 0, resolve: int = 0) -> bytes:
    """The struct open_how with these."""
    return _HOW.pack(flags, mode, resolve)


def names_of(value: int, names: Mapping[str, int]) -> list[str]:
    """The names of the bits that are set; what is left over as one number."""
    out = []
    for name, bits in names.items():
        if bits and value & bits == bits:
            out.append(name)
            value &= ~bits
    return [*out, hex(value)] if value else out
