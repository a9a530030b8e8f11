"""What /proc and /sys of the host say, without a look at anything a target could stall."""

from __future__ import annotations

import os
import stat
from typing import Final

_TYPES: Final = {"c": ("char", stat.S_IFCHR), "b": ("block", stat.S_IFBLK)}


def file_name(task: int, fd: int) -> bytes | None:
    """The last component of what the caller's descriptor `fd` is open on; None if it is unknown.

    `task` is an O_PATH descriptor of /proc/TID. Reads the kernel's own memory alone.
    """
    try:
        path = os.readlink(f"fd/{fd}".encode(), dir_fd=task)
    except OSError:
        return None
    return path.removesuffix(b" (deleted)").rpartition(b"/")[2]


def _is_device(path: str, kind: int, device: int) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_IFMT(found.st_mode) == kind and found.st_rdev == device


def host_node(kind: str, major: int, minor: int) -> str | None:
    """The host's own node of a device ("c" or "b"), below /dev; None where there is none."""
    directory, type_ = _TYPES[kind]
    device = os.makedev(major, minor)
    try:
        with open(f"/sys/dev/{directory}/{major}:{minor}/uevent", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("DEVNAME="):
                    path = "/dev/" + line.removeprefix("DEVNAME=").strip()
                    if ".." not in path and _is_device(path, type_, device):
                        return path
    except (OSError, UnicodeDecodeError):
        pass  # no sysfs, or a device without a name there: look at the nodes themselves
    try:
        with os.scandir("/dev") as entries:
            for entry in entries:
                if _is_device(entry.path, type_, device):
                    return entry.path
    except OSError:
        pass
    return None
