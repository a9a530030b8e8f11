"""Calls as people give them, held against lines that strace wrote."""

from __future__ import annotations

import os
import re
import socket
import termios
from pathlib import Path

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.syscalls import AT_FDCWD
from supervisor.model import Arg
from supervisor.policy.argument_names import own_name
from supervisor.policy.asked import spec_of
from supervisor.policy.call_text import parse
from supervisor.policy.explain import explain
from tests.support.policies import mknod, mounts

# Printed by strace 6.1 of a program that made the calls below, under the options in the comments.
WRITTEN = Path(__file__).parents[1] / "kernel/strace-6.1.txt"
CALLS = Path(__file__).parents[1] / "kernel/strace-6.1-calls.txt"
NULL_DEVICE, CHAR = 0x103, 0o020666
MADE: list[tuple[str, tuple[Arg, ...]]] = [
    ("mknodat", (AT_FDCWD, b"x", CHAR, NULL_DEVICE)),
    ("mknodat", (AT_FDCWD, b"/nowhere/x", CHAR, NULL_DEVICE)),
    ("mknodat", (AT_FDCWD, b"/tmp/s/pipe", 0o010666, 0)),
    ("mknodat", (AT_FDCWD, b"/nowhere/reg", 0o100644, 0)),
    ("mknod", (b'/nowhere/k"v(m', CHAR, 10 << 8 | 232)),
    ("mknodat", (3, b"a\nb,c", 0o060660, 0x801)),
    ("mount", (b"/dev/loop0", b"/nowhere/mnt", b"ext4", 3, b"errors=remount-ro,x=(1")),
    ("mount", (0, b"/nowhere/mnt", 0, 0x44000, 0)),
    ("mount", (b"none", b"/nowhere/mnt", b"tmpfs", 0, 0)),
    ("umount2", (b"/nowhere/mnt", 2)),
]


def recorded() -> dict[str, list[str]]:
    """The lines by the options of strace."""
    out: dict[str, list[str]] = {}
    for line in WRITTEN.read_text().splitlines():
        if line.startswith("#"):
            lines = out.setdefault(line, [])
        else:
            lines.append(line)
    return out


@pytest.mark.parametrize("options", [name for name in recorded() if "two at a time" not in name])
def test_what_strace_wrote_is_the_call_that_was_made(options: str) -> None:
    lines = recorded()[options]
    assert len(lines) == len(MADE) + 1
    for line, (name, args) in zip(lines, MADE, strict=False):
        asked = parse(FAMILIES, line)
        assert (asked.snapshot.name, asked.snapshot.args) == (name, args), line
        if "-y" in options and name == "mknodat":
            assert asked.caller == {"cwd": "/usr" if args[0] == 3 else "/tmp/s"}
    with pytest.raises(ValueError, match="0x8 is an address: what that memory has in it"):
        parse(FAMILIES, lines[-1])


def test_calls_of_every_family_as_strace_wrote_them() -> None:
    """Of a program that made one or some of each; the constants in them have their own names."""
    made: dict[str, list[tuple[Arg, ...]]] = {}
    for line in CALLS.read_text().splitlines():
        asked = parse(FAMILIES, line)
        assert asked.snapshot.name == line.partition("(")[0]
        made.setdefault(asked.snapshot.name, []).append(asked.snapshot.args)
    clone = socket.SOCK_CLOEXEC
    assert made["socket"][0] == (2, 1 | clone | socket.SOCK_NONBLOCK, 0)
    assert made["socket"][3] == (16, socket.SOCK_RAW | clone, 0)
    assert made["sendto"][0][:4] == (3, 0, 5, socket.MSG_NOSIGNAL | socket.MSG_FASTOPEN)
    assert made["sendmmsg"] == [(4, 0, 1, socket.MSG_NOSIGNAL)]
    assert made["renameat2"][1][4] == 1  # RENAME_NOREPLACE
    assert made["setxattr"][0] == (b"f", b"user.a", b"b\0c", 3, os.XATTR_CREATE)
    assert made["seccomp"] == [(1, 8 | 2, 0)]
    assert made["ioctl"][1][:2] == (0, termios.TIOCSTI)
    assert made["fspick"] == [(AT_FDCWD, b"/nowhere", 1)]
    assert made["openat"][2][:2] == (AT_FDCWD, b"/nowhere/x")
    assert made["fchmodat"][0][:3] == (5, b"nowhere", 0o600)


def test_an_ioctl_without_an_argument() -> None:
    """strace leaves it out."""
    asked = parse(FAMILIES, "4687  00:06:08 ioctl(3</tmp/s/calls.py>, FIOCLEX) = 0")
    assert asked.snapshot.args == (3, termios.FIOCLEX, 0)


def test_a_call_that_another_one_interrupted() -> None:
    begun, ended = recorded()["# strace -f -o FILE, two at a time"]
    asked = parse(FAMILIES, begun)
    assert asked.snapshot.args == (AT_FDCWD, b"/nowhere/x", CHAR, NULL_DEVICE)
    with pytest.raises(ValueError, match="no call"):
        parse(FAMILIES, ended)


@pytest.mark.parametrize(
    ("text", "dev"),
    [
        ("kvm", 10 << 8 | 232),
        ('"char 10:232"', 10 << 8 | 232),
        ("10:232", 10 << 8 | 232),
        ("makedev(10,232)", 10 << 8 | 232),
        ("0x103", NULL_DEVICE),
        ("loop1", 0x701),
    ],
)
def test_devices_by_name(text: str, dev: int) -> None:
    asked = parse(FAMILIES, f"mknod pathname=/x mode=char dev={text}")
    assert asked.snapshot.args == (b"/x", CHAR, dev)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mknod", "mknod needs pathname="),
        ("mount source=/a", "mount needs target="),
        ("mknod pathname=/x dev=kvmm", "did you mean kvm?"),
        ("mknod pathname=/x dev=loop*", "more than one device"),
        ("mknod pathname=/x dev=1:x", "write MAJOR:MINOR"),
        ("mknod pathname=/x pathname=/y", "given twice"),
        ("mknod pathname='/x", "a quote is open"),
        ("mknodd pathname=/x", "did you mean mknod?"),
        ("fsopenn(1)", "did you mean fsopen?"),
        ("mknod(0x7ffe, S_IFCHR|0666, makedev(1, 3))", "0x7ffe is an address"),
        ('mount("/a", "/b", "ext4", 0, 0x7ff)', "0x7ff is an address"),
        ("{" * 100_000, "no JSON from column 2 on"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"a": 1', "no JSON from column"),
        ('{"a": ' + "9" * 5000 + "}", "too many digits"),
        ("{}", "not about a call"),
        ('{"syscall": {}, "args": {}}', "not about a call"),
        ('{"syscall": "mknod", "arch": "x86_64", "uid": "0", '
         '"args": {"pathname": "/x", "mode": 8630, "dev": 1}}', "uid is a number"),
    ],
)  # fmt: skip
def test_what_is_no_call_is_said(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        parse(FAMILIES, text)
    assert why in str(error.value)


def test_no_memory_is_no_name() -> None:
    for text in ("mknod pathname=NULL mode=char dev=1:3", "mknod(NULL, S_IFCHR|0666, 0x103)"):
        assert parse(FAMILIES, text).snapshot.args == (-14, CHAR, NULL_DEVICE)
    mount = parse(FAMILIES, "mount source=NULL target=/b filesystemtype=NULL data=NULL")
    assert mount.snapshot.args == (0, b"/b", 0, 0, 0)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('fsopen("ext4", 0)', "errno ENOSYS"),
        ('fspick(AT_FDCWD, "/a", 0)', "errno ENOSYS"),
        ("io_uring_setup(8, {flags=0})", "allow"),
        ("ioctl(0, TIOCSTI, [10])", "errno EPERM"),
        ("ioctl fd=0 request=TIOCLINUX", "errno EPERM"),
        ("ioctl(0, TCGETS, 0)", "allow"),
        ("ioctl(0, FICLONE, 3)", None),
        ("ioctl(0, 0x5401, {c_iflag=ICRNL})", "allow"),
        ("seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, {len=1})",
         "errno EBUSY"),
        ("seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=1})", "allow"),
    ],
)  # fmt: skip
def test_the_filter_is_asked_about_other_doors(text: str, action: str | None) -> None:
    compiled = mounts("{fstype: ext4, source: /a, do: {emulate: {via: fuse}}}")
    if action is None:
        with pytest.raises(ValueError, match="FICLONE is no number"):
            parse(FAMILIES, text)
        return
    found = explain(compiled, parse(FAMILIES, text))
    assert (found.filtered, found.decision) == (action, None)
    if "io_uring" in text:
        compiled = mknod("{devices: [zero], path: /a, do: emulate}")
        assert explain(compiled, parse(FAMILIES, text)).filtered == "errno ENOSYS"


# As man7.org has the prototypes of man-pages 6.03 and 6.15, where they are not the same.
PROTOTYPES = """
mknod(path, mode, dev) mknod(pathname, mode, dev)
mknodat(dirfd, path, mode, dev) mknodat(dirfd, pathname, mode, dev)
mkdir(path, mode) mkdir(pathname, mode)
mkdirat(dirfd, path, mode) mkdirat(dirfd, pathname, mode)
mount(source, target, filesystemtype, mountflags, data)
umount2(target, flags)
open(path, flags, mode) open(pathname, flags, mode)
openat(dirfd, path, flags, mode) openat(dirfd, pathname, flags, mode)
openat2(dirfd, path, how, size) openat2(dirfd, pathname, how, size)
creat(path, mode) creat(pathname, mode)
connect(sockfd, addr, addrlen)
bind(sockfd, addr, addrlen)
accept(sockfd, addr, addrlen)
accept4(sockfd, addr, addrlen, flags)
sendto(sockfd, buf, size, flags, dest_addr, addrlen)
sendto(sockfd, buf, len, flags, dest_addr, addrlen)
sendmsg(sockfd, msg, flags)
sendmmsg(sockfd, msgvec, n, flags) sendmmsg(sockfd, msgvec, vlen, flags)
setsockopt(sockfd, level, optname, optval, optlen)
getsockopt(sockfd, level, optname, optval, optlen)
setxattr(path, name, value, size, flags)
lsetxattr(path, name, value, size, flags)
fsetxattr(fd, name, value, size, flags)
removexattr(path, name)
lremovexattr(path, name)
fremovexattr(fd, name)
setxattrat(dirfd, path, at_flags, name, args, size)
ioctl(fd, op, argp) ioctl(fd, request, argp)
unlinkat(dirfd, path, flags)
rename(oldpath, newpath)
utime(filename, times) utime(path, times)
"""


@pytest.mark.parametrize("line", PROTOTYPES.split("\n")[1:-1])
def test_arguments_have_the_names_of_their_manual_page(line: str) -> None:
    """In their order, of which the kernel's is the same."""
    for name, names in re.findall(r"(\w+)\(([^)]*)\)", line):
        spec = spec_of(FAMILIES, name)
        assert [own_name(spec, one) for one in names.split(", ")] == list(spec.names)


def test_an_attribute_of_a_path() -> None:
    """By `path`, as the manual page has it; of the same argument twice one is too many."""
    asked = parse(FAMILIES, "setxattr path=/x name=user.a value=y")
    assert asked.snapshot.args == (b"/x", b"user.a", b"y", 1, 0)
    assert parse(FAMILIES, "removexattr pathname=/x name=user.a").path == b"/x"
    with pytest.raises(ValueError, match="pathname is given twice"):
        parse(FAMILIES, "mkdir path=/x pathname=/y")
    with pytest.raises(ValueError, match="mkdir has no argument name: it has pathname, mode"):
        parse(FAMILIES, "mkdir name=/x")
