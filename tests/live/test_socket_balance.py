"""Connections that are shared out to backends."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.people import Person
from tests.support.scratch import a_place
from tests.support.sockets import LOCAL, Counter, a_free_port, inside, policy

free = a_free_port()
NOWHERE = "203.0.113.7"  # RFC 5737: nobody is there
HEAD = f'''
import errno, os, select, socket, time
def connected(port, timeout=20):
    """Python's own sockets with a time limit do not block: the kernel says EINPROGRESS."""
    sock = socket.socket()
    sock.settimeout(timeout)
    sock.connect(("{NOWHERE}", port))
    return sock
def who(port, timeout=20):
    with connected(port, timeout) as sock:
        return sock.recv(9).decode()
def whose(socks):
    return [sock.recv(9, socket.MSG_PEEK).decode() for sock in socks]
def full(port):
    """A listener that takes nobody in, and who fills it."""
    server = socket.create_server(("{LOCAL}", port), backlog=0)
    filling = [socket.socket() for _ in range(2)]
    for one in filling:
        one.setblocking(False)
        one.connect_ex(("{LOCAL}", port))
    return server, filling
'''

place = a_place(0o777, scope="module")


class Greeter:
    """A listener that says its name, and keeps the connection."""

    def __init__(self, name: bytes, family: int, where: Any) -> None:
        self._sock = socket.socket(family)
        self._sock.bind(where)
        self._sock.listen()
        self._name = name
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._greet)
        self._thread.start()

    @property
    def where(self) -> Any:
        return self._sock.getsockname()

    def _greet(self) -> None:
        while True:
            try:
                client, _ = self._sock.accept()
            except OSError:
                return
            self._kept.append(client)
            client.sendall(self._name)

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join()
        for client in self._kept:
            client.close()


@pytest.fixture(scope="module")
def backends(place: Path) -> Iterator[list[str]]:
    """Where "four", "six" and "unix" are."""
    path = str(place / "backend")
    greeters = [
        Greeter(b"four", socket.AF_INET, (LOCAL, 0)),
        Greeter(b"six", socket.AF_INET6, ("::1", 0)),
        Greeter(b"unix", socket.AF_UNIX, path),
    ]
    Path(path).chmod(0o777)
    yield [f"{LOCAL}:{greeters[0].where[1]}", f"[::1]:{greeters[1].where[1]}", path]
    for greeter in greeters:
        greeter.close()


def rules(place: Path, *ways: str) -> list[str]:
    """Port 1 leads the first of these ways, and so on."""
    return policy(
        place / "balance.yaml",
        [f'to: "{NOWHERE}", port: {number}, do: {{balance: {way}}}'
         for number, way in enumerate(ways, 1)] + ["do: emulate"],
    )  # fmt: skip


def run(person: Person, place: Path, script: str, options: list[str]) -> list[str]:
    return inside(person, place, script, options, HEAD)


def several(*backends: object, more: str = "") -> str:
    return f"{{to: {json.dumps(backends)}{more}}}"


def test_turns(person: Person, place: Path, backends: list[str], free: int) -> None:
    """Whether a socket blocks or not; who refuses is left out, and the next one is tried."""
    log = place / f"{person.name}.json"
    log.touch(0o666)
    log.chmod(0o666)
    dead = f"{LOCAL}:{free}"
    options = rules(
        place, several(*backends), several(backends[0], dead, backends[1]), several(dead),
        several(dead, str(place / "nobody"), backends[2]),
    )  # fmt: skip
    script = """
print(*(who(1) for _ in range(3)), *(who(1, None) for _ in range(3)))
print(*(who(2) for _ in range(5)))
print(*(who(2, None) for _ in range(2)))
for timeout in (20, None, None):
    try:
        who(3, timeout)
    except OSError as error:
        print(errno.errorcode[error.errno])
print(who(4), who(4, None))
"""
    found = run(person, place, script, [*options, "--audit", str(log)])
    assert found == [
        "four six unix four six unix", "four six four six four", "six four",
        *["ECONNREFUSED"] * 3, "unix unix",
    ]  # fmt: skip
    records = [json.loads(line) for line in log.read_text().splitlines()]
    how = [one["how"] for one in records if one.get("syscall") == "connect"]
    assert how[0] == f"redirected to {backends[0]}"
    assert how[7] == f"redirected to {backends[1]}, by another socket, after {dead}"
    assert how[8] == f"redirected to {backends[0]}"
    (last,) = {json.dumps(one["emulate"]) for one in records if ":4" in str(one.get("args"))}
    assert json.loads(last) == {
        "balance": [dead, str(place / "nobody"), backends[2]], "by": "round-robin",
        "rest": 10.0, "wait": 5.0,
    }  # fmt: skip


def test_a_backend_comes_back(person: Person, place: Path, backends: list[str], free: int) -> None:
    options = rules(place, several(backends[0], f"{LOCAL}:{free}", more=", rest: 300ms"))
    script = f"""
print(who(1), who(1), who(1))
server = socket.create_server(("{LOCAL}", {free}))
end = time.monotonic() + 20
while True:
    sock = connected(1)
    if sock.getpeername()[1] == {free}:
        break
    assert time.monotonic() < end
print("back", connected(1).getpeername()[1] == {free}, connected(1).getpeername()[1] == {free})
"""
    assert run(person, place, script, options) == ["four four four", "back False True"]


def test_the_fewest_connections(person: Person, place: Path, backends: list[str]) -> None:
    """A socket counts for as long as anybody has it open, and nobody else keeps it open."""
    options = rules(place, several(*backends, more=", by: least-connections"))
    script = """
held = [connected(1, None) for _ in range(7)]
print(*whose(held))
copy = held[1].dup()
child = os.fork()
if not child:
    held[2].recv(9)  # until its other end is closed
    time.sleep(60)
for sock in held[:3]:
    sock.close()
more = [connected(1) for _ in range(2)]
print(*whose(more))  # a copy and a child's count, too
os.kill(child, 9)
os.waitpid(child, 0)
for sock in (copy, *more):
    sock.close()
print(*sorted(whose([connected(1), connected(1, None)])))
"""
    found = run(person, place, script, options)
    assert found == ["four six unix four six unix four", "six unix", "six unix"], found


def test_the_same_backend(person: Person, place: Path, backends: list[str], free: int) -> None:
    """By a hash: of the address and port that were asked for."""
    options = policy(
        place / "balance.yaml",
        [f'to: "203.0.113.0/24", do: {{balance: {several(*backends, more=", by: hash")}}}'],
    )  # fmt: skip
    script = """
def said(host, port):
    with socket.create_connection((host, port), 20) as sock:
        return sock.recv(9)
asked = [(f"203.0.113.{number}", 80 + number) for number in range(20)]
first = [said(*one) for one in asked]
print(len(set(first)), first == [said(*one) for one in asked])
"""
    assert run(person, place, script, options) == ["3 True"]


def test_who_does_not_answer(person: Person, place: Path, backends: list[str], free: int) -> None:
    """A call that blocks goes on after `wait`; one that does not has its answer, and the backend is
    left out when its time is over. The socket of either can be used again."""
    hole = f"{LOCAL}:{free}"
    options = rules(
        place, several(hole, backends[0], more=", wait: 300ms, rest: 1m"),
        several(hole, backends[0], more=", wait: 300ms, rest: 59s"),
        several(hole, more=", wait: 300ms"),
    )  # fmt: skip
    script = f"""
server, filling = full({free})
print(*(who(1, None) for _ in range(3)))
later = socket.socket()
later.setblocking(False)
print(errno.errorcode[later.connect_ex(("{NOWHERE}", 2))])
print(errno.errorcode[later.connect_ex(("{NOWHERE}", 2))])
end = time.monotonic() + 20
def answered():
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(("{NOWHERE}", 2))
        return bool(select.select([], [sock], [], 0.1)[1])
while not (answered() and answered()):  # until it is known: each other one is the hole's
    assert time.monotonic() < end
blocks = socket.socket()
print(errno.errorcode[blocks.connect_ex(("{NOWHERE}", 3))])
print(blocks.connect_ex(("{LOCAL}", {backends[0].rpartition(":")[2]})), blocks.recv(9).decode())
"""
    assert run(person, place, script, options) == [
        "four four four", "EINPROGRESS", "EALREADY", "ETIMEDOUT", "0 four",
    ]  # fmt: skip


def test_who_refuses_later(person: Person, place: Path, backends: list[str], free: int) -> None:
    """What was answered with EINPROGRESS is the caller's to see; the next one goes elsewhere."""
    options = rules(place, several(f"{LOCAL}:{free}", backends[0], more=", wait: 1m, rest: 1m"))
    script = f"""
server, filling = full({free})
later = socket.socket()
later.setblocking(False)
print(errno.errorcode[later.connect_ex(("{NOWHERE}", 1))])
server.close()
print(len(select.select([], [later], [], 20)[1]))
print(errno.errorcode[later.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
end = time.monotonic() + 20
while True:  # seccompd hears of it when the caller does
    with connected(1) as first, connected(1) as second:
        if first.getpeername() == second.getpeername():
            break
    assert time.monotonic() < end
print("left out")
"""
    found = run(person, place, script, options)
    assert found == ["EINPROGRESS", "1", "ECONNREFUSED", "left out"]


def test_a_name_of_several_addresses(person: Person, place: Path, backends: list[str]) -> None:
    """getaddrinfo of the C library connects a socket of UDP to each, to see who could be reached:
    the connection that follows has its own turn, whatever that one's was."""
    options = rules(place, several(*backends[:2]))
    script = f"""
for _ in range(6):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("{NOWHERE}", 1))
    print(who(1))
"""
    assert run(person, place, script, options) == ["four", "six"] * 3


def test_datagrams(person: Person, place: Path) -> None:
    counters = [Counter(), Counter()]
    options = rules(place, several(*(f"{LOCAL}:{one.port}" for one in counters)))
    script = f"""
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(4):
    sock.sendto(b"x", ("{NOWHERE}", 1))
sock.connect(("{NOWHERE}", 1))
print(sock.send(b"y"))
"""
    try:
        assert run(person, place, script, options) == ["1"]
        assert [one.count() for one in counters] == [3, 2]
    finally:
        for one in counters:
            one.close()
