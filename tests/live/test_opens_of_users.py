"""Devices of the host's for an ordinary user: for equal calls the session opens them, or an opener
of its own, as each caller could by itself at that moment."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.devices import for_everybody
from tests.support.evaluating import Evaluating
from tests.support.inside import links, wait_for
from tests.support.needs import need
from tests.support.people import Person, ordinary, without_ranges
from tests.support.scratch import scratch

FUSE, TUN = "/dev/fuse", "/dev/net/tun"
GROUP = 4242
ACCESS_LIST = "system.posix_acl_access"
RULES = """
version: 1
limits: {path: 2}
syscalls:
  open:
    - {path: /given, do: {inject: {device: fuse}}}
    - {path: /disk, do: {inject: {device: "block 7:NUMBER"}}}
    - {path: /tun, do: {inject: {device: tun}}}
    - {path: /tick, do: {inject: {content: "."}}}
"""

@dataclass(frozen=True)
class Member(Person):
    """Somebody who is in one more group, and in no other."""

    def argv(self, command: Sequence[str]) -> list[str]:
        ids = ["--reuid", str(self.uid), "--regid", str(self.gid), "--groups", str(GROUP)]
        return ["setpriv", *ids, "--", *command]


@dataclass(frozen=True)
class Hidden(Person):
    """Somebody of a host whose /proc shows everybody their own processes alone."""

    def argv(self, command: Sequence[str]) -> list[str]:
        hide = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
        mounting = ["unshare", "-m", "--propagation", "private", "sh", "-c", hide, "sh"]
        return [*mounting, *super().argv(command)]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("only root can change devices")
    need("losetup")
    with scratch(0o755, "/var/tmp") as folder:
        (folder / "image").write_bytes(b"disk" + bytes(1 << 20))
        words = ["losetup", "-f", "--show", str(folder / "image")]
        disk = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        before = os.stat(disk)
        try:
            number = disk.removeprefix("/dev/loop")
            (folder / "rules.yaml").write_text(RULES.replace("NUMBER", number))
            (folder / "disk").symlink_to(disk)
            yield folder
        finally:
            os.chown(disk, before.st_uid, before.st_gid)
            os.chmod(disk, before.st_mode & 0o777)
            subprocess.run(["losetup", "-d", disk], check=True)


@pytest.fixture
def device() -> Iterator[None]:
    """/dev/fuse, to be changed at will."""
    with for_everybody(FUSE):
        before = os.stat(FUSE)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.removexattr(FUSE, ACCESS_LIST)
            os.chown(FUSE, before.st_uid, before.st_gid)


@pytest.fixture
def tun() -> Iterator[None]:
    with for_everybody(TUN):
        yield


@contextlib.contextmanager
def container(person: Person, place: Path, *options: str) -> Iterator[Evaluating]:
    found = Evaluating(person, place / "rules.yaml", *options)
    try:
        yield found
    finally:
        found.started.kill()
    assert found.started.wait_gone() == []


def restrict(mode: int, uid: int = 0, gid: int = 0) -> None:
    os.chown(FUSE, uid, gid)
    os.chmod(FUSE, mode)


def allow(uid: int, rights: int, mask: int = 6, others: int = 0) -> None:
    entries = ((1, 6, -1), (2, rights, uid), (4, mask, -1), (16, mask, -1), (32, others, -1))
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *one) for one in entries)
    os.setxattr(FUSE, ACCESS_LIST, listed)


def ranged() -> Person:
    need("newuidmap", "newgidmap")
    return ordinary()


def inner(person: Person, kind: str, inside: int) -> int:
    """Who that is outside, in a container of this person's with the usual map."""
    for line in Path(f"/etc/sub{kind}").read_text().splitlines():
        owner, start, _ = line.split(":")
        if owner == person.name:
            return int(start) + inside - 1
    raise AssertionError(f"{person.name} has no subordinate ids in /etc/sub{kind}")


@pytest.mark.parametrize("hidden", ["", "pidfd_info"])
def test_of_a_group(
    place: Path, device: None, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /dev/kvm usually is. No resolver is needed; who is not in that group is refused."""
    if hidden:
        monkeypatch.setenv("SECCOMPD_TEST_HIDE", hidden)
    name = without_ranges().name
    restrict(0o660, gid=GROUP)
    with container(Member(name), place) as inside:
        assert inside("times(4)") == ["OK"] * 4
        with inside.without_resolvers():
            assert inside("times(6)") == ["OK"] * 6
            assert inside("in_thread(lambda: times(3))") == ["OK"] * 3
            assert inside("in_child(lambda: times(3))") == ["OK"] * 3
        restrict(0o660, gid=GROUP + 1)
        assert inside("times(3)") == ["EACCES"] * 3
        restrict(0o640, gid=GROUP)
        assert inside("times(2), times(3, flags=0), times(2)") == (
            ["EACCES"] * 2, ["OK"] * 3, ["EACCES"] * 2
        )  # fmt: skip
    restrict(0o660, gid=GROUP)
    with container(Person(name), place) as inside:
        assert inside("times(5)") == ["EACCES"] * 5


def test_changed_in_a_burst(place: Path, device: None) -> None:
    person = without_ranges()
    with container(person, place) as inside:
        for _ in range(3):
            restrict(0o666)
            assert inside("times(3)") == ["OK"] * 3
            restrict(0o600)
            assert inside("times(3)") == ["EACCES"] * 3
            restrict(0o600, uid=person.uid)
            assert inside("times(3)") == ["OK"] * 3


def test_access_lists(place: Path, device: None) -> None:
    person = without_ranges()
    restrict(0o600)
    allow(person.uid, 6)
    with container(person, place) as inside:
        assert inside("times(4)") == ["OK"] * 4
        with inside.without_resolvers():
            assert inside("times(4)") == ["OK"] * 4
        allow(person.uid, 4)
        assert inside("times(3), times(3, flags=0)") == (["EACCES"] * 3, ["OK"] * 3)
        allow(person.uid, 0, others=6)
        assert os.stat(FUSE).st_mode & 0o777 == 0o666
        assert inside("times(3)") == ["EACCES"] * 3
        os.removexattr(FUSE, ACCESS_LIST)
        os.chmod(FUSE, 0o666)
        assert inside("times(3)") == ["OK"] * 3


@pytest.mark.parametrize("hidden", ["", "pidfd_info"])
def test_others_of_the_map(
    place: Path, device: None, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread is who it is at each call."""
    if hidden:
        monkeypatch.setenv("SECCOMPD_TEST_HIDE", hidden)
    person = ranged()
    restrict(0o600, uid=person.uid)
    both = (["OK"] * 2 + ["EACCES"] * 2) * 4
    with container(person, place) as inside:
        assert inside("times(4)") == ["OK"] * 4
        with inside.without_resolvers():
            assert inside("times(4)") == ["OK"] * 4
        assert inside("by_turns(lambda: setfsuid(5), lambda: setfsuid(0))") == both
        assert inside("in_thread(lambda: setfsuid(5) or times(3)), times(3)") == (
            ["EACCES"] * 3, ["OK"] * 3
        )  # fmt: skip
        assert inside("in_child(lambda: os.setresuid(5, 5, 5) or times(3))") == ["EACCES"] * 3
        assert inside("times(3)") == ["OK"] * 3
        restrict(0o060, gid=person.gid)
        assert inside("setgroups() or times(3)") == ["OK"] * 3
        assert inside("by_turns(lambda: setfsgid(5), lambda: setfsgid(0))") == both
        restrict(0o600, uid=inner(person, "uid", 5))
        turned = (["EACCES"] * 2 + ["OK"] * 2) * 4
        assert inside("by_turns(lambda: setfsuid(5), lambda: setfsuid(0))") == turned


def test_groups_of_the_map(place: Path, device: None) -> None:
    """Which give rights, or take them."""
    person = ranged()
    group = inner(person, "gid", 7)
    restrict(0o660, gid=group)
    change, back = "lambda: setgroups(7)", "lambda: setgroups()"
    with container(person, place) as inside:
        assert inside("setgroups() or times(3)") == ["EACCES"] * 3
        assert inside(f"by_turns({change}, {back})") == (["EACCES"] * 2 + ["OK"] * 2) * 4
        restrict(0o606, gid=group)
        assert inside(f"by_turns({change}, {back})") == (["OK"] * 2 + ["EACCES"] * 2) * 4
        assert inside("in_thread(lambda: setgroups(7) or times(3)), times(3)") == (
            ["EACCES"] * 3, ["OK"] * 3
        )  # fmt: skip


def test_the_users_own(place: Path, device: None) -> None:
    """Over a file of mapped ids a capability counts, if the caller has it."""
    person = without_ranges()
    restrict(0o400, uid=person.uid, gid=person.gid)
    with container(person, place) as inside:
        assert inside("times(4)") == ["OK"] * 4
        assert inside("in_thread(lambda: drop_dac() or times(4))") == ["EACCES"] * 4
        assert inside("in_thread(lambda: drop_dac() or times(4, flags=0))") == ["OK"] * 4
        assert inside("times(2)") == ["OK"] * 2


def test_a_host_that_hides_processes(place: Path, device: None, tun: None) -> None:
    """A resolver that opens with the caller's capabilities needs none for its own /proc."""
    person = Hidden(ranged().name)
    with container(person, place, "--unshare", "net") as inside:
        other = "in_thread(lambda: setfsuid(5) or drop_ptrace() or times(3{}))"
        restrict(0o660)
        assert inside(other.format("")) == ["EACCES"] * 3
        restrict(0o606)
        assert inside(other.format("")) == ["OK"] * 3
        assert inside(other.format(", '/tun'")) == ["OK"] * 3


def test_user_namespaces_below(place: Path, device: None) -> None:
    """Who is mapped there as whomever is outside who it was."""
    person = ranged()
    restrict(0o600, uid=person.uid)
    with container(person, place) as inside:
        assert inside("times(3)") == ["OK"] * 3
        for number in (0, 5):
            assert inside(f"in_child(lambda: nested({number}) or times(4))") == ["OK"] * 4
        other = "os.setresgid(5, 5, 5) or os.setresuid(5, 5, 5)"
        assert inside(f"in_child(lambda: {other} or nested() or times(4))") == ["EACCES"] * 4
        assert inside("times(3)") == ["OK"] * 3


def test_what_an_open_may_wait_for(place: Path) -> None:
    """A block device: by an opener, which is no more than the user is."""
    disk = place / "disk"
    os.chown(disk, 0, GROUP)
    os.chmod(disk, 0o640)
    with container(Member(without_ranges().name), place) as inside:
        assert inside("[os.read(opened('/disk', 0), 4) for _ in range(4)]") == [b"disk"] * 4
        assert len(inside.ours("seccompd-open")) == 1
        with inside.without_resolvers():
            assert inside("[os.read(opened('/disk', 0), 4) for _ in range(4)]") == [b"disk"] * 4
        assert inside("[opened('/disk') for _ in range(3)]") == ["EACCES"] * 3
        os.chown(disk, 0, GROUP + 1)
        assert inside("[opened('/disk', 0) for _ in range(3)]") == ["EACCES"] * 3


def test_made_anew(place: Path) -> None:
    """Another node of the same device, as of the next disk that has its number, is what counts."""
    disk = os.path.realpath(place / "disk")
    device = os.stat(disk).st_rdev
    os.chown(disk, 0, GROUP)
    os.chmod(disk, 0o640)
    with container(Member(without_ranges().name), place) as inside:
        assert inside("[os.read(opened('/disk', 0), 4) for _ in range(4)]") == [b"disk"] * 4
        for _ in range(2):
            os.unlink(disk)
            os.mknod(disk, stat.S_IFBLK | 0o600, device)
            assert inside("[opened('/disk', 0) for _ in range(3)]") == ["EACCES"] * 3
            os.chown(disk, 0, GROUP)
            os.chmod(disk, 0o640)
            assert inside("[os.read(opened('/disk', 0), 4) for _ in range(4)]") == [b"disk"] * 4
            with inside.without_resolvers():
                assert inside("[os.read(opened('/disk', 0), 4) for _ in range(4)]") == [b"disk"] * 4


def test_tun_by_an_opener(place: Path, tun: None) -> None:
    """Of the session's own, which has no rights and no resolver's help; in the caller's network."""
    person = without_ranges()
    with container(person, place, "--unshare", "net") as inside:
        assert inside("[network(b'tun%d' % n) for n in range(5)]") == [True] * 5
        (opener,) = inside.ours("seccompd-open")
        status = Path(f"/proc/{opener}/status").read_text()
        assert re.findall(r"^Cap(?:Prm|Eff|Inh):\s*(\w+)", status, re.MULTILINE) == ["0" * 16] * 3
        assert os.readlink(f"/proc/{opener}/ns/net") != os.readlink("/proc/self/ns/net")
        with inside.without_resolvers():
            assert inside("[network(b'tun%d' % n) for n in range(6)]") == [True] * 6
            kept = "[os.get_inheritable(libc.open(b'/tun', flags)) for flags in"
            assert inside(f"{kept} (2, 2 | os.O_CLOEXEC) * 2]") == [True, False] * 2
        wait_for(  # what it opens nodes by, and the node; nothing of what it opened
            lambda: sorted(link.split(":")[0] for link in links(opener)),
            lambda found: [one for one in found if one not in ("anon_inode", "socket")]
            == [TUN, f"/proc/{opener}/fd"],
        )
        assert inside("in_thread(elsewhere)") == (True, True, True)
        assert inside("[network(b'tun%d' % n) for n in range(3)]") == [True] * 3
        os.chmod(TUN, 0o600)
        assert inside("times(3, '/tun')") == ["EACCES"] * 3
        os.chmod(TUN, 0o666)
        assert inside("times(3, '/tun')") == ["OK"] * 3
        inside("quiet.set()")
        wait_for(lambda: inside.ours("seccompd-open"), lambda found: found == [])
    assert not [name for name in os.listdir("/sys/class/net") if re.match(r"tun[-\d]", name)]


def test_tun_of_our_own_network(place: Path, tun: None) -> None:
    """The session is there itself, and opens it; for others it does not."""
    with container(without_ranges(), place) as inside:
        assert inside("times(4, '/tun')") == ["OK"] * 4
        with inside.without_resolvers():
            assert inside("times(4, '/tun')") == ["OK"] * 4
        assert inside.ours("seccompd-open") == []
        assert inside("in_thread(elsewhere)") == (True, True, True)
        assert inside("times(3, '/tun')") == ["OK"] * 3


def test_tun_of_others(place: Path, tun: None) -> None:
    """Who may not open it is not given it by an opener that may."""
    person = ranged()
    with container(person, place, "--unshare", "net") as inside:
        assert inside("times(5, '/tun')") == ["OK"] * 5
        os.chown(TUN, person.uid, 0)
        try:
            os.chmod(TUN, 0o600)
            assert inside("times(3, '/tun')") == ["OK"] * 3
            other = "in_thread(lambda: setfsuid(5) or times(3, '/tun'))"
            assert inside(f"{other}, times(3, '/tun')") == (["EACCES"] * 3, ["OK"] * 3)
        finally:
            os.chown(TUN, 0, 0)


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP])
def test_an_opener_is_lost(place: Path, tun: None, what: signal.Signals) -> None:
    """It dies, or hangs: one call at most is refused, by its deadline, and no later ones are."""
    with container(without_ranges(), place, "--unshare", "net") as inside:
        assert inside("times(5, '/tun')") == ["OK"] * 5
        (opener,) = inside.ours("seccompd-open")
        os.kill(opener, what)
        first, *more = inside("times(5, '/tun')")
        assert first in ("OK", "EPERM")
        assert more == ["OK"] * 4
        (session,) = inside.ours("seccompd-sessio")
        os.kill(session, signal.SIGKILL)
        wait_for(lambda: inside.ours("seccompd-open"), lambda found: found == [])
