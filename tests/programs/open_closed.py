"""Tries to open a node that nobody can open, as the container's root and in every way it has.

    open_closed.py NAME MAJOR:MINOR

NAME is a character device zero (or a block device) in the working directory. Prints one line for
each way, "refused WAY" or "OPENED WAY", and leaves NAME as it was.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
OPEN_TREE, MOVE_MOUNT, OPENAT2, NAME_TO_HANDLE, OPEN_BY_HANDLE = 428, 429, 437, 303, 304
AT_FDCWD, AT_EMPTY_PATH, CLONE = -100, 0x1000, 1
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 32, 4096, 8192, 16384
MS_NOSYMFOLLOW = 256  # by which seccompd knows its nodes again
REMOUNT = MS_REMOUNT | MS_BIND | MS_NOSYMFOLLOW
NAME, NUMBER = sys.argv[1], sys.argv[2]
FLAGS = (
    os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK, os.O_RDWR | os.O_CREAT,
    os.O_WRONLY | os.O_TRUNC, 3,
)  # fmt: skip


def device(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def opens(path: str) -> bool:
    """Whether any open of `path` gives a device."""
    found = False
    for flags in FLAGS:
        try:
            fd = os.open(path, flags, 0o600)
        except OSError:
            continue
        found |= device(fd)
        os.close(fd)
    return found


def system(number: int, *args: object) -> int:
    result: int = LIBC.syscall(
        ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    )
    return result


def mount(source: str, target: str, flags: int) -> bool:
    return not LIBC.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None)


def umount(target: str) -> None:
    LIBC.umount2(target.encode(), 2)


def plainly() -> bool:
    return opens(NAME)


def with_everything_allowed() -> bool:
    os.chmod(NAME, 0o666)
    os.chown(NAME, 0, 0)
    return opens(NAME)


def as_another() -> bool:
    os.chmod(NAME, 0o666)
    code = f"import os; os.setgroups([]); os.setresuid(5, 5, 5); os.open({NAME!r}, os.O_RDONLY)"
    return not subprocess.run([sys.executable, "-c", code], capture_output=True).returncode


def by_descriptor() -> bool:
    fd = os.open(NAME, os.O_PATH)
    try:
        return opens(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def remounted() -> bool:
    here = os.path.abspath(NAME)
    mount("none", here, REMOUNT)
    for parent in ("/", os.getcwd()):
        mount("none", parent, MS_REMOUNT | MS_BIND)
    return opens(NAME)


def bound_elsewhere() -> bool:
    with open("other", "w"):
        pass
    found = False
    for flags in (MS_BIND, MS_BIND | MS_REC):
        if mount(NAME, "other", flags):
            mount("none", os.path.abspath("other"), REMOUNT)
            found |= opens("other")
            umount("other")
    os.unlink("other")
    return found


def moved_by_mount() -> bool:
    with open("other", "w"):
        pass
    found = False
    if mount(NAME, "other", MS_MOVE):
        found = opens("other")
        mount("other", NAME, MS_MOVE)
    os.unlink("other")
    return found


def detached() -> bool:
    tree = system(OPEN_TREE, AT_FDCWD, ctypes.c_char_p(NAME.encode()), CLONE)
    if tree < 0:
        return False
    found = opens(f"/proc/self/fd/{tree}")
    with open("other", "w"):
        pass
    if not system(MOVE_MOUNT, tree, ctypes.c_char_p(b""), AT_FDCWD, ctypes.c_char_p(b"other"), 4):
        found |= opens("other")
        umount("other")
    os.close(tree)
    os.unlink("other")
    return found


def renamed() -> bool:
    os.rename(NAME, "other")
    try:
        return opens("other")
    finally:
        os.rename("other", NAME)


def linked() -> bool:
    os.link(NAME, "other")
    try:
        return opens("other")
    finally:
        os.unlink("other")


def through_a_symlink() -> bool:
    os.symlink(NAME, "other")
    try:
        return opens("other")
    finally:
        os.unlink("other")


def copied() -> bool:
    subprocess.run(["cp", "-a", NAME, "other"], check=True)
    try:
        return opens("other")
    finally:
        os.unlink("other")


def moved_to_another_file_system() -> bool:
    found = False
    for place in ("/mnt", "/var/tmp", "/dev/shm"):
        if os.stat(place).st_dev == os.stat(".").st_dev or not os.access(place, os.W_OK):
            continue
        there = f"{place}/open-closed-{os.getpid()}"
        if subprocess.run(["mv", NAME, there], capture_output=True).returncode:
            continue
        found |= opens(there)
        subprocess.run(["mv", there, NAME], check=True)
    return found


def packed() -> bool:
    subprocess.run(["tar", "-cf", "other.tar", NAME], check=True)
    os.mkdir("out")
    subprocess.run(["tar", "-xpf", "other.tar", "-C", "out"], check=True)
    try:
        return opens(f"out/{NAME}")
    finally:
        shutil.rmtree("out")
        os.unlink("other.tar")


def in_a_namespace(*options: str) -> bool:
    remount = f"mount -o remount,bind,dev,exec,suid {os.path.abspath(NAME)} 2>/dev/null"
    script = f'{remount}; chmod 666 {NAME} 2>/dev/null; exec 3<{NAME} && test -c "$0" -o -b "$0"'
    done = subprocess.run(["unshare", *options, "sh", "-c", script, NAME], capture_output=True)
    return not done.returncode


def by_handle() -> bool:
    handle = ctypes.create_string_buffer((128).to_bytes(4, "little"), 136)
    mount_id = ctypes.c_int()
    if system(NAME_TO_HANDLE, AT_FDCWD, ctypes.c_char_p(NAME.encode()), handle,
              ctypes.byref(mount_id), 0):  # fmt: skip
        return False
    at = os.open(NAME, os.O_PATH)
    fd = system(OPEN_BY_HANDLE, at, handle, os.O_RDONLY)
    os.close(at)
    return fd >= 0 and device(fd)


def as_a_file_system() -> bool:
    target = "other"
    os.mkdir(target)
    done = not LIBC.mount(NAME.encode(), target.encode(), b"ext4", ctypes.c_ulong(0), None)
    umount(target)
    os.rmdir(target)
    return done


def from_below() -> bool:
    """The placeholder, once the mount on it is gone."""
    with open("other", "w"):
        pass
    mount(NAME, "other", MS_BIND)
    umount(NAME)
    found = opens(NAME)
    os.unlink(NAME)
    os.mknod(NAME, mode_of("other"), os.stat("other").st_rdev)
    umount("other")
    os.unlink("other")
    return found


def mode_of(path: str) -> int:
    return os.stat(path).st_mode


def ways() -> list[tuple[str, Callable[[], bool]]]:
    plain = (
        plainly, with_everything_allowed, as_another, by_descriptor, remounted, bound_elsewhere,
        moved_by_mount, detached, renamed, linked, through_a_symlink, copied,
        moved_to_another_file_system, packed, by_handle, as_a_file_system, from_below,
    )  # fmt: skip
    spaces = (("-m",), ("-Ur",), ("-Urm",), ("-Urm", "--propagation", "unchanged"))
    return [
        *((way.__name__, way) for way in plain),
        *((f"unshare {' '.join(o)}", lambda o=o: in_a_namespace(*o)) for o in spaces),
    ]


for name, way in ways():
    print("OPENED" if way() else "refused", name)
    status = os.stat(NAME)
    assert f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" == NUMBER, name
