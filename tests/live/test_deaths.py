"""Parts of seccompd that die or stand still: who waits gets an answer, and nothing spins."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.engine.limits import DEFAULT
from tests.support.inside import Asker, cpu_seconds, links, wait_for
from tests.support.listener import listener_of, received
from tests.support.people import Person
from tests.support.scratch import mounts_below, scratch

MKNOD = {"133", "259"}  # mknod, mknodat
RULES = """
version: 1
on_error: ENOMEDIUM
limits: {path: 60s}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        (folder / "rules.yaml").write_text(RULES)
        yield folder
        assert mounts_below(folder) == []


@pytest.fixture
def asker(person: Person, place: Path) -> Iterator[Asker]:
    found = Asker(person, person.given(place), ["--policy", str(place / "rules.yaml")])
    try:
        assert found.make() == ["OK"]
        yield found
    finally:
        found.started.kill()
    assert found.started.wait_gone() == []


def signalled(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def in_a_call(asker: Asker) -> bool:
    """Whether the program inside waits in mknod."""
    for pid in asker.started.processes():
        try:
            if Path(f"/proc/{pid}/syscall").read_text().split()[0] in MKNOD:
                return True
        except OSError:
            continue
    return False


def sleeps(pid: int) -> int:
    """How often the process has gone to sleep."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def in_flight(asker: Asker) -> None:
    """Has a call made, and waits until the session has received it and waits for others itself."""
    session = asker.session()
    before = -1
    while before != (before := sleeps(session)):
        time.sleep(0.2)
    listener = listener_of(session)
    try:
        asker.ask(1)
        wait_for(lambda: received(listener), bool)
    finally:
        os.close(listener)
    wait_for(lambda: sleeps(session), lambda now: now > before)


def idles(pid: int) -> None:
    """Fails where the process spins: within a second it would use one of processor time."""
    before = cpu_seconds(pid)
    time.sleep(1)
    assert cpu_seconds(pid) - before < 0.3


def kill_session(asker: Asker) -> None:
    """Kills the session that is there, and waits until it has gone."""
    session = asker.session()
    os.kill(session, signal.SIGKILL)
    wait_for(lambda: asker.ours().get("session", []), lambda found: session not in found)


def test_a_session_dies_between_calls(asker: Asker) -> None:
    before = len(links(asker.front))
    for _ in range(3):
        kill_session(asker)
        assert asker.make(3) == ["OK"] * 3
    asker.session()
    wait_for(lambda: len(links(asker.front)), lambda count: count == before)
    assert asker.end().returncode == 0


def test_a_call_in_flight_gets_the_errno_of_on_error(asker: Asker) -> None:
    """Rule 8: the session dies with a call that it has received: nobody else could answer it."""
    ours = asker.ours()
    helpers = ours.get("path", []) + ours.get("make", [])
    assert helpers
    signalled(helpers, signal.SIGSTOP)
    in_flight(asker)
    kill_session(asker)
    assert asker.told() == ["ENOMEDIUM"]
    assert asker.make(3) == ["OK"] * 3
    done = asker.end()
    assert "a session has died; 1 calls refused" in done.stderr


def test_a_call_that_nobody_has_received_waits_for_the_next_session(asker: Asker) -> None:
    """Rule 2: the front holds the listener as well, and leaves it alone."""
    session = asker.session()
    os.kill(session, signal.SIGSTOP)
    asker.ask(1)
    wait_for(lambda: in_a_call(asker), bool)
    idles(asker.front)
    assert in_a_call(asker), "somebody but the session has answered"
    kill_session(asker)
    assert asker.told() == ["OK"]
    assert "0 calls refused" in asker.end().stderr


def test_deaths_under_load(asker: Asker, place: Path) -> None:
    asker.ask(3000)
    for _ in range(5):
        time.sleep(0.1)
        kill_session(asker)
    told = asker.told()
    assert set(told) <= {"OK", "ENOMEDIUM"}
    assert told.count("ENOMEDIUM") <= 5, "at most the one call that was in flight"
    assert asker.make() == ["OK"]
    there = len(list(place.glob("n*")))
    assert 0 <= there - told.count("OK") - 2 <= told.count("ENOMEDIUM")
    assert asker.end().returncode == 0


def test_too_many_deaths(asker: Asker) -> None:
    """From then on everything is refused: at once, by a front that otherwise sleeps."""
    for _ in range(DEFAULT.restarts):
        kill_session(asker)
    assert asker.make(50) == ["ENOMEDIUM"] * 50
    # one that was on its way when the last one died is ended as it comes
    wait_for(lambda: "session" in asker.ours(), lambda there: not there)
    idles(asker.front)
    assert asker.make() == ["ENOMEDIUM"]
    done = asker.end()
    assert (done.returncode, done.stderr.count("is refused from now on")) == (0, 1)


def test_the_zygote_dies(asker: Asker) -> None:
    """Its session and helpers die with it, since nothing could end them any more."""
    (zygote,) = asker.ours()["zygote"]
    asker.ask(50)
    os.kill(zygote, signal.SIGKILL)
    assert set(asker.told()) <= {"OK", "ENOMEDIUM"}, "the session may live a moment longer"
    wait_for(lambda: set(asker.ours()), lambda kinds: kinds == {"front", "init"})
    assert asker.make(50) == ["ENOMEDIUM"] * 50
    idles(asker.front)
    assert asker.make() == ["ENOMEDIUM"]
    done = asker.end()
    assert (done.returncode, done.stderr.count("is refused from now on")) == (0, 1)


def test_the_zygote_dies_with_a_call_in_flight(asker: Asker) -> None:
    ours = asker.ours()
    signalled(ours.get("path", []) + ours.get("make", []), signal.SIGSTOP)
    in_flight(asker)
    signalled(ours["zygote"], signal.SIGKILL)
    assert asker.told() == ["ENOMEDIUM"]
    assert asker.end().returncode == 0


@pytest.mark.parametrize("waiting", [False, True])
def test_seccompd_dies_without_a_namespace(root: Person, place: Path, waiting: bool) -> None:
    """Rule 9: nobody else holds the listener, so the kernel answers what is asked then.

    The command itself ends with seccompd; what it has started may go on.
    """
    options = ["--map", "none", "--policy", str(place / "rules.yaml")]
    asker = Asker(root, place, options, below="; :")
    try:
        assert asker.make() == ["OK"]
        ours = asker.ours()
        if waiting:
            signalled(ours.get("path", []) + ours.get("make", []), signal.SIGSTOP)
            asker.ask(1)
            wait_for(lambda: in_a_call(asker), bool)
        os.kill(asker.front, signal.SIGKILL)
        if waiting:
            assert asker.told() == ["ENOSYS"]
        wait_for(lambda: [kind for kind in asker.ours() if kind != "front"], lambda x: x == [])
        assert asker.make(2) == ["ENOSYS", "ENOSYS"]
        stdin = asker.started.process.stdin
        assert stdin is not None
        stdin.close()
        assert asker.started.wait_gone() == []
    finally:
        asker.started.kill()
