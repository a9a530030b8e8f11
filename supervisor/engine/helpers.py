"""The helpers of a session as it sees them: a few resolvers of its own, makers that it was given.

A helper does one thing at a time. Whoever takes longer than its deadline is killed and left behind;
one that a hung file system keeps from dying is counted, and past a small number there is no more
path work for this container.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import trio

from supervisor.kernel import spawn
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.spawn import Helper

MOST_RESOLVERS: Final = 8
# Of these: a mount can take one for as long as its program or its image makes it wait.
MOST_MOUNTING: Final = 4
MOST_ABANDONED: Final = 8
_ATTEMPTS: Final = 3
_LAST_BREATH: Final = 0.05
_TIDYING: Final = 0.0005


class HelperError(Exception):
    """Why there is no helper; the text goes into the audit record."""


def left_of(children: Iterable[Helper]) -> list[Helper]:
    """Those that have not ended; the others are reaped."""
    left = []
    for helper in children:
        try:
            gone = os.waitpid(helper.pid, os.WNOHANG)[0] == helper.pid
        except ChildProcessError:
            gone = True
        if not gone:
            left.append(helper)
        elif helper.pidfd >= 0:
            os.close(helper.pidfd)
    return left


class Resolvers:
    """At most MOST_RESOLVERS, forked as they are needed; `take` and `give` are the whole use."""

    def __init__(self) -> None:
        self._idle: list[Helper] = []
        self._working = 0
        self._abandoned: list[Helper] = []
        self._lot = trio.lowlevel.ParkingLot()

    def prepare(self, first: Helper | None = None) -> None:
        """Forks the first one, where it is not there yet, before anybody waits for it."""
        if not self._idle:
            self._idle.append(first or spawn.spawn_resolver())

    def idle(self) -> Helper | None:
        """One for one work, where that takes no thought."""
        if self._abandoned or not self._idle:
            return None
        self._working += 1
        return self._idle.pop()

    async def take(self, on_wait: Callable[[], None]) -> Helper:
        """A resolver for one work. Raises HelperError where there can be none."""
        while True:
            if self._abandoned:
                self._reap()
            if self._idle:
                self._working += 1
                return self._idle.pop()
            if len(self._abandoned) > MOST_ABANDONED:
                raise HelperError("path: too many resolvers hang")
            if self._working < MOST_RESOLVERS:
                try:
                    helper = spawn.spawn_resolver()
                except OSError as error:
                    raise HelperError(f"path: no resolver: {error.strerror}") from error
                self._working += 1
                return helper
            on_wait()
            await self._lot.park()

    def give(self, helper: Helper) -> None:
        """It has done its work."""
        self._working -= 1
        self._idle.append(helper)
        if self._lot:
            self._lot.unpark()

    def abandon(self, helper: Helper) -> None:
        """It did not answer, or can be of no more use."""
        self._working -= 1
        self._end(helper)
        self._lot.unpark()

    async def ask(
        self, ask: Callable[[Helper], Awaitable[bool]], on_wait: Callable[[], None]
    ) -> None:
        """Has one of them answer a question; `ask` says whether it did. One that did not is left
        behind: after False, which says that it cannot become that caller, another one is asked.
        Raises HelperError where none can.
        """
        for _ in range(_ATTEMPTS):
            helper = self.idle() or await self.take(on_wait)
            answered = False
            try:
                answered = await ask(helper)
            finally:
                if answered:
                    self.give(helper)
                else:
                    self.abandon(helper)
            if answered:
                return
        raise HelperError("path: the caller's groups cannot be taken")

    def rest(self) -> bool:
        """Nobody calls: of the idle ones one is enough, and it is there at once.

        False: one that was let go, now or earlier, has not ended yet.
        """
        while len(self._idle) > 1:
            helper = self._idle.pop(0)
            self._end(helper)
            if helper in self._abandoned and helper.pidfd >= 0:
                select.select([helper.pidfd], [], [], _LAST_BREATH)  # it waits for us, nothing else
        return not self.abandoned

    def _end(self, helper: Helper) -> None:
        os.close(helper.sock)
        try:
            if helper.pidfd >= 0:
                signal.pidfd_send_signal(helper.pidfd, signal.SIGKILL)
            else:  # not reaped yet, so the number is still its own
                os.kill(helper.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._abandoned.append(helper)
        self._reap()

    def _reap(self) -> None:
        self._abandoned = left_of(self._abandoned)

    @property
    def abandoned(self) -> int:
        """How many hang and do not die."""
        self._reap()
        return len(self._abandoned)

    def close(self) -> None:
        """Ends them all."""
        for helper in self._idle:
            self._end(helper)
        self._idle.clear()


class Maker:
    """One maker, and whether it owes an answer to somebody. `tidying`: it owes that to nobody but
    whoever wants it next, and to an umount: it lets go of what a mount took.
    """

    def __init__(self, sock: int) -> None:
        self.sock = sock
        self.busy: Any = ffi.new("int32_t *", 0)
        self.tidying = False

    def tidied(self) -> bool:
        """Whether it is done with that, or has gone; looks, and does not wait."""
        if self.tidying and lib.sd_mount_tidied(self.sock) != 0:
            self.tidying = False
            self.busy[0] = 0  # who asks one that has gone will see so
        return not self.tidying

    def idle(self) -> bool:
        """Whether it owes no answer to anybody."""
        return not self.busy[0] or (self.tidying and self.tidied())


class Makers:
    """The makers of a session. One that is lost is not replaced: it is not ours to fork."""

    def __init__(self, socks: Sequence[int]) -> None:
        self.all = [Maker(sock) for sock in socks]
        self._given = len(self.all)
        self._leaving: list[Maker] = []
        self._lot = trio.lowlevel.ParkingLot()

    @property
    def lost(self) -> bool:
        """There were makers, and none is left."""
        return bool(self._given) and not self.all

    @property
    def none(self) -> bool:
        """There never were any: an ordinary user's."""
        return not self._given

    def pick(self) -> Maker | None:
        """An idle one where there is one; None where there is none at all."""
        for maker in self.all:
            if maker.idle():
                return maker
        return self.all[0] if self.all else None

    async def wait(self) -> None:
        """Until one may have become idle."""
        if any(maker.tidying for maker in self.all):
            await trio.sleep(_TIDYING)  # it takes a grace period of RCU, and nobody watches it
        else:
            await self._lot.park()

    async def tidied(self) -> None:
        """Until none holds anything of a mount that was made."""
        while [maker for maker in self.all if not maker.tidied()]:
            await self.wait()

    def replace(self, socks: Sequence[int]) -> None:
        """Asks these from now on. Those that were there end, or are ended by whoever forked them;
        one that owes an answer may still give it."""
        before = self.all
        self.all = [Maker(sock) for sock in socks]
        self._given = len(self.all)
        self._leaving = [maker for maker in (*self._leaving, *before) if not self._let_go(maker)]
        self._lot.unpark_all()

    @staticmethod
    def _let_go(maker: Maker) -> bool:
        if not maker.idle():
            return False
        os.close(maker.sock)
        return True

    def done(self) -> None:
        """A work has ended: whoever waits looks again."""
        if self._leaving:
            self._leaving = [maker for maker in self._leaving if not self._let_go(maker)]
        if self._lot:
            self._lot.unpark_all()

    def lose(self, maker: Maker) -> None:
        """It did not answer in time, or has gone; without its socket it ends."""
        for those in (self.all, self._leaving):
            if maker in those:
                those.remove(maker)
                os.close(maker.sock)
        self._lot.unpark_all()

    def close(self) -> None:
        """Ends them all."""
        for maker in (*self.all, *self._leaving):
            os.close(maker.sock)
        self.all.clear()
        self._leaving.clear()
