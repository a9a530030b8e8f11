"""One FUSE program of a session: its start, what it says, its end."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any, Final

import trio

from supervisor.kernel.shim import check, lib

MOST_SAID: Final = 1000  # bytes in one record
_AT_ONCE: Final = 1 << 16  # what a pipe holds
_STAGES: Final = {
    lib.SD_PROGRAM_CLONE: "clone",
    lib.SD_PROGRAM_ROOT: "its root directory",
    lib.SD_PROGRAM_DEVICE: "/dev/fuse",
    lib.SD_PROGRAM_RIGHTS: "its rights",
    lib.SD_PROGRAM_FILTER: "its filter",
    lib.SD_PROGRAM_EXEC: "exec",
}


class Server:
    """One program that starts, runs, or has ended and is not reaped yet. `program` is a started
    struct sd_program, `image` the device and the inode of what it serves.
    """

    def __init__(self, program: Any, what: str, image: tuple[int, int]) -> None:
        self.pid: int = program.pid
        self.pidfd: int = program.pidfd
        self.starting: int = program.started
        self.what = what
        self.image = image
        self.status = 0
        # Of its mount: the watch that tells when it is nowhere any more (-1: none), and the device.
        self.watch = -1
        self.device = 0
        self.unmounted = False
        # For its /dev/fuse; it must have a name until the program has mounted it. -1: none.
        self.node = -1
        self.gone = trio.Event()
        self.program = program
        self._messages: int = program.messages
        self._reaped = False
        self._heard = b""
        self._cut = 0  # bytes that were too many
        self._silent = False

    def started(self) -> bool:
        """Whether it runs; where that is not known yet, `starting` becomes readable.

        OSError where it does not.
        """
        there = lib.sd_program_started(self.program)
        if there < 0:
            check(there, f"{self.what}: {_STAGES.get(self.program.stage, 'start')}")
        return bool(there)

    def begun(self) -> bool:
        """Whether it runs, or is about to: its mount(2) can be waited for. The rest is as of
        `started`.
        """
        return self.started() or self.program.listener >= 0

    def deaf(self) -> None:
        """Lets go of the listener: a mount(2) of the program's is answered elsewhere, or not."""
        if self.program.listener >= 0:
            os.close(self.program.listener)
        self.program.listener = -1

    def ended(self) -> bool:
        """Whether it has; then it is reaped, and `status` is there."""
        if not self._reaped:
            with contextlib.suppress(ChildProcessError):
                pid, self.status = os.waitpid(self.pid, os.WNOHANG)
                if pid == 0:
                    return False
            self._reaped = True
        return True

    def kill(self) -> None:
        """Takes all with it that it has forked: it is pid 1 of its namespace."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def speaks(self) -> bool:
        """Waits until it has said something; False: it will not any more."""
        while not self._silent:
            if self._heard:
                return True
            await trio.lowlevel.wait_readable(self._messages)
            self._hear()
        return bool(self._heard)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            more = os.read(self._messages, _AT_ONCE)
            self._silent = not more
            room = MOST_SAID - len(self._heard)
            self._heard += more[:room]
            self._cut += len(more[room:])

    def words(self) -> str:
        """What it has said since this was asked before, on one line: the first of it where it is
        much, and how many bytes more there were.
        """
        self._hear()
        text = self._heard.decode("utf-8", "backslashreplace")
        said = "; ".join(line.strip() for line in text.splitlines() if line.strip())
        if self._cut:
            said += f" ... and {self._cut} bytes more"
        self._heard, self._cut = b"", 0
        return said

    def ending(self) -> str:
        """How it ended, in words."""
        if os.WIFSIGNALED(self.status):
            return signal.Signals(os.WTERMSIG(self.status)).name
        return f"status {os.WEXITSTATUS(self.status)}"

    def close(self) -> None:
        """Lets go of it."""
        self.deaf()
        for fd in (self.pidfd, self._messages, self.starting):
            os.close(fd)
