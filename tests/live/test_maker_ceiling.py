"""What a maker does for a session that has been taken over: nothing beyond its ceiling."""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from errno import EPERM
from pathlib import Path

import pytest

from supervisor.kernel.spawn import maker_ceiling, spawn_maker
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.scratch import scratch

START = 300_000
NODE, PRIVATE, DROP, LINK, AT = 1, 2, 3, 4, 5
ANYWHERE, DAC = 1, 8
LAYOUT = "7I4x5QI64I256s4x24Q"  # struct sd_make
NO_CPU = 0xFFFFFFFF
# null to zero, and full, which is only made where nobody can open it
CEILING = [("c", 1, 1, 3, 5, False), ("c", 1, 1, 7, 7, True)]
FULL = (1, 7)
TMPFS, EXT4 = 0x01021994, 0xEF53


def born(*, real_nodes: bool = True) -> int:
    """A maker of ours; its socket."""
    ids = [(0, START, 1000)]
    helper = spawn_maker(maker_ceiling(CEILING, ids, ids, real_nodes=real_nodes))
    os.close(helper.pidfd)
    return helper.sock


@pytest.fixture
def maker(root: Person) -> Iterator[socket.socket]:
    assert root.name is None
    with socket.socket(fileno=born()) as found:
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
    fs: tuple[int, int] = (0, 0),
) -> int:
    """The maker's answer: 0, an errno, or 1000 for "needs a bind mount".

    `fs` is what the asker says of the file system: its type, and its id. AT is told that every
    file system answers by itself.
    """
    local = [os.stat(place).st_dev, *[0] * 23]
    message = struct.pack(
        LAYOUT, op, NO_CPU, flags, mode, 0o22, uid, gid, os.makedev(*device), 0, 0, *fs,
        len(groups), *groups[:64], *[0] * (64 - len(groups)), name, *local,
    )  # fmt: skip
    fd = os.open(place, os.O_PATH)
    try:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        maker.sendmsg([message[: len(message) - cut]], rights)
    finally:
        os.close(fd)
    answer = maker.recv(4)
    if len(answer) == 1:  # a descriptor came ahead of it
        answer = maker.recv(4)
    (result,) = struct.unpack("i", answer)
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
        for mode in (0o777, 0o1777):  # nor where everybody may write
            place.chmod(mode)
            for op in (NODE, AT):
                assert ask(maker, place, op=op) == 13
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


@contextlib.contextmanager
def a_container(*, idmapped: Path | None = None) -> Iterator[Path]:
    """A tmpfs of a user namespace with the maker's ids; or `idmapped` as the host maps it there."""
    process = subprocess.Popen(
        ["unshare", "--user", "--mount", "sh", "-c", "echo; read end"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        for kind in ("uid", "gid"):
            Path(f"/proc/{process.pid}/{kind}_map").write_text(f"0 {START} 1000")
        enter = ["nsenter", "--target", str(process.pid), "--user", "--mount"]
        subprocess.run([*enter, "mount", "-t", "tmpfs", "-o", "mode=777", "t", "/mnt"], check=True)
        if idmapped is None:
            yield Path(f"/proc/{process.pid}/root/mnt")
        else:
            yield map_ids(idmapped, process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def map_ids(place: Path, pid: int) -> Path:
    """The descriptor, as a path, of a detached mount of `place` with the ids of that namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    tree = libc.syscall(ctypes.c_long(428), ctypes.c_long(-100), str(place).encode(), 1)
    assert tree >= 0, os.strerror(ctypes.get_errno())
    userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    attributes = struct.pack("4Q", 0x00100000, 0, 0, userns)  # MOUNT_ATTR_IDMAP
    failed = libc.syscall(ctypes.c_long(442), tree, b"", 0x1000, attributes, len(attributes))
    assert not failed, os.strerror(ctypes.get_errno())
    os.close(userns)
    return Path(f"/proc/self/fd/{tree}")


def test_what_is_only_made_closed(maker: socket.socket, folder: Path) -> None:
    """Wherever it could be opened it is not made, whatever the asker says of the place."""
    lies = [(0, 0), (TMPFS, 77), (EXT4, 0)]
    with scratch(0o755, "/dev/shm") as shared:
        os.chown(shared, START, START)
        with a_container() as inside:  # true of this one; now the maker knows file system 77
            assert ask(maker, inside, device=FULL, fs=(TMPFS, 77)) == 0
            node = (inside / "n").lstat()
            assert (os.major(node.st_rdev), os.minor(node.st_rdev)) == FULL
            with pytest.raises(PermissionError):
                os.open(inside / "n", os.O_RDONLY)
        for place in (folder, shared):
            for flags in (DAC, ANYWHERE | DAC):
                for op in (NODE, AT, PRIVATE):
                    for fs in lies:
                        assert ask(maker, place, device=FULL, op=op, flags=flags, fs=fs) == 1
            assert list(place.iterdir()) == []
        assert ask(maker, shared) == 0


def test_an_idmapped_mount_is_no_such_place(maker: socket.socket) -> None:
    """It wants mapped ids as a container's own file system does, but devices open there."""
    with scratch(0o777, "/dev/shm") as shared, a_container(idmapped=shared) as place:
        try:
            for fs in ((0, 0), (TMPFS, 78)):
                assert ask(maker, place, device=FULL, fs=fs) == 1
            assert list(shared.iterdir()) == []
        finally:
            os.close(int(place.name))


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
    wait_for(lambda: os.listdir(f"/proc/{pid}/fd"), lambda found: found == ["0"])
    assert len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) == 1
    maker.close()
    os.waitpid(int(pid), 0)


def test_no_real_nodes(root: Person, folder: Path) -> None:
    """Whose target's end is to be the end of its nodes: only those that are mounted."""
    assert root.name is None
    with socket.socket(fileno=born(real_nodes=False)) as maker:
        maker.settimeout(5)
        for op in (NODE, AT):
            for flags in (0, ANYWHERE | DAC):
                assert ask(maker, folder, op=op, flags=flags) == EPERM
        assert os.listdir(folder) == []
        assert ask(maker, folder, op=PRIVATE) == 0
