"""Equal connects, again and again: the first ones are decided on; those that come after are made
and answered by a porter alone, and show their callers the same."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inside import wait_for
from tests.support.people import Person, python
from tests.support.program import Started
from tests.support.scratch import a_place
from tests.support.sockets import CODE, LOCAL, inside, policy

place = a_place(0o777)
# One number for all sockets: that and the address are what makes two calls equal.
HEAD = CODE + """
import ctypes, errno, os, signal, socket, sys, threading, time
AT = 77
def raw(where):
    port = where[1].to_bytes(2, "big")
    return socket.AF_INET.to_bytes(2, "little") + port + socket.inet_aton(where[0]) + bytes(8)
def put(sock):
    os.dup2(sock.fileno(), AT)
    return socket.socket(fileno=AT)
def connect(address, *, kind=socket.SOCK_STREAM, domain=socket.AF_INET, blocking=True):
    with socket.socket(domain, kind) as first:
        first.setblocking(blocking)
        sock = put(first)
    with sock:
        found = code(sock.connect, address)
        if found == "0" and code(sock.getpeername) == "0":
            found += " " + str(sock.getpeername() == address)
        return found
"""


@pytest.fixture
def ports() -> Iterator[tuple[int, int, int]]:
    """Of one who listens, of nobody, and of one who takes nobody in: a connect waits there."""
    with contextlib.ExitStack() as stack:
        first, nobody, full = (stack.enter_context(socket.socket()) for _ in range(3))
        for sock in (first, nobody, full):
            sock.bind((LOCAL, 0))
        first.listen(1000)
        full.listen(0)
        for _ in range(2):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield first.getsockname()[1], nobody.getsockname()[1], full.getsockname()[1]


def both(person: Person, place: Path, script: str) -> list[str]:
    """What a program writes below a policy that allows all, once it wrote the same without one."""
    options = policy(place / "all.yaml", ["do: emulate"])
    found = inside(person, place, script, options, HEAD)
    bare = subprocess.run(
        person.argv([python(person), str(place / "inside.py")]),
        capture_output=True, text=True, check=True, env=person.environ(),
    )  # fmt: skip
    assert found == bare.stdout.splitlines()
    return found


def test_what_they_come_to(
    person: Person, place: Path, ports: tuple[int, int, int]
) -> None:
    """Of each address, and of what else may be at the number."""
    script = f"""
first, nobody, full = (("127.0.0.1", port) for port in {ports!r})
for where in (first, nobody, full, ("127.0.0.1", 0), ("255.255.255.255", 9)):
    for blocking in (False,) if where == full else (False, True):
        for _ in range(8):
            print(where[0], connect(where, blocking=blocking))
    for _ in range(3):
        print(connect(where, kind=socket.SOCK_DGRAM))
address = (ctypes.c_char * 16)()
with socket.socket() as other:
    other.connect(first)
    ctypes.memmove(address, raw(first), 16)
libc = ctypes.CDLL(None, use_errno=True)
def at_the_number():
    return errno.errorcode[ctypes.get_errno()] if libc.connect(AT, address, 16) else "0"
def attempt(fd):
    os.dup2(fd, AT)
    print(at_the_number())
    os.close(AT)
for turn in range(3):
    for domain, kind in (
        (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET6, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_NETLINK, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_STREAM),
    ):
        with socket.socket(domain, kind) as sock:
            attempt(sock.fileno())
            if kind == socket.SOCK_STREAM:
                attempt(sock.fileno())  # connected: EISCONN
    with open("/dev/null") as file:
        attempt(file.fileno())
    print(at_the_number())
"""
    found = both(person, place, script)
    assert {line.split()[-1] for line in found} >= {
        "True", "0", "ECONNREFUSED", "EINPROGRESS", "EISCONN", "EINVAL", "ENOTSOCK", "EBADF",
    }


def test_one_that_waits(person: Person, place: Path, ports: tuple[int, int, int]) -> None:
    """It holds up nobody, is interrupted, times out, and comes to its end as any other."""
    script = f"""
first, _, full = (("127.0.0.1", port) for port in {ports!r})
for _ in range(4):
    print(connect(full, blocking=False), connect(first))
signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
signal.siginterrupt(signal.SIGALRM, True)
libc = ctypes.CDLL(None, use_errno=True)
data = raw(full)
def wait(sock):
    # Python's own goes on after a signal
    return errno.errorcode[ctypes.get_errno()] if libc.connect(sock.fileno(), data, 16) else "0"
for turn in range(3):
    with socket.socket() as own, put(own) as sock:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        print(wait(sock))
        signal.setitimer(signal.ITIMER_REAL, 0)
    with socket.socket() as own, put(own) as sock:
        timeout = (200000).to_bytes(8, "little")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes(8) + timeout)
        print(wait(sock))
    print(connect(first), connect(full, blocking=False))
def stay():
    with socket.socket() as own:
        os.dup2(own.fileno(), AT + 1)
    libc.connect(AT + 1, data, 16)
threading.Thread(target=stay, daemon=True).start()
time.sleep(0.1)
print([connect(first) for _ in range(50)] == ["0 True"] * 50, flush=True)
os._exit(0)
"""
    found = both(person, place, script)
    assert found.count("EINTR") == 3
    assert found.count("alarm") >= 3
    assert found.count("EINPROGRESS") == 3
    assert found[-1] == "True"


def test_what_is_closed_is_closed(
    person: Person, place: Path, ports: tuple[int, int, int]
) -> None:
    """Who has the answer and closes the socket can bind another one to its address at once."""
    script = f"""
nobody = ("127.0.0.1", {ports[1]})
with socket.socket() as first:
    first.bind(("127.0.0.1", 0))
    own = first.getsockname()
found = set()
for _ in range(300):
    with socket.socket() as sock:
        found.add((code(sock.bind, own), code(sock.connect, nobody)))
print(found)
"""
    assert both(person, place, script) == ["{('0', 'ECONNREFUSED')}"]


def test_each_thread_has_its_own_table(
    person: Person, place: Path, ports: tuple[int, int, int]
) -> None:
    script = f"""
first = ("127.0.0.1", {ports[0]})
turns = [threading.Event(), threading.Event()]
def turn(number):
    ctypes.CDLL(None).unshare(0x400)  # CLONE_FILES
    for _ in range(20):
        with socket.socket() as own:
            os.dup2(own.fileno(), AT)
        turns[number].wait()
        turns[number].clear()
        before = socket.socket(fileno=AT)
        said = code(before.connect, first), code(before.getpeername)
        before.close()
        found.append((number, said))
        turns[1 - number].set()
found = []
threads = [threading.Thread(target=turn, args=(number,)) for number in (0, 1)]
for thread in threads:
    thread.start()
turns[0].set()
for thread in threads:
    thread.join()
print(found == [(number, ("0", "0")) for _ in range(20) for number in (0, 1)])
"""
    assert both(person, place, script) == ["True"]


def test_many_threads_at_once(person: Person, place: Path, ports: tuple[int, int, int]) -> None:
    script = f"""
first, nobody = (("127.0.0.1", port) for port in {ports[:2]!r})
def some(where, wanted):
    for _ in range(150):
        with socket.socket() as sock:
            found.append(code(sock.connect, where) == wanted)
            if wanted == "0":
                found.append(sock.getpeername() == where)
found = []
threads = [threading.Thread(target=some, args=one) for one in
           [(first, "0"), (nobody, "ECONNREFUSED")] * 3]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(found), all(found))
"""
    assert both(person, place, script) == ["1350 True"]


def test_a_porter_that_is_killed(root: Person, place: Path, ports: tuple[int, int, int]) -> None:
    """Another one takes its place, and nobody waits for an answer for ever."""
    script = f"""
for line in sys.stdin:
    print({{connect(("127.0.0.1", {ports[0]})) for _ in range(20)}}, flush=True)
"""
    options = policy(place / "all.yaml", ["do: emulate"])
    words = ["run", *options, "--", python(root), "-c", HEAD + script]
    started = Started(root, words, stdin=subprocess.PIPE)
    stdin, stdout = started.process.stdin, started.process.stdout
    assert stdin is not None
    assert stdout is not None

    def porters() -> list[int]:
        return [
            pid for pid in started.processes()
            if Path(f"/proc/{pid}/comm").read_text() == "seccompd-port\n"
        ]

    try:
        for _ in range(4):
            stdin.write(b"\n")
            stdin.flush()
            assert stdout.readline() == b"{'0 True'}\n"
            for pid in wait_for(porters, bool):
                pidfd = os.pidfd_open(pid)
                os.kill(pid, signal.SIGKILL)
                select.select([pidfd], [], [], 10)  # until its sockets are closed, too
                os.close(pidfd)
        stdin.close()
        assert started.process.wait(20) == 0
    finally:
        started.kill()
