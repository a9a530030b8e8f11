"""The first moments of a daemon, before most of its modules are loaded.

The zygote is forked here: it shall have nothing of what is imported and read from here on.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.daemon.events import Events
from supervisor.daemon.forks import Forks
from supervisor.daemon.systemd import Given, Notifier, given
from supervisor.kernel import features, privileges


@dataclass(frozen=True, slots=True)
class Beginning:
    """What the daemon begins with."""

    events: Events
    forks: Forks
    given: Given
    notifier: Notifier


@contextlib.contextmanager
def begun() -> Iterator[Beginning]:
    """SeccompdError where this kernel will not do. At the end there is no zygote any more."""
    was_given, notifier = given(), Notifier()
    features.demand(namespaces=False)
    privileges.set_dumpable(False)
    # A second zygote is the first one's child, and its sessions are ours when it has died.
    privileges.set_subreaper(True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # reaped by nobody; each is watched by a pidfd
    with contextlib.ExitStack() as stack:
        events = Events()
        stack.callback(events.close)
        forks = Forks(events)
        stack.callback(forks.close)
        yield Beginning(events, forks, was_given, notifier)
