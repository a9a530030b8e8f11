"""Porters as a session sees them: threads of one process, each with a socket of its own.

A porter makes one call on a caller's socket, for as long as that takes: nobody waits behind it.
There are as many as there are calls under way, and a few more. See csrc/porters.c.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Final

from supervisor.kernel import spawn
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.spawn import Helper

# Of the 256 that there is room for, some may still be ending.
MOST_PORTERS: Final = 240
_MOST_IDLE: Final = 2


class PorterError(Exception):
    """Why there is no porter; the text goes into the audit record."""


@dataclass(slots=True)
class Porter:
    """One of them: the socket that it answers on, and its number. `kicked`: a signal may be on its
    way that is for the call which it has now, and would interrupt the next one."""

    sock: int
    number: int
    kicked: bool = False


class Porters:
    """The porters of a session. Their process is there from the first call on."""

    def __init__(self) -> None:
        self._helper: Helper | None = None
        self._idle: list[Porter] = []
        self._numbers: set[int] = set()
        self._last = -1
        # Those that did not let go of a call whose caller has gone.
        self._leaving: list[Porter] = []

    def prepare(self) -> None:
        """Forks their process, and has one made, before anybody waits for it."""
        if self._helper is None:
            self._idle.append(self._new())

    def take(self) -> Porter:
        """One for one call. Raises PorterError."""
        if self._leaving:
            self._collect()
        return self._idle.pop() if self._idle else self._new()

    def give(self, porter: Porter) -> None:
        """It has answered."""
        if porter.kicked:
            self.lose(porter)
        else:
            self._idle.append(porter)

    def kick(self, porter: Porter) -> None:
        """Interrupts its call, once: it may not have been in it yet."""
        porter.kicked = True
        if self._helper is not None:
            lib.sd_porter_kick(self._helper.sock, porter.number)

    def leave(self, porter: Porter) -> None:
        """Nobody waits for its answer any more."""
        self.kick(porter)
        self._leaving.append(porter)

    def lose(self, porter: Porter) -> None:
        """It has gone."""
        os.close(porter.sock)
        self._numbers.discard(porter.number)

    def lose_idle(self) -> None:
        """Those that nobody uses have gone."""
        while self._idle:
            self.lose(self._idle.pop())

    def rest(self) -> bool:
        """Nobody calls: a few are enough. False: some have not let go of their calls yet."""
        for porter in self._leaving:
            self.kick(porter)
        self._collect()
        while len(self._idle) > _MOST_IDLE:
            self.lose(self._idle.pop(0))
        return not self._leaving

    def close(self) -> None:
        """Ends them all."""
        for porter in (*self._idle, *self._leaving):
            os.close(porter.sock)
        self._idle.clear()
        self._leaving.clear()
        if self._helper is not None:
            self._end(self._helper)
            self._helper = None

    def _new(self) -> Porter:
        for _ in range(2):  # the process may have gone since it was last asked
            if self._helper is None:
                try:
                    self._helper = spawn.spawn_porters()
                except OSError as error:
                    raise PorterError(f"socket: no porter: {error.strerror}") from error
            if len(self._numbers) >= MOST_PORTERS:
                raise PorterError("socket: too many calls are under way")
            # Not that of one that was lost just now: its thread may not have ended yet.
            number = self._last = next(
                n for n in (*range(self._last + 1, MOST_PORTERS), *range(MOST_PORTERS))
                if n not in self._numbers
            )
            sock = lib.sd_porter_new(self._helper.sock, number)
            if sock >= 0:
                self._numbers.add(number)
                return Porter(sock, number)
            self._end(self._helper)
            self._helper = None
        raise PorterError(f"socket: no porter: {os.strerror(-sock)}")

    def _collect(self) -> None:
        """Takes those back that have answered after all."""
        answer = ffi.new("struct sd_socket *")
        for porter in list(self._leaving):
            result = lib.sd_socket_answer(answer, porter.sock, 0)
            if result == 0:
                continue
            self._leaving.remove(porter)
            if result > 0 and answer.taken >= 0:
                lib.sd_socket_lose(answer.taken)  # a connection that nobody waits for any more
            self.lose(porter)

    @staticmethod
    def _end(helper: Helper) -> None:
        os.close(helper.sock)
        try:
            if helper.pidfd >= 0:
                signal.pidfd_send_signal(helper.pidfd, signal.SIGKILL)
                os.close(helper.pidfd)
            else:  # not reaped yet, so the number is still its own
                os.kill(helper.pid, signal.SIGKILL)
            os.waitpid(helper.pid, os.WNOHANG)
        except (ProcessLookupError, ChildProcessError):
            pass
