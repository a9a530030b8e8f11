"""The daemon's side of the giver: one helper for one order, with a time limit on each.

A giver works in a container's mount namespace, where a hostile file system can make it wait for
ever. That costs whoever asked, and nobody else.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import trio

from supervisor.daemon.forks import Forks
from supervisor.daemon.given import Given, nobodys
from supervisor.errors import SeccompdError
from supervisor.kernel import giver
from supervisor.kernel.giver import Answer, Holder, Receiver
from supervisor.kernel.target import Target, has_ended

_TO_DIE: Final = 1.0
# Helpers that hang, and do not even die of SIGKILL, at a time.
_MOST_LOST: Final = 8

_T = TypeVar("_T")


class _Order:
    """A customer of the zygote's, who wants one giver."""

    def __init__(self) -> None:
        self.there = trio.Event()
        self.refusal: str | None = None
        self.wanted = True
        self.fds: list[int] = []  # a pidfd and the socket

    def order(self) -> tuple[dict[str, Any], dict[str, int]] | None:
        return ({"do": "giver"}, {}) if self.wanted else None

    def delivered(self, _: Mapping[str, Any], fds: list[int]) -> None:
        self.fds = fds
        self.there.set()
        if not self.wanted and (late := self.end()) is not None:
            os.close(late)

    def refused(self, why: str) -> None:
        self.refusal = why
        self.there.set()

    def end(self) -> int | None:
        """Ends it; its pidfd, which is to be closed once it has died."""
        self.wanted = False
        if not self.fds:
            return None
        pidfd, sock = self.fds
        self.fds = []
        os.close(sock)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return pidfd


class Givers:
    """Has the zygote make givers, and ends them."""

    def __init__(self, forks: Forks, seconds: float) -> None:
        """`seconds`: how long one may take."""
        self._forks = forks
        self._seconds = seconds
        self._lost: list[int] = []

    async def answer(self, ask: Callable[[int], None], receiver: Receiver) -> Answer:
        """What came of an order that `ask` writes to a socket. SeccompdError where no answer came
        in time, or the helper died: then nobody knows how far it has come."""

        async def work(sock: int) -> Answer:
            ask(sock)
            while True:
                await trio.lowlevel.wait_readable(sock)
                found = receiver.receive(sock)
                if found is not None:
                    return found

        return await self._with_one(work)

    async def holders(
        self, devices: Sequence[int], *, mounts_of: int = 0, block: tuple[int, int] = (0, 0)
    ) -> tuple[list[Holder], bool]:
        """See giver.ask_who_has; and whether these were all."""
        found: list[Holder] = []

        async def work(sock: int) -> bool:
            giver.ask_who_has(sock, devices, mounts_of=mounts_of, block=block)
            while True:
                await trio.lowlevel.wait_readable(sock)
                one = giver.receive_holder(sock)
                if one is None:
                    return True
                found.append(one)

        try:
            return found, await self._with_one(work)
        except SeccompdError:
            return found, False

    async def _with_one(self, work: Callable[[int], Awaitable[_T]]) -> _T:
        result: list[_T] = []
        with trio.move_on_after(self._seconds):
            async with self._giver() as (pidfd, sock):
                try:
                    result.append(await work(sock))
                except OSError as error:
                    raise SeccompdError(f"the helper failed: {error.strerror}") from None
                # until then it has the container's root directory, at least
                await trio.lowlevel.wait_readable(pidfd)
        if not result:
            raise SeccompdError(
                f"no answer within {self._seconds:g} seconds",
                hint="a file system in the container may hang, or its cgroup be frozen",
            )
        return result[0]

    @contextlib.asynccontextmanager
    async def _giver(self) -> AsyncIterator[tuple[int, int]]:
        self._bury()
        if len(self._lost) >= _MOST_LOST:
            raise SeccompdError(f"{len(self._lost)} helpers hang in file systems of containers")
        order = _Order()
        self._forks.order(order)
        try:
            await order.there.wait()
            if order.refusal is not None:
                raise SeccompdError(f"no helper: {order.refusal}")
            pidfd, sock = order.fds
            yield pidfd, sock
        finally:
            left = order.end()
            if left is not None:
                with trio.move_on_after(_TO_DIE, shield=True):
                    await trio.lowlevel.wait_readable(left)
                self._lost.append(left)
                self._bury()

    def _bury(self) -> None:
        ended = [one for one in self._lost if has_ended(one)]
        self._lost = [one for one in self._lost if one not in ended]
        for pidfd in ended:
            os.close(pidfd)


class Farewell:
    """Takes a device from a container that has ended: somebody may hold its mount namespace still.
    A customer of the zygote's; nobody waits for it."""

    def __init__(self, given: Given, target: Target) -> None:
        """Closes `given.home`."""
        self._given = given
        self._target = target

    def order(self) -> tuple[dict[str, Any], dict[str, int]] | None:
        """As a customer of the zygote's."""
        return {"do": "giver"}, {}

    def delivered(self, _: Mapping[str, Any], fds: list[int]) -> None:
        """There is a giver: it is told what to do, and left to itself."""
        given, (pidfd, sock) = self._given, fds
        node = nobodys(given.wish, self._target)
        with contextlib.suppress(OSError):
            giver.ask_to_take(sock, node, (0, 0), given.place, given.home, None, None)
        for fd in (pidfd, sock, given.home):
            os.close(fd)

    def refused(self, _: str) -> None:
        """Then the device stays as it is."""
        os.close(self._given.home)
