"""A service manager for tests: it hears messages, and keeps descriptors as systemd does."""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.inside import wait_for

# Takes descriptors of the process that is named first (NAME=NUMBER), as a service manager gives
# them, and becomes what it is told to be.
_START = """
import ctypes, os, sys
take = ctypes.CDLL(None).syscall
manager, count = os.pidfd_open(int(sys.argv[1])), int(sys.argv[2])
words = [word.split("=") for word in sys.argv[3 : 3 + count]]
for number, (_, fd) in enumerate(words):
    taken = take(438, manager, int(fd), 0)  # pidfd_getfd
    assert taken >= 0
    os.dup2(taken, 500 + number)
    os.close(taken)
os.close(manager)
for number in range(count):
    os.dup2(500 + number, 3 + number, inheritable=True)
    os.close(500 + number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(count)
os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in words)
os.execvp(sys.argv[3 + count], sys.argv[3 + count :])
"""


class Manager:
    """Where a daemon's messages go. `kept` are the descriptors that it had stored, by name."""

    def __init__(self, place: Path) -> None:
        self.path = place / "notify"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(self.path))
        self._sock.setblocking(False)
        self._heard: list[str] = []
        self.kept: dict[str, int] = {}

    @property
    def environ(self) -> dict[str, str]:
        """For the daemon."""
        return {"NOTIFY_SOCKET": str(self.path)}

    def start(self, sockets: Sequence[tuple[str, int]] = ()) -> list[str]:
        """The words before a command that is to be given `sockets` and what is kept."""
        given = [*sockets, *self.kept.items()]
        words = [f"{name}={fd}" for name, fd in given]
        return [sys.executable, "-c", _START, str(os.getpid()), str(len(words)), *words]

    def heard(self) -> str:
        """The next message."""
        wait_for(self._hear, bool)
        return self._heard.pop(0)

    def until(self, text: str) -> str:
        """The next message with `text` in it."""
        return wait_for(self.heard, lambda message: text in message)

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long, from now on."""
        while self._hear():
            self._heard.clear()
        return not select.select([self._sock], [], [], seconds)[0]

    def keeps(self, count: int) -> None:
        """Waits until so many descriptors are kept."""

        def look() -> list[str]:
            self._hear()
            return sorted(self.kept)

        wait_for(look, lambda names: len(names) == count)

    def close(self) -> None:
        """Lets go of everything."""
        self._sock.close()
        for fd in self.kept.values():
            os.close(fd)

    def _hear(self) -> bool:
        """Takes in what has come; whether there is something to be heard."""
        with contextlib.suppress(BlockingIOError):
            while True:
                text, fds, _, _ = socket.recv_fds(self._sock, 4096, 8)
                self._store(text.decode(), array.array("i", fds))
        for name, fd in list(self.kept.items()):
            poller = select.poll()
            poller.register(fd, 0)  # no more than its end
            if poller.poll(0):
                os.close(self.kept.pop(name))
        return bool(self._heard)

    def _store(self, text: str, fds: Sequence[int]) -> None:
        lines = dict(line.split("=", 1) for line in text.splitlines())
        name = lines.get("FDNAME", "")
        if "FDSTOREREMOVE" in lines:
            if name in self.kept:
                os.close(self.kept.pop(name))
        elif "FDSTORE" in lines:
            (fd,) = fds
            assert name not in self.kept, "both would come back"
            self.kept[name] = fd
        else:
            assert not fds
            self._heard.append(text)
