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
    "tun": ("c", 10, 200),
    "net/tun": ("c", 10, 200),
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
_ANEW: Final = "whatever the host gives this number to, which differs from boot to boot"
_LOCAL: Final = "whatever the host's admin gives this number to"
# Character devices that serve whoever opens them, each opening for itself. Beside them are graphics
# cards for computing (195, and the render nodes of 226) and verbs of InfiniBand (231).
SERVING: Final[Sequence[NodeRange]] = (
    ("c", 0, 0, *_EVERY_MINOR),  # no device: whiteouts
    ("c", 1, 1, 3, 3), ("c", 1, 1, 5, 5), ("c", 1, 1, 7, 9),  # null, zero, full, random, urandom
    ("c", 5, 5, 0, 0), ("c", 5, 5, 2, 2),  # tty, ptmx
    ("c", 10, 10, 183, 183),  # hwrng
    ("c", 10, 10, 200, 200), ("c", 10, 10, 229, 229), ("c", 10, 10, 232, 232),  # tun, fuse, kvm
    ("c", 10, 10, 238, 238), ("c", 10, 10, 241, 241),  # vhost-net, vhost-vsock
    ("c", 108, 108, 0, 0),  # ppp
    ("c", 136, 143, *_EVERY_MINOR),  # pseudo terminals, which devpts alone opens
    ("c", 195, 195, *_EVERY_MINOR),
    ("c", 203, 203, *_EVERY_MINOR),  # cpuid
    ("c", 226, 226, 128, MINOR_MAX),
    ("c", 231, 231, 128, 159),
)  # fmt: skip
# What is the host's own, and never learned: (range, what a container would get with it). All other
# character devices that are not SERVING are so as well: HARDWARE.
HARDWARE: Final = "hardware of the host's"
PROTECTED: Final[Sequence[tuple[NodeRange, str]]] = (
    (("b", 0, MAJOR_MAX, *_EVERY_MINOR), "the host's block devices"),
    (("c", 1, 1, 1, 2), "the host's memory"),
    (("c", 1, 1, 4, 4), "the host's I/O ports"),
    (("c", 1, 1, 6, 6), "the host's memory, as a core file"),
    (("c", 1, 1, 11, 11), "the host's kernel log"),
    (("c", 1, 1, 12, 12), "the host's memory before a crash"),
    (("c", 2, 3, *_EVERY_MINOR), "the host's pseudo terminals"),
    (("c", 4, 4, 0, 63), "the host's virtual consoles"),
    (("c", 4, 4, 64, MINOR_MAX), "the host's serial lines"),
    (("c", 5, 5, 1, 1), "the host's console"),
    (("c", 5, 5, 3, 3), "the host's kernel log"),
    (("c", 5, 5, 64, MINOR_MAX), "the host's serial lines"),
    (("c", 6, 6, *_EVERY_MINOR), "the host's printers"),
    (("c", 7, 7, *_EVERY_MINOR), "the screens of the host's virtual consoles"),
    (("c", 9, 9, *_EVERY_MINOR), "the host's tapes"),
    (("c", 10, 10, 0, 127), "the host's mice, and others at each boot"),
    (("c", 10, 10, 128, 182), "the host's mainboard: watchdog, clock, firmware memory, AGP"),
    (("c", 10, 10, 184, 195), "the host's mainboard: microcode, SMBus, crash dumps"),
    (("c", 10, 10, 196, 196), "the host's devices, through VFIO"),
    (("c", 10, 10, 203, 203), "new devices of the host, through CUSE"),
    (("c", 10, 10, 208, 213), "the host's mainboard: hot plugging, management, watchdogs"),
    (("c", 10, 10, 219, 222), "the host's disks, through their controllers"),
    (("c", 10, 10, 223, 223), "the host's keyboards and mice, through uinput"),
    (("c", 10, 10, 224, 224), "the host's TPM"),
    (("c", 10, 10, 225, 225), "the host's clock, through PPS"),
    (("c", 10, 10, 227, 228), "the host's mainboard: machine checks, clock"),
    (("c", 10, 10, 231, 231), "the host's memory, through suspend to disk"),
    (("c", 10, 10, 234, 237), "control of the host's disks and mounts"),
    (("c", 10, 10, 239, 240), "the host's keyboards and mice, through uhid and userio"),
    (("c", 10, 10, 242, 242), "the host's radios"),
    (("c", 10, 10, 249, 249), "the host's disks, through ZFS"),
    (("c", 10, 10, 243, 254), _LOCAL),
    (("c", 10, 10, 255, MINOR_MAX), _ANEW),
    (("c", 12, 12, *_EVERY_MINOR), "the host's tapes"),
    (("c", 13, 13, *_EVERY_MINOR), "the host's keyboards and mice"),
    (("c", 14, 14, *_EVERY_MINOR), "the host's sound"),
    (("c", 15, 15, *_EVERY_MINOR), "the host's joysticks"),
    (("c", 17, 20, *_EVERY_MINOR), "the host's serial lines"),
    (("c", 21, 21, *_EVERY_MINOR), "the host's disks, through SCSI"),
    (("c", 22, 25, *_EVERY_MINOR), "the host's serial lines"),
    (("c", 27, 27, *_EVERY_MINOR), "the host's tapes"),
    (("c", 29, 29, *_EVERY_MINOR), "the host's screens"),
    (("c", 31, 31, *_EVERY_MINOR), "the host's sound"),
    (("c", 32, 33, *_EVERY_MINOR), "the host's serial lines"),
    (("c", 35, 35, *_EVERY_MINOR), "the host's sound"),
    (("c", 36, 36, *_EVERY_MINOR), "the host's routes and packets"),
    (("c", 37, 37, *_EVERY_MINOR), "the host's tapes"),
    (("c", 60, 63, *_EVERY_MINOR), _LOCAL),
    (("c", 81, 81, *_EVERY_MINOR), "the host's cameras and tuners"),
    (("c", 86, 86, *_EVERY_MINOR), "the host's tape changers"),
    (("c", 89, 89, *_EVERY_MINOR), "the host's mainboard, through I2C"),
    (("c", 90, 90, *_EVERY_MINOR), "the host's flash memory"),
    (("c", 95, 95, *_EVERY_MINOR), "the host's firewall"),
    (("c", 97, 97, *_EVERY_MINOR), "the host's disks, through a parallel port"),
    (("c", 99, 99, *_EVERY_MINOR), "the host's parallel ports"),
    (("c", 104, 104, *_EVERY_MINOR), "the host's firmware"),
    (("c", 116, 116, *_EVERY_MINOR), "the host's sound"),
    (("c", 119, 119, *_EVERY_MINOR), "the host's virtual networks"),
    (("c", 120, 127, *_EVERY_MINOR), _LOCAL),
    (("c", 151, 152, *_EVERY_MINOR), "the host's disks, through their controllers"),
    (("c", 153, 153, *_EVERY_MINOR), "the host's mainboard, through SPI"),
    (("c", 162, 162, *_EVERY_MINOR), "the host's disks, as raw devices"),
    (("c", 166, 167, *_EVERY_MINOR), "the host's USB"),
    (("c", 171, 171, *_EVERY_MINOR), "the host's memory, through FireWire"),
    (("c", 180, 181, *_EVERY_MINOR), "the host's USB"),
    (("c", 188, 189, *_EVERY_MINOR), "the host's USB"),
    (("c", 192, 193, *_EVERY_MINOR), "what the host's kernel does, through its tracing"),
    (("c", 199, 201, *_EVERY_MINOR), "the host's disks, through VxVM"),
    (("c", 202, 202, *_EVERY_MINOR), "the host's processor registers"),
    (("c", 204, 205, *_EVERY_MINOR), "the host's serial lines"),
    (("c", 206, 206, *_EVERY_MINOR), "the host's tapes"),
    (("c", 207, 207, *_EVERY_MINOR), "the host's mainboard"),
    (("c", 212, 212, *_EVERY_MINOR), "the host's cameras and tuners"),
    (("c", 216, 217, *_EVERY_MINOR), "the host's Bluetooth"),
    (("c", 221, 221, *_EVERY_MINOR), "the host's mainboard, through VME"),
    (("c", 226, 226, 0, 127), "the host's screens, through its graphics cards"),
    (("c", 229, 229, *_EVERY_MINOR), "the host's console, through its hypervisor"),
    (("c", 230, 230, *_EVERY_MINOR), "the host's tapes"),
    (("c", 231, 231, 0, 127), "the host's networks, through InfiniBand"),
    (("c", 232, 232, *_EVERY_MINOR), "the host's fingerprint readers"),
    (("c", 234, 254, *_EVERY_MINOR), _ANEW),
    (("c", 259, 259, *_EVERY_MINOR), "the host's FPGAs"),
    (("c", 260, 260, *_EVERY_MINOR), "the host's disks, through SCSI"),
    (("c", 384, 511, *_EVERY_MINOR), _ANEW),
)  # fmt: skip


def protected(kind: str, major: int, minor: int) -> str:
    """What of the host's a container would get with a device; "" for one that is not protected."""
    serves = any(node_matches(nodes, kind, major, minor) for nodes in SERVING)
    return next(
        (what for nodes, what in PROTECTED if node_matches(nodes, kind, major, minor)),
        "" if serves else HARDWARE,
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
