"""The daemon below a service manager: its sockets, its messages, its capabilities, its unit."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.kernel.capabilities import NAMES
from tests.support.daemon import Daemon, serving
from tests.support.handovers import POLICY, Caller, hand_over
from tests.support.inside import wait_for
from tests.support.people import ROOT, Person
from tests.support.scratch import scratch

# Listens as a service manager does, and then becomes what it is told to be.
MANAGER = """
import os, socket, sys
count = int(sys.argv[1])
for number, path in enumerate(sys.argv[2 : 2 + count]):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(100)
    os.dup2(sock.detach(), 50 + number)
for number in range(count):
    os.dup2(50 + number, 3 + number, inheritable=True)
    os.close(50 + number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(count)
os.execvp(sys.argv[2 + count], sys.argv[2 + count :])
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(0o755) as folder:
        yield folder


class Manager:
    """Where a daemon's messages go."""

    def __init__(self, place: Path) -> None:
        self.path = place / "notify"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(self.path))

    def heard(self) -> str:
        """The next message."""
        assert select.select([self._sock], [], [], 20)[0]
        return self._sock.recv(4096).decode()

    def until(self, text: str) -> str:
        """The next message with `text` in it."""
        return wait_for(self.heard, lambda message: text in message)

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def manager(place: Path) -> Iterator[Manager]:
    found = Manager(place)
    yield found
    found.close()


def test_its_messages(
    root: Person, place: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "400000"}
    with serving(root, place, {"host": POLICY}, environ=env) as daemon:
        assert "STATUS=oci; 1 policies" in manager.until("READY=1")
        manager.until("WATCHDOG=1")
        manager.until("WATCHDOG=1")
        os.kill(daemon.pid, signal.SIGHUP)
        assert "MONOTONIC_USEC=" in manager.until("RELOADING=1")
        manager.until("READY=1")
        # a daemon whose loop does not turn does not say that it lives
        os.kill(daemon.pid, signal.SIGSTOP)
        with contextlib.suppress(BlockingIOError):
            while manager._sock.recv(4096, socket.MSG_DONTWAIT):
                pass
        assert not select.select([manager._sock], [], [], 1)[0]
        os.kill(daemon.pid, signal.SIGCONT)
        daemon.stop()
        manager.until("STOPPING=1")
    assert monkeypatch is not None


@pytest.mark.parametrize("names", ["seccompd.socket:seccompd.socket", "control:oci", ""])
def test_sockets_that_listen_already(root: Person, place: Path, names: str) -> None:
    """By their files' names, or by names of their own whatever the files are."""
    own = names.startswith("control")
    run = place / "run"
    run.mkdir()
    files = [run / ("a" if own else "control.sock"), run / ("b" if own else "oci.sock")]
    start = [sys.executable, "-c", MANAGER, "2", *map(str, files)]
    with serving(
        root, place, {"host": POLICY}, start=start, environ={"LISTEN_FDNAMES": names},
        socket=files[1],
    ) as daemon:
        caller = Caller(place)
        try:
            hand_over(daemon, caller, "one")
            caller.served()
        finally:
            caller.close()
        assert [os.stat(file).st_mode & 0o777 for file in files] == [0o666, 0o600]
        daemon.stop()
        assert all(file.exists() for file in files), "they are the service manager's"


def capabilities(pid: int) -> set[str]:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"CapPrm:\t(\w+)", status)
    assert found
    bits = int(found[1], 16)
    return {name for number, name in enumerate(NAMES) if bits >> number & 1}


def test_who_keeps_what(root: Person, place: Path) -> None:
    """As SECURITY.md has it."""
    with serving(root, place, {"host": POLICY}) as daemon:
        caller = Caller(place)
        try:
            hand_over(daemon, caller, "one")
            caller.served()
            without = {
                "sys_ptrace", "setuid", "setgid", "setpcap", "sys_admin", "sys_chroot",
                "dac_override", "dac_read_search", "fowner", "fsetid", "chown", "kill",
            }  # fmt: skip
            assert capabilities(daemon.pid) == {"kill", "sys_ptrace"}
            for kind in ("zygote", "second"):
                (pid,) = daemon.ours(kind)
                assert capabilities(pid) == without | {"mknod"}
            (session,) = daemon.ours("session")
            assert capabilities(session) == without, "its container has no user namespace"
            for maker in daemon.ours("make"):
                assert capabilities(maker) == {
                    "mknod", "sys_admin", "dac_override", "fsetid", "fowner", "setuid", "setgid"
                }  # fmt: skip
            for pid in (daemon.pid, session, *daemon.ours("zygote"), *daemon.ours("second")):
                assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
        finally:
            caller.close()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_the_unit_is_hardened() -> None:
    unit = ROOT / "deploy" / "seccompd.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)],
        capture_output=True, text=True, check=False, env={"SYSTEMD_COLORS": "0", "LANG": "C.UTF-8"},
    )  # fmt: skip
    found = re.search(r"Overall exposure level for seccompd.service: ([0-9.]+) (\w+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) < 5.0
    assert found[2] == "OK"


def test_the_unit_knows_every_capability_that_is_kept() -> None:
    from supervisor.daemon import main, zygote

    unit = (ROOT / "deploy" / "seccompd.service").read_text()
    words = {
        word.removeprefix("CAP_").lower()
        for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")
        for word in line.partition("=")[2].split()
    }  # fmt: skip
    assert words == {*zygote.KEPT, *main.KEPT}


def test_it_is_a_daemons_socket_unit() -> None:
    lines = (ROOT / "deploy" / "seccompd.socket").read_text().splitlines()
    paths = [line.partition("=")[2] for line in lines if line.startswith("ListenStream=")]
    assert paths == ["/run/seccompd/oci.sock", "/run/seccompd/control.sock"]
    assert isinstance(Daemon, type)
