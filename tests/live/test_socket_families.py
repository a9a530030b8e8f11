"""Calls that are led to another family: another socket takes the place of the caller's."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.people import Person
from tests.support.scratch import scratch
from tests.support.sockets import CODE, a_free_port, policy
from tests.support.sockets import inside as in_container

free = a_free_port()
NOWHERE = "203.0.113.7"  # RFC 5737: nobody is there
HEAD = f'''
import errno, os, resource, select, signal, socket, struct, threading, time
NOWHERE = {NOWHERE!r}
{CODE}
def known(sock):
    """The same socket as Python would know it that looks at what it is, and not at its name."""
    family = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    return socket.socket(family, sock.type, fileno=os.dup(sock.fileno()))
def full():
    """A listener that takes nobody in, and who fills it."""
    server = socket.socket(socket.AF_INET6)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("::1", FULL))
    server.listen(0)
    filling = [socket.socket(socket.AF_INET6) for _ in range(2)]
    for one in filling:
        one.setblocking(False)
        one.connect_ex(("::1", FULL))
    return server, filling
def waiting():
    """Sockets of IPv6 that wait to be connected there: SYN_SENT."""
    with open("/proc/net/tcp6") as file:
        rows = [line.split() for line in file][1:]
    return sum(row[2].endswith(f":{{FULL:04X}}") and row[3] == "02" for row in rows)
def until_waiting(count):
    """Until there are so many; how many there are after 20 seconds at most."""
    end = time.monotonic() + 20
    while waiting() != count and time.monotonic() < end:
        time.sleep(0.02)
    return waiting()
'''


class Greeters:
    """Listeners of IPv6 and of unix sockets, each of which says who it is, and hangs up."""

    def __init__(self, place: Path) -> None:
        self.path = str(place / "greeter")
        self.name = f"\0seccompd-test-{place.name}"
        families = (socket.AF_INET6, socket.AF_INET, socket.AF_UNIX, socket.AF_UNIX)
        self._socks = [socket.socket(family) for family in families]
        places: list[Any] = [("::1", 0), ("127.0.0.1", 0), self.path, self.name]
        for sock, where in zip(self._socks, places, strict=True):
            sock.bind(where)
            sock.listen()
        Path(self.path).chmod(0o777)
        self.six, self.four = (sock.getsockname()[1] for sock in self._socks[:2])
        words = (b"six", b"four", b"path", b"name")
        self._threads = [
            threading.Thread(target=self._greet, args=pair)
            for pair in zip(self._socks, words, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _greet(sock: socket.socket, word: bytes) -> None:
        while True:
            try:
                client, _ = sock.accept()
            except OSError:
                return
            with client, contextlib.suppress(ConnectionError):  # who only connects does not wait
                client.sendall(word)

    def close(self) -> None:
        for sock in self._socks:
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o777) as folder:
        yield folder


@pytest.fixture(scope="module")
def greeters(place: Path) -> Iterator[Greeters]:
    both = Greeters(place)
    yield both
    both.close()


@pytest.fixture
def rules(place: Path, greeters: Greeters, free: int) -> list[str]:
    return policy(
        place / "families.yaml",
        [f'to: "{NOWHERE}", port: 1, do: {{redirect: "[::1]:{greeters.six}"}}',
         f'to: "{NOWHERE}", port: 2, do: {{redirect: "{greeters.path}"}}',
         f'to: "{NOWHERE}", port: 3, do: {{redirect: "@{greeters.name[1:]}"}}',
         f'to: "{NOWHERE}", port: 4, do: {{redirect: "[::1]:1"}}',
         f'to: "{NOWHERE}", port: 5, do: {{redirect: "{place}/nobody"}}',
         f'to: "{NOWHERE}", port: 6, do: {{redirect: "[::1]:{free}"}}',
         f'to: "{NOWHERE}", port: 7, do: {{redirect: "127.0.0.1:{greeters.four}"}}',
         f'path: "{place}/elsewhere", do: {{redirect: "[::1]:{greeters.six}"}}',
         f'path: "{place}/other", do: {{redirect: "{greeters.path}"}}',
         f'abstract: "elsewhere", do: {{redirect: "127.0.0.1:{greeters.four}"}}',
         f'to: "{NOWHERE}", port: 8, do: {{redirect: "{place}/full"}}',
         f'to: "{NOWHERE}", port: 9, do: {{redirect: "[2001:db8::1]:1"}}',
         "do: emulate"],
    )  # fmt: skip


def inside(person: Person, place: Path, script: str, rules: list[str], port: int = 0) -> list[str]:
    return in_container(person, place, script, rules, HEAD + f"FULL = {port}\n")


def test_all_families(person: Person, place: Path, greeters: Greeters, rules: list[str]) -> None:
    script = f"""
def said(family, where):
    with socket.socket(family) as sock:
        sock.connect(where)
        return sock.recv(9).decode(), sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
print(*said(socket.AF_INET, (NOWHERE, 1)))
print(*said(socket.AF_INET, (NOWHERE, 2)))
print(*said(socket.AF_INET, (NOWHERE, 3)))
print(*said(socket.AF_INET6, ("::ffff:" + NOWHERE, 1)))
print(*said(socket.AF_INET6, ("::ffff:" + NOWHERE, 2)))
print(*said(socket.AF_UNIX, "{place}/elsewhere"))
print(*said(socket.AF_UNIX, "{place}/other"))
print(*said(socket.AF_UNIX, "\\0elsewhere"))
only = socket.socket(socket.AF_INET6)
only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
only.connect(("::ffff:" + NOWHERE, 7))
print(only.recv(9).decode(), only.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN))
"""
    log = place / f"{person.name}.json"
    log.touch(0o666)
    log.chmod(0o666)
    inet, inet6, unix = (
        int(one) for one in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    )
    assert inside(person, place, script, [*rules, "--audit", str(log)]) == [
        f"six {inet6}", f"path {unix}", f"name {unix}", f"six {inet6}", f"path {unix}",
        f"six {inet6}", f"path {unix}", f"four {inet}", f"four {inet}",
    ]  # fmt: skip
    records = [json.loads(line) for line in log.read_text().splitlines()]
    how = [one["how"] for one in records if one.get("syscall") == "connect"]
    to = [f"[::1]:{greeters.six}", greeters.path, f"@{greeters.name[1:]}",
          f"127.0.0.1:{greeters.four}"]  # fmt: skip
    other = ", by another socket"
    assert how == [
        f"redirected to {to[0]}{other}", f"redirected to {to[1]}{other}",
        f"redirected to {to[2]}{other}", f"redirected to {to[0]}", f"redirected to {to[1]}{other}",
        f"redirected to {to[0]}{other}", f"redirected to {to[1]}", f"redirected to {to[3]}{other}",
        f"redirected to {to[3]}{other}",
    ]  # fmt: skip


def test_what_was_set_is_set(person: Person, place: Path, rules: list[str]) -> None:
    """Held against a socket of IPv6 on which a program sets the same."""
    script = """
S, T, I4, I6 = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
TIME = struct.pack("ll", 7, 250000)
BOTH = [
    (S, socket.SO_KEEPALIVE, 1), (S, socket.SO_REUSEADDR, 1), (S, socket.SO_REUSEPORT, 1),
    (S, socket.SO_OOBINLINE, 1), (S, socket.SO_RCVBUF, 9000), (S, socket.SO_SNDBUF, 7000),
    (S, socket.SO_LINGER, struct.pack("ii", 1, 3)), (S, socket.SO_RCVTIMEO, TIME),
    (S, socket.SO_SNDTIMEO, TIME), (S, socket.SO_RCVLOWAT, 5), (S, socket.SO_PRIORITY, 3),
    (S, 47, 123456), (S, socket.SO_BINDTODEVICE, b"lo"), (T, socket.TCP_NODELAY, 1),
    (T, socket.TCP_KEEPIDLE, 11), (T, socket.TCP_KEEPINTVL, 12), (T, socket.TCP_KEEPCNT, 3),
    (T, socket.TCP_SYNCNT, 2), (T, socket.TCP_USER_TIMEOUT, 4321), (T, socket.TCP_CORK, 1),
    (T, socket.TCP_CONGESTION, b"reno"), (T, socket.TCP_NOTSENT_LOWAT, 5000),
    (T, socket.TCP_LINGER2, 9), (I4, 24, 1),
]
PAIRS = [((I4, socket.IP_TOS), (I6, socket.IPV6_TCLASS), 16),
         ((I4, socket.IP_TTL), (I6, socket.IPV6_UNICAST_HOPS), 9)]
theirs, own = socket.socket(), socket.socket(socket.AF_INET6)
for four, six, value in PAIRS:
    theirs.setsockopt(*four, value)
    own.setsockopt(*six, value)
for level, name, value in BOTH:
    theirs.setsockopt(level, name, value)
    own.setsockopt(level, name, value)
theirs.connect((NOWHERE, 1))
own.connect(("::1", PORT_OF_SIX))
for level, name in [one[:2] for one in BOTH] + [six for _, six, _ in PAIRS]:
    found, expected = (one.getsockopt(level, name, 32) for one in (theirs, own))
    if found != expected:
        print(level, name, found, expected)
print("compared", known(theirs).getpeername()[0])
unix = socket.socket()
unix.setsockopt(S, socket.SO_RCVTIMEO, TIME)
unix.setsockopt(T, socket.TCP_NODELAY, 1)
before = unix.getsockopt(S, socket.SO_RCVTIMEO, 16)
unix.connect((NOWHERE, 2))
print(any(before), unix.getsockopt(S, socket.SO_RCVTIMEO, 16) == before)
"""
    script = script.replace("PORT_OF_SIX", rules_port(rules))
    assert inside(person, place, script, rules) == ["compared ::1", "True True"]


def rules_port(rules: list[str]) -> str:
    """The port of IPv6 that the first rule leads to."""
    return Path(rules[1]).read_text().partition("[::1]:")[2].partition('"')[0]


def test_flags_and_addresses(person: Person, place: Path, free: int, rules: list[str]) -> None:
    script = f"""
import fcntl
def state(sock):
    flags = fcntl.fcntl(sock.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK
    return bool(flags), fcntl.fcntl(sock.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
for blocking in (True, False):
    for closes in (True, False):
        sock = socket.socket()
        os.set_inheritable(sock.fileno(), not closes)
        sock.setblocking(blocking)
        before = state(sock)
        code(sock.connect, (NOWHERE, 1))
        select.select([], [sock], [], 5)
        print(state(sock) == before, sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN))
def bound(where):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(where)
    return code(sock.connect, (NOWHERE, 1)), sock.getsockname()
print(*bound(("", {free})))
print(*bound(("127.0.0.1", 0))[:1])
print(*bound(("127.0.0.2", 0))[:1])
"""
    assert inside(person, place, script, rules) == ["True 10"] * 4 + [
        f"0 ('127.0.0.1', {free})", "0", "EADDRNOTAVAIL",
    ]  # fmt: skip


def test_what_a_connect_shows(person: Person, place: Path, free: int, rules: list[str]) -> None:
    """As one of the caller's own to the same address would have; and until it is connected, or
    about to be, its own socket is there, to be used for another address."""
    script = """
def domain(sock):
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
sock = socket.socket()
for port in (4, 5):
    print(code(sock.connect, (NOWHERE, port)), domain(sock))
print(code(sock.connect, (NOWHERE, 1)), code(sock.connect, (NOWHERE, 1)), domain(sock))
later = socket.socket()
later.setblocking(False)
print(code(later.connect, (NOWHERE, 4)))
select.select([], [later], [], 5)
print(errno.errorcode[later.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
server, filling = full()
slow = socket.socket()
slow.setblocking(False)
print(code(slow.connect, (NOWHERE, 6)), code(slow.connect, (NOWHERE, 6)))
timed = socket.socket()
timed.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 100000))
print(code(timed.connect, (NOWHERE, 6)))
datagram = socket.socket(type=socket.SOCK_DGRAM)
print(code(datagram.sendto, b"x", (NOWHERE, 1)), code(datagram.connect, (NOWHERE, 1)))
print(known(datagram).getpeername()[0])
print(code(socket.socket(type=socket.SOCK_DGRAM).connect, (NOWHERE, 2)))
plain = socket.socket()
plain.listen()
print(code(plain.connect, (NOWHERE, 1)))
"""
    assert inside(person, place, script, rules, free) == [
        "ECONNREFUSED 2", "ECONNREFUSED 2", "0 EISCONN 10", "EINPROGRESS", "ECONNREFUSED",
        "EINPROGRESS EALREADY", "EINPROGRESS", "ENETUNREACH 0", "::1", "EPROTOTYPE", "EISCONN",
    ]  # fmt: skip


def test_who_cannot_be_reached(person: Person, place: Path, rules: list[str]) -> None:
    """A unix listener that is full, and a network to which there is no way: held against what a
    socket of that family is told."""
    script = f"""
with socket.socket(socket.AF_UNIX) as server:
    server.bind("{place}/full")
    server.listen(0)
    filling = socket.socket(socket.AF_UNIX)
    filling.connect("{place}/full")
    for blocks in (False, True):
        said = []
        for family, where in ((socket.AF_UNIX, "{place}/full"), (socket.AF_INET, (NOWHERE, 8))):
            with socket.socket(family) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200000))
                sock.setblocking(blocks)
                said.append(code(sock.connect, where))
        print(*said)
    sock = socket.socket()
    thread = threading.Thread(target=lambda: print(code(sock.connect, (NOWHERE, 8))))
    thread.start()
    time.sleep(0.3)
    server.accept()
    thread.join()
os.unlink("{place}/full")
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    own, led = socket.socket(socket.AF_INET6, kind), socket.socket(socket.AF_INET, kind)
    print(code(own.connect, ("2001:db8::1", 1)), code(led.connect, (NOWHERE, 9)))
"""
    found = inside(person, place, script, [*rules, "--unshare", "net"])
    assert found == ["EAGAIN EAGAIN", "EAGAIN EAGAIN", "0", *["ENETUNREACH ENETUNREACH"] * 2]


def test_a_number_that_means_something_else_by_then(
    person: Person, place: Path, free: int, rules: list[str]
) -> None:
    """While a connect waits, its number is given to another file; and a copy is no place of its."""
    script = """
server, filling = full()
sock = socket.socket()
copy = sock.dup()
reader, writer = os.pipe()
found = []
before = waiting()
thread = threading.Thread(target=lambda: found.append(code(sock.connect, (NOWHERE, 6))))
thread.start()
assert until_waiting(before + 1) == before + 1
os.dup2(writer, sock.fileno())
for _ in range(2):
    server.accept()
thread.join()
os.write(sock.fileno(), b"mine")
print(*found, os.read(reader, 9).decode(), code(copy.getpeername))
"""
    assert inside(person, place, script, rules, free) == ["EBADF mine ENOTCONN"]


def test_a_signal_while_it_waits(person: Person, place: Path, free: int, rules: list[str]) -> None:
    """It is interrupted, goes on meanwhile as a connect does, and a new start waits for it."""
    script = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
where = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 6) + socket.inet_aton(NOWHERE)
where += bytes(8)
heard = []
signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
def take_all(server, before):
    until_waiting(before + 1)
    time.sleep(0.5)  # some alarms
    while True:
        try:
            server.accept()
        except OSError:
            break
def wait(again):
    server, filling = full()
    signal.siginterrupt(signal.SIGALRM, not again)
    sock = socket.socket()
    thread = threading.Thread(target=take_all, args=(server, waiting()))
    thread.start()
    heard.clear()
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)  # until one comes while it waits
    result = libc.connect(sock.fileno(), where, len(where))
    said = result and errno.errorcode[ctypes.get_errno()]
    signal.setitimer(signal.ITIMER_REAL, 0)
    select.select([], [sock], [], 20)
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    print(bool(heard), said, error, known(sock).getpeername()[0])
    server.shutdown(socket.SHUT_RDWR)
    thread.join()
    server.close()
wait(False)
wait(True)
"""
    assert inside(person, place, script, rules, free) == ["True EINTR 0 ::1", "True 0 0 ::1"]


def test_nothing_is_left_of_who_is_killed(
    person: Person, place: Path, free: int, rules: list[str]
) -> None:
    """Neither while its connect waits, nor once the new socket is its own."""
    script = """
server, filling = full()
before = waiting()
child = os.fork()
if not child:
    socket.socket().connect((NOWHERE, 6))
    os._exit(0)
print(until_waiting(before + 1) - before)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print(until_waiting(before) - before)
"""
    assert inside(person, place, script, rules, free) == ["1", "0"]


def test_nothing_is_left_of_who_is_killed_at_any_moment(
    root: Person, place: Path, greeters: Greeters, rules: list[str]
) -> None:
    """Also between the new socket and the answer, which are two calls of ours."""
    script = f"""
def left():
    '''Sockets that somebody has open still, of connections there.'''
    with open("/proc/net/tcp6") as file:
        rows = [line.split() for line in file][1:]
    return sum(row[2].endswith(":{greeters.six:04X}") and row[9] != "0" for row in rows)
reader, writer = os.pipe()
for number in range(24):
    child = os.fork()
    if not child:
        while True:
            code(socket.socket().connect, (NOWHERE, 1))
            os.write(writer, b"x")
    os.read(reader, 1 << 16)
    time.sleep(number % 12 / 4000)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
end = time.monotonic() + 20
while left() and time.monotonic() < end:
    time.sleep(0.05)
print(left())
"""
    assert inside(root, place, script, rules) == ["0"]


def test_a_table_at_its_limit(person: Person, place: Path, rules: list[str]) -> None:
    """A place of one's own is there in a full table; none is above the limit."""
    script = """
sock, high = socket.socket(), socket.socket()
os.dup2(high.fileno(), 60)
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 60))
held = []
while True:
    try:
        held.append(os.dup(0))
    except OSError:
        break
print(code(sock.connect, (NOWHERE, 1)), sock.recv(9).decode())
above = socket.socket(fileno=60)
print(code(above.connect, (NOWHERE, 1)), code(above.getpeername))
"""
    assert inside(person, place, script, rules) == ["0 six", "EBADF ENOTCONN"]


def test_in_a_network_of_its_own(
    person: Person, place: Path, free: int, rules: list[str]
) -> None:
    """The new socket is where the first one is: not the host's network, nor that of who calls."""
    script = """
import ctypes, fcntl
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
def up():
    with socket.socket() as sock:
        name = b"lo".ljust(16, b"\\0")
        flags = struct.pack("16sh14x", name, 1)
        fcntl.ioctl(sock, 0x8914, flags)  # SIOCSIFFLAGS: IFF_UP
def listen():
    server = socket.socket(socket.AF_INET6)
    server.bind(("::1", FULL))
    server.listen()
    return server
up()
outer = listen()
before = socket.socket()
assert not libc.unshare(CLONE_NEWNET)
print(code(socket.socket().connect, (NOWHERE, 6)))
up()
print(code(socket.socket().connect, (NOWHERE, 6)))
inner = listen()
print(code(socket.socket().connect, (NOWHERE, 6)), inner.accept()[1][0])
print(code(before.connect, (NOWHERE, 6)))
"""
    found = inside(person, place, script, [*rules, "--unshare", "net"], free)
    # of a socket from before it is not known any more where it is from: refused, and never led
    # astray
    assert found == ["EADDRNOTAVAIL", "ECONNREFUSED", "0 ::1", "EPERM"]


def test_ipv4_on_a_network_of_ipv6(person: Person, place: Path, free: int) -> None:
    """A program that knows IPv4 alone, where there is no IPv4: TCP, UDP, and a real one."""
    translated = "64:ff9b::cb00:7107"  # RFC 6052
    options = policy(
        place / "translate.yaml",
        ['to: "203.0.113.0/24", do: {translate: "64:ff9b::/96"}', "do: emulate"],
    )
    script = f"""
import fcntl, http.server, subprocess, sys
with socket.socket(socket.AF_INET6) as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo".ljust(16, b"\\0"), 1))
    address = socket.inet_pton(socket.AF_INET6, "{translated}")
    fcntl.ioctl(sock, 0x8916, struct.pack("16sIi", address, 128, 1))  # SIOCSIFADDR
class Server(http.server.HTTPServer):
    address_family = socket.AF_INET6
class Greeter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["Host"].encode())
    def log_message(self, *_):
        pass
server = Server(("::", FULL), Greeter)
threading.Thread(target=server.serve_forever, daemon=True).start()
curl = ["curl", "-sS", "--max-time", "20", f"http://{{NOWHERE}}:{{FULL}}/"]
print(subprocess.run(curl, stdout=subprocess.PIPE).stdout.decode())
stream = socket.create_connection((NOWHERE, FULL), 5)
print(known(stream).getpeername()[0])
echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
echo.bind(("::", FULL))
asks = socket.socket(type=socket.SOCK_DGRAM)
asks.connect((NOWHERE, FULL))
asks.send(b"question")
question, client = echo.recvfrom(9)
echo.sendto(question + b"?", client)
print(asks.recv(99).decode())
"""
    found = inside(person, place, script, [*options, "--unshare", "net"], free)
    assert found == [f"{NOWHERE}:{free}", translated, "question?"]
