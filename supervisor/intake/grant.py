"""The other side of attach.sock: what `seccompd run --attach` has instead of a session."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import socket
import struct
import time
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final

from supervisor.engine.limits import DEFAULT
from supervisor.errors import SeccompdError
from supervisor.kernel.launch import Init
from supervisor.kernel.shim import send_fds

_PATIENCE: Final = 10.0  # the daemon looks at nothing that could keep it waiting
_MESSAGE_MAX: Final = 1 << 20


class Grant:
    """A policy that the daemon has for this user, for one command. It ends when this closes."""

    def __init__(self, path: Path, policy: str | None) -> None:
        """Connects, and asks for the filter. SeccompdError where the daemon gives none."""
        self._path = path
        self._asked: dict[str, Any] = {"version": 1}
        if policy is not None:
            self._asked["policy"] = policy
        self._ended = False
        self._init: Init | None = None
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._sock.settimeout(_PATIENCE)
            try:
                self._sock.connect(os.fspath(path))
            except OSError as error:
                raise SeccompdError(
                    f"no daemon serves here: {error.strerror or error}", where=str(path),
                    hint="the admin runs `seccompd serve` with door attach;"
                    " or run it without --attach",
                ) from error
            if self._peer() not in (0, os.geteuid()):
                raise SeccompdError("neither root nor you serve here", where=str(path))
            self._send({"do": "filter"})
            answer = self._next()
            try:
                self.policy = str(answer["policy"])
                self.filter = base64.b64decode(answer["filter"], validate=True)
            except (KeyError, TypeError, binascii.Error):
                raise self._broken() from None
        except BaseException:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """Readable when the daemon has something to say."""
        return self._sock.fileno()

    def timeout(self) -> float | None:
        """It has a clock of its own."""
        return None

    def hand_over(self, listener: int, init: Init, userns: int | None) -> None:
        """Gives the daemon the listener; by the command's init it sees whose calls come there."""
        fds = [fd for fd in (userns, listener) if fd is not None]
        try:
            fds.append(os.pidfd_open(init.pid))
            self._send({"do": "attach", "fds": ["seccompFd", "pidFd"]}, fds[-2:])
            self._init = init
        finally:
            for fd in fds:
                os.close(fd)

    def dispatch(self) -> None:
        """Hears what there is. SeccompdError where the daemon refuses, or has gone."""
        if self._ended:
            return
        found = self._next()
        if "attached" in found and self._init is not None:
            with contextlib.suppress(OSError):  # it may have been killed on the way
                self._init.go()
        self._ended = "ended" in found

    def finish(self) -> None:
        """Once nobody of the command is left: waits until what served it has ended, too, for it may
        still have to write."""
        until = time.monotonic() + DEFAULT.goodbye
        with contextlib.suppress(SeccompdError):
            while not self._ended and (left := until - time.monotonic()) > 0:
                self._sock.settimeout(left)
                self.dispatch()

    def close(self) -> None:
        """Ends the grant."""
        self._sock.close()

    def _peer(self) -> int:
        data = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("iII", data)[1])

    def _send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        try:
            send_fds(self.fileno(), json.dumps({**self._asked, **message}).encode(), fds or [])
        except OSError as error:
            raise self._gone(error) from error

    def _next(self) -> dict[str, Any]:
        try:
            data = self._sock.recv(_MESSAGE_MAX)
        except OSError as error:
            raise self._gone(error) from error
        if not data:
            raise self._gone(None)
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._broken()
        if "error" in found:
            raise SeccompdError(
                f"the daemon refuses: {found['error']}", where=str(self._path),
                hint="its policies say whom they are for: `match: {door: attach, peer_uid: ...}`",
            )
        return found

    def _gone(self, error: OSError | None) -> SeccompdError:
        why = "" if error is None else f" ({error.strerror or error})"
        found = SeccompdError(
            f"the daemon has gone{why}, and the command with it", where=str(self._path)
        )
        found.status = 128 + SIGKILL
        return found

    def _broken(self) -> SeccompdError:
        return SeccompdError("what serves here is no seccompd", where=str(self._path))
