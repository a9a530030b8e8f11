"""Hand-overs to oci.sock without a runtime: the callers are on the host, the listeners real."""

from __future__ import annotations

import array
import contextlib
import json
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon
from tests.support.inside import wait_for
from tests.support.listener import Listened
from tests.support.policies import policy

# For callers without a container around them.
POLICY = """
version: 1
on_error: ENOMEDIUM
match: {door: oci, user_namespace: host}
syscalls:
  mknod:
    - {do: {errno: ENODEV}}
"""
CALLER = """
import os, sys
while True:
    try:
        os.mknod("/none/x", 0o20666, 0x103)
    except OSError as error:
        print(error.errno, file=open(sys.argv[1], "a"), flush=True)
    if os.path.exists(sys.argv[2]):
        break
    __import__("time").sleep(0.02)
"""
ENODEV = "19"


class Caller:
    """A process below a filter, whose listener nobody serves yet."""

    def __init__(self, place: Path, code: str = CALLER, text: str = POLICY) -> None:
        """`text`: the policy whose filter it is below."""
        self.said, stop = place / f"said-{time.monotonic_ns()}", place / "stop"
        words = [sys.executable, "-c", code, str(self.said), str(stop)]
        self._listened = Listened(policy(text, "none"), words)
        self.listener = self._listened.listener

    def let_go(self) -> None:
        """From now on the listener is the daemon's alone."""
        self._listened.let_go()

    def errnos(self) -> list[str]:
        return self.said.read_text().split() if self.said.exists() else []

    def served(self) -> None:
        """Fails where its calls do not get what the policy says."""
        wait_for(lambda: len(self.errnos()), bool)
        assert set(self.errnos()) == {ENODEV}

    def gets(self, errno: int) -> None:
        """Waits until its calls get `errno`; fails where one gets another one after that."""
        wait_for(lambda: self.errnos()[-1:], lambda last: last == [str(errno)])
        have = len(self.errnos())
        wait_for(lambda: len(self.errnos()), lambda count: count > have + 3)
        assert set(self.errnos()[have:]) == {str(errno)}

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listened.close()


def state(**change: Any) -> bytes:
    found = {
        "ociVersion": "1.0.2", "fds": ["seccompFd"], "pid": 0, "metadata": "",
        "state": {"ociVersion": "1.0.2", "id": f"c{time.monotonic_ns()}", "status": "creating",
                  "pid": 0, "bundle": "/b"},
    }  # fmt: skip
    return json.dumps(found | change).encode()


def connect(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(daemon.socket))
    return sock


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)


def hand_over(daemon: Daemon, caller: Caller, name: str) -> None:
    """Its listener becomes a container's of that name."""
    with connect(daemon) as sock:
        container = {"id": name, "status": "running", "pid": 0, "bundle": "."}
        send(sock, state(state=container), [caller.listener])


def closed(sock: socket.socket) -> bool:
    """Waits until the daemon has let go of the connection."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
