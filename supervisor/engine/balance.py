"""Backends that connections are shared out to: whose turn it is, and who is left out for a while.

How many connections a backend has is the kernel's to say: each socket is in an epoll set, which it
leaves by itself when nobody has it open any more. The set keeps no socket open, and sees nothing of
what flows. It also tells what became of a connection that was only begun when its caller had its
answer.
"""

from __future__ import annotations

import select
import time
from binascii import crc32
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

import trio

from supervisor.model import Balance

# What a set knows a socket by: the backend, and above that a number that grows.
_INDEX_BITS: Final = 6
_NUMBERS: Final = 1 << 25
_FAILED: Final = select.EPOLLERR | select.EPOLLHUP
# So many sockets are counted anew for each connection; of more that costs time.
_MOST_COUNTED: Final = 256
_COUNTING_SHARE: Final = 20
_MOST_BEGUN: Final = 1024


class Begun(NamedTuple):
    """A connection of which nobody knows yet what becomes of it: to which backend, by which socket
    (SO_COOKIE), since when (seconds, monotonic)."""

    backend: int
    cookie: int
    since: float


class Backends:
    """The backends of one Balance."""

    def __init__(self, balance: Balance, clock: Callable[[], float] = time.monotonic) -> None:
        self.balance = balance
        self._clock = clock
        self._set = select.epoll()
        self._turn = self._number = 0
        self._left_out: dict[int, float] = {}  # until when
        self._begun: dict[int, Begun] = {}
        self._counts: Counter[int] = Counter()
        self._count_again = 0.0
        self._watched = False

    @property
    def watch(self) -> int:
        """The epoll set, as a descriptor."""
        return self._set.fileno()

    # -- whose turn it is

    def order(self, key: bytes) -> list[int]:
        """All backends, in the order in which they are to be tried. `key`: what a hash is of."""
        now = self._clock()
        well = [number for number in range(len(self.balance.to)) if not self._rests(number, now)]
        if self.balance.by == "hash":
            well.sort(key=lambda number: _weight(self.balance.to[number], key), reverse=True)
        elif well:
            turn = self._turn % len(well)
            self._turn += 1
            well = well[turn:] + well[:turn]
        if self.balance.by == "least-connections":
            counts = self._count()
            well.sort(key=lambda number: counts[number])
        return well + sorted(self._left_out, key=lambda number: self._left_out[number])

    def _rests(self, number: int, now: float) -> bool:
        until = self._left_out.get(number)
        if until is not None and until <= now:
            del self._left_out[number]
            return False
        return until is not None

    def failed(self, index: int) -> None:
        """It has refused, or not answered."""
        self._left_out[index] = self._clock() + self.balance.rest

    def well(self, index: int) -> None:
        """It has answered."""
        self._left_out.pop(index, None)

    # -- connections

    def mark(self, index: int) -> int:
        """What the set is to know the next socket by."""
        self._number = (self._number + 1) % _NUMBERS
        return self._number << _INDEX_BITS | index

    def connected(self, mark: int) -> None:
        """The socket is in the set."""
        self._counts[_index(mark)] += 1

    def begun(self, mark: int, cookie: int) -> None:
        """The socket is in the set, and its connection will come, or not."""
        self.connected(mark)
        if len(self._begun) >= _MOST_BEGUN:
            del self._begun[next(iter(self._begun))]
        self._begun[mark] = Begun(_index(mark), cookie, self._clock())
        if not self._watched:
            self._watched = True
            trio.lowlevel.spawn_system_task(self._look_on)

    def begun_by(self, cookie: int) -> int | None:
        """Which backend this very socket is about to be connected to."""
        for one in self._begun.values():
            if one.cookie == cookie:
                return one.backend
        return None

    @property
    def waits(self) -> bool:
        """Whether anything is known to be about to be connected."""
        return bool(self._begun)

    async def _look_on(self) -> None:
        try:
            while self._begun:
                end = min(one.since for one in self._begun.values()) + self.balance.wait
                with trio.move_on_after(max(end - self._clock(), 0)):
                    await trio.lowlevel.wait_readable(self._set.fileno())
                self.look()
        except OSError:
            pass  # nothing more is heard of those; what fails is told by the next connections
        finally:
            self._watched = False

    def look(self) -> None:
        """Hears what became of connections. One that nobody has heard of in time has failed, if its
        caller waits still."""
        for mark, events in self._set.poll(0):
            one = self._begun.pop(mark, None)
            if one is not None:
                (self.failed if events & _FAILED else self.well)(one.backend)
        late = self._clock() - self.balance.wait
        overdue = [mark for mark, one in self._begun.items() if one.since <= late]
        there = self._marks() if overdue else ()
        for mark in overdue:
            one = self._begun.pop(mark)
            if mark in there:
                self.failed(one.backend)

    def _count(self) -> Counter[int]:
        """How many sockets are open to each backend."""
        now = time.thread_time()
        if self._counts.total() < _MOST_COUNTED or now >= self._count_again:
            self._counts = Counter(map(_index, self._marks()))
            spent = time.thread_time() - now
            self._count_again = now + spent * _COUNTING_SHARE
        return self._counts

    def _marks(self) -> Collection[int]:
        """What the open sockets are known by; of one that was connected twice the later."""
        latest: dict[bytes, int] = {}
        with open(f"/proc/self/fdinfo/{self._set.fileno()}", "rb") as file:
            for line in file:
                if line.startswith(b"tfd:"):
                    words = line.replace(b":", b": ").split()
                    inode = words[words.index(b"ino:") + 1]
                    mark = int(words[words.index(b"data:") + 1], 16)
                    latest[inode] = max(mark, latest.get(inode, 0))
        return latest.values()


class Balancers:
    """The backends of all rules of one session. Rules that say the same share them."""

    def __init__(self, name: str) -> None:
        """`name`: the session's; what asks the same in another one may go elsewhere by a hash."""
        self._name = name.encode()
        self._known: dict[tuple[Balance, bool], Backends] = {}

    def of(self, balance: Balance, *, datagrams: bool) -> Backends:
        """Those of a rule. Raises OSError where the kernel gives nothing to count them by.

        Datagrams have turns of their own, and say nothing of who is well: getaddrinfo(3) connects
        a socket of UDP to all addresses of a name before its caller connects one of TCP, and would
        take that one's turns.
        """
        found = self._known.get((balance, datagrams))
        if found is None:
            found = self._known[balance, datagrams] = Backends(balance)
        return found

    def keep(self, balances: Collection[Balance]) -> None:
        """Forgets all others; calls that are being shared out go on with what they have."""
        for gone in [one for one in self._known if one[0] not in balances]:
            del self._known[gone]

    def key(self, asked: bytes) -> bytes:
        """What a hash is of, for a call that asks for this struct sockaddr."""
        return self._name + b"\0" + asked


def _index(mark: int) -> int:
    return mark & (1 << _INDEX_BITS) - 1


def _weight(backend: bytes, key: bytes) -> int:
    """Of the backend with the highest weight a key is the connection: who leaves takes no other's
    along. The end is murmur3's, without which like names would have like weights."""
    value = crc32(backend, crc32(key))
    value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ value >> 16
