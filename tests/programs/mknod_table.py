"""Calls mknod in every way the tables know of, and prints what came of it, one JSON object a line.

    mknod_table.py DIRECTORY

It runs as real root and as root of a container; what it prints must be the same. It makes its own
scenes below DIRECTORY, in a mount namespace of its own, and leaves nothing that matters.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import struct
import sys
import threading
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
MKNOD, MKNODAT = 133, 259
AT_FDCWD = -100
CLONE_FS, CLONE_NEWNS, CLONE_NEWUSER = 0x200, 0x20000, 0x10000000
CHR, BLK = stat.S_IFCHR, stat.S_IFBLK
NULL = 0x103
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18

Row = tuple[str, Callable[[], str]]
ROWS: list[Row] = []


def name_of(error: int) -> str:
    return errno.errorcode.get(error, str(error)) if error else "ok"


def raw(number: int, *args: object) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return ctypes.get_errno() if LIBC.syscall(ctypes.c_long(number), *words) else 0


def node(
    path: bytes | str | int,
    mode: int = CHR | 0o666,
    dev: int = NULL,
    dirfd: int | None = None,
    look: str | None = None,
) -> str:
    """The call, and what is there afterwards."""
    text: object = path
    if isinstance(path, str):
        text = path = path.encode()
    if isinstance(path, bytes):
        text = ctypes.c_char_p(path)
    error = raw(MKNOD, text, mode, dev) if dirfd is None else raw(MKNODAT, dirfd, text, mode, dev)
    if error:
        return name_of(error)
    where = look if look is not None else path
    assert not isinstance(where, int)
    return seen(where, None if look is not None or dirfd is None or dirfd < 0 else dirfd)


def seen(path: bytes | str, dirfd: int | None = None) -> str:
    s = os.stat(path, dir_fd=dirfd, follow_symlinks=False)
    result = f"ok {s.st_mode:o} {os.major(s.st_rdev)}:{os.minor(s.st_rdev)} {s.st_uid}:{s.st_gid}"
    if stat.S_ISCHR(s.st_mode) and s.st_rdev == NULL:
        try:
            os.close(os.open(path, os.O_RDWR, dir_fd=dirfd))
            result += " opens"
        except OSError as e:
            result += " " + name_of(e.errno or 0)
    return result


def child(run: Callable[[], str]) -> str:
    """Runs in a child, whose credentials and root are its own."""
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(w, run().encode())
        except BaseException as e:
            os.write(w, f"failed: {e!r}".encode())
        finally:
            os._exit(0)
    os.close(w)
    got = os.read(r, 4096).decode()
    os.close(r)
    os.waitpid(pid, 0)
    return got


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    if LIBC.mount(
        source.encode(), target.encode(), kind and kind.encode(), flags, data and data.encode()
    ):
        raise OSError(ctypes.get_errno(), f"mount {target}")


def caps_off(*numbers: int) -> None:
    """Takes capabilities out of the effective set; none named: all."""
    head = struct.pack("Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    if LIBC.capget(head, data):
        raise OSError(ctypes.get_errno(), "capget")
    words = list(struct.unpack("6I", data.raw))
    for number in numbers or range(64):
        words[0 if number < 32 else 3] &= ~(1 << number % 32)
    if LIBC.capset(head, struct.pack("6I", *words)):
        raise OSError(ctypes.get_errno(), "capset")


def row(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    def add(run: Callable[[], str]) -> Callable[[], str]:
        ROWS.append((name, run))
        return run

    return add


def simple(name: str, *args: object, **keys: object) -> None:
    ROWS.append((name, lambda: node(*args, **keys)))  # type: ignore[arg-type]


def scenes(top: str) -> None:
    LIBC.unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    os.chdir(top)
    os.umask(0o022)
    for name in ("d", "d/e", "ro", "sgid", "acl", "closed", "noexec", "sub", "sub/abs", "sub/in",
                 "sticky", "group", "gone", "other", "private", "flags"):
        os.mkdir(name)
    for name in ("file", "d/file", "ro/old", "closed/old"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644))
    os.symlink("d", "link")
    os.symlink("nowhere", "dangling")
    os.symlink("loop2", "loop")
    os.symlink("loop", "loop2")
    os.symlink("/abs", "sub/abslink")
    os.symlink("../file", "d/tofile")
    os.symlink("../../../../..", "sub/upup")
    os.symlink(top + "/d", "absolute")
    os.symlink("/proc/self/cwd", "selfcwd")
    os.chmod("sticky", 0o1777)
    os.symlink("../d", "sticky/link")
    os.chown("sgid", -1, 5)
    os.chmod("sgid", 0o2775)
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, perm, 0xFFFFFFFF) for tag, perm in ((1, 7), (4, 5), (0x20, 0))
    )
    os.setxattr("acl", "system.posix_acl_default", acl)
    os.chmod("closed", 0o555)
    os.chmod("noexec", 0o666)
    os.chown("group", 33, 34)
    os.chmod("group", 0o770)
    os.chown("other", 33, 33)
    os.chmod("other", 0o755)
    os.chmod("private", 0o700)
    mount("ro", "ro", None, MS_BIND)
    mount("none", "ro", None, MS_REMOUNT | MS_BIND | MS_RDONLY)


def plain_rows() -> None:
    simple("chr", "n1")
    simple("blk", "n2", BLK | 0o600, 0x700)
    simple("mode 0", "n3", CHR)
    simple("suid sgid sticky", "n4", CHR | 0o7777)
    simple("large numbers", "n5", CHR | 0o644, 0xDE | 0x7 << 8 | 0xABC00 << 12)
    simple("again", "n1")
    simple("other type there", "n1", BLK | 0o600, 0x700)
    simple("mknodat cwd", "n6", dirfd=AT_FDCWD)
    simple("in a directory", "d/n")
    simple("through a symlink", "link/n2")
    simple("through an absolute symlink", "absolute/n3")
    simple("dots", "d/./e/.././n4")
    simple("double slashes", ".//d///n5")
    simple("no name twice", "d/n5")
    for name in ("file", "d", "link", "dangling", ".", "..", "/", "//", "d/.", "d/..", "d/",
                 "link/", "dangling/", "file/", "file/.", "loop", "loop/", "d/tofile", "d/tofile/",
                 "/proc", "/proc/self", "/dev/null", "/dev/null/"):
        simple(f"there: {name}", name)
    for name in ("new/", "new//", "new/.", "new/..", "new/x", "d/new/", "d/new/x", "link/new/",
                 "file/x", "file/x/", "d/tofile/x", "dangling/x", "loop/x", "ro/new", "ro/old",
                 "ro/new/", "ro/new/.", "ro/new/x", "closed/old", "/nowhere/x",
                 "/proc/x", "/proc/self/x", "/proc/self/fd/x"):
        simple(f"not there: {name}", name)
    simple("empty", "")
    simple("empty, bad dirfd", "", dirfd=777)
    simple("bad dirfd", "x", dirfd=777)
    simple("negative dirfd", "x", dirfd=-1)
    simple("absolute, bad dirfd", "/nowhere/x", dirfd=777)
    simple("NULL", 0)
    simple("bad pointer", 4096)
    simple("component of 255", "a" * 255)
    simple("component of 256", "b" * 256)
    simple("component of 256 in between", "b" * 256 + "/x")
    simple("component of 256 with a slash", "b" * 256 + "/")
    simple("length 4095", "d" + "/" * 4092 + "qq")
    simple("length 4096", "d" + "/" * 4093 + "qq")
    simple("length 4095, dots", "./" * 2046 + "l95")
    simple("type directory", "x", stat.S_IFDIR | 0o700)
    simple("type link", "x", stat.S_IFLNK | 0o700)
    simple("type garbage", "x", 0o130000)
    simple("sticky", "sticky/n")
    simple("symlink in a sticky directory", "sticky/link/n9")
    simple("sgid directory", "sgid/n")
    simple("sgid directory, sgid mode", "sgid/n2", CHR | 0o2755)
    simple("default acl", "acl/n")
    simple("default acl, mode", "acl/n2", CHR | 0o620)
    simple("not writable, root", "closed/n")
    simple("not searchable, root", "noexec/n")
    simple("somebody else's", "other/n")
    simple("upper halves", "n20", (CHR | 0o640) | 0xABCD << 32, NULL | 0x77 << 32,
           dirfd=(AT_FDCWD & 0xFFFFFFFF) | 0x55 << 32, look="n20")
    simple("mode beyond 16 bits", "n21", (CHR | 0o640) | 0x30000)


@row("dirfd")
def _() -> str:
    fd = os.open("d", os.O_RDONLY | os.O_DIRECTORY)
    return node("fd1", dirfd=fd)


@row("dirfd O_PATH, dotdot")
def _() -> str:
    fd = os.open("d/e", os.O_PATH | os.O_DIRECTORY)
    return node("../fd2", dirfd=fd)


@row("dirfd a file")
def _() -> str:
    return node("x", dirfd=os.open("file", os.O_RDONLY))


@row("dirfd a file, absolute")
def _() -> str:
    return node(os.getcwd() + "/viafile", dirfd=os.open("file", os.O_RDONLY))


@row("dirfd a file, empty")
def _() -> str:
    return node("", dirfd=os.open("file", os.O_RDONLY))


for MASK in (0, 0o077, 0o777):

    @row(f"umask {MASK:o}")
    def _(mask: int = MASK) -> str:
        old = os.umask(mask)
        try:
            return node(f"umask{mask:o}") + " " + node(f"acl/umask{mask:o}")
        finally:
            os.umask(old)


@row("deleted cwd")
def _() -> str:
    def run() -> str:
        os.chdir("gone")
        os.rmdir("../gone")
        return " ".join((node("x"), node("."), node(".."), node("../fromgone"), node("x/")))

    return child(run)


@row("chroot")
def _() -> str:
    def run() -> str:
        os.chroot("sub")
        os.chdir("/in")
        names = ("/n", "n", "../n2", "../../../n3", "../abslink/n4", "/abslink/n5", "../upup/n6",
                 "/upup/../n7", "/proc/self/cwd/x", "/sub/n")
        return " ".join(node(name) for name in names)

    return child(run)


@row("chroot, cwd outside")
def _() -> str:
    def run() -> str:
        os.chroot("sub")
        return node("outside1") + " " + node("../outside2") + " " + node("/outside3")

    # what ".." means depends on where DIRECTORY is; nothing may be made above it
    return child(run)


@row("without CAP_MKNOD")
def _() -> str:
    def run() -> str:
        caps_off(27)
        return " ".join(
            node(n)
            for n in ("cap", "file", "no/x", "ro/new", "closed/cap", "cap/", "d/file/x", "loop/x")
        )

    return child(run)


@row("without capabilities")
def _() -> str:
    def run() -> str:
        caps_off()
        return " ".join(node(n) for n in ("cap", "closed/cap", "other/cap", "noexec/cap", "file"))

    return child(run)


@row("without CAP_DAC_OVERRIDE")
def _() -> str:
    def run() -> str:
        caps_off(1, 2)
        names = ("dac", "closed/dac", "other/dac", "noexec/dac", "closed/old", "group/x")
        return " ".join(node(name) for name in names)

    return child(run)


@row("fsuid")
def _() -> str:
    def run() -> str:
        LIBC.setfsgid(33)
        LIBC.setfsuid(33)
        return " ".join(node(n) for n in ("other/fs1", "private/fs", "d/fs"))

    return child(run)


@row("fsuid with CAP_MKNOD")
def _() -> str:
    def run() -> str:
        LIBC.prctl(28, 1 << 2, 0, 0, 0)  # SECBIT_NO_SETUID_FIXUP: keep the capabilities
        LIBC.setfsgid(33)
        LIBC.setfsuid(33)
        caps_off(1, 2)
        names = ("other/fs2", "private/fs", "d/fs", "sticky/fs", "group/fs")
        return " ".join(node(name) for name in names)

    return child(run)


@row("supplementary groups")
def _() -> str:
    def run() -> str:
        os.setgroups([34])
        LIBC.prctl(28, 1 << 2, 0, 0, 0)
        LIBC.setfsgid(44)
        LIBC.setfsuid(44)
        caps_off(1, 2)
        return " ".join(node(n) for n in ("group/g", "other/g", "sgid/g"))

    return child(run)


@row("a thread with a cwd of its own")
def _() -> str:
    got = []

    def run() -> None:
        LIBC.unshare(CLONE_FS)
        os.chdir("d/e")
        os.umask(0o027)
        got.append(node("thread") + " " + node("/proc/thread-self/cwd/thread2", look="thread2"))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return got[0]


@row("magic links")
def _() -> str:
    fd = os.open("d", os.O_RDONLY | os.O_DIRECTORY)
    file = os.open("file", os.O_RDONLY)
    names = ("/proc/self/cwd/m1", f"/proc/self/fd/{fd}/m2", f"/dev/fd/{fd}/m3", "selfcwd/m4",
             "/proc/thread-self/cwd/m5", f"/proc/self/fd/{file}/x", "/proc/self/exe/x",
             "/proc/self/cwd/no/x", "/proc/self/fd/777/x", f"/proc/self/task/{os.getpid()}/cwd/m6",
             f"/proc/{os.getpid()}/cwd/m7", "/proc/self/cwd", "/proc/self/cwd/",
             "/proc/self/cwd/d/../m8", f"/proc/self/root{os.getcwd()}/m9")
    return " ".join(node(name) for name in names)


@row("another's magic links")
def _() -> str:
    return child(lambda: node(f"/proc/{os.getppid()}/cwd/pp") + " " + node("/proc/self/cwd/own"))


@row("a mount namespace of its own")
def _() -> str:
    def run() -> str:
        LIBC.unshare(CLONE_NEWNS)
        mount("none", "flags", "tmpfs", 0)
        return node("flags/n") + " " + node("viamnt") + " " + str(os.listdir("flags"))

    return child(run) + " " + str(os.listdir("flags"))


@row("a user namespace of its own")
def _() -> str:
    def run() -> str:
        if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNS):
            return name_of(ctypes.get_errno())
        return " ".join(node(n) for n in ("userns", "file", "no/x", "ro/new", "d/userns"))

    return child(run)


def main() -> None:
    top = os.path.realpath(sys.argv[1])
    scenes(top)
    plain_rows()
    only = sys.argv[2:]
    for name, run in ROWS:
        if only and name not in only:
            continue
        os.chdir(top)
        try:
            result = run()
        except Exception as e:
            result = f"failed: {e!r}"
        print(json.dumps([name, result]), flush=True)


if __name__ == "__main__":
    main()
