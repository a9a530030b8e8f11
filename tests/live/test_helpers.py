"""What seccompd's processes are, seen from outside: rights, descriptors, and who dies with whom."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inside import Asker, links, wait_for
from tests.support.people import Person
from tests.support.scratch import a_place

LISTENER = "anon_inode:seccomp notify"
CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID, SYS_ADMIN, MKNOD = 0, 1, 3, 6, 7, 21, 27

place = a_place(scope="module")


@pytest.fixture(scope="module")
def asker(person: Person, place: Path) -> Iterator[Asker]:
    """One that has made a node, so that its helpers are there; it rests."""
    folder = place / f"of-{person.name}"
    folder.mkdir()
    person.given(folder)
    found = Asker(person, folder, ["--policy", "build"])
    try:
        assert found.make() == ["OK"]
        yield found
    finally:
        found.started.kill()
    assert found.started.wait_gone() == []


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def others(asker: Asker) -> list[int]:
    """The program inside, whose processes carry the mark as well."""
    ours = {pid for pids in asker.ours().values() for pid in pids}
    return [pid for pid in asker.started.processes() if pid not in ours]


def test_who_is_there(asker: Asker, person: Person) -> None:
    counts = {kind: len(pids) for kind, pids in asker.ours().items()}
    makers = {"make": 2} if person.name is None else {}
    paths = counts.pop("path", 0)
    assert counts == {"front": 1, "zygote": 1, "session": 1, "init": 1, **makers}
    assert 1 <= paths <= 4


def test_two_hold_the_listener(asker: Asker) -> None:
    """Rules 2 and 9: the session, which reads it, and the front, which keeps it."""
    holders = {
        kind: links(pid).count(LISTENER)
        for kind, pids in asker.ours().items() for pid in pids if LISTENER in links(pid)
    }  # fmt: skip
    assert holders == {"front": 1, "session": 1}
    inside = others(asker)
    assert inside
    for pid in inside:
        assert LISTENER not in links(pid)


def strays(pid: int, known: str) -> list[str]:
    """What a process has open beside what is known."""
    return [link for link in links(pid) if not re.fullmatch(known, link)]


def test_only_what_a_helper_needs_is_open(asker: Asker) -> None:
    """Rule 24: a stray descriptor is a way out, or keeps what it belongs to from ending."""
    ours = asker.ours()
    for pid in ours.get("make", []):
        assert [link.split(":")[0] for link in links(pid)] == ["socket"]
    for pid in ours["path"]:
        assert sorted(link.split(":")[0] for link in links(pid)) == ["mnt", "socket"]
    known = r"/dev/null|socket:.*|anon_inode:\[signalfd\]"
    for pid in ours["init"]:
        assert strays(pid, known) == []
    known += r"|/memfd:seccompd-watch.*|anon_inode:\[(pidfd|timerfd|eventpoll)\]|pipe:.*"
    for pid in ours["zygote"]:
        assert strays(pid, known) == []
    for pid in ours["session"]:
        known += rf"|{LISTENER}|/proc/\d+(/task/\d+)?/mountinfo"  # its own mounts
        # The files of those who called lately are closed once nobody has called for a while.
        wait_for(lambda: strays(pid, known), lambda found: found == [])  # noqa: B023
        assert links(pid).count("/dev/null") <= 3
        pipes = [link for link in links(pid) if link.startswith("pipe:")]
        assert len(pipes) <= 1, "CMD's standard error, and neither its input nor its output"


def test_nobody_can_look_into_them(asker: Asker) -> None:
    """Not dumpable: the kernel gives /proc/PID to root, whoever the process belongs to."""
    looked_at = 0
    for kind in ("session", "path", "init"):
        for pid in asker.ours()[kind]:
            if status(pid)["Uid"].split()[0] != "0":
                assert Path(f"/proc/{pid}/status").stat().st_uid == 0, kind
                looked_at += 1
    assert looked_at >= 3


def test_the_program_cannot_see_them(asker: Asker) -> None:
    """They are in other pid namespaces than the target, or are its pid 1."""
    (pid, *_) = others(asker)
    for kind, pids in asker.ours().items():
        for one in pids:
            same = namespace(one, "pid") == namespace(pid, "pid")
            assert same == (kind == "init")


def test_rights(asker: Asker, person: Person) -> None:
    ours = asker.ours()
    (init,), (front,) = ours["init"], ours["front"]
    target = namespace(init, "user")
    for kind in ("session", "path"):
        for pid in ours[kind]:
            assert namespace(pid, "user") == target, f"{kind}: rights outside of the container"
    for kind in ("session", "path", "make"):
        for pid in ours.get(kind, []):
            found = status(pid)
            assert found["NoNewPrivs"] == "1", kind
            assert int(found["CapInh"], 16) == 0
            assert int(found["CapAmb"], 16) == 0
    may = sum(1 << bit for bit in (MKNOD, SYS_ADMIN, DAC_OVERRIDE, FOWNER, SETUID, SETGID, 4))
    for pid in ours.get("make", []):
        assert int(status(pid)["CapPrm"], 16) & ~may == 0
        assert int(status(pid)["CapEff"], 16) == 0, "raised only while it works"
    if person.name is not None:
        for pid in [front, *ours["zygote"]]:
            assert int(status(pid)["CapPrm"], 16) == 0


def test_they_die_with_their_parents(person: Person, place: Path) -> None:
    """PDEATHSIG: a parent that is killed has no time to end anybody."""
    folder = place / f"dies-{person.name}"
    folder.mkdir()
    person.given(folder)
    asker = Asker(person, folder, ["--policy", "build"])
    try:
        assert asker.make() == ["OK"]
        paths = asker.ours()["path"]
        for pid in paths:  # stopped: it cannot end by itself when its socket closes
            os.kill(pid, signal.SIGSTOP)
        os.kill(asker.session(), signal.SIGKILL)
        wait_for(lambda: set(asker.started.processes()) & set(paths), lambda left: not left)
        assert asker.make() == ["OK"]
        ours = asker.ours()
        below = ours["session"] + ours["path"] + ours.get("make", []) + ours["init"]
        for pid in below:
            os.kill(pid, signal.SIGSTOP)
        os.kill(asker.front, signal.SIGKILL)
        assert asker.started.wait_gone() == []
    finally:
        asker.started.kill()
