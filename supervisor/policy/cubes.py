"""Sets of device numbers as the filter can test them: (dev & mask) == value.

A set is a list of cubes. The filter's rules must not overlap where their actions differ, so that
cubes are subtracted from each other here.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from supervisor.kernel.device_numbers import join_device
from supervisor.policy.match import NodeRange

_ALL: Final = 0xFFFFFFFF
S_IFMT: Final = 0o170000
FILE_TYPES: Final = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}


class Cube(NamedTuple):
    """Devices of one type ("c", "b") with (dev & mask) == value, dev as mknod(2) takes it; or
    options of sockets (""), which have their level 32 bits above them.
    """

    kind: str
    mask: int
    value: int


WHITEOUT: Final = Cube("c", _ALL, 0)

# The bits of `dev`, those of the major number first: what is cut out of a set is mostly the
# devices of one major number, and should fall into one cube.
_BITS: Final = (*range(19, 7, -1), *range(31, 19, -1), *range(7, -1, -1))
# Those of an option of a socket, with its level above it.
_LONG_BITS: Final = (*range(63, 31, -1), *_BITS)

# Every device but the whiteout, which the kernel allows to anybody: "some bit is set" is one cube
# for each bit that may be the first.
UNIVERSE: Final = (
    *(
        Cube("c", sum(1 << bit for bit in _BITS[: number + 1]), 1 << _BITS[number])
        for number in range(32)
    ),
    Cube("b", 0, 0),
)


def _blocks(low: int, high: int, bits: int) -> Iterable[tuple[int, int]]:
    """low..high as (mask, value) pairs over `bits` bits."""
    full = (1 << bits) - 1
    while low <= high:
        size = (low & -low) if low else 1 << bits
        while low + size - 1 > high:
            size >>= 1
        yield full & ~(size - 1), low
        low += size


def cubes(nodes: Sequence[NodeRange] | None) -> list[Cube]:
    """The devices of a rule, without the whiteout; None is every device."""
    if nodes is None:
        return list(UNIVERSE)
    out: list[Cube] = []
    for kind, low, high, first, last in nodes:
        found = [
            Cube(kind, join_device(major_mask, minor_mask), join_device(major, minor))
            for major_mask, major in _blocks(low, high, 12)
            for minor_mask, minor in _blocks(first, last, 20)
        ]
        out += subtract(found, [WHITEOUT]) if kind == "c" and low == first == 0 else found
    return out


def overlap(one: Cube, other: Cube) -> bool:
    """Whether some device is in both."""
    return one.kind == other.kind and not (one.mask & other.mask & (one.value ^ other.value))


def common(those: Iterable[Cube], these: Sequence[Cube]) -> list[Cube]:
    """The devices in both."""
    return [
        Cube(one.kind, one.mask | other.mask, one.value | other.value)
        for one in those
        for other in these
        if overlap(one, other)
    ]


def subtract(those: Iterable[Cube], these: Iterable[Cube]) -> list[Cube]:
    """The devices in `those` and not in `these`, as cubes that do not overlap if `those` do not."""
    out = list(those)
    for hole in these:
        rest: list[Cube] = []
        for cube in out:
            if overlap(cube, hole):
                rest += _split(cube, hole)
            else:
                rest.append(cube)
        out = rest
    return out


def _split(cube: Cube, hole: Cube) -> Iterable[Cube]:
    mask, value = cube.mask, cube.value
    for number in _BITS if hole.mask <= _ALL else _LONG_BITS:
        bit = 1 << number
        if not hole.mask & ~cube.mask & bit:
            continue
        mask |= bit
        # What differs from the hole in this bit is kept; the rest goes on to the next bit.
        yield Cube(cube.kind, mask, value | (~hole.value & bit))
        value |= hole.value & bit


def disjoint(those: Iterable[Cube]) -> list[Cube]:
    """The same devices without overlaps."""
    out: list[Cube] = []
    for cube in those:
        out += subtract([cube], out)
    return out
