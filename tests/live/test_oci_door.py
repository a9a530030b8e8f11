"""oci.sock and those who come to it: in pieces, slow, silent, wrong. The listeners are real."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, serving
from tests.support.inside import wait_for
from tests.support.listener import Listened
from tests.support.people import Person
from tests.support.policies import policy
from tests.support.scratch import scratch

# Callers are on the host, without a container around them.
POLICY = """
version: 1
on_error: ENOMEDIUM
match: {door: oci, user_namespace: host}
syscalls:
  mknod:
    - {do: {errno: ENODEV}}
"""
CALLER = """
import os, sys
while True:
    try:
        os.mknod("/none/x", 0o20666, 0x103)
    except OSError as error:
        print(error.errno, file=open(sys.argv[1], "a"), flush=True)
    if os.path.exists(sys.argv[2]):
        break
    __import__("time").sleep(0.02)
"""
ENODEV = "19"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o755) as folder:
        yield folder


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    limits = {"connections": 20, "hand_over": 1.5, "message": 500_000}
    with serving(root, place, {"host": POLICY}, limits=limits) as found:
        yield found


class Caller:
    """A process below a filter, whose listener nobody serves yet."""

    def __init__(self, place: Path) -> None:
        self.said, stop = place / f"said-{time.monotonic_ns()}", place / "stop"
        words = [sys.executable, "-c", CALLER, str(self.said), str(stop)]
        self._listened = Listened(policy(POLICY, "none"), words)
        self.listener = self._listened.listener

    def errnos(self) -> list[str]:
        return self.said.read_text().split() if self.said.exists() else []

    def served(self) -> None:
        """Fails where its calls do not get what the policy says."""
        wait_for(lambda: len(self.errnos()), bool)
        assert set(self.errnos()) == {ENODEV}

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listened.close()


@pytest.fixture
def caller(place: Path) -> Iterator[Caller]:
    found = Caller(place)
    yield found
    found.close()


def state(**change: Any) -> bytes:
    found = {
        "ociVersion": "1.0.2", "fds": ["seccompFd"], "pid": 0, "metadata": "",
        "state": {"ociVersion": "1.0.2", "id": f"c{time.monotonic_ns()}", "status": "creating",
                  "pid": 0, "bundle": "/b"},
    }  # fmt: skip
    return json.dumps(found | change).encode()


def connect(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(daemon.socket))
    return sock


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)


def closed(sock: socket.socket) -> bool:
    """Waits until the daemon has let go of the connection."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_listener_is_served(daemon: Daemon, caller: Caller) -> None:
    with connect(daemon) as sock:
        send(sock, state(), [caller.listener])
        caller.served()


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_a_message_in_pieces(daemon: Daemon, caller: Caller, size: int) -> None:
    """With a large annotation in it, as runtimes pass them on; and spaces at the end, later."""
    much = {"id": f"pieces-{size}", "annotations": {"org.example.k": "x" * 1000 * min(size, 300)}}
    data = json.dumps(json.loads(state()) | {"state": much}, indent=4).encode()
    with connect(daemon) as sock:
        send(sock, data[:1], [caller.listener])
        for start in range(1, len(data), size):
            sock.sendall(data[start : start + size])
        caller.served()
        sock.sendall(b"\n")
        assert closed(sock)


def test_a_runtime_that_closes_at_once(daemon: Daemon, caller: Caller) -> None:
    with connect(daemon) as sock:
        send(sock, state(), [caller.listener])
    caller.served()


def test_several_descriptors(daemon: Daemon, caller: Caller, place: Path) -> None:
    read, write = os.pipe()
    try:
        with connect(daemon) as sock:
            names = ["other", "seccompFd", "third"]
            send(sock, state(fds=names), [write, caller.listener, write])
            caller.served()
        os.close(write)
        os.set_blocking(read, False)
        # nobody but us held it, or this would be BlockingIOError
        wait_for(lambda: _at_its_end(read), bool)
    finally:
        os.close(read)


def _at_its_end(fd: int) -> bool:
    try:
        return os.read(fd, 1) == b""
    except BlockingIOError:
        return False


def test_a_second_listener_of_a_container(daemon: Daemon, caller: Caller, place: Path) -> None:
    """What crun exec sends: no pid anywhere."""
    before = len(daemon.ours("session"))
    container = {"state": {"id": "of-two", "status": "running", "pid": 0, "bundle": "."}}
    other = Caller(place)
    try:
        for one in (caller, other):
            with connect(daemon) as sock:
                send(sock, state(**container), [one.listener])
            one.served()
        assert len(daemon.ours("session")) == before + 1
    finally:
        other.close()


WRONG: dict[str, tuple[bytes, Sequence[str]]] = {
    "no JSON": (b"{]", ["seccompFd"]),
    "no object": (b"[1, 2]", ["seccompFd"]),
    "not UTF-8": (b'{"a": "\xff"}', ["seccompFd"]),
    "two objects": (state() + state(), ["seccompFd"]),
    "a name too many": (state(fds=["seccompFd", "other"]), ["seccompFd"]),
    "a name too few": (state(fds=[]), ["seccompFd"]),
    "no listener named": (state(fds=["other"]), ["other"]),
    "two listeners named": (state(fds=["seccompFd"] * 2), ["seccompFd"] * 2),
    "no id": (state(state={}), ["seccompFd"]),
    "something that is no listener": (state(), ["pipe"]),
    "too long": (state(metadata="x" * 600_000), ["seccompFd"]),
    "many descriptors": (state(fds=["other"] * 250), ["pipe"] * 250),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_message_that_is_wrong(daemon: Daemon, place: Path, what: str) -> None:
    """It costs those who sent it their connection and their descriptors, and nobody else."""
    data, fds = WRONG[what]
    before = daemon.held()
    caller = Caller(place)
    read, write = os.pipe()
    try:
        with connect(daemon) as sock:
            what_is = {"pipe": write, "other": write}
            send(sock, data[:1], [what_is.get(fd, caller.listener) for fd in fds])
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data[1:])
            assert closed(sock)
        assert daemon.held() == before
    finally:
        caller.close()
        os.close(read)
        os.close(write)
    good = Caller(place)
    try:
        with connect(daemon) as sock:
            send(sock, state(), [good.listener])
            good.served()
    finally:
        good.close()


def test_descriptors_after_the_first_piece(daemon: Daemon, caller: Caller) -> None:
    before = daemon.held()
    data = state()
    with connect(daemon) as sock:
        send(sock, data[:5], [caller.listener])
        time.sleep(0.2)
        send(sock, data[5:], [caller.listener])
        assert closed(sock)
    assert daemon.held() == before


def test_who_is_silent_or_slow_waits_alone(daemon: Daemon, caller: Caller, place: Path) -> None:
    before = daemon.held()
    silent = [connect(daemon) for _ in range(100)]
    slow = connect(daemon)
    send(slow, b'{"fds": ["seccompFd"], "metadata": "', [caller.listener])
    other = Caller(place)
    try:
        with connect(daemon) as sock:
            send(sock, state(), [other.listener])
            other.served()
        assert closed(slow)
        # the oldest have made room
        assert closed(silent[0])
        # one that has waited may still hand over: no deadline runs before its first byte
        time.sleep(2)
        send(silent[-1], state(), [caller.listener])
        caller.served()
    finally:
        for sock in (*silent, slow):
            sock.close()
        other.close()
        caller.close()
    wait_for(lambda: daemon.held() == before, bool)
    # one that says nothing, and goes
    connect(daemon).close()
    with connect(daemon) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert closed(sock)
    assert daemon.held() == before
