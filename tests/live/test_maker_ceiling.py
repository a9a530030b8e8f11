"""What a maker does for a session that has been taken over: nothing beyond its ceiling."""

from __future__ import annotations

import array
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.engine.helpers import spawn_maker
from tests.support.people import Person
from tests.support.scratch import scratch

START = 300_000
NODE, PRIVATE, DROP = 1, 2, 3
ANYWHERE, DAC = 1, 8
LAYOUT = "7I4x5QI64I256s4x24Q"  # struct sd_make
NO_CPU = 0xFFFFFFFF


@pytest.fixture
def maker(root: Person) -> Iterator[socket.socket]:
    assert root.name is None
    sock = spawn_maker([("c", 1, 1, 3, 5)], [(0, START, 1000)])
    with socket.socket(fileno=sock) as found:
        found.settimeout(5)
        yield found


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch(0o755) as place:
        os.chown(place, START, START)
        yield place


def ask(
    maker: socket.socket,
    place: Path,
    *,
    op: int = NODE,
    flags: int = ANYWHERE | DAC,
    mode: int = stat.S_IFCHR | 0o666,
    uid: int = 0,
    gid: int = 0,
    device: tuple[int, int] = (1, 3),
    groups: tuple[int, ...] = (),
    name: bytes = b"n",
    cut: int = 0,
) -> int:
    """The maker's answer: 0, an errno, or 1000 for "needs a bind mount"."""
    message = struct.pack(
        LAYOUT, op, NO_CPU, flags, mode, 0o22, uid, gid, os.makedev(*device), 0, 0, 0, 0,
        len(groups), *groups[:64], *[0] * (64 - len(groups)), name, *[0] * 24,
    )  # fmt: skip
    fd = os.open(place, os.O_PATH)
    try:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        maker.sendmsg([message[: len(message) - cut]], rights)
    finally:
        os.close(fd)
    (result,) = struct.unpack("i", maker.recv(4))
    return 1000 if result == 1 else -int(result)


def test_what_it_is_there_for(maker: socket.socket, folder: Path) -> None:
    assert ask(maker, folder) == 0
    made = (folder / "n").lstat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (START, START, 0o644)
    assert ask(maker, folder) == 17


@pytest.mark.parametrize(
    "change",
    [
        {"device": (1, 1)},
        {"device": (8, 0)},
        {"device": (1, 6)},
        {"mode": stat.S_IFBLK | 0o600},
        {"mode": stat.S_IFREG | 0o600},
        {"mode": stat.S_IFIFO | 0o600},
        {"mode": 0},
        {"uid": 1000},
        {"uid": 2**32 - START},
        {"uid": 2**32 - 1},
        {"gid": 1000},
        {"op": 77},
        {"name": b"../n"},
        {"name": b"/tmp/n"},
        {"name": b""},
        {"cut": 8},
    ],
)
def test_what_it_refuses(maker: socket.socket, folder: Path, change: dict[str, int]) -> None:
    assert ask(maker, folder, **change) in (1, 22)  # type: ignore[arg-type]
    assert list(folder.iterdir()) == []
    assert ask(maker, folder) == 0  # and it goes on


def test_a_directory_of_the_hosts_root(maker: socket.socket) -> None:
    with scratch(0o755) as place:
        assert ask(maker, place) == 13
        place.chmod(0o700)
        assert ask(maker, place, flags=DAC) == 13
        assert ask(maker, place, groups=(0, 5000)) == 13
        os.chown(place, START, 0)  # half of it is not mapped
        place.chmod(0o500)
        assert ask(maker, place) == 13


def test_a_file_for_a_directory(maker: socket.socket, folder: Path) -> None:
    file = folder / "file"
    file.touch()
    assert ask(maker, file) == 20


def test_too_many_groups(maker: socket.socket, folder: Path) -> None:
    message = struct.pack(
        LAYOUT, NODE, NO_CPU, 0, stat.S_IFCHR, 0, 0, 0, os.makedev(1, 3), 0, 0, 0, 0, 65,
        *[0] * 64, b"n", *[0] * 24,
    )  # fmt: skip
    fd = os.open(folder, os.O_PATH)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    maker.sendmsg([message], rights)
    os.close(fd)
    assert struct.unpack("i", maker.recv(4)) == (-1,)


def test_it_is_bare(maker: socket.socket) -> None:
    """No descriptor but its socket, no capability in effect, nothing but its own tmpfs."""
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    (pid,) = [
        child for child in children
        if Path(f"/proc/{child}/comm").read_text().strip() == "seccompd-make"
        and Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    ]  # fmt: skip
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert os.listdir(f"/proc/{pid}/fd") == ["0"]
    assert len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) == 1
    maker.close()
    os.waitpid(int(pid), 0)
