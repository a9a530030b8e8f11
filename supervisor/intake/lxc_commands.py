"""The command socket of an LXC container: the listener itself, without a monitor in between.

For containers that have no `lxc.seccomp.notify.proxy`. Their monitor holds the listener and does
nothing with it, but gives it to whoever asks at the abstract socket LXCPATH/NAME/command: a request
is struct {int command, length; void *data} with SCM_CREDENTIALS, the answer {int ret, length; void
*data}.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
from dataclasses import asdict, dataclass
from errno import EPERM, EPROTO
from typing import Any, Final

import trio

from supervisor.intake.handover import Malformed

VERSION: Final = 1
_GET_INIT_PID, _GET_LISTENER = 4, 22
_MESSAGE: Final = struct.Struct("@iiP")
_NAME: Final = re.compile(r"[^/\0\s]{1,255}")
_MOST_FDS: Final = 4


@dataclass(frozen=True, slots=True)
class Announced:
    """A container that says that it starts: where its command socket is, and its cookie. `early`:
    it has no process yet."""

    container: str
    lxcpath: str
    cookie: str | None = None
    early: bool = False

    @property
    def address(self) -> bytes:
        """The name of the command socket."""
        return b"\0" + os.fsencode(f"{self.lxcpath}/{self.container}/command")


def parse_announcement(message: bytes) -> Announced:
    """What a hook says. Raises Malformed."""
    try:
        data = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(data, dict) or data.pop("version", None) != VERSION:
        raise Malformed("not an announcement of version 1")
    if unknown := sorted(data.keys() - {"container", "lxcpath", "cookie", "early"}):
        raise Malformed(f"unknown field {unknown[0][:80]!r}")
    container, lxcpath = data.get("container"), data.get("lxcpath")
    cookie, early = data.get("cookie"), data.get("early", False)
    if not isinstance(container, str) or not _NAME.fullmatch(container):
        raise Malformed("container is not a name")
    if not isinstance(lxcpath, str) or not lxcpath.startswith("/") or "\0" in lxcpath:
        raise Malformed("lxcpath is not an absolute path")
    if cookie is not None and not isinstance(cookie, str):
        raise Malformed("cookie is not a text")
    if not isinstance(early, bool):
        raise Malformed("early is not a truth value")
    found = Announced(container, lxcpath.rstrip("/"), cookie, early)
    if len(found.address) > 108:
        raise Malformed("the name of the command socket is too long")
    return found


def announcement(announced: Announced) -> bytes:
    """The message that `parse_announcement` reads."""
    return json.dumps({"version": VERSION, **asdict(announced)}).encode()


async def init_and_listener(announced: Announced) -> tuple[int, int, int]:
    """The pids of the container's monitor and of its init, and its listener.

    Waits until the monitor answers. OSError where there is none, it is another user's (such names
    are anybody's to take), or it has no listener.
    """
    monitor, init, _ = await _ask(announced, _GET_INIT_PID)
    _, _, fds = await _ask(announced, _GET_LISTENER)
    listener = fds.pop(0) if fds else -1
    for fd in fds:
        os.close(fd)
    if init <= 0 or listener < 0:
        if listener >= 0:
            os.close(listener)
        raise OSError(EPROTO, "it has no init, or no listener")
    return monitor, init, listener


async def _ask(announced: Announced, command: int) -> tuple[int, int, list[int]]:
    """The monitor's pid, and the data and the descriptors of its answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.connect(announced.address)
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("iII", peer)
        if uid != os.geteuid():
            raise PermissionError(EPERM, "its command socket is another user's")
        credentials = struct.pack("iII", os.getpid(), os.geteuid(), os.getegid())
        ancillary: list[Any] = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)]
        sock.sendmsg([_MESSAGE.pack(command, 0, 0)], ancillary)
        await trio.lowlevel.wait_readable(sock)
        data, fds, _, _ = socket.recv_fds(sock, _MESSAGE.size, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        if len(data) == _MESSAGE.size:
            result, _, value = _MESSAGE.unpack(data)
            if result == 0:
                return pid, value, fds
        for fd in fds:
            os.close(fd)
        raise OSError(EPROTO, "its monitor answers something else")
