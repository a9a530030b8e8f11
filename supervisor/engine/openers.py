"""Openers as a session sees them: who opens what it may not, or what it could have to wait for.

There is one of each kind at most, for as long as such calls come. See csrc/openers.c.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from errno import EPIPE
from typing import Any, Final

from supervisor.engine.maker_calls import MakerCalls, Refused
from supervisor.engine.own_openers import OwnOpeners
from supervisor.kernel.shim import ffi, lib

FILES: Final[int] = lib.SD_OPENER_FILES
DEVICES: Final[int] = lib.SD_OPENER_DEVICES
NET: Final[int] = lib.SD_OPENER_NET
_LINGER_US: Final = 300


@dataclass(slots=True)
class Asked:
    """What an opener is busy with: nobody else asks it meanwhile. `fd`: an int *; `how`: for the
    record."""

    kind: int
    sock: int
    fd: Any
    how: str
    flags: int
    age: int


class Openers:
    """The openers of one session."""

    def __init__(self, calls: MakerCalls) -> None:
        self._calls = calls
        self._socks: dict[int, int] = {}
        # Who opens one thing alone needs none: it takes as long to fork as a few opens.
        self._seen: set[int] = set()
        self._tried: set[int] = set()
        self._age = 0
        self._own = OwnOpeners()

    def open(self, kind: int, index: int, flags: int, how: str, node: Any) -> int | Asked:
        """Has the `index`th thing of the makers' ceiling opened: a descriptor; -errno where it
        could not be, or there is no opener. `Asked`: it takes longer. `node`: what is opened where
        there are no makers; None."""
        result: int = lib.sd_opener_open(kind, index, flags, node or ffi.NULL)
        if result < 0:
            return result
        fd = ffi.new("int *", -1)
        result = lib.sd_lend_told(self._socks[kind], fd, _LINGER_US)
        if result == 0:
            lib.sd_opener_by(kind, -1, 0)
            return self._busy(kind, fd, flags, how)
        if result == -EPIPE:  # its answer may still come, and would be taken for that of the next
            lib.sd_opener_by(kind, -1, 0)
            os.close(self._socks.pop(kind))
        if result < 0 <= fd[0]:
            os.close(fd[0])
        return int(fd[0]) if result > 0 else result

    def begun(self, kind: int, flags: int, how: str) -> Asked:
        """What one has begun to open for a caller whose call was settled."""
        return self._busy(kind, ffi.new("int *", -1), flags, how)

    def _busy(self, kind: int, fd: Any, flags: int, how: str) -> Asked:
        return Asked(kind, self._socks.pop(kind), fd, how, flags, self._age)

    async def wait(self, asked: Asked) -> int:
        """The descriptor. Raises Refused."""
        calls, sock, fd = self._calls, asked.sock, asked.fd
        result = -EPIPE
        try:
            result = await calls.answer(sock, lambda linger: lib.sd_lend_told(sock, fd, linger))
        finally:
            if result in (0, -EPIPE) or asked.age != self._age:
                os.close(sock)  # it ends, once it can
            else:
                self._socks[asked.kind] = sock
                lib.sd_opener_by(asked.kind, sock, calls.on_error)
            if result != 1 and fd[0] >= 0:
                os.close(fd[0])
        if result == 0:
            raise Refused(calls.on_error, "opener: deadline")
        if result == -EPIPE:
            raise Refused(calls.on_error, "opener: lost")
        if result < 0:
            raise Refused(-result, "opening what is given")
        return int(fd[0])

    async def want(self, kind: int, task: int) -> None:
        """Somebody has called whom one of this kind would have served, whose /proc/TID `task` is.
        There is one once that happens again."""
        if kind not in self._seen:
            self._seen.add(kind)
        elif kind not in self._tried:
            self._tried.add(kind)
            try:
                await self._begin(kind, task)
            except (OSError, Refused):
                pass  # nobody is there, then: the long way serves the same

    async def _begin(self, kind: int, task: int) -> None:
        calls, age = self._calls, self._age
        maker = None if calls.makers.none else calls.makers.pick()
        if not calls.makers.none and (maker is None or not maker.idle()):
            self._tried.discard(kind)  # nobody waits for that: the next call asks again
            return
        sock = ffi.new("int *", -1)
        netns = -1
        try:
            if kind == NET:  # whoever it is: each caller's is held against this one
                netns = os.open("ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=task)
            if maker is None:
                sock[0] = self._own.fork(kind, netns)
                sent = 0
            else:
                sent = lib.sd_opener_ask(maker.sock, kind, netns, sock)
        finally:
            if netns >= 0:
                os.close(netns)
        if sent < 0:
            if sock[0] >= 0:
                os.close(sock[0])
            raise Refused(calls.on_error)
        if maker is not None:
            ready = await calls.asked(
                maker, sent, lambda linger: lib.sd_lend_told(maker.sock, sock, linger), sock
            )
            if ready != 1:
                raise Refused(-ready)
        ready = 0
        try:
            ready = await calls.answer(
                sock[0], lambda linger: lib.sd_lend_told(sock[0], sock, linger)
            )
        finally:
            if ready != 1 or age != self._age:
                os.close(sock[0])
            else:
                self._socks[kind] = sock[0]
                lib.sd_opener_by(kind, sock[0], calls.on_error)

    def rest(self) -> None:
        """Nobody calls, or there are other makers: ends them; they hold the listener, too."""
        self._age += 1
        self._seen.clear()
        self._tried.clear()
        for kind, sock in self._socks.items():
            lib.sd_opener_by(kind, -1, 0)
            os.close(sock)
        self._socks.clear()
        self._own.rest()
