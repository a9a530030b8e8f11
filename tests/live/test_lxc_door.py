"""lxc.sock and those who come to it: monitors of other versions, late ones, wrong ones.

The monitor is the test's own: it receives a real listener's calls and passes them on.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from supervisor.engine.snapshot import Receiver
from supervisor.kernel.shim import ffi, lib
from tests.support.daemon import Daemon, serving
from tests.support.inside import wait_for
from tests.support.listener import Listened, deadline_timer, watch
from tests.support.people import Person
from tests.support.policies import policy
from tests.support.scratch import a_place

# Callers are on the host, without a container around them.
POLICY = """
version: 1
on_error: ENOMEDIUM
match: {door: lxc, user_namespace: host}
syscalls:
  mknod:
    - {devices: ["null"], do: {errno: ENODEV}}
    - {devices: [zero], do: {errno: EXDEV}}
"""
CALLS = """
import os, sys
for minor in (3, 5, 3):
    try:
        os.mknod("/none/x", 0o20666, os.makedev(1, minor))
    except OSError as error:
        print(error.errno, file=open(sys.argv[1], "a"), flush=True)
"""
ENODEV, EXDEV = 19, 18
HEAD = struct.Struct("=Qii3H2xQ")
ANSWER = struct.Struct("=Qqii")
SIZES = (80, 24, 64)

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"host": POLICY}, doors=["oci", "lxc"]) as found:
        yield found


class Monitor:
    """Who has the listener of a command, and the connection."""

    def __init__(self, daemon: Daemon, place: Path) -> None:
        self.said = place / f"said-{time.monotonic_ns()}"
        compiled = policy(POLICY, "none")
        self._listened = Listened(compiled, [sys.executable, "-c", CALLS, str(self.said)])
        self.listener = self._listened.listener
        self._timer, self._watch = deadline_timer(), watch()
        self._receiver = Receiver(self.listener, self._timer, self._watch, compiled.calls)
        self.sock = connect(daemon)
        self.notification = b""
        self.pid = 0

    def receive(self) -> None:
        """The next call, and nothing is done with it."""
        assert self._receiver.receive(20_000_000) is not None
        self.notification = bytes(ffi.buffer(self._watch.received))[:80]
        self.pid = self._receiver.call.tid

    def request(
        self, *, reserved: int = 0, sizes: Sequence[int] = SIZES, cookie: bytes = b"",
        length: int | None = None, init: int | None = None,
    ) -> bytes:
        """The last call as a monitor writes it."""
        length = len(cookie) if length is None else length
        head = HEAD.pack(reserved, os.getpid(), init or self.pid, *sizes, length)
        return head + self.notification + bytes(24) + cookie

    def send(self, data: bytes, count: int = 3) -> None:
        """With as many descriptors as this version of LXC has."""
        fds = [os.open(f"/proc/{self.pid}", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)]
        try:
            all_fds = [*fds, self.listener, self.listener][:count]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", all_fds))]
            self.sock.sendmsg([data], rights if all_fds else [])
        finally:
            for fd in fds:
                os.close(fd)

    def answer(self) -> int:
        """Passes the daemon's answer on; its errno."""
        data = self.sock.recv(1000)
        assert len(data) == 136
        assert data[:8] == bytes(8)
        id_, value, error, flags = ANSWER.unpack_from(data, 112)
        assert id_ == struct.unpack_from("=Q", self.notification)[0]
        assert self._receiver.answer_last((value, error, flags))
        return -int(error)

    def ask(self, count: int = 3, **more: bytes) -> int:
        """One call, from its caller to its answer."""
        self.receive()
        self.send(self.request(**more), count)  # type: ignore[arg-type]
        return self.answer()

    def refuse(self) -> None:
        """Answers by itself, as a monitor that waits no longer."""
        assert self._receiver.answer_last((0, -38, 0))

    def close(self) -> None:
        self.sock.close()
        with contextlib.suppress(OSError):
            self._listened.close()
        os.close(self._timer)


def connect(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(20)
    sock.connect(str(daemon.runtime / "lxc.sock"))
    return sock


@pytest.fixture
def monitor(daemon: Daemon, place: Path) -> Iterator[Monitor]:
    found = Monitor(daemon, place)
    yield found
    found.close()
    wait_for(lambda: daemon.ours("session"), lambda left: not left)


def closed(sock: socket.socket) -> bool:
    """Waits until the daemon has ended the connection."""
    try:
        return sock.recv(1000) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("count", [2, 3])
def test_one_call_after_the_other(monitor: Monitor, count: int) -> None:
    """Older ones do not send the listener: it is fetched from them."""
    got = [monitor.ask(count, cookie=b"x" * 50) for _ in range(3)]
    assert got == [ENODEV, EXDEV, ENODEV]
    wait_for(lambda: monitor.said.read_text().split(), lambda found: len(found) == 3)
    assert monitor.said.read_text().split() == ["19", "18", "19"]


def test_a_connection_that_ends_and_another_one(daemon: Daemon, monitor: Monitor) -> None:
    """As after a monitor's timeout: the container is the same one."""
    assert monitor.ask() == ENODEV
    monitor.sock.close()
    monitor.sock = connect(daemon)
    assert monitor.ask() == EXDEV


def test_a_monitor_that_does_not_wait(daemon: Daemon, monitor: Monitor) -> None:
    """Its next request, while the first one is under way: nobody could tell whose an answer is."""
    assert monitor.ask() == ENODEV
    session = daemon.one("session")
    os.kill(session, 19)
    try:
        monitor.receive()
        for _ in range(2):
            monitor.send(monitor.request())
    finally:
        os.kill(session, 18)
    # One answer may have gone out before the other request was seen.
    with contextlib.suppress(ConnectionResetError):
        while monitor.sock.recv(1000):
            monitor.sock.settimeout(20)
            break
    monitor.sock.close()
    monitor.refuse()


def test_a_monitor_that_dies_meanwhile(daemon: Daemon, monitor: Monitor) -> None:
    monitor.receive()
    monitor.send(monitor.request())
    monitor.sock.close()
    wait_for(lambda: daemon.ours("session"), lambda left: not left)
    monitor.sock = connect(daemon)
    monitor.refuse()
    assert monitor.ask() == EXDEV


WRONG = {
    "nothing reserved": {"reserved": 1},
    "another size": {"sizes": (88, 24, 64)},
    "a cookie that is too long": {"cookie": b"x" * 5000},
    "a cookie that is not all there": {"cookie": b"x", "length": 2},
    "a process that is none": {"init": 1 << 30},
    "a process without a filter": {"init": 1},
}


def test_what_is_wrong(daemon: Daemon, monitor: Monitor) -> None:
    """It costs the connection, whether it comes first or later, and nobody else anything."""
    monitor.receive()
    monitor.sock.close()
    before = daemon.held()
    bad = [(monitor.request(**more), 3) for more in WRONG.values()]  # type: ignore[arg-type]
    good = monitor.request()
    bad += [(good, 0), (good, 1), (good, 4), (good[:100], 3), (good + b"x", 3), (b"x", 3)]
    for data, count in bad:
        monitor.sock = connect(daemon)
        monitor.send(data, count)
        assert closed(monitor.sock), data
        monitor.sock.close()
    wait_for(daemon.held, lambda now: now == before)
    for data, count in bad:
        if data[:12] != good[:12] or data[12:16] != good[12:16]:
            continue  # which process it is only matters at first
        monitor.sock = connect(daemon)
        monitor.send(good)
        assert len(monitor.sock.recv(1000)) == 136
        monitor.send(data, count)
        assert closed(monitor.sock), data
        monitor.sock.close()
    wait_for(lambda: daemon.held() == before, bool)
    monitor.sock = connect(daemon)
    monitor.send(good)
    assert monitor.answer() == ENODEV


def test_an_answer_that_would_come_too_late(root: Person) -> None:
    """It would be taken for that of the next call: the connection ends instead."""
    assert root.name is None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own = watch()
    listener, timer = os.open("/dev/null", os.O_RDONLY), deadline_timer()
    try:
        for seconds, answered in ((lib.SD_PROXY_SECONDS - 5, 136), (lib.SD_PROXY_SECONDS + 1, 0)):
            head = HEAD.pack(0, 1, 1, *SIZES, 0)
            # pid 0: nobody who could be read, so nobody is asked whether it waits
            lib.sd_proxy_carry(own, head + struct.pack("=QI", 7, 0) + bytes(68) + bytes(24))
            own.carried_at = time.monotonic_ns() - seconds * 1_000_000_000
            receiver = Receiver(listener, timer, own, policy(POLICY).calls, proxy=theirs.fileno())
            assert receiver.receive(0) is not None
            assert receiver.answer_last((0, -ENODEV, 0)) == bool(answered)
            assert len(ours.recv(1000)) == answered
    finally:
        ours.close()
        theirs.close()
        os.close(listener)
        os.close(timer)


@pytest.mark.parametrize("answering", [False, True])
def test_what_a_dead_session_leaves(root: Person, answering: bool) -> None:
    """A call that it received is refused. Where it died while it answered, nobody knows whether the
    answer went out, and a second one would be the next call's: the connection ends."""
    assert root.name is None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own = watch()
    with ours, theirs:
        head = HEAD.pack(0, 1, 1, *SIZES, 0)
        lib.sd_proxy_carry(own, head + struct.pack("=QI", 7, 1) + bytes(68) + bytes(24))
        own.answering = 7 if answering else 0
        refused = lib.sd_proxy_refuse_pending(theirs.fileno(), own, -ENODEV)
        assert refused == (not answering)
        data = ours.recv(1000)
        assert (data == b"") == answering
        assert answering or ANSWER.unpack_from(data, 112) == (7, 0, -ENODEV, 0)
        # and nothing is left for another time
        assert lib.sd_proxy_refuse_pending(theirs.fileno(), own, -ENODEV) == 0
