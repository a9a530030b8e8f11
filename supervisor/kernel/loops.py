"""The ioctls of loop devices, and their structures, as <linux/loop.h> has them."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

SET_FD: Final = 0x4C00
CLR_FD: Final = 0x4C01
SET_STATUS64: Final = 0x4C04
GET_STATUS64: Final = 0x4C05
SET_CAPACITY: Final = 0x4C07
CONFIGURE: Final = 0x4C0A
CTL_ADD: Final = 0x4C80
CTL_REMOVE: Final = 0x4C81
CTL_GET_FREE: Final = 0x4C82
# All of them, and nobody else's.
COMMANDS: Final = 0x4C00
COMMANDS_MASK: Final = 0xFFFFFF00

MAJOR: Final = 7
AUTOCLEAR: Final = 4

_HEAD: Final = struct.Struct("=II")
_INFO: Final = struct.Struct("=QQQQQIIII64s64s32s16s")
_VALUE: Final = struct.Struct("=Q")


class Config(NamedTuple):
    """A struct loop_config: the descriptor of the image, and how it is attached."""

    image: int
    block_size: int
    info: bytes


def config_of(data: bytes) -> Config:
    """What LOOP_CONFIGURE takes."""
    image, block_size = _HEAD.unpack_from(data)
    return Config(signed(image), block_size, data[_HEAD.size : _HEAD.size + _INFO.size])


def value_of(data: bytes) -> int:
    """What a command takes that has no structure."""
    return int(_VALUE.unpack(data)[0])


def signed(value: int) -> int:
    """The int in the low 32 bits."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def flags_of(info: bytes) -> int:
    """The flags of a struct loop_info64."""
    return int(_INFO.unpack(info)[8])


def name_of(info: bytes) -> bytes:
    """What a struct loop_info64 calls the image."""
    return bytes(_INFO.unpack(info)[9])


def shown(info: bytes, name: bytes, *, autoclear: bool) -> bytes:
    """A struct loop_info64 with another name and that flag."""
    fields = list(_INFO.unpack(info))
    fields[8] = fields[8] & ~AUTOCLEAR | (AUTOCLEAR if autoclear else 0)
    fields[9] = name
    return _INFO.pack(*fields)


EMPTY: Final = bytes(_INFO.size)
