"""Sockets of the host's network for a container that has one of its own."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inside import wait_for
from tests.support.people import Person, python
from tests.support.program import Started
from tests.support.scratch import a_place
from tests.support.sockets import CODE, LOCAL, a_free_port, inside, policy

free = a_free_port()
OWN = ["--unshare", "net"]
HEAD = f'''
import ctypes, os, select, socket, struct, sys, threading, time
LOCAL = "{LOCAL}"
libc = ctypes.CDLL(None, use_errno=True)
{CODE}
def of_the_host(sock):
    cookies = [one.getsockopt(socket.SOL_SOCKET, 71, 8) for one in (sock, socket.socket())]
    return cookies[0] != cookies[1]
'''

place = a_place(0o777, scope="module")


class Echo:
    """Sends back what comes, over TCP and UDP, on the host's loopback; and counts connections."""

    def __init__(self) -> None:
        self.tcp = socket.create_server((LOCAL, 0))
        self.port: int = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((LOCAL, self.port))
        self.taken = 0
        self._threads = [threading.Thread(target=one) for one in (self._accept, self._answer)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.tcp.accept()
            except OSError:
                return
            self.taken += 1
            with client:
                if data := client.recv(99):
                    client.sendall(data)

    def _answer(self) -> None:
        while True:
            data, client = self.udp.recvfrom(99)
            if not data:
                return
            self.udp.sendto(data, client)

    def close(self) -> None:
        self.tcp.shutdown(socket.SHUT_RDWR)
        self.tcp.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (LOCAL, self.port))
        for thread in self._threads:
            thread.join()
        self.udp.close()


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    one = Echo()
    yield one
    one.close()


@pytest.fixture
def rules(place: Path, echo: Echo, free: int) -> list[str]:
    """127.0.0.1 is the host's at one port; another port can be listened on there."""
    host = "do: {emulate: {network: host}}"
    return policy(
        place / "hosts.yaml",
        [f'to: "{LOCAL}", port: [{echo.port}, 1], {host}',
         f'to: "203.0.113.7", do: {{redirect: {{to: "{LOCAL}:{echo.port}", network: host}}}}',
         "do: emulate"],
        [f'address: "{LOCAL}", port: [{free}, 80], {host}', "do: emulate"],
    )  # fmt: skip


def run(
    person: Person, place: Path, script: str, rules: list[str], echo: Echo, free: int
) -> list[str]:
    head = f"{HEAD}PORT, FREE = {echo.port}, {free}\n"
    return inside(person, place, script, [*rules, *OWN], head)


def test_what_it_has(
    person: Person, place: Path, rules: list[str], echo: Echo, free: int
) -> None:
    """TCP and UDP, whether a socket blocks or not, by what is sent as well; with its options."""
    log = place / f"{person.name}.json"
    log.touch(0o666)
    log.chmod(0o666)
    script = """
def said(sock):
    sock.sendall(b"hello")
    return sock.recv(9).decode(), of_the_host(sock)
sock = socket.socket()
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 7)
sock.connect((LOCAL, PORT))
print(*said(sock), sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
      sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL), os.get_inheritable(sock.fileno()))
print(*said(socket.create_connection((LOCAL, PORT), 20)))
print(*said(socket.create_connection(("203.0.113.7", 9), 20)))
six = socket.socket(socket.AF_INET6)
six.connect(("::ffff:127.0.0.1", PORT))
print(*said(six))
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.connect((LOCAL, PORT))
print(*said(udp))
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 0))
for _ in range(2):
    print(udp.sendto(b"by itself", (LOCAL, PORT)), *udp.recvfrom(99))
print(udp.sendmsg([b"once ", b"more"], [], 0, (LOCAL, PORT)), udp.recv(99), of_the_host(udp))
"""
    found = run(person, place, script, [*rules, "--audit", str(log)], echo, free)
    hello, where = "hello True", f"b'by itself' ('{LOCAL}', {echo.port})"
    assert found == [
        f"{hello} 1 7 False", *[hello] * 4, f"9 {where}", f"9 {where}", "9 b'once more' True",
    ]  # fmt: skip
    records = [json.loads(line) for line in log.read_text().splitlines()]
    how = [one["how"] for one in records if one.get("syscall") in ("connect", "sendto")]
    assert how[0] == "by another socket, in the host's network"
    assert how[2] == (
        f"redirected to {LOCAL}:{echo.port}, by another socket, in the host's network"
    )
    assert how[-1] == "in the host's network"  # it has one by then


def test_what_it_does_not_have(
    person: Person, place: Path, rules: list[str], echo: Echo, free: int
) -> None:
    """Neither another port of the host's, nor a low one, nor a socket of another kind; nor may what
    it has of the host's network be used for what no rule says."""
    before = echo.taken
    script = """
print(code(socket.socket().connect, (LOCAL, FREE)))  # of its own loopback
low = socket.socket()
print(code(low.bind, (LOCAL, 80)), of_the_host(low))
try:
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
    print(code(raw.connect, (LOCAL, PORT)))
except PermissionError:
    print("EPROTOTYPE")
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.sendto(b"x", (LOCAL, PORT))
print(of_the_host(udp), code(udp.sendto, b"x", ("127.0.0.2", PORT)),
      code(udp.connect, (LOCAL, FREE)), code(udp.bind, ("0.0.0.0", 0)))
# which IPv4 sockets take for AF_INET
raw = struct.pack("=H", socket.AF_UNSPEC) + struct.pack("!H4s8x", PORT, bytes((127, 0, 0, 2)))
print(libc.sendto(udp.fileno(), b"x", 1, 0, raw, 16), errno.errorcode[ctypes.get_errno()])
raw = struct.pack("=H", socket.AF_UNSPEC) + struct.pack("!H12x", FREE)
print(libc.bind(udp.fileno(), raw, 16), errno.errorcode[ctypes.get_errno()])
later = socket.socket()
later.setblocking(False)
print(later.connect_ex((LOCAL, 1)) != 0)
select.select([], [later], [], 20)
print(later.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED)
later.connect_ex((LOCAL, 1))  # which ends the first one
print(of_the_host(later), code(later.listen), code(later.bind, ("0.0.0.0", 0)),
      code(later.bind, ("127.0.0.1", 5)), code(later.listen))
print(code(later.connect, ("127.0.0.2", PORT)))
own = socket.socket()
own.bind(("0.0.0.0", 0))
print(of_the_host(own), code(own.listen))
"""
    assert run(person, place, script, rules, echo, free) == [
        "ECONNREFUSED", "EACCES False", "EPROTOTYPE", "True ENETUNREACH ENETUNREACH EADDRNOTAVAIL",
        "-1 ENETUNREACH", "-1 EADDRNOTAVAIL", "True", "True",
        "True EACCES EADDRNOTAVAIL EADDRNOTAVAIL EACCES",
        "ENETUNREACH", "False 0",
    ]  # fmt: skip
    assert echo.taken == before


def test_a_port_of_the_hosts(
    person: Person, place: Path, rules: list[str], echo: Echo, free: int
) -> None:
    """What listens where a rule says so is reached from the host."""
    script = f"""{HEAD}
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind((LOCAL, {free}))
sock.listen()
print("listens", of_the_host(sock), flush=True)
client, _ = sock.accept()
client.sendall(b"from inside")
"""
    file = place / "listens.py"
    file.write_text(script)
    started = Started(person, ["run", *rules, *OWN, "--", python(person), str(file)])
    try:
        def there() -> socket.socket | None:
            client = socket.socket()
            if client.connect_ex((LOCAL, free)):
                client.close()
                return None
            return client

        with wait_for(there, lambda client: client is not None) as client:  # type: ignore[union-attr]
            assert client.recv(99) == b"from inside"
    finally:
        done = started.finish()
    assert done.stdout == "listens True\n", done.stderr
    assert started.wait_gone() == []


def test_a_network_of_its_own_making(
    person: Person, place: Path, rules: list[str], echo: Echo, free: int
) -> None:
    """It has no way out of that but what the container could give it itself."""
    before = echo.taken
    script = """
libc.unshare(0x40000000)  # CLONE_NEWNET
sock = socket.socket()
print(code(sock.connect, (LOCAL, PORT)), of_the_host(sock))
udp = socket.socket(type=socket.SOCK_DGRAM)
print(code(udp.sendto, b"x", (LOCAL, PORT)), of_the_host(udp))
listens = socket.socket()
print(code(listens.bind, (LOCAL, FREE)), of_the_host(listens), code(listens.listen))
"""
    assert run(person, place, script, rules, echo, free) == [
        *["ENETUNREACH False"] * 2, "0 False 0",
    ]  # fmt: skip
    assert echo.taken == before


def test_who_has_the_hosts_network_anyway(
    person: Person, place: Path, rules: list[str], echo: Echo, free: int
) -> None:
    """Nothing is another one then."""
    script = f"""
sock = socket.socket()
before = os.fstat(sock.fileno()).st_ino
sock.connect((LOCAL, {echo.port}))
print(before == os.fstat(sock.fileno()).st_ino)
server = socket.create_server((LOCAL, 0))
print(code(socket.socket().connect, server.getsockname()))
"""
    assert inside(person, place, script, rules, HEAD) == ["True", "0"]


def test_a_racing_thread(
    person: Person, place: Path, rules: list[str], echo: Echo, free: int
) -> None:
    """An address that changes, and a descriptor that changes, lead nowhere but where it was said;
    and nothing listens in the host's network."""
    with socket.create_server((LOCAL, 0)) as forbidden:
        forbidden.setblocking(False)
        script = f"""
BAD = {forbidden.getsockname()[1]}
def packed(port):
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, bytes((127, 0, 0, 1)))
buffer = ctypes.create_string_buffer(packed(PORT), 16)
ends, listened = False, 0
def flip():
    while not ends:
        ctypes.memmove(buffer, packed(BAD), 16)
        ctypes.memmove(buffer, packed(PORT), 16)
number = socket.socket().detach()
def swap():
    global listened
    while not ends:
        with socket.socket() as own:
            own.bind(("0.0.0.0", 0))
            os.dup2(own.fileno(), number)
            libc.listen(number, 1)
        with socket.socket(fileno=os.dup(number)) as now:
            if of_the_host(now) and now.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                listened += 1
threads = [threading.Thread(target=one) for one in (flip, swap)]
for thread in threads:
    thread.start()
connected = 0
for _ in range(150):
    with socket.socket() as sock:
        if not libc.connect(sock.fileno(), buffer, 16):
            connected += 1
            assert sock.getpeername()[1] == PORT
    other = socket.socket(type=socket.SOCK_DGRAM)
    libc.sendto(other.fileno(), b"x", 1, 0, buffer, 16)
    other.close()
    waits = socket.socket()
    waits.setblocking(False)
    os.dup2(waits.fileno(), number)
    waits.close()
    libc.connect(number, packed(1), 16)
    libc.listen(number, 1)
ends = True
for thread in threads:
    thread.join()
print(connected > 0, listened)
"""
        assert run(person, place, script, rules, echo, free) == ["True 0"]
        with pytest.raises(BlockingIOError):
            forbidden.accept()
