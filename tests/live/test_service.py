"""The daemon below a service manager: its sockets, its messages, its capabilities, its unit."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from supervisor.intake.doors import DOORS
from supervisor.kernel.capabilities import NAMES
from tests.support.daemon import serving
from tests.support.handovers import POLICY, Caller, hand_over
from tests.support.inside import links
from tests.support.manager import Manager
from tests.support.people import ROOT, Person
from tests.support.scratch import a_place

place = a_place(0o755)


@pytest.fixture
def manager(place: Path) -> Iterator[Manager]:
    found = Manager(place)
    yield found
    found.close()


def test_its_messages(root: Person, place: Path, manager: Manager) -> None:
    env = {**manager.environ, "WATCHDOG_USEC": "400000"}
    with serving(root, place, {"host": POLICY}, environ=env) as daemon:
        assert "STATUS=oci; 1 policies" in manager.until("READY=1")
        manager.until("WATCHDOG=1")
        manager.until("WATCHDOG=1")
        os.kill(daemon.pid, signal.SIGHUP)
        assert "MONOTONIC_USEC=" in manager.until("RELOADING=1")
        manager.until("READY=1")
        # a daemon whose loop does not turn does not say that it lives
        os.kill(daemon.pid, signal.SIGSTOP)
        assert manager.silent(1)
        os.kill(daemon.pid, signal.SIGCONT)
        daemon.stop()
        manager.until("STOPPING=1")


@contextlib.contextmanager
def listening(files: Sequence[Path], kind: int = socket.SOCK_STREAM) -> Iterator[list[int]]:
    """Descriptors of sockets that listen there."""
    with contextlib.ExitStack() as stack:
        found = []
        for file in files:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            sock.bind(str(file))
            sock.listen(100)
            found.append(sock.fileno())
        yield found


@pytest.mark.parametrize("names", ["seccompd.socket seccompd.socket", "control oci", "unknown "])
def test_sockets_that_listen_already(
    root: Person, place: Path, manager: Manager, names: str
) -> None:
    """By their files' names, or by names of their own whatever the files are."""
    own = names.startswith("control")
    run = place / "run"
    run.mkdir()
    files = [run / ("a" if own else "control.sock"), run / ("b" if own else "oci.sock")]
    with (
        listening(files) as found,
        serving(
            root, place, {"host": POLICY}, control=files[0], socket=files[1],
            start=manager.start([*zip(names.split(" "), found, strict=True)]),
        ) as daemon,
    ):
        caller = Caller(place)
        try:
            hand_over(daemon, caller, "one")
            caller.served()
        finally:
            caller.close()
        assert [os.stat(file).st_mode & 0o777 for file in files] == [0o666, 0o600]
        daemon.stop()
        assert all(file.exists() for file in files), "they are the service manager's"


def unit(name: str) -> list[str]:
    return (ROOT / "deploy" / name).read_text().splitlines()


def listens(name: str, how: str) -> list[Path]:
    """The files that a socket unit has of a kind."""
    return [Path(line.partition("=")[2]) for line in unit(name) if line.startswith(f"{how}=")]


def test_the_socket_units(root: Person, place: Path, manager: Manager) -> None:
    """Every door there is has a unit; as they have the sockets, the daemon takes them."""
    run = place / "run"
    run.mkdir()
    with contextlib.ExitStack() as stack:
        given: list[tuple[str, int]] = []
        doors = []
        for file in sorted((ROOT / "deploy").glob("*.socket")):
            names = [line.partition("=")[2] for line in unit(file.name)
                     if line.startswith("FileDescriptorName=")]  # fmt: skip
            for how, kind in (
                ("ListenStream", socket.SOCK_STREAM),
                ("ListenSequentialPacket", socket.SOCK_SEQPACKET),
            ):
                paths = listens(file.name, how)
                assert {path.parent for path in paths} <= {Path("/run/seccompd")}
                found = stack.enter_context(listening([run / path.name for path in paths], kind))
                given += [((names or [file.name])[0], fd) for fd in found]
                doors += [path.stem for path in paths]
        assert set(doors) == {*DOORS, "control"}
        assert len(doors) == len(set(doors))
        with serving(
            root, place, {"host": POLICY}, start=manager.start(given), doors=[*DOORS],
            environ=manager.environ,
        ) as daemon:
            manager.until("READY=1")
            inodes = {os.fstat(fd).st_ino for _, fd in given}
            assert inodes <= {
                int(link.split("[")[1][:-1]) for link in links(daemon.pid) if "socket:[" in link
            }
            modes = {name: os.stat(run / f"{name}.sock").st_mode & 0o777 for name in doors}
            assert modes == {"oci": 0o600, "lxc": 0o600, "attach": 0o666, "control": 0o666}


def test_a_socket_that_no_door_is_for(root: Person, place: Path, manager: Manager) -> None:
    with (
        listening([place / "lxc.sock"], socket.SOCK_SEQPACKET) as found,
        serving(root, place, {"host": POLICY}, start=manager.start([("lxc", found[0])])) as daemon,
    ):
        daemon.said("nobody serves lxc.sock")


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
                pid = daemon.one(kind)
                assert capabilities(pid) == without | {"mknod"}
            session = daemon.one("session")
            assert capabilities(session) == without, "its container has no user namespace"
            for maker in daemon.ours("make"):
                assert capabilities(maker) == {
                    "mknod", "sys_admin", "dac_override", "fsetid", "fowner", "setuid", "setgid"
                }  # fmt: skip
            for pid in (daemon.pid, session, *daemon.ours("zygote"), *daemon.ours("second")):
                assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
        finally:
            caller.close()


@pytest.mark.needs("systemd-analyze")
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
