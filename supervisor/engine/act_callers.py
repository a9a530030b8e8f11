"""Calls that are let go on, carried out or refused by who makes them."""

from __future__ import annotations

from collections.abc import Callable
from errno import EPERM

from supervisor.kernel.task import field, read
from supervisor.model import Decision, Facts, Outcome, Verdict


def ask_caller(
    task: int, valid: Callable[[], bool], redecide: Callable[[Facts], Decision],
    on_error: int,
) -> Outcome:
    """What becomes of the call of the caller whose /proc/TID `task` is (O_PATH). No errno, and not
    left alone: it is to be carried out.
    """
    status = read("status", task)
    uid, gid = (int(field(status, name).rpartition(b"\t")[2] or -1) for name in (b"Uid", b"Gid"))
    if min(uid, gid) < 0 or not valid():
        return Outcome(on_error, "the caller has gone")
    decision = redecide(Facts(None, uid, gid))
    if decision.verdict is Verdict.CONTINUE:
        return Outcome(0, left_alone=True, decision=decision)
    errno = 0 if decision.verdict is Verdict.EMULATE else EPERM
    return Outcome(errno, decision=decision)
