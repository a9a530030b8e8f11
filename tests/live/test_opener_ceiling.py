"""What an opener does for a session that was taken over: nothing beyond its maker's ceiling."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from errno import EACCES, EAGAIN, EINVAL, EPERM, EROFS
from pathlib import Path

import pytest

from supervisor.kernel.spawn import maker_ceiling, spawn_maker
from supervisor.model import Inject
from tests.support.people import Person
from tests.support.scratch import scratch

OPENER = 9
FILES, DEVICES, NET = 1, 2, 3
FILE, SHOWN, DISK, TOLD = 0, 1, 2, 3  # by their numbers in the ceiling
MOST = 6
LAYOUT = "7I4x5QI64I256s4x24Q"  # struct sd_make
ORDER = "4IQ"  # struct sd_open_order
NO_CPU = 0xFFFFFFFF
A_LISTENER, A_NODE = 1, 2  # come with an order
IT_ANSWERS = 1  # of a desk's state: the opener, and not the session
SEALS = fcntl.F_SEAL_SHRINK


@pytest.fixture
def maker(root: Person) -> Iterator[socket.socket]:
    assert root.name is None
    with scratch(0o755) as folder:
        for name in ("file", "shown"):
            (folder / name).write_text(name)
            (folder / name).chmod(0o600)
        lent = (
            Inject(file=str(folder / "file"), writes=True), Inject(file=str(folder / "shown")),
            Inject(device=("b", 7, 0), writes=True), Inject(device=("c", 1, 5)),
        )  # fmt: skip
        helper = spawn_maker(maker_ceiling((), (), (), lent=lent))
        os.close(helper.pidfd)
        with socket.socket(fileno=helper.sock) as found:
            found.settimeout(5)
            yield found


def send(sock: socket.socket, message: bytes, fds: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([message], rights)


def desk(seals: int = SEALS, size: int = 4096) -> int:
    fd = os.memfd_create("desk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def ask(maker: socket.socket, kind: int, memfd: int | None = None) -> tuple[int, socket.socket]:
    """A maker's answer to an order of an opener, and our end of that one's socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memfd = desk() if memfd is None else memfd
    ours.settimeout(5)
    with theirs:
        message = struct.pack(
            LAYOUT, OPENER, NO_CPU, 0, 0, 0, 0, 0, kind, *[0] * 5, *[0] * 64, b"o", *[0] * 24
        )
        send(maker, message, [theirs.fileno(), memfd])
    os.close(memfd)
    return -int(struct.unpack("i", maker.recv(4))[0]), ours


def opener(maker: socket.socket, kind: int) -> socket.socket:
    error, sock = ask(maker, kind)
    assert error == 0
    assert sock.recv(4) == bytes(4)  # it is ready
    return sock


def opened(sock: socket.socket, index: int, flags: int) -> int:
    """A descriptor, or the negative errno."""
    send(sock, struct.pack(ORDER, NO_CPU, index, flags, 0, 0), [])
    message, fds, *_ = socket.recv_fds(sock, 4, 1)
    if fds:
        assert sock.recv(4) == bytes(4)
        return fds[0]
    return int(struct.unpack("i", message)[0])


def test_files(maker: socket.socket) -> None:
    with opener(maker, FILES) as sock:
        for flags in (os.O_RDWR, os.O_RDWR | os.O_PATH, os.O_RDWR | os.O_CREAT | os.O_EXCL):
            fd = opened(sock, FILE, flags)
            assert os.read(fd, 9) == b"file"
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) == os.O_RDWR
            os.close(fd)
        assert opened(sock, SHOWN, os.O_RDWR) == -EROFS
        for index in (DISK, TOLD, 4, 2**32 - 1):
            assert opened(sock, index, os.O_RDONLY) == -EPERM
        os.close(opened(sock, SHOWN, os.O_RDONLY))  # and it goes on


@pytest.mark.parametrize("kind", [DEVICES, NET])
def test_devices(maker: socket.socket, kind: int) -> None:
    with opener(maker, kind) as sock:
        fd = opened(sock, DISK, os.O_RDWR)
        assert stat.S_ISBLK(os.fstat(fd).st_mode)
        os.close(fd)
        assert opened(sock, TOLD, os.O_RDWR) == -EACCES
        os.close(opened(sock, TOLD, os.O_RDONLY))
        for index in (FILE, SHOWN, 4, 2**32 - 1):
            assert opened(sock, index, os.O_RDONLY) == -EPERM


def test_what_cannot_be_ordered(maker: socket.socket, tmp_path: Path) -> None:
    for kind in (0, 4, 2**64 - 1):
        error, sock = ask(maker, kind)
        sock.close()
        assert error == EINVAL
    (tmp_path / "file").write_bytes(bytes(4096))
    for memfd in (desk(seals=0), desk(size=64), os.open(tmp_path / "file", os.O_RDWR)):
        error, sock = ask(maker, FILES, memfd)
        with sock:
            assert error == 0
            assert struct.unpack("i", sock.recv(4)) == (-EINVAL,)
            assert sock.recv(4) == b""  # it has ended


def test_what_is_no_listener(maker: socket.socket, tmp_path: Path) -> None:
    """It makes no ioctl on a file that somebody serves; what answers for no caller ends it."""
    (tmp_path / "file").touch()
    reading, writing = os.pipe()
    for fd in (os.open(tmp_path / "file", os.O_RDWR), os.eventfd(0), reading, writing):
        memfd = desk()
        os.pwrite(memfd, struct.pack("I", IT_ANSWERS), 0)
        error, sock = ask(maker, FILES, memfd)
        with sock:
            assert (error, sock.recv(4)) == (0, bytes(4))
            send(sock, struct.pack(ORDER, NO_CPU, FILE, os.O_RDWR, A_LISTENER, 1), [fd])
            os.close(fd)
            assert sock.recv(4) == b""


@pytest.mark.parametrize("kind", [FILES, DEVICES, NET])
def test_no_node_of_the_sessions(maker: socket.socket, kind: int, tmp_path: Path) -> None:
    """It opens what a maker lends, and nothing that it is sent."""
    (tmp_path / "file").touch()
    with opener(maker, kind) as sock:
        fd = os.open(tmp_path / "file", os.O_PATH)
        send(sock, struct.pack(ORDER, NO_CPU, FILE, os.O_RDWR, A_NODE, 0), [fd])
        os.close(fd)
        assert sock.recv(4) == b""


def test_how_many(maker: socket.socket) -> None:
    """Those that have ended do not count."""
    socks = [opener(maker, FILES) for _ in range(MOST)]
    error, more = ask(maker, FILES)
    more.close()
    assert error == EAGAIN
    for sock in socks:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(4) == b""
        sock.close()
    for _ in range(50):  # its end is to be seen by the maker
        error, more = ask(maker, FILES)
        more.close()
        if not error:
            break
    assert error == 0
