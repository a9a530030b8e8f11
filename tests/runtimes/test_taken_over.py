"""A container's session that has been taken over: what its makers do for it, and what it is."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct
from collections.abc import Iterator
from functools import partial
from operator import eq, ne
from pathlib import Path

import pytest

from tests.live.test_maker_ceiling import ask
from tests.live.test_xattr_ceiling import order
from tests.support.bundles import FIRST_ID, Bundle, bundle
from tests.support.daemon import Daemon, serving
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.scratch import a_place, scratch

POLICY = """
version: 1
match: {door: oci}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
    - {devices: [full], do: {emulate: {realise: closed}}}
  xattr:
    - {name: trusted.overlay.opaque, value: "y", do: {emulate: {as: root}}}
    - {name: "trusted.audited.*", mode: audit, accept_race: true, do: {emulate: {as: root}}}
    - {name: "user.*", do: emulate}
"""
PIDFD_GETFD = 438

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"nodes": POLICY}) as found:
        yield found


@pytest.fixture(scope="module")
def box(daemon: Daemon, place: Path) -> Iterator[Bundle]:
    with bundle(place, daemon.profile("nodes")) as found:
        name = found.start()
        assert found.exec(name, "mknod /dev/a c 1 3").returncode == 0
        yield found


@pytest.fixture(scope="module")
def session(daemon: Daemon, box: Bundle) -> int:
    assert box
    return daemon.one("session")


def sockets_of(session: int, maker: int) -> Iterator[socket.socket]:
    """The session's own ends of sockets that this process has made while it was root."""
    pidfd = os.pidfd_open(session)
    for entry in os.listdir(f"/proc/{session}/fd"):
        if os.readlink(f"/proc/{session}/fd/{entry}").startswith("socket:"):
            fd = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, int(entry), 0)
            assert fd >= 0
            sock = socket.socket(fileno=fd)
            cred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", cred) == (maker, 0, 0):
                yield sock
            else:
                sock.close()
    os.close(pidfd)


@pytest.fixture
def makers(session: int) -> Iterator[list[socket.socket]]:
    """Those of its makers, which it has forked before it was anybody else."""
    found = list(sockets_of(session, session))
    assert len(found) == 2
    yield found
    for sock in found:
        sock.close()


@pytest.fixture
def folder(place: Path) -> Iterator[Path]:
    """On the host, and a user's of the container's."""
    made = place / "folder"
    made.mkdir()
    os.chown(made, FIRST_ID, FIRST_ID)
    yield made
    for name in os.listdir(made):
        (made / name).unlink()
    made.rmdir()


def test_it_has_no_privileges_outside(session: int) -> None:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{session}/status").read_text().splitlines()
        if ":\t" in line
    )  # fmt: skip
    assert status["Uid"].split() == [str(FIRST_ID)] * 4
    assert status["Gid"].split() == [str(FIRST_ID)] * 4
    assert status["Groups"].split() == []
    own, theirs = (os.stat(f"/proc/{pid}/ns/user").st_ino for pid in ("self", session))
    assert own != theirs, "its capabilities are those of the container's user namespace"
    assert status["NoNewPrivs"] == "1"


def test_what_the_policy_grants(makers: list[socket.socket], folder: Path) -> None:
    for number, maker in enumerate(makers):
        assert ask(maker, folder, name=b"n%d" % number) == 0
        made = (folder / f"n{number}").lstat()
        assert (made.st_rdev, made.st_uid) == (os.makedev(1, 3), FIRST_ID)


@pytest.mark.parametrize(
    "change",
    [
        {"device": (1, 5)},
        {"device": (8, 0)},
        {"device": (1, 7)},  # only where nobody can open it
        {"mode": stat.S_IFBLK | 0o600},
        {"mode": stat.S_IFREG | 0o4755},
        {"uid": 65536},
        {"gid": 65536},
        {"uid": 2**32 - FIRST_ID},
        {"name": b"../n"},
        {"op": 77},
    ],
)
def test_what_it_does_not(
    makers: list[socket.socket], folder: Path, change: dict[str, object]
) -> None:
    for maker in makers:
        assert ask(maker, folder, **change) not in (0, 1000)  # type: ignore[arg-type]
    assert os.listdir(folder) == []


def test_extended_attributes(makers: list[socket.socket], folder: Path, place: Path) -> None:
    """Of the host's root: those that a rule in force has, on the container's own files."""
    for maker in makers:
        assert order(maker, folder) == "ok"
        os.removexattr(folder, "trusted.overlay.opaque")
        for name in (b"trusted.audited.a", b"trusted.overlay.redirect", b"user.a"):
            assert order(maker, folder, name) == "EPERM"
        assert order(maker, folder, value=b"n") == "EPERM"
        assert order(maker, place) == "EPERM"
    assert os.listxattr(folder) == os.listxattr(place) == []


def test_nor_where_the_container_is_nobody(makers: list[socket.socket], place: Path) -> None:
    """A directory of the host's root."""
    with scratch(0o777) as other:
        assert ask(makers[0], other) != 0
        assert os.listdir(other) == []
    assert place.exists()


NONSENSE = (
    b"x", b"[]", b"{}", b'{"released": 1}', b'{"released": 0.0}', b'{"released": true}',
    b'{"released": [0]}', b'{"released": -1}', b"[" * 4000, b'{"released": 0}',
)  # fmt: skip


def test_what_it_says_to_the_daemon(root: Person) -> None:
    """Who says anything but what a session has to say is ended, and nobody else."""
    with (
        scratch(0o755) as place,
        serving(root, place, {"nodes": POLICY}, limits={"restarts": 100}) as daemon,
        bundle(place, daemon.profile("nodes")) as box,
        bundle(place, daemon.profile("nodes")) as quiet,
    ):
        name, other = box.start(), quiet.start()
        assert quiet.exec(other, "mknod /dev/a c 1 3").returncode == 0
        before = daemon.container(other)
        for message in NONSENSE:
            assert box.exec(name, "mknod /dev/a c 1 3 && rm /dev/a").returncode == 0
            session = daemon.container(name)["session"]
            (channel,) = sockets_of(session, daemon.pid)
            with channel:
                channel.send(message)
                if message == NONSENSE[-1]:  # once that may be so: it sees first that all have gone
                    channel.send(message)
            wait_for(lambda: daemon.container(name)["session"], partial(ne, session))
        assert daemon.container(other)["session"] == before["session"]
        wait_for(lambda: daemon.log().count("a session has died"), partial(eq, len(NONSENSE)))
