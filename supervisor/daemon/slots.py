"""The listeners of one container: each in a slot, with the watch that its session shares."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from errno import ENOBUFS
from typing import Any

from supervisor.daemon.served import Served
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.watch import SLOTS, Watches


class Slots:
    """Slots by their numbers. One that was let go is used again once no session looks at it.

    `fd`: watches that are there, which an earlier daemon may have left; it becomes theirs.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._all: dict[int, Served] = {}
        self._free = deque(range(SLOTS))
        self._spent: set[int] = set()  # a session may still look at them
        self._released: set[int] = set()  # it does not, and nobody has seen here that callers went
        self._top = 0  # slots from here on have never been used
        self._calls = self._refused = 0  # of slots that have been used again since
        self._watches = Watches.create() if fd is None else Watches(fd)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[tuple[int, Served]]:
        return iter(list(self._all.items()))

    def __getitem__(self, slot: int) -> Served:
        return self._all[slot]

    def get(self, slot: int) -> Served | None:
        """What is in a slot."""
        return self._all.get(slot)

    @property
    def fd(self) -> int:
        """The memfd of all watches."""
        return self._watches.fd

    def watch(self, slot: int) -> Any:
        """The `struct sd_watch *` of a slot."""
        return self._watches[slot]

    def add(self, served: Served) -> int:
        """Gives it a slot. OSError where there is none."""
        if not self._free:
            raise OSError(ENOBUFS, "too many listeners of one container")
        slot = self._free[0]
        calls, refused = self.watch(slot).calls, self.watch(slot).refused
        self._watches.clear(slot)
        self._free.popleft()
        self._top = max(self._top, slot + 1)
        self._calls += calls
        self._refused += refused
        self._all[slot] = served
        return slot

    def add_again(self, slot: int, served: Served) -> None:
        """Gives it the slot that it had under an earlier daemon, whose watch goes on. ValueError
        where that is none, or has been given already."""
        self._free.remove(slot)
        self._top = max(self._top, slot + 1)
        served.stalls = min(self.watch(slot).stalls, lib.SD_STALLS)
        self._all[slot] = served

    def used(self, slot: int) -> bool:
        """Whether anybody, maybe under an earlier daemon, has served what is in a slot."""
        return any(bytes(ffi.buffer(self.watch(slot))))

    def remove(self, slot: int) -> Served:
        """Nobody calls there any more, but a session may still look at it."""
        if slot in self._released:
            self._released.remove(slot)
            self._free.append(slot)
        else:
            self._spent.add(slot)
        return self._all.pop(slot)

    def released(self, slot: Any) -> bool:
        """The session says that it does not. False: it has no reason to, and is not ours any more.
        """
        if type(slot) is not int:
            return False
        if slot in self._spent:
            self._spent.remove(slot)
            self._free.append(slot)
            return True
        early = slot in self._all and slot not in self._released
        if early:
            self._released.add(slot)
        return early

    def recycle(self) -> None:
        """There is no session."""
        self._free.extend(self._spent)
        self._spent.clear()
        self._released.clear()

    def hang(self, ask: Callable[[int], object]) -> bool:
        """Whether the session stands still since the last time that we looked, and a call waits.

        Who has calls to receive shows that it lives as it looks for them. `ask`: has it show that
        for a slot whose calls it has received and not answered, which may take long.
        """
        found = False
        for slot, served in self:
            before, served.turns = served.turns, None
            watch = self.watch(slot)
            waits = served.state() == 1
            if waits or watch.carried or any(watch.pending) or served.holds(watch):
                served.turns = watch.turns
                found = found or served.turns == before
                if not waits:
                    ask(slot)
        return found

    def refuse_pending(self, errno: int) -> int:
        """Answers what a session has received and left; how many calls that were."""
        return sum(
            served.refuse_pending(self._watches[slot], errno)
            for slot, served in self._all.items()
        )

    def counts(self) -> tuple[int, int]:
        """How many calls sessions have received, and how many of them did not get what they asked
        for: their own word."""
        watches = [self._watches[slot] for slot in range(self._top)]
        calls = self._calls + sum(watch.calls for watch in watches)
        return calls, self._refused + sum(watch.refused for watch in watches)

    def clear(self) -> list[Served]:
        """Forgets all listeners, and gives them back."""
        those = list(self._all.values())
        self._all.clear()
        return those

    def close(self) -> None:
        """Lets go of the watches."""
        self._watches.close()
