"""Questions to a maker that are no path work: what it lends, and loop devices."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EPERM, EPIPE
from typing import Any, Final

import trio

from supervisor.engine.helpers import Maker, Makers

_LINGER_US: Final = 300


class Refused(Exception):
    """What the caller is told, and what goes into the audit record."""

    def __init__(self, errno: int, how: str = "") -> None:
        super().__init__(how)
        self.errno = errno
        self.how = how


class MakerCalls:
    """The makers of one session, one question at a time each. `on_wait` is called before each time
    that somebody goes to sleep.
    """

    def __init__(self, makers: Makers, *, on_error: int, deadline: float) -> None:
        self.makers = makers
        self.on_error = on_error
        self.deadline = deadline
        self.on_wait: Callable[[], None] = lambda: None

    async def answer(
        self, sock: int, heard: Callable[[int], int], deadline: float | None = None
    ) -> int:
        """What `heard` says once it says something; 0 at the deadline."""
        result = heard(_LINGER_US)
        if result == 0:
            self.on_wait()
            with trio.move_on_after(self.deadline if deadline is None else deadline):
                while result == 0:
                    await trio.lowlevel.wait_readable(sock)
                    result = heard(0)
        return result

    async def borrow(self) -> Maker:
        """An idle maker. Raises Refused."""
        until = trio.current_time() + self.deadline
        while (maker := self.makers.pick()) is not None and not maker.idle():
            self.on_wait()
            with trio.move_on_at(until):
                await self.makers.wait()
            if trio.current_time() >= until:
                raise Refused(self.on_error, "maker: deadline")
        if maker is None:
            if self.makers.lost:
                raise Refused(self.on_error, "maker: lost")
            raise Refused(EPERM, "no maker to give it, for seccompd is not root")
        return maker

    async def asked(
        self, maker: Maker, sent: int, heard: Callable[[int], int], fd: Any,
        deadline: float | None = None,
    ) -> int:
        """What a maker that was borrowed answers to a question: `sent` is what became of that. A
        descriptor that came (`fd`, an int *) with anything but 1 is closed. Raises Refused where
        there is no answer.
        """
        maker.busy[0] = 1
        result = -EPIPE
        try:
            if sent == 0:
                result = await self.answer(maker.sock, heard, deadline)
        finally:
            if result in (0, -EPIPE):
                self.makers.lose(maker)
            else:
                maker.busy[0] = 0
                self.makers.done()
            if result != 1 and fd[0] >= 0:
                os.close(fd[0])
        if result in (0, -EPIPE):
            raise Refused(self.on_error, "maker: lost")
        return result
