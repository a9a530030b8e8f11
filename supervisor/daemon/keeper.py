"""The watchdog of one session: it has it started, started again, and answers what it left behind.

It never reads a target's memory or paths, so nothing that a target does can stall it. It holds a
reference to each listener of its session, and shares the watches: the ids that the session has
received and not answered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from errno import ENOTCONN
from functools import partial
from itertools import count
from typing import Any

from supervisor.daemon.channel import Channel
from supervisor.daemon.endings import Deaths, Ending, kill
from supervisor.daemon.events import IN, Events
from supervisor.daemon.forks import Forks
from supervisor.daemon.reading import ReadingDeadline
from supervisor.daemon.served import Served
from supervisor.daemon.slots import Slots
from supervisor.engine.limits import DEFAULT, Limits, Pace
from supervisor.kernel.shim import lib
from supervisor.observe.complaint import complain

_numbers = count(1)


class Keeper:
    """Keeps one session going, on all listeners of one container.

    Without listeners left it has ended: `on_end` is called then, once the session has gone. `order`
    is what the zygote is told besides descriptors; `userns` and `audit` are descriptors, the first
    of which becomes the keeper's.
    """

    def __init__(
        self,
        events: Events,
        forks: Forks,
        *,
        name: str,
        on_error: int,
        limits: Limits = DEFAULT,
        order: Mapping[str, Any] | None = None,
        userns: int | None = None,
        audit: int | None = None,
        lasting: bool = True,
        pace: Pace | None = None,
        on_end: Callable[[], None] | None = None,
        on_first: Callable[[int], None] | None = None,
        slots: Slots | None = None,
    ) -> None:
        """`lasting` False: the first listener is the only one, and its session is started again at
        once. Otherwise one is started when a call waits for it; `on_first` is called then, with the
        slot, and has to call `start`. `pace`: of our own refusals. `slots`: those
        of an earlier daemon's keeper, without listeners."""
        self.number = next(_numbers)
        self._events = events
        self._forks = forks
        self.name = name
        self.on_error = on_error
        self.limits = limits
        self.details: Mapping[str, Any] = order or {}
        self.userns = userns
        self.network = 0  # the inode of the container's network namespace
        self._audit = audit
        self._lasting = lasting
        self._pace = pace
        self.on_end = on_end
        self.on_first = on_first
        self.slots = Slots() if slots is None else slots
        self.session_pid: int | None = None
        self.told: Mapping[str, Any] | None = None  # the details that the session was ordered with
        self.change: object = None  # a policy whose makers are on their way to the session
        self.on_start: Callable[[], None] | None = None
        self._deaths = Deaths(limits.restarts)
        self._dying = Ending(events, lambda: self._session_ended(0))
        self._session: int | None = None
        self._channel: Channel | None = None
        self._ordered = False
        self._closed = self._ending = False  # ending: the session knows that nobody is left
        self.sessions = 0
        self.refused_here = 0
        self.failed: str | None = None
        self._deadline = ReadingDeadline(
            events, self.slots, lambda: self.limits.snapshot, self._stalled
        )

    # -- listeners

    @property
    def listeners(self) -> int:
        """How many have callers left."""
        return len(self.slots)

    def first(self, slot: int) -> tuple[int, Any]:
        """The listener in a slot, and its watch, for whoever receives its first call."""
        return self.slots[slot].fds[0], self.slots.watch(slot)

    def add(
        self, listener: int, runtime: tuple[int, int] | None = None, *,
        proxy: int | None = None, first: bytes = b"", slot: int | None = None,
    ) -> None:
        """Serves one more listener, which becomes the keeper's; on OSError it stays the caller's.

        `runtime` is a process (its id, and its start in ticks since boot) whose calls go on until
        it executes its first program. `proxy` is a connection by which its calls come, of which
        `first` is one that was received already. `slot`: that which it had before the daemon was
        started again; ValueError where it cannot have that.
        """
        served = Served(listener, runtime, proxy)
        if slot is None:
            slot = self.slots.add(served)
        else:
            self.slots.add_again(slot, served)
        if first:
            lib.sd_proxy_carry(self.slots.watch(slot), first)
        self._events.add(served.fd, 0, lambda events: self._on_listener(slot, events))
        if self._ending:
            pass  # the next session's
        elif self._channel is not None:
            self._tell(slot, served)
        elif first and self.failed is not None:
            self.refused_here += served.refuse_pending(self.slots.watch(slot), self.on_error)
            self._wait_for_call(served)
        elif first:
            self.start()
        else:
            self._wait_for_call(served)

    def _wait_for_call(self, served: Served) -> None:
        """Not beside a session, be it on its way or dying: both would receive into one watch."""
        if self._session is None and not self._ordered and (self.failed or self._lasting):
            self._events.change(served.fd, IN)

    def _on_listener(self, slot: int, events: int) -> None:
        served = self.slots[slot]
        if not served.is_call(events):
            self._hung_up(slot)
        elif self.failed is not None:
            self._refuse(slot, served)
        elif self.on_first is not None:
            self.on_first(slot)
        else:
            self.start()

    def _hung_up(self, slot: int) -> None:
        self._let_go(self.slots.remove(slot))
        if self._session is None and not self._ordered:
            self.slots.recycle()
        if not self.slots and self._lasting:
            self._no_more()

    def _let_go(self, served: Served) -> None:
        self._events.drop(served.fd)
        served.close()

    def _refuse(self, slot: int, served: Served) -> None:
        found = served.refuse_next(self.slots.watch(slot), self.on_error)
        if found == -ENOTCONN:
            self._hung_up(slot)
            return
        self.refused_here += found > 0
        if self._pace is not None and (pause := self._pace.pause(1)):
            self._events.change(served.fd, 0)
            self._events.later(pause, lambda: self._go_on(slot, served))

    def _go_on(self, slot: int, served: Served) -> None:
        if self.slots.get(slot) is served:
            self._wait_for_call(served)

    def counts(self) -> tuple[int, int]:
        """How many calls there were, and how many of them did not get what they asked for. What a
        session counts is its own word."""
        calls, refused = self.slots.counts()
        return calls + self.refused_here, refused + self.refused_here

    # -- the session's life

    @property
    def busy(self) -> bool:
        """Whether there is a session, or one on its way."""
        return self._session is not None or self._ordered

    @property
    def begun(self) -> int:
        """How many sessions there have been, with one that is on its way."""
        return self.sessions + self._ordered

    def start(self) -> None:
        """Orders a session, where there is none."""
        if self._ordered or self._session is not None or self.failed is not None:
            return
        self._ordered = True
        self._channel = Channel(self._events, self._heard if self._lasting else None, self._kill)
        for slot, served in self.slots:
            self._events.change(served.fd, 0)
            self._tell(slot, served)
        if self.on_start is not None:
            self.on_start()
        if not self._lasting:
            self._channel.end()
        self._forks.order(self)

    def order(self) -> tuple[dict[str, Any], dict[str, int]] | None:
        """What the zygote is to be told now, and the descriptors by name, which stay ours; None
        where no session is wanted any more."""
        channel = self._channel
        if not self.slots or channel is None or channel.theirs is None or self.told is not None:
            # Asked before: whom the zygote had forked may have heard all, and dies with it.
            self._close_channel()
            self._dying.begin(None, self._settle)
            return None
        timer = self._deadline.timer
        fds = {"channel": channel.theirs.fileno(), "watch": self.slots.fd, "timer": timer}
        if self.userns is not None:
            fds["userns"] = self.userns
        if self._audit is not None:
            fds["audit"] = self._audit
        self.told = self.details
        resumed = self.sessions > 0
        return {**self.details, "do": "session", "of": self.number, "resumed": resumed}, fds

    def delivered(self, answer: Mapping[str, Any], fds: list[int]) -> None:
        """The session has been forked; takes over its pidfd."""
        (session,) = fds
        self.session_pid = answer["pid"]
        self._ordered = False
        self._session = session
        self.sessions += 1
        for _, served in self.slots:
            served.turns = None
        self._events.add(session, IN, self._session_ended)
        if self._channel is None:  # meanwhile all was to be refused, or there is another policy
            self._dying.begin(session, self._settle)
        else:
            self._channel.delivered()
            self._deadline.look()  # it may read for too long already
        if not self.slots and self._lasting:
            self._no_more()

    def refused(self, why: str) -> None:
        """There is no session. Where the zygote has gone there never will be one."""
        self._ordered = False
        self._close_channel()
        self.give_up(why)
        if not self.slots and self._lasting:
            self._no_more()

    def _tell(self, slot: int, served: Served) -> None:
        """Gives the session a listener."""
        assert self._channel is not None
        order = {"listener": slot, "runtime": served.runtime, "network": self.network}
        self._channel.tell(order, served.fds)

    def _heard(self, said: Mapping[str, Any]) -> None:
        """The session has let go of a slot; whoever says anything else has taken it over."""
        if not self.slots.released(said.get("released")):
            self._kill()

    def _kill(self) -> None:
        kill(self._session)

    def _settle(self) -> None:
        """Goes on after a session that nobody wanted any more."""
        self.slots.refuse_pending(self.on_error)
        self._again()

    def _forget_session(self) -> None:
        if self._session is not None:
            self._events.drop(self._session)
            os.close(self._session)
            self._session = self.session_pid = None
        self._ordered = self._ending = False
        self._dying.over()
        self._close_channel()
        self.slots.recycle()

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = self.told = None

    def _session_ended(self, _: int) -> None:
        natural = self._again if self._ending else partial(self._lost, "has died")
        then = self._dying.over() or natural
        self._forget_session()
        for slot, served in self.slots:
            if served.state() == -ENOTCONN:
                self._let_go(self.slots.remove(slot))
        self.slots.recycle()
        if not self.slots:
            self._no_more()
        else:
            then()

    def _lost(self, how: str) -> None:
        """There is no session any more: another one comes, if they do not all go that way."""
        refused = self.slots.refuse_pending(self.on_error)
        if self._deaths.one_more(self.limits):
            self.give_up(f"{len(self._deaths)} sessions have died one after the other")
            return
        self._again()
        self._complain(f"a session {how}; {refused} calls refused, another one is started")

    def look(self) -> None:
        """Ends a session that stands still since the last time that we looked, and a call waits."""
        lives = self._session is not None and not self._dying.begun
        if lives and self.slots.hang(lambda slot: self.tell({"turn": slot})):
            self._dying.begin(self._session, partial(self._lost, "hangs, and is ended"))

    def _again(self) -> None:
        carried = any(self.slots.watch(slot).carried for slot, _ in self.slots)
        if self.failed is None and (carried or not self._lasting):
            self.start()
            return
        for _, served in self.slots:
            self._wait_for_call(served)

    def give_up(self, why: str) -> None:
        """From here on all is refused: better than to let callers wait, or to let them go."""
        if self.failed is None:
            self.failed = why
            self._complain(f"{why}; every supervised call is refused from now on")
            self._close_channel()
            if self._session is not None:
                self._dying.begin(self._session, self._settle)
        if not self.busy:
            self.slots.refuse_pending(self.on_error)
        for _, served in self.slots:
            self._wait_for_call(served)

    def take_up(self) -> None:
        """After all there is a policy: calls are decided again."""
        if self.failed is not None:
            self.failed = None
            self._deaths.forget()
            for _, served in self.slots:
                self._events.change(served.fd, 0)
                self._wait_for_call(served)

    def tell(self, order: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        """Tells the session something, as supervisor.engine.serve has it; False: there is none."""
        if self._channel is None or not self._lasting:
            return False
        self._channel.tell(order, fds)
        return True

    def _no_more(self) -> None:
        """No listener is left: the session ends by itself, or is ended."""
        if self._session is not None and self._lasting:
            if self._channel is not None:
                self._ending = True
                self._channel.end()
            self._events.later(self.limits.goodbye, partial(self._end_hung, self._session))
        elif not self._ordered and not self._closed and self.on_end is not None:
            self.on_end()

    def _end_hung(self, session: int) -> None:
        if self._session == session and (self._ending or not self.slots):
            self._dying.begin(session, self._again)

    def _stalled(self, slot: int, served: Served) -> None:
        """A caller's memory does not come. The reader is given up, the caller refused unread."""
        if self._session is not None and not self._dying.begun:
            watch = self.slots.watch(slot)
            tid = watch.reading_tid
            served.stalled(watch)
            self._dying.begin(self._session, lambda: self._given_up(tid, served.stalls))

    def _given_up(self, tid: int, stalls: int) -> None:
        refused = self.slots.refuse_pending(self.on_error)
        more = "" if stalls < lib.SD_STALLS else "; no caller's memory will be read any more"
        self._again()
        self._complain(
            f"thread {tid} made the reading of its memory hang; {refused} calls refused{more}"
        )

    def _complain(self, text: str) -> None:
        complain(f"{self.name}: {text}")

    def close(self, *, refuse: bool = False) -> None:
        """Lets go of everything; `refuse`: the session is killed, and calls in flight get their
        errno. A session that is not goes on by itself until nobody is left to be served."""
        self._closed = True
        if refuse:
            self._kill()
            self.slots.refuse_pending(self.on_error)
        for served in self.slots.clear():
            self._let_go(served)
        self._forget_session()
        self._deadline.close()
        if self.userns is not None:
            os.close(self.userns)
        self.slots.close()
