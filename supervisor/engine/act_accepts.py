"""accept and accept4: a porter takes a connection, the rules look at its peer, the caller gets it.

What the rules refuse is closed, and the caller goes on waiting as if nobody had connected. What
they give another answer to is closed, too, and the caller gets that; so is a connection that was
taken and cannot be handed over, for it cannot be put back: what they leave to the kernel is given.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from errno import ECONNABORTED, EINTR
from typing import Final

import trio

from supervisor.engine.callers import who_calls
from supervisor.engine.porters import MOST_PORTERS, PorterError
from supervisor.engine.socket_jobs import ERESTARTSYS, SocketError, SocketJob
from supervisor.kernel.address_text import written
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.task import interrupted
from supervisor.model import Decision, Facts, Given, Outcome, Verdict

_CLOEXEC: Final = 0o2000000  # SOCK_CLOEXEC
# The other porters are for calls that end: accepts may all wait for hours.
_MOST_WAITING: Final = MOST_PORTERS * 5 // 6
# Who does not wait has other things to do, however many are refused: it will come again.
_MOST_AT_ONCE: Final = 32
# A signal that nobody has seen to for so many seconds is this thread's, for all that can be known.
_UNSEEN: Final = 0.3
_GIVEN: Final = frozenset((Verdict.EMULATE, Verdict.CONTINUE))


class Accepts:
    """Accepts for the callers of one session."""

    def __init__(self) -> None:
        self._waiting = 0

    async def perform(
        self,
        new_job: Callable[[], SocketJob],
        make: Callable[[SocketJob], Awaitable[Outcome]],
        task: int,
        redecide: Callable[[Facts], Decision] | None,
        on_error: int,
        step_back: Callable[[], None],
    ) -> Outcome:
        """Accepts for the caller whose /proc/TID `task` is, until the rules grant a connection or
        the listener says something else. `make` has a porter accept one.
        """
        assert redecide is not None, "nobody knows before who connects"
        if self._waiting >= _MOST_WAITING:
            return Outcome(on_error, "socket: too many wait for connections")
        self._waiting += 1
        try:
            return await _accept(new_job, make, task, redecide, on_error, step_back)
        except SocketError as error:
            return Outcome(error.errno, error.how)
        except PorterError as error:
            return Outcome(on_error, str(error))
        finally:
            self._waiting -= 1


class _Refused:
    """What was closed in the course of one call; `left`: how long that may still wait, in
    milliseconds, 0 for as long as it would have at first; `decision`: on the last one, if any."""

    def __init__(self) -> None:
        self.count = self.left = 0
        self.last = b""
        self.decision: Decision | None = None
        self._pending: float | None = None  # since when a signal waits

    @property
    def how(self) -> str:
        """For the record of the call."""
        return f"closed {self.count}, the last from {written(self.last)}" if self.count else ""

    def came_to(self, errno: int, how: str = "") -> Outcome:
        """Nobody was taken."""
        how = ", ".join(filter(None, (how, self.how)))
        return Outcome(errno, how, decision=self.decision)

    def signalled(self, tid: int) -> bool:
        """Whether the caller has a signal to see to, as far as that can be known."""
        pending, certain = interrupted(tid)
        if not pending:
            self._pending = None
        elif self._pending is None:
            self._pending = trio.current_time()
        return certain or (pending and trio.current_time() - (self._pending or 0) >= _UNSEEN)


async def _accept(
    new_job: Callable[[], SocketJob],
    make: Callable[[SocketJob], Awaitable[Outcome]],
    task: int,
    redecide: Callable[[Facts], Decision],
    on_error: int,
    step_back: Callable[[], None],
) -> Outcome:
    refused = _Refused()
    while True:
        job = new_job()
        job.as_caller(task)
        job.call.wait_ms = refused.left
        outcome = await make(job)
        if outcome.errno == EINTR and not interrupted(job.snapshot.tid)[0]:
            # The porter was kicked for the call that it had made before.
            refused.left = int(job.call.left_ms)
            continue
        if outcome.errno:
            return refused.came_to(outcome.errno, outcome.how)
        decided = _decide(job, task, redecide, refused, on_error)
        if decided is not None:
            return decided
        # Who connects again and again is to keep nobody waiting, nor the caller from its signals.
        if job.call.patient and refused.signalled(job.snapshot.tid):
            return refused.came_to(EINTR if refused.left else ERESTARTSYS)
        step_back()
        await trio.lowlevel.checkpoint()


def _decide(
    job: SocketJob, task: int, redecide: Callable[[Facts], Decision], refused: _Refused,
    on_error: int,
) -> Outcome | None:
    """What the rules make of the connection that was taken; None: it was closed."""
    taken = int(job.call.taken)
    if taken < 0:  # no descriptor was left for it
        return Outcome(on_error, "socket: the connection could not be taken over")
    given = False
    try:
        peer = bytes(ffi.buffer(job.call.peer, job.call.peer_length))
        decision = redecide(who_calls(task)._replace(peer=peer))
        # One that is only recorded is given, too.
        given = decision.verdict in _GIVEN and not decision.needs_facts
    finally:
        if not given:
            lib.sd_socket_refuse(taken)
    if given:
        at = job.plan.shown_at
        flags = os.O_CLOEXEC if job.plan.flags & _CLOEXEC else 0
        return Outcome(
            0, refused.how, decision=decision, give=Given(taken, flags),
            named=(*at, peer) if at[0] else None,
        )  # fmt: skip
    if decision.needs_facts or decision.verdict in _GIVEN:
        return Outcome(on_error, decision.reason)
    if decision.verdict is not Verdict.REFUSE:
        # the answer is the decision's; that the caller has gone has a reason, and no rule
        return Outcome(on_error, refused.how or decision.reason, decision=decision)
    refused.count, refused.last, refused.left = refused.count + 1, peer, int(job.call.left_ms)
    refused.decision = decision
    if not job.call.patient and refused.count >= _MOST_AT_ONCE:
        return refused.came_to(ECONNABORTED)
    return None
