"""The beginning of a session's next FUSE program: made once the mount before it has been answered.

It is used or, after a while, let go of: what is mounted below the host's /usr meanwhile is not
seen in it, and what was mounted there is kept.
"""

from __future__ import annotations

import contextlib
import os
import signal
from errno import EAGAIN
from typing import TYPE_CHECKING, Any, Final

import trio

from supervisor.kernel import spawn
from supervisor.kernel.shim import lib
from supervisor.kernel.spawn import Helper

if TYPE_CHECKING:
    from supervisor.engine.mount_makers import FuseNodes

_LIFETIME: Final = 10.0


class Spare:
    """At most one, of a program of the host's."""

    def __init__(self) -> None:
        self._starter: Helper | None = None
        self._pid = 0
        self._pidfd = -1
        self._begun = False  # one is being made
        self._wanted = False
        self._life = trio.CancelScope()
        self._spent = trio.CancelScope()  # of the one before, which was used

    async def want(self, nodes: FuseNodes) -> None:
        """Has one made, and returns when it is there."""
        if not self._wanted:
            self._wanted = True
            self._spent.cancel()
            self._life = trio.CancelScope()
            made = trio.Event()
            trio.lowlevel.spawn_system_task(
                self._provide, self._life, nodes, made, name="fuse spare"
            )
            await made.wait()

    async def _provide(self, life: trio.CancelScope, nodes: FuseNodes, made: trio.Event) -> None:
        """Without one a mount takes longer, and that is all: errors are no matter."""
        try:
            with contextlib.suppress(OSError), life:
                await self._make(nodes)
                made.set()
                life.deadline = trio.current_time() + _LIFETIME
                await trio.sleep_forever()
        finally:
            made.set()
            if life is self._life:  # it was not used
                self._wanted = False
                self._drop()

    async def _make(self, nodes: FuseNodes) -> None:
        if self._starter is None:
            self._starter = spawn.spawn_fuse_starter()
        sock = self._starter.sock
        fuse = await nodes.ahead()
        try:
            if lib.sd_spare_prepare(sock, fuse):
                self._lose()
                return
            self._begun = True
            await trio.lowlevel.wait_readable(sock)
        finally:  # what has no name cannot be mounted
            nodes.forget(fuse)
        self._made()

    def _made(self) -> bool:
        """Whether it is there, if need be by a look for it."""
        if self._begun and self._starter is not None:
            pid = lib.sd_spare_made(self._starter.sock)
            self._begun = pid == -EAGAIN
            if pid > 0:
                try:
                    self._pidfd = os.pidfd_open(pid)
                    self._pid = pid
                except OSError:
                    self._lose()  # and it ends with who made it
            elif not self._begun:
                self._lose()
        return bool(self._pid)

    def start(self, program: Any) -> bool:
        """Starts `program` (struct sd_program) with it, as sd_program_start does without."""
        # While another call comes in at once nobody runs who would hear of the spare one.
        if not self._made() or self._starter is None:
            return False
        # whoever has cared for it ends when there is time
        self._spent, self._life, self._wanted = self._life, trio.CancelScope(), False
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if (
            os.waitid(os.P_PIDFD, self._pidfd, ended) is not None
            or lib.sd_spare_start(self._starter.sock, program, self._pid, self._pidfd)
        ):
            self._drop()
            return False
        self._pid, self._pidfd = 0, -1
        return True

    def _drop(self) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)  # nobody but us can keep it from ending
            os.close(self._pidfd)
        self._pid, self._pidfd = 0, -1

    def _lose(self) -> None:
        if self._starter is None:
            return
        os.close(self._starter.sock)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._starter.pid, signal.SIGKILL)  # not reaped yet: the number is its own
            os.waitpid(self._starter.pid, 0)
        if self._starter.pidfd >= 0:
            os.close(self._starter.pidfd)
        self._starter = None
        self._begun = False

    def close(self) -> None:
        """Ends it, and who makes it."""
        self._drop()
        self._lose()
