"""oci.sock and those who come to it: in pieces, slow, silent, wrong. The listeners are real."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, serving
from tests.support.handovers import POLICY, Caller, closed, connect, send, state
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.scratch import a_place

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    limits = {"connections": 20, "hand_over": 1.5, "message": 500_000}
    with serving(root, place, {"host": POLICY}, limits=limits) as found:
        yield found


@pytest.fixture
def caller(place: Path) -> Iterator[Caller]:
    found = Caller(place)
    yield found
    found.close()


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
        wait_for(daemon.held, lambda now: now == before)
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
    wait_for(daemon.held, lambda now: now == before)


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
    wait_for(daemon.held, lambda now: now == before)
