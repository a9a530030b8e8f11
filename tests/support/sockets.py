"""Listeners of the test's own, and policies about sockets."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.people import Person, python
from tests.support.program import run

LOCAL = "127.0.0.1"
# Below net.ipv4.ip_local_port_range: the kernel gives none of them to who asks for any.
_PORTS = range(20000, 30000)
_taken: list[socket.socket] = []
# For programs in a container: what a call comes to, by the name of its errno.
CODE = """
import errno
def code(call, *args):
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "0"
"""


def free_port() -> int:
    """A port that nobody has, nor gets before these tests end: tests that run beside them ask for
    it by a name that one process alone can have.
    """
    for port in _PORTS:
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0seccompd-test-port-{port}")
            with socket.socket() as four, socket.socket(socket.AF_INET6) as six:
                four.bind((LOCAL, port))
                six.bind(("::1", port))
        except OSError:
            name.close()
            continue
        _taken.append(name)
        return port
    raise AssertionError("no port is free")


def a_free_port() -> Any:
    """A fixture: one such port for a module."""

    @pytest.fixture(scope="module")
    def free() -> int:
        return free_port()

    return free


class Counter:
    """A UDP socket that counts what comes to it."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._sock.bind((LOCAL, 0))
        self._sock.setblocking(False)
        self.port: int = self._sock.getsockname()[1]

    def count(self) -> int:
        """How many datagrams are there; no more than some thousands are kept."""
        found = 0
        try:
            while True:
                self._sock.recv(16)
                found += 1
        except BlockingIOError:
            return found

    def close(self) -> None:
        self._sock.close()


class Greeter(http.server.BaseHTTPRequestHandler):
    """Says hello, and to which host."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"hello {self.headers['Host']}".encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


class NameServer:
    """Knows one IPv4 address for every name, and no IPv6 address; over UDP."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((LOCAL, 0))
        self.port: int = self._sock.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, client = self._sock.recvfrom(512)
            if not question:
                return
            end = question.index(b"\0", 12) + 5
            is_a = question[end - 4 : end - 2] == b"\0\1"
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(self._address)
            head = question[:2] + b"\x81\x80\0\1\0" + bytes([is_a]) + bytes(4)
            self._sock.sendto(head + question[12:end] + answer * is_a, client)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (LOCAL, self.port))
        self._thread.join()
        self._sock.close()


def policy(
    file: Path, connect: Sequence[str] = (), bind: Sequence[str] = (), *more: str
) -> list[str]:
    """Writes a policy with these rules, and gives the options that choose it."""
    lines = ["version: 1", *more, "syscalls:"]
    for family, rules in (("connect", connect), ("bind", bind)):
        if rules:
            lines += [f"  {family}:", *(f"    - {{{rule}}}" for rule in rules)]
    file.write_text("\n".join(lines) + "\n")
    file.chmod(0o644)
    return ["--policy", str(file)]


def inside(
    person: Person, place: Path, script: str, options: Sequence[str], head: str = ""
) -> list[str]:
    """The lines that a Python program writes in a container; `head` comes before its text."""
    file = place / "inside.py"
    file.write_text(f"{head}\n{script}")
    done = run(person, python(person), str(file), options=options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()
