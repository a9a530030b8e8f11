"""What the loops of one container share: one loop for each listener, all in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from supervisor.engine.limits import DEFAULT, Limits, Pace
from supervisor.engine.waiting import Waiting
from supervisor.kernel.syscalls import CallSpec
from supervisor.model import Decision, Facts, Outcome, Snapshot
from supervisor.plans import Plan

_BEAT: Final = 0.25  # `limits.hang` is a second at least


class PlanActor(Protocol):
    """Who carries plans out. `on_wait` is called before each time it goes to sleep in trio."""

    on_wait: Callable[[], None]

    @property
    def patient(self) -> int:
        """How many calls wait for the outside world, and keep nobody busy."""
        ...

    def concerned(self, spec: CallSpec) -> bool:
        """Whether a companion's call may concern us; where nothing of ours is there it does not."""
        ...

    def rest(self) -> bool:
        """Nobody has called for a while. False: it wants to be asked again soon."""
        ...

    def at_once(self, plan: Plan, snapshot: Snapshot, decision: Decision) -> Any:
        """The short way, where there is one: the Outcome. None: `perform` it. A job of the actor's
        own: `finish` it."""
        ...

    async def finish(
        self, job: Any, valid: Callable[[], bool], redecide: Callable[[Facts], Decision] | None
    ) -> Outcome:
        """Goes on with what `at_once` has begun; the rest is as in `perform`."""
        ...

    async def perform(
        self,
        plan: Plan,
        snapshot: Snapshot,
        task: int,
        valid: Waiting,
        redecide: Callable[[Facts], Decision] | None,
        *,
        probe_only: bool = False,
    ) -> Outcome:
        """Carries `plan` out for the caller whose /proc/TID `task` is (O_PATH)."""
        ...

    @property
    def more(self) -> bool:
        """Whether a plan has left something to do until its caller had the answer."""
        ...

    async def do_more(self) -> None:
        """Does that."""
        ...


@dataclass(slots=True)
class Totals:
    """What a session has done, for its last record. What was answered while nobody wanted one is
    not counted.
    """

    calls: int = 0
    refused: int = 0
    undelivered: int = 0
    errors: int = 0


class Member(Protocol):
    """A loop that leads, as all do by turns."""

    def step_back(self) -> None:
        """Whoever calls this is about to sleep in trio."""
        ...


class Crew:
    """What the loops of one container have to know of each other.

    `waiting` counts the calls of all of them that wait in trio for a helper. `alone`: there is one
    loop, and nobody else in this process. `linger_us`: how long an idle loop waits in the kernel, 0
    where it could miss something. `pace` holds all of them together to the container's rate.
    `hear` takes in what was said to this process.
    """

    __slots__ = ("_members", "_others", "hear", "linger_us", "pace", "waiting")

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self._members: list[Member] = []
        self._others = False
        self.waiting = 0
        self.linger_us = limits.linger_us
        self.pace = Pace(limits.rate)
        self.hear: Callable[[], None] = lambda: None

    @property
    def alone(self) -> bool:
        """Whether nobody waits for his turn."""
        return len(self._members) <= 1 and not self._others

    async def wait(self, listener: int) -> None:
        """Until a call waits there. What was said before it came is heard before it."""
        try:
            await trio.lowlevel.wait_readable(listener)
        finally:  # also where time is up
            self.hear()

    @staticmethod
    async def hold(pause: float, alive: Callable[[], None]) -> None:
        """Sleeps so many seconds, however many, and says now and then that nobody hangs."""
        while pause > 0:
            alive()
            await trio.sleep(min(pause, _BEAT))
            pause -= _BEAT

    def beside(self, others: bool) -> None:
        """Whether there is somebody else in this process, who has to get his turn."""
        self._others = others

    def join(self, member: Member) -> None:
        """One more."""
        self._members.append(member)

    def leave(self, member: Member) -> None:
        """One less."""
        self._members.remove(member)

    @property
    def members(self) -> int:
        """How many there are."""
        return len(self._members)

    def step_back(self) -> None:
        """A task is about to sleep: where it leads a loop, another one takes its place first."""
        for member in self._members:
            member.step_back()
