"""What one container may take: calls in flight, calls a second, and its share of the processor."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from errno import ENODEV, ENOENT, ENOMEDIUM, ENOSYS, EPERM
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, serving
from tests.support.handovers import POLICY, Caller, connect, hand_over, send, state
from tests.support.inside import cpu_seconds, wait_for
from tests.support.listener import Listened
from tests.support.people import Person
from tests.support.policies import policy
from tests.support.scratch import a_place

# Calls once; then, once it is told to, so many processes (`%d`) call as fast as they can, as long
# as this one is there. Each says the errno of its first call.
CROWD = """
import os, sys, time
said, stop = sys.argv[1:]
def call():
    try:
        os.mknod("/none/x", 0o20666, 0x103)
    except OSError as error:
        return error.errno
def say(errno):
    os.write(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), b"%%d\\n" %% errno)
own = os.getpid()
if os.getpgid(0) != own:
    os.setsid()  # a share of the processor for all of them, as a container has: autogroups
say(call())
while not os.path.exists(stop[:-4] + "go"):
    time.sleep(0.02)
for _ in range(%d):
    if os.fork() == 0:
        say(call())
        while os.getppid() == own and not os.path.exists(stop):
            for _ in range(100):
                call()
        os._exit(0)
for _ in range(%d):
    os.wait()
"""
EMULATED = POLICY.replace("{do: {errno: ENODEV}}", '{devices: ["null"], do: emulate}')
RATE, IN_FLIGHT = 200, 3

place = a_place(0o755)


@pytest.fixture
def crowds(place: Path) -> Iterator[list[Caller]]:
    """To be filled by a test. They end with it."""
    found: list[Caller] = []
    yield found
    (place / "stop").touch()
    for one in found:
        one.close()


def crowd(daemon: Daemon, crowds: list[Caller], name: str, count: int) -> Caller:
    """A container of that name, which has called once."""
    found = Caller(daemon.place, CROWD % (count, count))
    crowds.append(found)
    hand_over(daemon, found, name)
    wait_for(found.errnos, bool)
    return found


def calls(daemon: Daemon, name: str) -> int:
    return int(daemon.container(name)["calls"])


def test_a_rate(root: Person, place: Path, crowds: list[Caller]) -> None:
    """So many a second, after as many at once, if the machine can do that."""
    with serving(root, place, {"host": POLICY}, limits={"rate": RATE}) as daemon:
        began = time.monotonic()
        crowd(daemon, crowds, "one", 4)
        (place / "go").touch()
        wait_for(lambda: calls(daemon, "one"), lambda count: count >= 2 * RATE)
        # a session looks at the clock after each 64 calls
        assert calls(daemon, "one") <= RATE * (1 + time.monotonic() - began) + 2 * 64


def test_calls_in_flight(root: Person, place: Path, crowds: list[Caller]) -> None:
    """Those beyond the limit wait unreceived, and are served when others have been."""
    limits = {"in_flight": IN_FLIGHT, "path": 60}
    with serving(root, place, {"host": EMULATED}, limits=limits) as daemon:
        caller = crowd(daemon, crowds, "one", 2 * IN_FLIGHT)
        # two makers and a resolver: as many as calls may be in flight (for a fourth one there
        # would be another resolver)
        helpers = daemon.ours("path") + daemon.ours("make")
        assert len(helpers) == IN_FLIGHT
        for helper in helpers:
            os.kill(helper, signal.SIGSTOP)
        (place / "go").touch()
        wait_for(lambda: calls(daemon, "one"), lambda count: count == 1 + IN_FLIGHT)
        signal.sigtimedwait([], 0.5)
        assert calls(daemon, "one") == 1 + IN_FLIGHT
        assert len(caller.errnos()) == 1
        for helper in helpers:
            os.kill(helper, signal.SIGCONT)
        wait_for(caller.errnos, lambda said: len(said) == 1 + 2 * IN_FLIGHT)
        assert set(caller.errnos()) == {str(ENOENT)}


def test_another_policys_limits(root: Person, place: Path, crowds: list[Caller]) -> None:
    """A session that runs goes by them from then on."""
    text = EMULATED.replace("syscalls:", "limits: {path: %s}\nsyscalls:")
    with serving(root, place, {"host": text % "60s"}) as daemon:
        caller = crowd(daemon, crowds, "one", 1)
        session = daemon.ours("session")
        (place / "policies" / "host.yaml").write_text(text % "500ms")
        assert daemon.command("reload").returncode == 0
        for helper in daemon.ours("path") + daemon.ours("make"):
            os.kill(helper, signal.SIGSTOP)
        (place / "go").touch()
        said = wait_for(caller.errnos, lambda said: len(said) == 2)
        assert said == [str(ENOENT), str(ENOMEDIUM)]
        assert daemon.ours("session") == session


def test_so_many_containers(root: Person, place: Path, crowds: list[Caller]) -> None:
    """One more is let go of; those that are there notice nothing."""
    with serving(root, place, {"host": POLICY}, limits={"containers": 1}) as daemon:
        first = crowd(daemon, crowds, "one", 1)
        second = Caller(place)
        crowds.append(second)
        hand_over(daemon, second, "two")
        second.let_go()
        second.gets(ENOSYS)
        daemon.said("oci:two: let go: 1 containers are served already")
        assert [row["container"] for row in daemon.ask("ps")] == ["one"]
        (place / "go").touch()
        wait_for(first.errnos, lambda said: said == [str(ENODEV)] * 2)


def test_so_many_descriptors(root: Person, place: Path, crowds: list[Caller]) -> None:
    """Where they run out, what comes is let go of or waits; later all is as it was."""
    with serving(root, place, {"host": POLICY}, limits={"descriptors": 256}) as daemon:
        before = daemon.held()
        silent = Listened(policy(POLICY, "none"), ["sleep", "1000"])
        try:
            with contextlib.ExitStack() as stack:
                for number in range(120):
                    sock = stack.enter_context(connect(daemon))
                    named = {"id": f"c{number}", "status": "running", "pid": 0, "bundle": "."}
                    send(sock, state(state=named), [silent.listener])
                wait_for(daemon.log, lambda text: "Too many open files" in text)
        finally:
            silent.close()
        wait_for(lambda: daemon.ask("ps"), lambda rows: rows == [])
        wait_for(daemon.held, lambda now: now == before)
        assert crowd(daemon, crowds, "later", 1).errnos() == [str(ENODEV)]


def share(pid: int) -> tuple[str, int]:
    """Which share of the processors is a process's, where the kernel goes by sessions, and how nice
    that is (/proc/PID/autogroup, sched(7)). The file is empty for who is in no session's share, as
    all are that an init without a session of its own has started; that is the root's share."""
    name, _, nice = Path(f"/proc/{pid}/autogroup").read_text().rpartition(" nice ")
    return (name, int(nice)) if name else ("", 0)


def test_one_share_for_all_who_work_for_a_container(
    root: Person, place: Path, crowds: list[Caller]
) -> None:
    """Its session and its makers; makers for another policy have smaller ones beside it."""
    if not Path("/proc/self/autogroup").exists():
        pytest.skip("this kernel does not go by sessions")
    with serving(root, place, {"host": EMULATED}) as daemon:
        shares = set()
        for name in ("one", "two"):
            before = daemon.ours("session"), daemon.ours("make"), daemon.ours("path")
            crowd(daemon, crowds, name, 1)
            now = daemon.ours("session"), daemon.ours("make"), daemon.ours("path")
            (session,), *helpers = (set(a) - set(b) for a, b in zip(now, before, strict=True))
            assert list(map(len, helpers)) == [2, 1]
            assert {os.getsid(pid) for pid in set().union(*helpers)} == {os.getsid(session)}
            assert {share(pid) for pid in set().union(*helpers)} == {share(session)}
            assert share(session)[1] == 0
            shares.add(share(session))
        assert len({*shares, share(daemon.one("zygote"))}) == 3
        first = set(daemon.ours("make"))
        more = EMULATED.replace('["null"]', '["null", "zero"]')
        (place / "policies" / "host.yaml").write_text(more)
        assert daemon.command("reload").returncode == 0
        new = wait_for(lambda: set(daemon.ours("make")) - first, lambda found: len(found) == 4)
        assert len({share(pid) for pid in new} - shares) == 4
        assert {share(pid)[1] for pid in new} == {5}


def test_a_noisy_container_and_a_quiet_one(
    root: Person, place: Path, crowds: list[Caller]
) -> None:
    """The quiet one gets its share while another has eight times as many callers.

    What both did in the same time is compared, so that it does not matter how busy the machine is;
    long enough for the scheduler to have placed them anew more than once. (Were they served by
    turns, the noisy one would have eight calls for each of the quiet one's.)
    """
    with serving(root, place, {"host": POLICY}) as daemon:
        for name, count in (("noisy", 32), ("quiet", 4)):
            crowd(daemon, crowds, name, count)
        (place / "go").touch()
        wait_for(lambda: calls(daemon, "quiet"), lambda count: count > 100)
        before = {row["container"]: row["calls"] for row in daemon.ask("ps")}
        wait_for(
            lambda: calls(daemon, "quiet"), lambda count: count > before["quiet"] + 30_000, 60
        )
        done = {row["container"]: row["calls"] - before[row["container"]]
                for row in daemon.ask("ps")}  # fmt: skip
        assert done["quiet"] * 3 > done["noisy"], done


def test_many_that_are_only_refused(root: Person, place: Path, crowds: list[Caller]) -> None:
    """The daemon refuses what no policy is for, and is not busy with it however many ask."""
    with serving(root, place, {"host": POLICY.replace("host}", "own}")}) as daemon:
        for number in range(20):
            crowd(daemon, crowds, f"c{number}", 1)
        (place / "go").touch()
        wait_for(lambda: daemon.ask("stats")["calls"], lambda count: count > 1500)
        used, began = cpu_seconds(daemon.pid), time.monotonic()
        signal.sigtimedwait([], 1)
        assert cpu_seconds(daemon.pid) - used < 0.3 * (time.monotonic() - began)
        assert {*crowds[0].errnos()} == {str(EPERM)}
