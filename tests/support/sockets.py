"""Listeners of the test's own, and policies about sockets."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from tests.support.people import Person, python
from tests.support.program import run

LOCAL = "127.0.0.1"


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
