"""The one table of system calls: names, numbers, architectures, and what an argument is.

Numbers are the kernel's user API and never change; a test holds them against libseccomp and against
the system's headers. A call that an architecture does not have is left out of its column.
Audit architecture values are those of <linux/audit.h>.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

X86_64: Final = 0xC000003E
I386: Final = 0x40000003
AARCH64: Final = 0xC00000B7

ARCH_NAMES: Final[Mapping[int, str]] = {X86_64: "x86_64", I386: "i386", AARCH64: "aarch64"}

# Whether a register of the architecture is 64 bits wide.
WIDE: Final[Mapping[int, bool]] = {X86_64: True, I386: False, AARCH64: True}

# The architectures that one x86_64 kernel serves; x32 is refused by the filter.
NATIVE_ARCHES: Final = (X86_64, I386)

# Set in `nr` by an x32 caller, whose audit architecture is that of x86_64.
X32_BIT: Final = 0x40000000

AT_FDCWD: Final = -100


class Kind(StrEnum):
    """What a parameter is; it fixes how many low bits of the register count, and the sign."""

    INT = "int"
    FD = "fd"
    FLAGS = "flags"
    MODE = "mode"
    DEV = "dev"
    PATH = "path"
    TEXT = "text"
    DATA = "data"
    OPEN_FLAGS = "open_flags"
    HOW = "how"
    LOOP = "loop"
    MOUNT_FLAGS = "mount_flags"
    POINTER = "pointer"
    ID = "id"
    SIZE = "size"
    LEVEL = "level"
    OPTION = "option"
    VALUE = "value"
    ROOM = "room"
    NAME = "name"
    XATTR = "xattr"
    BUFFER = "buffer"
    ADDRESS = "address"
    DESTINATION = "destination"
    MESSAGE = "message"
    MESSAGES = "messages"

    @property
    def bits(self) -> int:
        """How many low bits of the register the kernel looks at; 0: as wide as a register."""
        if self is Kind.MODE:
            return 16
        if self.is_string or self in (
            Kind.POINTER, Kind.SIZE, Kind.MOUNT_FLAGS, Kind.BUFFER,
        ):  # fmt: skip
            return 0
        return 32

    @property
    def is_string(self) -> bool:
        """Whether it points to something that is read and decided on: a string, an address,
        struct open_how (HOW), what an ioctl of a loop device takes (LOOP), the value of a socket's
        option (VALUE), how much may be told of one (ROOM), the name of an extended attribute (NAME)
        or its value, of which the beginning is decided on (XATTR).

        All but PATH, NAME and ADDRESS may be NULL, or a message without an address, which is 0.
        Of VALUE it is as much as could be read, and no more than SD_VALUE_MAX bytes.
        """
        texts = (Kind.PATH, Kind.TEXT, Kind.DATA, Kind.NAME)
        return self.is_struct or self in texts or self.is_address

    @property
    def is_struct(self) -> bool:
        """Whether that is bytes, and no text."""
        return self in (Kind.HOW, Kind.LOOP, Kind.VALUE, Kind.ROOM, Kind.XATTR)

    @property
    def is_address(self) -> bool:
        """Whether that is the address of a socket (of the message, the first of the messages)."""
        return self in (Kind.ADDRESS, Kind.DESTINATION, Kind.MESSAGE, Kind.MESSAGES)

    @property
    def signed(self) -> bool:
        """Whether the kernel's type is signed."""
        return self in (Kind.INT, Kind.FD, Kind.LEVEL, Kind.OPTION)


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a system call, named as its manual page names it."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One system call of a family: how its registers are to be read."""

    family: str
    name: str
    params: tuple[Param, ...]
    names: tuple[str, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(param.name for param in self.params))

    def index(self, name: str) -> int | None:
        """The position of the parameter `name`, None where the call has none of that name."""
        for position, param in enumerate(self.params):
            if param.name == name:
                return position
        return None


@dataclass(frozen=True, slots=True)
class Condition:
    """(args[arg] & mask) == value, on the low 32 bits of the register."""

    arg: int
    mask: int
    value: int


# A conjunction of conditions; () always holds.
Match = tuple[Condition, ...]


def cut(value: int, kind: Kind, *, wide: bool = True) -> int:
    """The register `value` as the kernel takes it: its low bits, with the sign of its type."""
    bits = kind.bits or (64 if wide else 32)
    value &= (1 << bits) - 1
    if kind.signed and value >> (bits - 1):
        value -= 1 << bits
    return value


# name: (x86_64, i386, aarch64); None where the architecture lacks the call.
_TABLE: Final[Mapping[str, tuple[int | None, int | None, int | None]]] = {
    "mknod": (133, 14, None),
    "mknodat": (259, 297, 33),
    "mkdir": (83, 39, None),
    "mkdirat": (258, 296, 34),
    "unlink": (87, 10, None),
    "unlinkat": (263, 301, 35),
    "rename": (82, 38, None),
    "renameat": (264, 302, 38),
    "renameat2": (316, 353, 276),
    "link": (86, 9, None),
    "linkat": (265, 303, 37),
    "umount2": (166, 52, 39),
    "umount": (None, 22, None),
    "chmod": (90, 15, None),
    "fchmod": (91, 94, 52),
    "fchmodat": (268, 306, 53),
    "fchmodat2": (452, 452, 452),
    "chown": (92, 182, None),
    "lchown": (94, 16, None),
    "fchown": (93, 95, 55),
    "fchownat": (260, 298, 54),
    "chown32": (None, 212, None),
    "lchown32": (None, 198, None),
    "fchown32": (None, 207, None),
    "utime": (132, 30, None),
    "utimes": (235, 271, None),
    "futimesat": (261, 299, None),
    "utimensat": (280, 320, 88),
    "utimensat_time64": (None, 412, None),
    "setxattr": (188, 226, 5),
    "lsetxattr": (189, 227, 6),
    "fsetxattr": (190, 228, 7),
    "removexattr": (197, 235, 14),
    "lremovexattr": (198, 236, 15),
    "fremovexattr": (199, 237, 16),
    "setxattrat": (463, 463, 463),
    "removexattrat": (466, 466, 466),
    "mount": (165, 21, 40),
    "seccomp": (317, 354, 277),
    "ioctl": (16, 54, 29),
    "io_uring_setup": (425, 425, 425),
    "open": (2, 5, None),
    "creat": (85, 8, None),
    "openat": (257, 295, 56),
    "openat2": (437, 437, 437),
    "fsopen": (430, 430, 430),
    "fspick": (433, 433, 433),
    "connect": (42, 362, 203),
    "bind": (49, 361, 200),
    "listen": (50, 363, 201),
    "accept": (43, None, 202),
    "accept4": (288, 364, 242),
    "sendto": (44, 369, 206),
    "sendmsg": (46, 370, 211),
    "sendmmsg": (307, 345, 269),
    "getsockname": (51, 367, 204),
    "getpeername": (52, 368, 205),
    "setsockopt": (54, 366, 208),
    "getsockopt": (55, 365, 209),
    "socketcall": (None, 102, None),
    "socket": (41, 359, 198),
}

# <linux/net.h>: what socketcall(2) of i386 calls them.
SOCKETCALLS: Final[Mapping[str, int]] = {
    "socket": 1,
    "bind": 2,
    "connect": 3,
    "listen": 4,
    "accept": 5,
    "getsockname": 6,
    "getpeername": 7,
    "sendto": 11,
    "setsockopt": 14,
    "getsockopt": 15,
    "sendmsg": 16,
    "accept4": 18,
    "sendmmsg": 20,
}
# A call by way of socketcall has its number here above that one, as in csrc/messages.c.
_UNWRAPPED: Final = 16

_COLUMN: Final[Mapping[int, int]] = {X86_64: 0, I386: 1, AARCH64: 2}


def names() -> tuple[str, ...]:
    """Every system call in the table."""
    return tuple(_TABLE)


def number(name: str, arch: int) -> int | None:
    """The number of `name` on `arch`, None where that architecture lacks it.

    KeyError for a name or an architecture that is not in the table: a mistake in this program.
    """
    return _TABLE[name][_COLUMN[arch]]


def is_wrapped(nr: int) -> bool:
    """Whether a call came by way of socketcall: what it passes lies in memory."""
    return 0 <= nr < X32_BIT and nr >> _UNWRAPPED != 0


def numbers(name: str, arch: int) -> tuple[int, ...]:
    """Every number that `name` is known by on `arch`: also that of a call by way of socketcall."""
    found = [nr] if (nr := number(name, arch)) is not None else []
    wrapper = number("socketcall", arch)
    if wrapper is not None and name in SOCKETCALLS:
        found.append(SOCKETCALLS[name] << _UNWRAPPED | wrapper)
    return tuple(found)


def known(nr: int, arch: int) -> bool:
    """Whether the number is that of a call in the table."""
    return any(nr in numbers(name, arch) for name in _TABLE)


def as_filtered(nr: int, args: Sequence[int]) -> tuple[int, Sequence[int]]:
    """The number and the registers of a call as a filter sees them."""
    which = nr & ~X32_BIT
    if nr == which and which >> _UNWRAPPED:
        return which & ((1 << _UNWRAPPED) - 1), (which >> _UNWRAPPED,)
    return nr, args


def arch_name(arch: int) -> str:
    """The kernel's name of an audit architecture, or its value in hexadecimal."""
    return ARCH_NAMES.get(arch) or f"{arch:#x}"
