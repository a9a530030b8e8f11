"""What a service manager and we say to each other: sd_listen_fds(3) and sd_notify(3).

Where nobody has set their variables nothing of this happens.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

_FIRST: Final = 3


def given_sockets(environ: Mapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """The listening unix sockets that we were started with, by the names of their files, or of
    FileDescriptorName= where they were given one.

    To be asked before anything else opens descriptors. The environment is left as it is.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, socket.socket] = {}
    for number in range(count):
        os.set_inheritable(_FIRST + number, False)
        sock = socket.socket(fileno=_FIRST + number)
        if sock.family != socket.AF_UNIX:
            sock.close()
            continue
        sock.setblocking(False)
        path = sock.getsockname()
        own = Path(os.fsdecode(path)).name
        told = names[number] if number < len(names) else ""
        # Without FileDescriptorName= all sockets of a unit have the unit's name.
        name = own if told in ("", "unknown", "stored") or told.endswith(".socket") else told
        found[name if name.endswith(".sock") else f"{name}.sock"] = sock
    return found


class Notifier:
    """Tells the service manager how we are."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(usec) / 1e6 if usec.isdigit() and ours and int(usec) else None

    def say(self, text: str) -> None:
        """Lines of NAME=VALUE. Never waits, and never fails."""
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with socket.socket(socket.AF_UNIX, kind) as sock, contextlib.suppress(OSError):
            sock.sendto(text.encode(), address)

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
