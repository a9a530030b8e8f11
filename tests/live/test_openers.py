"""Opens that are made by openers: what equal calls get, with whose rights, and what becomes of them
where an opener hangs or dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.evaluating import OPENED, Evaluating
from tests.support.inside import links, wait_for
from tests.support.needs import need
from tests.support.people import Person
from tests.support.program import names
from tests.support.scratch import scratch

DAC_OVERRIDE = 1 << 1
FILE, DISK, TUN = "/srv/file", "/srv/disk", "/dev/net/tun"
RULES = """
version: 1
limits: {path: 3}
syscalls:
  mknod: [{devices: [full], do: emulate}]
  open:
    - {path: /srv/file, do: {inject: {file: PLACE/file, access: read-write}}}
    - {path: /srv/disk, do: {inject: {device: "block 7:NUMBER"}}}
    - {path: /srv/less, do: {inject: {device: "block 7:NUMBER", access: read-only}}}
    - {path: /dev/net/tun, do: {inject: {device: tun}}}
    - {path: /tick, do: {inject: {content: "."}}}
"""
CODE = """
def times(count, path, flags=os.O_RDWR):
    found = [opened(path, flags) for _ in range(count)]
    [os.close(fd) for fd in found if isinstance(fd, int)]
    return [fd if isinstance(fd, str) else "OK" for fd in found]
def network(name):
    return attached(name, "/dev/net/tun")
def elsewhere():
    ctypes.CDLL(None).unshare(0x40000000)
    return network(b"tun-inner"), network(b"tun-again")
def make_as(gid, path):
    pid = os.fork()
    if not pid:
        os.setresgid(0, gid, 0)
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 7))
        os._exit(0)
    return os.waitpid(pid, 0)[1]
"""


@pytest.fixture(scope="module")
def place(root: Person) -> Iterator[Path]:
    """A file of the host's root's, and a loop device."""
    need("losetup")
    with scratch(0o755, "/var/tmp") as folder:
        (folder / "image").write_bytes(b"disk" + bytes(1 << 20))
        (folder / "file").write_text("file")
        (folder / "file").chmod(0o600)
        words = ["losetup", "-f", "--show", str(folder / "image")]
        disk = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        try:
            rules = RULES.replace("PLACE", str(folder))
            number = disk.removeprefix("/dev/loop")
            (folder / "rules.yaml").write_text(rules.replace("NUMBER", number))
            yield folder
        finally:
            subprocess.run(["losetup", "-d", disk], check=True)


class Inside(Evaluating):
    """A container of root's, with its openers."""

    def __init__(self, root: Person, place: Path) -> None:
        super().__init__(root, place / "rules.yaml", "--unshare", "net", code=CODE)

    def openers(self) -> list[int]:
        return self.ours("seccompd-open")

    def with_opener(self, path: str) -> int:
        """The one opener that there is, which has opened that last."""
        assert self(f"times(5, {path!r})") == ["OK"] * 5
        (pid,) = self.openers()
        return pid

    def waiting(self) -> list[int]:
        """Processes whose first thread is in openat(2)."""
        found = []
        for pid in self.started.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/syscall").read_text().split()[0] == "257":
                    found.append(pid)
        return found


@pytest.fixture
def inside(root: Person, place: Path) -> Iterator[Inside]:
    found = Inside(root, place)
    try:
        yield found
    finally:
        found.started.kill()
    assert found.started.wait_gone() == []


def rights(pid: int) -> tuple[int, bool]:
    """The capabilities that it can have, and whether it is in our user namespace."""
    text = Path(f"/proc/{pid}/status").read_text()
    permitted = re.search(r"^CapPrm:\s*(\w+)", text, re.MULTILINE)
    assert permitted is not None
    same = os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    return int(permitted[1], 16), same


@pytest.mark.parametrize(
    ("path", "may"), [(FILE, (DAC_OVERRIDE, True)), (DISK, (0, False)), (TUN, (0, False))]
)
def test_equal_calls(inside: Inside, path: str, may: tuple[int, bool]) -> None:
    """They need no maker, and each gets a file of its own, with the flags that it asked for; an
    opener has the rights for that and no more, and goes where nobody calls; none is missed."""
    opener = inside.with_opener(path)
    assert rights(opener) == may
    makers = [pid for pid, name in names(inside.started.processes).items() if name.endswith("make")]
    for pid in makers:
        os.kill(pid, signal.SIGSTOP)
    try:
        flags = "[(fcntl.fcntl(opened(PATH, flags), fcntl.F_GETFL) & ~0o100000) == flags for flags"
        flags += " in (os.O_RDWR, os.O_RDWR | os.O_NONBLOCK, os.O_RDONLY, os.O_WRONLY) * 3]"
        assert inside(flags.replace("PATH", repr(path))) == [True] * 12
        kept = f"[os.get_inheritable(ctypes.CDLL(None).open({path.encode()!r}, flags)) for flags"
        assert inside(f"{kept} in (0, os.O_CLOEXEC) * 2]") == [True, False] * 2
        if path != TUN:
            assert inside(f"[os.read(opened({path!r}), 4) for _ in range(3)]") == [
                path.removeprefix("/srv/").encode()
            ] * 3
    finally:
        for pid in makers:
            os.kill(pid, signal.SIGCONT)
    wait_for(  # nothing of what it opened
        lambda: sorted(link.split(":")[0] for link in links(opener)),
        lambda found: found == ["anon_inode", "socket"],
    )
    if path == FILE:
        inside("quiet.set()")
        wait_for(inside.openers, lambda found: found == [])
    else:
        os.kill(opener, signal.SIGKILL)
        wait_for(inside.openers, lambda found: opener not in found)
        assert inside(f"times(4, {path!r})") == ["OK"] * 4


def test_it_is_not_who_a_maker_was_last(root: Person, inside: Inside, place: Path) -> None:
    """The host's root has no ids of the container's."""
    own = place / "own"
    own.mkdir()
    assert inside(f"make_as(77, {str(root.given(own) / 'full')!r})") == 0
    opener = inside.with_opener(FILE)
    status = Path(f"/proc/{opener}/status").read_text()
    assert re.findall(r"^[UG]id:.*|^Groups:.*", status, re.MULTILINE) == [
        "Uid:\t0\t0\t0\t0", "Gid:\t0\t0\t0\t0", "Groups:\t "
    ]  # fmt: skip


def test_it_stands_back(inside: Inside) -> None:
    """Who has its answer goes on before it, and so does the session; all are of one group."""
    opener = inside.with_opener(FILE)
    found = names(inside.started.processes)
    (session,) = [pid for pid, name in found.items() if name == "seccompd-sessio"]
    assert os.sched_getscheduler(opener) == os.SCHED_BATCH
    nice, usual = (os.getpriority(os.PRIO_PROCESS, pid) for pid in (opener, session))
    assert nice > usual
    assert os.getsid(opener) == os.getsid(session)


def test_no_wider_than_the_rule(inside: Inside) -> None:
    assert inside("times(5, '/srv/less', os.O_RDONLY)") == ["OK"] * 5
    assert inside("times(3, '/srv/less', os.O_RDWR)") == ["EACCES"] * 3
    assert inside("opened(f'/proc/self/fd/{opened(\"/srv/less\", os.O_RDONLY)}')") == "EACCES"
    assert inside("[stat.S_ISBLK(os.stat(opened('/srv/less', 0)).st_mode)] * 2") == [True] * 2


def test_a_disk_is_claimed(inside: Inside, place: Path) -> None:
    """As with a node of it: by O_EXCL, for as long as that is open."""
    text = """
def claimed(path):
    said = []
    for access in (os.O_RDONLY, os.O_RDWR) * 3:
        claim = opened(path, access | os.O_EXCL)
        said += [opened(path, access | os.O_EXCL), type(opened(path, access)).__name__]
        os.close(claim)
    return said
"""
    disk = re.search(r"block 7:(\d+)", (place / "rules.yaml").read_text())
    assert disk is not None
    words = [f"import errno, os\n{OPENED}{text}print(claimed('/dev/loop{disk[1]}'))"]
    done = subprocess.run(
        ["python3", "-c", *words], check=True, capture_output=True, text=True, timeout=20
    )
    assert inside(f"exec({text!r}, globals()) or claimed({DISK!r})") == literal_eval(done.stdout)
    assert "EBUSY" in done.stdout


def test_a_network_of_its_own(inside: Inside) -> None:
    """Each caller's tun is of the network namespace that it is in, whatever was opened before."""
    assert inside("[network(b'tun%d' % n) for n in range(6)]") == [True] * 6
    assert inside("in_thread(elsewhere)") == (True, True)
    assert inside("[network(b'tun%d' % n) for n in range(3)]") == [True] * 3
    assert not [name for name in os.listdir("/sys/class/net") if re.match(r"tun[-\d]", name)]


def test_one_dies_in_a_call(inside: Inside) -> None:
    """That one is refused, unless the session had not yet given up waiting for it in C."""
    opener = inside.with_opener(DISK)
    os.kill(opener, signal.SIGSTOP)
    inside.begin(f"times(1, {DISK!r})")
    wait_for(inside.waiting, bool)
    os.kill(opener, signal.SIGKILL)
    assert inside.end() in (["EPERM"], ["OK"])
    assert inside(f"times(4, {DISK!r})") == ["OK"] * 4


def test_one_hangs(inside: Inside) -> None:
    """Its call has a deadline, as all path work; others do not wait for it."""
    opener = inside.with_opener(FILE)
    os.kill(opener, signal.SIGSTOP)
    try:
        meanwhile = "in_thread(lambda: times(1, '/srv/file')), times(3, '/tick', 0)"
        assert inside(f"({meanwhile})") == (["EPERM"], ["OK"] * 3)
        assert inside("times(4, '/srv/file')") == ["OK"] * 4
    finally:
        os.kill(opener, signal.SIGCONT)
    with contextlib.suppress(ProcessLookupError):
        wait_for(inside.openers, lambda found: opener not in found)  # it ends, once it can
