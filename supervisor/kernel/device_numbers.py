"""The 32-bit number of a device, as mknod(2) takes it: 12 bits of major between two parts of the
minor's 20 (new_encode_dev and new_decode_dev in the kernel).
"""

from __future__ import annotations

from typing import Final

MAJOR_MAX: Final = 0xFFF
MINOR_MAX: Final = 0xFFFFF


def join_device(major: int, minor: int) -> int:
    """The number of a device. ValueError where there is no such device."""
    if not 0 <= major <= MAJOR_MAX or not 0 <= minor <= MINOR_MAX:
        raise ValueError(f"no device {major}:{minor}: up to {MAJOR_MAX}:{MINOR_MAX} there are")
    return (minor & 0xFF) | major << 8 | (minor & 0xFFF00) << 12


def split_device(dev: int) -> tuple[int, int]:
    """(major, minor) of such a number."""
    return (dev >> 8) & 0xFFF, (dev & 0xFF) | (dev >> 12) & 0xFFF00
