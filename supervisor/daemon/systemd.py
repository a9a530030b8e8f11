"""What a service manager and we say to each other: sd_listen_fds(3) and sd_notify(3).

Where nobody has set their variables nothing of this happens.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import trio

_FIRST: Final = 3
# What the names of descriptors begin with that are kept for the next daemon.
KEPT: Final = "container-"


class Given(NamedTuple):
    """What we were started with: listening unix sockets by the names of their files, or of
    FileDescriptorName= where they were given one; and what an earlier daemon had kept, by name."""

    sockets: dict[str, socket.socket]
    kept: list[tuple[str, int]]


def given(environ: Mapping[str, str] = os.environ) -> Given:
    """To be asked before anything else opens descriptors. The environment is left as it is."""
    found = Given({}, [])
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return found
    count = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    for number in range(count):
        fd, told = _FIRST + number, names[number] if number < len(names) else ""
        os.set_inheritable(fd, False)
        if told.startswith(KEPT):
            found.kept.append((told, fd))
        else:
            _sort_in(found, told, fd)
    return found


def _sort_in(found: Given, told: str, fd: int) -> None:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        os.close(fd)  # not for us
        return
    sock = socket.socket(fileno=fd)
    if sock.family != socket.AF_UNIX:
        sock.close()
        return
    sock.setblocking(False)
    own = Path(os.fsdecode(sock.getsockname())).name
    # Without FileDescriptorName= all sockets of a unit have the unit's name.
    name = own if told in ("", "unknown", "stored") or told.endswith(".socket") else told
    found.sockets[name if name.endswith(".sock") else f"{name}.sock"] = sock


class Notifier:
    """Tells the service manager how we are."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(usec) / 1e6 if usec.isdigit() and ours and int(usec) else None

    @property
    def heard(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def send(self, text: str, fds: Sequence[int] = ()) -> None:
        """Lines of NAME=VALUE, and descriptors. Never waits: OSError where they cannot be sent,
        BlockingIOError where they can be sent later."""
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.sendmsg([text.encode()], rights, 0, address)

    def say(self, text: str) -> None:
        """Lines of NAME=VALUE. Never waits, and never fails."""
        with contextlib.suppress(OSError):
            self.send(text)

    def ready(self, status: str) -> None:
        """Doors are open; or what was loaded again is there."""
        self.say(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Until the next `ready`."""
        self.say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """We are about to end."""
        self.say("STOPPING=1")

    async def keep_alive(self) -> None:
        """Says that the loop turns, twice in each of the watchdog's spans."""
        while self.watchdog is not None:
            self.say("WATCHDOG=1")
            await trio.sleep(self.watchdog / 2)
