"""What /proc and /sys of the host say, without a look at anything a target could stall."""

from __future__ import annotations

import os
import stat
from collections import Counter
from typing import Final

from supervisor.kernel.shim import ffi, lib

_LOOP_MAJOR: Final = 7
_MOST_LOOKED_AT: Final = 64
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


def block_device_name(major: int, minor: int) -> bytes:
    """The kernel's own name of a block device, with /dev; b"" where it has none.

    No container can choose it, as it can the name of a node.
    """
    name = ffi.new("char[]", lib.SD_DEVICE_NAME_MAX)
    length = lib.sd_device_name(major, minor, name)
    return b"/dev/" + ffi.buffer(name, length)[:] if length > 0 else b""


def loop_is_bound(major: int, minor: int) -> bool:
    """Whether that is a loop device with a file behind it."""
    return major == _LOOP_MAJOR and os.path.exists(f"/sys/dev/block/7:{minor}/loop/backing_file")


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def _family(pid: int) -> list[int]:
    """A process and those below it, of many the first ones."""
    found = [pid]
    for one in found:
        try:
            for tid in os.listdir(f"/proc/{one}/task")[:_MOST_LOOKED_AT]:
                found += map(int, _read(f"/proc/{one}/task/{tid}/children").split())
        except OSError:
            if one == pid and os.path.exists(f"/proc/{pid}/task"):
                raise  # a kernel without CONFIG_PROC_CHILDREN
        if len(found) > _MOST_LOOKED_AT:
            break
    return found[:_MOST_LOOKED_AT]


def work_of(pid: int) -> str | None:
    """What a process and those below it have read and written so far, as text to be compared; where
    the kernel does not count that, how long they have run. None: one waits for a disk right now, or
    it cannot be told.
    """
    found = []
    try:
        for one in _family(pid):
            try:
                state, *fields = _read(f"/proc/{one}/stat").rpartition(") ")[2].split()
            except OSError:
                continue  # it has gone
            if state == "D":
                return None
            try:
                found.append(_read(f"/proc/{one}/io"))
            except OSError:
                found.append(" ".join(fields[10:12]))  # utime and stime
    except OSError:
        return None
    return "\n".join(found)


def mounted_devices(task: int) -> Counter[tuple[int, int]]:
    """The filesystems that a task's mount namespace shows, and how often; `task` is as above."""
    found: Counter[tuple[int, int]] = Counter()
    try:
        fd = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=task)
        with open(fd, "rb") as lines:
            for line in lines:
                major, _, minor = line.split(b" ", 3)[2].partition(b":")
                found[int(major), int(minor)] += 1
    except OSError:
        pass  # it has gone
    return found
