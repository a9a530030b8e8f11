"""control.sock and the verbs that ask there; policies that are loaded again while callers call."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from errno import ENODEV, ENOMEDIUM, ENXIO, EPERM
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from tests.support.daemon import Daemon, serving
from tests.support.handovers import POLICY, Caller, hand_over
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.program import seccompd
from tests.support.scratch import a_place, scratch
from tests.support.tracing import stop_after

SYS_IOCTL = 16
NOTIF_RECV = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV

# What a call has come to that waits for as long as nobody connects.
ACCEPTS = POLICY.replace("mknod:", "accept: [{from: 127.0.0.1, do: emulate}]\n  mknod:")
ACCEPT = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
while True:
    try:
        with server.accept()[0] as taken:
            said = taken.recv(9).decode()
    except OSError as error:
        said = error.errno
    print(said, file=open(sys.argv[1], "a"), flush=True)
"""
OTHER = POLICY.replace("ENODEV", "ENXIO")
# From four threads, as fast as it goes; now and then it says what its calls get.
BUSY = """
import os, sys, threading
def call(loud):
    for turn in range(1 << 60):
        try:
            os.mknod("/none/x", 0o20666, 0x103)
        except OSError as error:
            if loud and turn % 20 == 0:
                print(error.errno, file=open(sys.argv[1], "a"), flush=True)
for number in range(4):
    threading.Thread(target=call, args=(not number,), daemon=True).start()
while not os.path.exists(sys.argv[2]):
    __import__("time").sleep(0.1)
"""

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"host": POLICY}, limits={"hang": 1}) as found:
        yield found


@pytest.fixture
def caller(daemon: Daemon, place: Path, request: pytest.FixtureRequest) -> Iterator[Caller]:
    """One that is served, as the container "one"."""
    found = Caller(place, *getattr(request, "param", ()))
    hand_over(daemon, found, "one")
    found.gets(ENODEV)
    yield found
    found.close()
    wait_for(lambda: daemon.ask("ps"), lambda rows: rows == [])


@pytest.fixture
def policy(daemon: Daemon) -> Iterator[Path]:
    """The file, which is as it was afterwards."""
    file = daemon.place / "policies" / "host.yaml"
    yield file
    file.write_text(POLICY)
    assert daemon.command("reload").returncode == 0


def test_what_is_served_is_shown(daemon: Daemon, caller: Caller) -> None:
    said = len(caller.errnos())
    row = daemon.container("one")
    session = daemon.one("session")
    assert (row["policy"], row["door"], row["uid"]) == ("host", "oci", 0)
    assert (row["session"], row["listeners"], row["sessions"]) == (session, 1, 1)
    assert row["refuses_all"] is None
    assert row["unnotified"] == []
    assert 0 < row["age"] < 60
    assert said <= row["calls"] <= len(caller.errnos()) + 1
    assert row["denials"] == row["calls"] or row["denials"] == row["calls"] - 1
    assert os.fsencode(caller.said) in Path(f"/proc/{row['pid']}/cmdline").read_bytes()
    stats = daemon.ask("stats")
    assert (stats["containers"], stats["sessions"], stats["pid"]) == (1, 1, daemon.pid)
    assert stats["calls"] >= row["calls"]
    shown = daemon.command("ps").stdout.splitlines()
    assert shown[0].split()[:2] == ["CONTAINER", "DOOR"]
    assert shown[1].split()[:4] == ["one", "oci", "0", "host"]


def test_counts_outlive_a_session(daemon: Daemon, caller: Caller) -> None:
    before = daemon.container("one")
    os.kill(before["session"], signal.SIGKILL)
    caller.gets(ENODEV)
    after = daemon.container("one")
    assert after["calls"] > before["calls"]
    assert after["session"] != before["session"]
    assert after["sessions"] == 2


def test_others_see_nothing_and_order_nothing(
    daemon: Daemon, caller: Caller, user: Person
) -> None:
    assert caller
    assert daemon.ask("ps", person=user) == []
    stats = daemon.ask("stats", person=user)
    assert stats == dict.fromkeys(stats, 0)
    assert "pid" not in stats
    done = daemon.command("reload", person=user)
    assert (done.returncode, "only root" in done.stderr) == (1, True)


WRONG = [b"{", b"[1]", b"{}", b'{"do": 5}', b'{"do": "fly"}', b'{"do": "trace", "syscalls": 5}',
         b'{"do": "trace", "container": 5}', b"[" * 10_000, b"x" * 70_000,
         b'{"do": "devices", "container": "\\ud800"}']  # fmt: skip


@pytest.mark.parametrize("request_", WRONG, ids=range(len(WRONG)))
def test_a_request_that_is_wrong(daemon: Daemon, request_: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(daemon.runtime / "control.sock"))
        sock.sendall(request_ + b"\n")
        answer = json.loads(sock.makefile().readline())
        assert list(answer) == ["error"]
    assert daemon.ask("ps") == []


# -- policies that are loaded again


@pytest.mark.parametrize("caller", [(), (BUSY,)], ids=["slow", "busy"], indirect=True)
def test_another_policy_holds_at_once(daemon: Daemon, caller: Caller, policy: Path) -> None:
    session = daemon.container("one")["session"]
    policy.write_text(OTHER)
    assert "1 containers" in daemon.ask("reload")["done"]
    have = len(caller.errnos())
    caller.gets(ENXIO)
    # what the last call before it got may be said later
    assert [errno for errno in caller.errnos()[have:] if errno != str(ENXIO)] in (
        [], [str(ENODEV)],
    )  # fmt: skip
    assert daemon.container("one")["session"] == session
    assert "0 of them new" in daemon.ask("reload")["done"]


def test_sighup_does_the_same(daemon: Daemon, caller: Caller, policy: Path) -> None:
    policy.write_text(OTHER)
    os.kill(daemon.pid, signal.SIGHUP)
    caller.gets(ENXIO)


def test_one_bad_file_changes_nothing(daemon: Daemon, caller: Caller, policy: Path) -> None:
    policy.write_text(OTHER)
    bad = policy.with_name("worse.yaml")
    bad.write_text("version: 1\nmatch: {}\nsyscals: {}\n")
    try:
        done = daemon.command("reload")
        assert done.returncode == 1
        assert f"{bad}:3:1: error: unknown key syscals" in done.stderr
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for(lambda: "nothing is loaded again" in daemon.log(), bool)
        have = len(caller.errnos())
        wait_for(lambda: len(caller.errnos()), lambda count: count > have + 5)
        assert set(caller.errnos()) == {str(ENODEV)}
    finally:
        bad.unlink()
    assert daemon.command("reload").returncode == 0
    caller.gets(ENXIO)


def test_no_policy_any_more_and_one_again(daemon: Daemon, caller: Caller, policy: Path) -> None:
    policy.write_text(POLICY.replace("host}", "own}"))
    assert daemon.command("reload").returncode == 0
    caller.gets(EPERM)
    row = daemon.container("one")
    assert "no policy applies" in row["refuses_all"]
    assert (row["policy"], row["session"]) == (None, None)
    policy.write_text(OTHER)
    assert daemon.command("reload").returncode == 0
    caller.gets(ENXIO)


def test_a_filter_that_does_not_notify_a_new_call(
    daemon: Daemon, caller: Caller, policy: Path
) -> None:
    policy.write_text(POLICY + "  mount:\n    rules: []\n")
    assert daemon.command("reload").returncode == 0
    assert daemon.container("one")["unnotified"] == ["mount"]
    assert "restart it: its filter does not notify mount" in daemon.command("ps").stdout
    caller.gets(ENODEV)


# -- trace


class Tracing:
    """`seccompd trace` while it runs."""

    def __init__(self, daemon: Daemon, person: Person, *options: str) -> None:
        words = seccompd(
            person, "trace", "--socket", str(daemon.runtime / "control.sock"), "-o", "json",
            *options,
        )  # fmt: skip
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, env=person.environ(), text=True, cwd="/"
        )

    def record(self) -> dict[str, Any]:
        assert self.process.stdout
        return dict(json.loads(self.process.stdout.readline()))

    def close(self) -> str:
        self.process.terminate()
        out, _ = self.process.communicate(timeout=20)
        return out


@contextlib.contextmanager
def tracing(daemon: Daemon, person: Person, *options: str) -> Iterator[Tracing]:
    found = Tracing(daemon, person, *options)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
        found.process.communicate()


def test_trace(daemon: Daemon, caller: Caller, place: Path, root: Person, user: Person) -> None:
    other = Caller(place)
    held = daemon.held()
    try:
        with (
            tracing(daemon, root) as both,
            tracing(daemon, root, "--container", "two", "--syscall", "mknod") as one,
            tracing(daemon, root, "--syscall", "mount") as call,
            tracing(daemon, root, "--verdict", "emulate", "--verdict", "kill") as verdict,
            tracing(daemon, user) as theirs,
        ):
            assert both.record()["session"] == "oci:one"
            hand_over(daemon, other, "two")  # while somebody looks on
            record = one.record()
            assert (record["session"], record["syscall"]) == ("oci:two", "mknodat")
            assert (record["verdict"], record["errno"]) == ("errno", "ENODEV")
            assert record["args"]["pathname"] == "/none/x"
            assert record["policy"] == "host"
            wait_for(lambda: both.record()["session"], lambda name: name == "oci:two")
            caller.gets(ENODEV)
            assert [one.close() for one in (call, verdict, theirs)] == ["", "", ""]
    finally:
        other.close()
    wait_for(lambda: len(daemon.ask("ps")), lambda count: count == 1)
    # of those who have looked on nothing is left
    wait_for(daemon.held, lambda now: now == held)


# -- sessions and zygotes that do not do their work


def test_a_session_that_hangs(daemon: Daemon, caller: Caller) -> None:
    session = daemon.one("session")
    os.kill(session, signal.SIGSTOP)
    wait_for(lambda: "a session hangs, and is ended" in daemon.log(), bool)
    wait_for(lambda: daemon.ours("session"), lambda found: found not in ([], [session]))
    caller.gets(ENODEV)
    assert set(caller.errnos()) <= {str(ENODEV), str(ENOMEDIUM)}


def test_a_session_that_hangs_with_a_call_just_received(daemon: Daemon, caller: Caller) -> None:
    """Which it has not written down yet."""
    session = daemon.one("session")
    stop_after(session, SYS_IOCTL, lambda words: words[1] == NOTIF_RECV)
    wait_for(lambda: daemon.ours("session"), lambda found: found not in ([], [session]))
    caller.gets(ENODEV)
    assert caller.errnos().count(str(ENOMEDIUM)) == 1


def test_a_session_that_hangs_after_a_long_start(daemon: Daemon, place: Path) -> None:
    """Nobody looked after it while it was on its way, and there was no other one."""
    zygote, found = daemon.one("zygote"), Caller(place)
    os.kill(zygote, signal.SIGSTOP)
    try:
        hand_over(daemon, found, "one")
        sleep(2.5)  # longer than a session that hangs is left alone
        os.kill(zygote, signal.SIGCONT)
        found.gets(ENODEV)
        session = daemon.one("session")
        os.kill(session, signal.SIGSTOP)
        wait_for(lambda: daemon.ours("session"), lambda those: those not in ([], [session]))
        found.gets(ENODEV)
    finally:
        os.kill(zygote, signal.SIGCONT)
        found.close()
    wait_for(lambda: daemon.ask("ps"), lambda rows: rows == [])


def test_a_session_that_hangs_with_a_call(root: Person) -> None:
    """It has received what it will not answer; one that lives may have it for as long as it takes.
    """
    with scratch(0o755) as place, serving(
        root, place, {"host": ACCEPTS}, limits={"hang": 1}
    ) as daemon:
        caller = Caller(place, ACCEPT, ACCEPTS)
        try:
            hand_over(daemon, caller, "one")
            session = daemon.one("session")
            wait_for(lambda: daemon.container("one")["calls"], bool)
            sleep(3.5)  # longer than a session that hangs is left alone
            assert daemon.one("session") == session
            assert caller.errnos() == []
            os.kill(session, signal.SIGSTOP)
            wait_for(caller.errnos, lambda said: said[:1] == [str(ENOMEDIUM)])
            daemon.said("a session hangs, and is ended; 1 calls refused")
        finally:
            caller.close()


def test_a_zygote_that_dies(daemon: Daemon, caller: Caller, place: Path) -> None:
    """Again and again: each time another one takes its place, and calls go on."""
    for _ in range(2):
        zygote = daemon.one("zygote")
        second = daemon.one("second")
        os.kill(zygote, signal.SIGKILL)
        gone = Path(f"/proc/{zygote}")
        wait_for(gone.exists, lambda there: not there)
        assert daemon.one("zygote") == second
        caller.gets(ENODEV)
        other = Caller(place)
        try:
            hand_over(daemon, other, "another")
            other.gets(ENODEV)
        finally:
            other.close()
        wait_for(lambda: len(daemon.ask("ps")), lambda count: count == 1)
    assert set(caller.errnos()) <= {str(ENODEV), str(ENOMEDIUM)}
    wait_for(lambda: daemon.log().count("another one takes its place"), lambda count: count == 2)


@pytest.mark.parametrize("whom", ["daemon", "zygote and daemon", "second and daemon"])
def test_nobody_outlives_a_daemon_that_is_killed(root: Person, whom: str) -> None:
    """Not the zygote, nor the one beside it, nor what they might fork."""
    with scratch(0o755) as place, serving(root, place, {"host": POLICY}) as daemon:
        caller = Caller(place)
        try:
            hand_over(daemon, caller, "one")
            caller.served()
            wait_for(lambda: daemon.ours("second"), bool)
            for word in whom.split(" and "):
                pids = [daemon.pid] if word == "daemon" else daemon.ours(word)
                os.kill(pids[0], signal.SIGKILL)
            daemon.started.process.wait()
            assert daemon.started.wait_gone() == []
            signal.sigtimedwait([], 0.5)
            assert daemon.started.processes() == []
        finally:
            caller.close()


def test_zygotes_that_die_again_and_again(root: Person) -> None:
    """They are not replaced for ever: then the daemon ends, and says why."""
    with scratch(0o755) as place, serving(root, place, {"host": POLICY}) as daemon:

        def two() -> list[int]:
            """The zygote and the one beside it; nobody, where the daemon has ended."""
            return [*daemon.ours("zygote"), *daemon.ours("second")]

        def ended() -> bool:
            return daemon.started.process.poll() is not None

        for _ in range(5):
            found = wait_for(two, lambda found: len(found) == 2 or ended())
            if ended():
                break
            os.kill(found[0], signal.SIGKILL)
            gone = Path(f"/proc/{found[0]}")
            wait_for(gone.exists, lambda there: not there)
        assert daemon.started.process.wait(20) == 1
        assert daemon.started.wait_gone() == []
        daemon.said("the zygote has died")
