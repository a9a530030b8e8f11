"""The verdict `kill`: the end of the process that calls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from errno import EPERM

from supervisor.kernel.task import thread_group
from supervisor.model import Outcome, Snapshot


def kill(snapshot: Snapshot, valid: Callable[[int], bool], on_error: int) -> Outcome:
    """Ends the caller's process, which is named for certain: it waits for our answer, which is what
    `valid` says of the call's id. Who cannot be ended is told `on_error`.
    """
    group = thread_group(snapshot.tid)
    if group is None:
        return Outcome(on_error, "the caller has gone")
    try:
        pidfd = os.pidfd_open(group)
        try:
            if not valid(snapshot.id):
                return Outcome(on_error, "the caller has gone")
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return Outcome(EPERM, "killed")
        finally:
            os.close(pidfd)
    except OSError as error:
        return Outcome(on_error, f"could not be killed: {error.strerror}")
