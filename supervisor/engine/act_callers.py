"""Calls that are let go on, carried out or refused by who makes them."""

from __future__ import annotations

from collections.abc import Callable
from errno import EPERM

from supervisor.engine.callers import who_calls
from supervisor.model import Decision, Facts, Outcome, Verdict


def ask_caller(
    task: int, valid: Callable[[], bool], redecide: Callable[[Facts], Decision],
    on_error: int,
) -> Outcome:
    """What becomes of the call of the caller whose /proc/TID `task` is (O_PATH). No errno, and not
    left alone: it is to be carried out.
    """
    facts = who_calls(task)
    if min(facts.uid, facts.gid) < 0 or not valid():
        return Outcome(on_error, "the caller has gone")
    decision = redecide(facts)
    if decision.verdict is Verdict.CONTINUE:
        return Outcome(0, left_alone=True, decision=decision)
    errno = 0 if decision.verdict is Verdict.EMULATE else EPERM
    return Outcome(errno, decision=decision)
