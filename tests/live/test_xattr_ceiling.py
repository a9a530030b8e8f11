"""What a maker does about extended attributes for a session that has been taken over: nothing
beyond its ceiling.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from errno import EBADF, EEXIST, EINVAL, ENODATA, EPERM, EROFS, errorcode
from pathlib import Path

import pytest

from supervisor.kernel.spawn import maker_ceiling, spawn_maker
from supervisor.model import XattrCeiling
from tests.support.people import Person
from tests.support.scratch import scratch

START = 300_000
XATTR = 10  # SD_MAKE_XATTR
CEILING = (
    XattrCeiling(b"trusted.overlay.opaque", b"y"), XattrCeiling(b"trusted.own.*"),
    XattrCeiling(b"security.*"), XattrCeiling(b"*"),  # which no policy can say
)  # fmt: skip
OPAQUE = b"trusted.overlay.opaque"


@contextlib.contextmanager
def maker_of(
    xattrs: tuple[XattrCeiling, ...], *, real_nodes: bool = True
) -> Iterator[socket.socket]:
    ids = [(0, START, 1000)]
    helper = spawn_maker(maker_ceiling([], ids, ids, xattrs=xattrs, real_nodes=real_nodes))
    os.close(helper.pidfd)
    with socket.socket(fileno=helper.sock) as found:
        found.settimeout(5)
        yield found
    os.waitpid(helper.pid, 0)


@pytest.fixture(scope="module")
def maker(root: Person) -> Iterator[socket.socket]:
    assert root.name is None
    with maker_of(CEILING[:2]) as found:
        yield found


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        for name, uid, gid in (
            ("own", START, START), ("last", START + 999, START + 999), ("hosts", 0, 0),
            ("half", START, 0), ("other", START + 1000, START),
        ):  # fmt: skip
            (folder / name).write_text("")
            os.chown(folder / name, uid, gid)
        yield folder


def order(
    maker: socket.socket, file: Path | None, name: bytes = OPAQUE, value: bytes = b"y", *,
    removes: bool = False, flags: int = 0, size: int | None = None, cut: int = 0,
) -> str:
    """Orders it as csrc/xattr_calls.c does, and says what came of it."""
    length = len(value) if size is None else size
    head = struct.pack("=5I256s", XATTR, 0xFFFFFFFF, removes, flags, length, name)
    fds = [] if file is None else [os.open(file, os.O_PATH | os.O_NOFOLLOW)]
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    maker.sendmsg([(head + value)[: len(head) + len(value) - cut]], ancillary)
    for fd in fds:
        os.close(fd)
    (error,) = struct.unpack("=i", maker.recv(64))
    return errorcode[-error] if error else "ok"


def attributes(file: Path) -> dict[str, bytes]:
    return {name: os.getxattr(file, name) for name in os.listxattr(file)}


def test_what_the_policy_grants(maker: socket.socket, place: Path) -> None:
    for name in ("own", "last"):
        assert order(maker, place / name) == "ok"
        assert order(maker, place / name, flags=os.XATTR_CREATE) == errorcode[EEXIST]
        assert order(maker, place / name, b"trusted.own.a", b"x" * 2000) == "ok"
        assert attributes(place / name) == {OPAQUE.decode(): b"y", "trusted.own.a": b"x" * 2000}
        assert order(maker, place / name, b"trusted.own.a", b"", removes=True) == "ok"
        again = order(maker, place / name, b"trusted.own.a", b"", removes=True)
        assert again == errorcode[ENODATA]
        os.removexattr(place / name, OPAQUE)


@pytest.mark.parametrize(
    "change",
    [
        {"value": b"n"}, {"value": b"yy"}, {"value": b""}, {"value": b"y\0"}, {"removes": True},
        {"name": b"trusted.overlay.redirect"}, {"name": b"trusted.own"}, {"name": b""},
        {"name": b"trusted.overlay.opaque\n"}, {"name": b"security.capability"},
        {"name": b"user.own.a"}, {"name": b"x" * 256}, {"name": b"trusted.owns.a"},
    ],
)
def test_what_it_does_not(maker: socket.socket, place: Path, change: dict[str, object]) -> None:
    assert order(maker, place / "own", **change) == errorcode[EPERM]  # type: ignore[arg-type]
    assert attributes(place / "own") == {}


@pytest.mark.parametrize("name", ["hosts", "half", "other"])
def test_nor_on_files_of_others(maker: socket.socket, place: Path, name: str) -> None:
    """Both ids of the file have to be the container's, as capable_wrt_inode_uidgid() says."""
    for attribute in (OPAQUE, b"trusted.own.a"):
        assert order(maker, place / name, attribute) == errorcode[EPERM]
    assert attributes(place / name) == {}


def test_messages_that_are_none(maker: socket.socket, place: Path) -> None:
    assert order(maker, None) == errorcode[EBADF]
    for size, cut in ((2, 0), (0, 0), (1, 1), (1 << 31, 0), (65537, 0)):
        assert order(maker, place / "own", size=size, cut=cut) == errorcode[EINVAL]
    assert attributes(place / "own") == {}


def test_a_read_only_mount_and_a_fifo(maker: socket.socket, place: Path) -> None:
    """What the file is asked by is nobody's open: nothing waits for the other end of a FIFO."""
    os.mkfifo(place / "fifo")
    os.chown(place / "fifo", START, START)
    assert order(maker, place / "fifo") == "ok"
    subprocess.run(["mount", "--bind", place / "own", place / "own"], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place / "own"], check=True)
        assert order(maker, place / "own") == errorcode[EROFS]
    finally:
        subprocess.run(["umount", place / "own"], check=True)


def test_no_name_but_those_of_root_whatever_the_ceiling_says(root: Person, place: Path) -> None:
    assert root.name is None
    with maker_of(CEILING) as wide:
        assert order(wide, place / "own", b"trusted.any") == "ok"
        for name in (b"security.capability", b"user.a", b"system.posix_acl_access", b"trusted"):
            assert order(wide, place / "own", name) == errorcode[EPERM]
    with maker_of(CEILING, real_nodes=False) as guest, maker_of(()) as bare:
        for one in (guest, bare):
            assert order(one, place / "own", b"trusted.any") == errorcode[EPERM]
    os.removexattr(place / "own", "trusted.any")
