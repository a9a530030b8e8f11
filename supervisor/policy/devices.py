"""Names and numbers of devices, as a policy writes them.

The numbers are those of the kernel's Documentation/admin-guide/devices.txt. Devices with a number
of their own on each boot (most of /dev today) have no name here: a policy gives their numbers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from supervisor.kernel.device_numbers import MAJOR_MAX, MINOR_MAX
from supervisor.policy.match import NodeRange, node_matches

# name: (type, major, minor)
NAMES: Final[Mapping[str, tuple[str, int, int]]] = {
    "mem": ("c", 1, 1),
    "kmem": ("c", 1, 2),
    "null": ("c", 1, 3),
    "port": ("c", 1, 4),
    "zero": ("c", 1, 5),
    "full": ("c", 1, 7),
    "random": ("c", 1, 8),
    "urandom": ("c", 1, 9),
    "kmsg": ("c", 1, 11),
    "tty": ("c", 5, 0),
    "console": ("c", 5, 1),
    "ptmx": ("c", 5, 2),
    "hwrng": ("c", 10, 183),
    "net/tun": ("c", 10, 200),
    "tun": ("c", 10, 200),
    "fuse": ("c", 10, 229),
    "kvm": ("c", 10, 232),
    "btrfs-control": ("c", 10, 234),
    "loop-control": ("c", 10, 237),
    "vhost-net": ("c", 10, 238),
}

# A name with a number behind it: (type, major, minor of number 0, how many).
SERIES: Final[Mapping[str, tuple[str, int, int, int]]] = {
    "ram": ("b", 1, 0, 16),
    "loop": ("b", 7, 0, MINOR_MAX + 1),
    "nbd": ("b", 43, 0, MINOR_MAX + 1),
    "tty": ("c", 4, 0, 64),
    "ttyS": ("c", 4, 64, 192),
    "hvc": ("c", 229, 0, 64),
}

_EVERY_MINOR: Final = (0, MINOR_MAX)
# What is the host's own, and never learned: (range, what a container would get with it).
PROTECTED: Final[Sequence[tuple[NodeRange, str]]] = (
    (("b", 0, MAJOR_MAX, *_EVERY_MINOR), "the host's block devices"),
    (("c", 1, 1, 1, 2), "the host's memory"),
    (("c", 1, 1, 4, 4), "the host's I/O ports"),
    (("c", 1, 1, 11, 11), "the host's kernel log"),
    (("c", 4, 4, 0, 63), "the host's virtual consoles"),
    (("c", 5, 5, 1, 1), "the host's console"),
    (("c", 10, 10, 144, 144), "the host's firmware memory"),
    (("c", 10, 10, 196, 196), "the host's devices, through VFIO"),
    (("c", 10, 10, 231, 231), "the host's memory, through suspend to disk"),
    (("c", 10, 10, 234, 237), "control of the host's disks and mounts"),
    (("c", 13, 13, *_EVERY_MINOR), "the host's keyboards and mice"),
    (("c", 21, 21, *_EVERY_MINOR), "the host's disks, through SCSI"),
    (("c", 90, 90, *_EVERY_MINOR), "the host's flash memory"),
    (("c", 202, 202, *_EVERY_MINOR), "the host's processor registers"),
)


def protected(kind: str, major: int, minor: int) -> str:
    """What of the host's a container would get with a device; "" for one that is not protected."""
    return next(
        (what for nodes, what in PROTECTED if node_matches(nodes, kind, major, minor)), ""
    )


_NUMBERS = re.compile(r"(char|block) +([0-9*-]+):([0-9*-]+)")
_SERIES = re.compile(r"([A-Za-z]+)(\*|[0-9]{1,7})(?:-([0-9]{1,7}))?")


class DeviceError(ValueError):
    """Not a device; the text says why, and what may have been meant."""


@lru_cache(maxsize=4096)
def parse_device(text: str) -> NodeRange:
    """The devices that one entry of a policy stands for. Raises DeviceError."""
    known = NAMES.get(text)
    if known is not None:
        kind, major, minor = known
        return kind, major, major, minor, minor
    found = _NUMBERS.fullmatch(text)
    if found:
        low, high = _range(found[2], MAJOR_MAX, "major")
        first, last = _range(found[3], MINOR_MAX, "minor")
        return found[1][0], low, high, first, last
    found = _SERIES.fullmatch(text)
    if found and found[1] in SERIES:
        kind, major, base, count = SERIES[found[1]]
        if found[2] == "*":
            if found[3]:
                raise DeviceError(f"{text!r} has both a star and a range")
            return kind, major, major, base, base + count - 1
        start, end = int(found[2]), int(found[3] or found[2])
        if not start <= end < count:
            raise DeviceError(f"{found[1]} has the numbers 0 to {count - 1}")
        return kind, major, major, base + start, base + end
    if re.match(r"(char|block|c|b)\b", text):
        raise DeviceError(
            f'cannot read {text!r}: numbers are written "char 10:229", "block 7:0-7", "char 5:*"'
        )
    near = difflib.get_close_matches(text.removeprefix("/dev/"), [*NAMES, *SERIES], 1, 0.6)
    raise DeviceError(
        f"unknown device {text!r}"
        + (f": did you mean {near[0]}?" if near else ': give its number, as "char 10:229"')
    )


def device_text(nodes: NodeRange) -> str:
    """A range as a policy writes it."""
    kind, low, high, first, last = nodes
    for name, known in NAMES.items():
        if (kind, low, high, first, last) == (known[0], known[1], known[1], known[2], known[2]):
            return name
    majors = _range_text(low, high, MAJOR_MAX)
    return f"{'char' if kind == 'c' else 'block'} {majors}:{_range_text(first, last, MINOR_MAX)}"


def _range(text: str, most: int, what: str) -> tuple[int, int]:
    if text == "*":
        return 0, most
    found = re.fullmatch(r"([0-9]{1,7})(?:-([0-9]{1,7}))?", text)
    if found is None:
        raise DeviceError(f"{text!r} is no {what} number: write N, N-M or *")
    low, high = int(found[1]), int(found[2] or found[1])
    if low > high:
        raise DeviceError(f"the range {text} is empty")
    if high > most:
        raise DeviceError(f"a {what} number is at most {most}")
    return low, high


def _range_text(low: int, high: int, most: int) -> str:
    if (low, high) == (0, most):
        return "*"
    return str(low) if low == high else f"{low}-{high}"
