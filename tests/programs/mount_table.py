"""Calls mount in every way the table knows of, and prints what came of it, a JSON list a line.

    mount_table.py DIRECTORY

It runs as real root and as root of a container; what it prints must be the same. DIRECTORY has
device, a block device with ext4 on it; image, a file with ext4; and squash, one with squashfs.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import sys
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
MOUNT, UMOUNT2, MNT_DETACH = 165, 166, 2
CLONE_NEWNS = 0x20000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, MOVE = 1, 2, 4, 32, 4096, 8192
SYNC, LAZY = 16, 1 << 25
REC, UNBINDABLE, PRIVATE, SLAVE, SHARED = 16384, 1 << 17, 1 << 18, 1 << 19, 1 << 20
MAGIC = 0xC0ED0000
BAD = 8
TOP = ""

Text = str | bytes | int | None


def name_of(error: int) -> str:
    return errno.errorcode.get(error, str(error)) if error else "ok"


def word(value: Text) -> object:
    if value is None:
        return None
    if isinstance(value, int):
        return ctypes.c_void_p(value)
    return ctypes.c_char_p(value.encode() if isinstance(value, str) else value)


def mount(source: Text, target: Text, kind: Text, flags: int = 0, data: Text = None) -> int:
    words = (word(source), word(target), word(kind), ctypes.c_ulong(flags), word(data))
    return ctypes.get_errno() if LIBC.syscall(ctypes.c_long(MOUNT), *words) else 0


def umount(target: str, flags: int = 0) -> int:
    got = LIBC.syscall(ctypes.c_long(UMOUNT2), word(target), ctypes.c_long(flags))
    return ctypes.get_errno() if got else 0


# What of a superblock's options mount(2) has flags for.
WHOLE = {"ro", "rw", "sync", "dirsync", "lazytime", "mand", "i_version"}


def shown(target: str) -> str:
    """What /proc/self/mountinfo says of a mount, without what depends on where it was made."""
    where = os.path.realpath(target)
    with open("/proc/self/mountinfo") as lines:
        found = lines.readlines()
    for line in found:
        fields = line.split()
        if fields[4] == where:
            dash = fields.index("-")
            options = sorted(set(fields[5].split(",")) - {"idmapped"})
            whole = sorted(set(fields[-1].split(",")) & WHOLE)
            return f"{fields[dash + 1]} {','.join(options)} {','.join(whole)}"
    return "not there"


def new(source: Text, target: Text, kind: Text, flags: int = 0, data: Text = None) -> str:
    """The call, what is there afterwards, and whether it goes away again at once."""
    error = mount(source, target, kind, flags, data)
    if error:
        return name_of(error)
    assert isinstance(target, str)
    found = shown(target)
    return f"ok {found} {name_of(umount(target))}"


ROWS: list[tuple[str, Callable[[], str]]] = []


def row(name: str, *args: object, **keys: object) -> None:
    ROWS.append((name, lambda: new(*args, **keys)))  # type: ignore[arg-type]


def step(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    def add(run: Callable[[], str]) -> Callable[[], str]:
        ROWS.append((name, run))
        return run

    return add


def scene() -> None:
    LIBC.unshare(CLONE_NEWNS)
    assert mount("none", "/", None, REC | PRIVATE) == 0
    os.chdir(TOP)
    for name in ("a", "b"):
        os.makedirs(name, exist_ok=True)
    for name, to in (("link", "a"), ("dangling", "nowhere"), ("loop", "loop"), ("dev", "device")):
        if not os.path.lexists(name):
            os.symlink(to, name)


LONG = "x" * 5000
# no filesystem at all
row("tmpfs", "none", "a", "tmpfs")
row("tmpfs, no source", None, "a", "tmpfs")
row("tmpfs, empty source", "", "a", "tmpfs")
row("tmpfs, options", "none", "a", "tmpfs", 0, "mode=700,size=1m")
row("tmpfs, unknown option", "none", "a", "tmpfs", 0, "foo=1")
row("tmpfs, flags", "none", "a", "tmpfs", RDONLY | NOSUID | NODEV | 8)
row("tmpfs, magic", "none", "a", "tmpfs", MAGIC)
row("tmpfs, magic and ro", "none", "a", "tmpfs", MAGIC | RDONLY)
row("tmpfs, upper half", "none", "a", "tmpfs", 0xDEAD00000000)
row("tmpfs, NOUSER", "none", "a", "tmpfs", 1 << 31)
row("unknown type", "none", "a", "nosuchfs")
row("empty type", "none", "a", "")
row("no type", "none", "a", None)
row("unknown type, no target", "none", "x", "nosuchfs")
row("no type, no target", "none", "x", None)
# an ext4 by device
for _dev in ("device", "dev", "./a/../device"):
    row(f"ext4 of {_dev}", _dev, "a", "ext4")
row("ext4", "device", "a", "ext4")
row("ext4 through a link", "device", "link", "ext4")
row("ext4 ro", "device", "a", "ext4", RDONLY)
row("ext4 flags", "device", "a", "ext4", RDONLY | NOSUID | 8 | 1024)
for _name, _flag in (
    ("nosuid", NOSUID), ("nodev", NODEV), ("noexec", 8), ("sync", 1 << 4), ("mand", 1 << 6),
    ("dirsync", 1 << 7), ("nosymfollow", 1 << 8), ("noatime", 1 << 10), ("nodiratime", 1 << 11),
    ("silent", 1 << 15), ("posixacl", 1 << 16), ("relatime", 1 << 21), ("iversion", 1 << 23),
    ("strictatime", 1 << 24), ("lazytime", 1 << 25), ("unknown", 1 << 30),
    ("all of them", 0x42A18DDF),
):  # fmt: skip
    row(f"ext4 flag {_name}", "device", "a", "ext4", _flag)
row("ext4 magic", "device", "a", "ext4", MAGIC | RDONLY)
row("ext4 option", "device", "a", "ext4", 0, "noload")
row("ext4 unknown option", "device", "a", "ext4", 0, "foo=1")
row("ext4 empty options", "device", "a", "ext4", 0, "")
row("ext4, squashfs on it", "squash_device", "a", "ext4")
row("squashfs, ext4 on it", "device", "a", "squashfs")
row("squashfs", "squash_device", "a", "squashfs", RDONLY)
row("ext4 no source", None, "a", "ext4")
row("ext4 empty source", "", "a", "ext4")
row("ext4 missing source", "nosuch", "a", "ext4")
row("ext4 missing directory", "nosuch/x", "a", "ext4")
row("ext4 source below a file", "image/x", "a", "ext4")
row("ext4 source a loop of links", "loop", "a", "ext4")
row("ext4 source dangling", "dangling", "a", "ext4")
row("ext4 source a directory", "b", "a", "ext4")
row("ext4 source a character device", "/dev/null", "a", "ext4")
row("ext4 source too long a name", "x" * 256, "a", "ext4")
# targets
for _target in ("x", "x/y", "", "image", "image/x", "dangling", "loop", "x" * 256, "y/" * 2048):
    _name = _target if len(_target) < 20 else f"{_target[:2]}... ({len(_target)})"
    row(f"target {_name!r}", "device", _target, "ext4")
    row(f"target {_name!r}, missing source", "nosuch", _target, "ext4")
    row(f"target {_name!r}, tmpfs", "none", _target, "tmpfs")
# pointers
row("target NULL", "device", None, "ext4")
row("target unreadable", "device", BAD, "ext4")
row("type unreadable", "device", "a", BAD)
row("source unreadable", BAD, "a", "ext4")
row("data unreadable", "device", "a", "ext4", 0, BAD)
row("data unreadable, no target", "device", "x", "ext4", 0, BAD)
row("data unreadable, unknown type", "device", "a", "nosuchfs", 0, BAD)
row("type unreadable, no target", "device", "x", BAD)
row("type unreadable, target too", "device", BAD, BAD)
row("source unreadable, no target", BAD, "x", "ext4")
row("source and type unreadable", BAD, "x", BAD)
row("type too long", "device", "a", LONG)
row("type too long, source unreadable", BAD, "a", LONG)
row("type 4095 long", "device", "a", "x" * 4095)
row("source too long", LONG, "a", "ext4")
row("source too long, no target", LONG, "x", "ext4")
row("target too long", "device", LONG, "ext4")
row("target too long, type unreadable", "device", LONG, BAD)
row("options too long, no target", "device", "x", "ext4", 0, "noload," * 700)
row("options too long, target a file", "device", "image/x", "ext4", 0, "noload," * 700)
row("options too long, target unreadable", "device", BAD, "ext4", 0, "noload," * 700)
# other calls
row("bind", "b", "a", None, BIND)
row("bind, no source", None, "a", None, BIND)
row("bind, missing source", "x", "a", None, BIND)
row("bind a file on a directory", "image", "a", None, BIND)
row("bind, unreadable type", "b", "a", BAD, BIND)
row("bind, unreadable data", "b", "a", None, BIND, BAD)
row("bind and move", "b", "a", None, BIND | MOVE)
row("remount of no mount", None, "a", None, REMOUNT)
row("remount of nothing", None, "x", None, REMOUNT)
row("remount, target unreadable", None, BAD, None, REMOUNT)
row("remount, data unreadable", None, "a", None, REMOUNT, BAD)
row("remount and move of no mount", None, "a", None, REMOUNT | MOVE)
row("remount and bind of no mount", None, "a", None, REMOUNT | BIND)
row("move of no mount", "b", "a", None, MOVE)
row("private of no mount", None, "a", None, PRIVATE)
row("two types of propagation", None, "/", None, SHARED | PRIVATE)
row("private and read-only", "x", "/", None, PRIVATE | RDONLY)


@step("data that ends with its page")
def _() -> str:
    pages = mmap.mmap(-1, 8192)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    LIBC.munmap(ctypes.c_void_p(address + 4096), 4096)
    ctypes.memmove(address + 4096 - 7, b"noload\0", 7)
    first = new("device", "a", "ext4", 0, address + 4096 - 7)
    ctypes.memmove(address + 4096 - 6, b"noload", 6)
    return first + "; " + new("device", "a", "ext4", 0, address + 4096 - 6)


@step("data of 4095 bytes")
def _() -> str:
    return new("device", "a", "ext4", 0, ("noload" + "," * 4095)[:4095])


@step("the same again at the same place")
def _() -> str:
    first, again = mount("device", "a", "ext4"), mount("device", "a", "ext4")
    return f"{name_of(first)} {name_of(again)} {name_of(umount('a'))}"


@step("the same again elsewhere")
def _() -> str:
    errors = [mount("device", where, "ext4") for where in ("a", "b")]
    errors += [umount("b"), umount("a")]
    return " ".join(map(name_of, errors))


@step("read-only there, writable here")
def _() -> str:
    errors = [mount("device", "a", "ext4", RDONLY), mount("device", "b", "ext4"), umount("a")]
    return " ".join(map(name_of, errors))


@step("remounts")
def _() -> str:
    errors = [mount("device", "a", "ext4")]
    out = []
    for flags, data in (
        (REMOUNT | RDONLY, None), (REMOUNT, None), (REMOUNT | NOSUID | NODEV, ""),
        (REMOUNT | BIND | RDONLY | NODEV, None), (REMOUNT, "foo=1"), (MAGIC | REMOUNT, None),
        (REMOUNT | RDONLY | NOSUID | SYNC, "foo=1"), (REMOUNT | SYNC | LAZY, None),
        (REMOUNT | LAZY, "noload"), (REMOUNT | RDONLY | BIND, None), (REMOUNT, None),
    ):  # fmt: skip
        out.append(f"{name_of(mount('none', 'a', None, flags | NODEV, data))} {shown('a')}")
    errors.append(umount("a"))
    return "; ".join([*out, *map(name_of, errors)])


@step("move, bind and propagation of a mount")
def _() -> str:
    errors = [
        mount("device", "a", "ext4"),
        mount("a", "b", None, MOVE),
        mount("b", "a", None, BIND),
        mount(None, "a", None, SHARED),
        umount("a"),
        umount("b"),
    ]
    return " ".join(map(name_of, errors))


@step("umount2 with all flags")
def _() -> str:
    out = []
    for flags in (0x100, 4, 4, 2, 8, 1):
        if shown("a") == "not there":
            out.append(name_of(mount("device", "a", "ext4")))
        out.append(name_of(umount("a", flags)))
    return " ".join([*out, name_of(umount("a"))])


@step("umount while busy")
def _() -> str:
    out = [name_of(mount("device", "a", "ext4"))]
    fd = os.open("a", os.O_RDONLY)
    out.append(name_of(umount("a")))
    os.close(fd)
    return " ".join([*out, name_of(umount("a"))])


@step("working directory in it")
def _() -> str:
    out = [name_of(mount("device", "a", "ext4"))]
    os.chdir("a")
    out += [name_of(umount(TOP + "/a")), name_of(mount("none", ".", "tmpfs"))]
    out.append(name_of(umount(TOP + "/a")))
    os.chdir(TOP)
    return " ".join([*out, name_of(umount("a"))])


def main() -> None:
    global TOP
    TOP = sys.argv[1]
    scene()
    for name, run in ROWS:
        try:
            found = run()
        except Exception as error:
            found = f"failed: {error!r}"
        print(json.dumps([name, found]))


if __name__ == "__main__":
    main()
