"""A runtime's own calls, between loading a container's filter and executing its program.

The runtime has to finish its work below the filter that is meant for the container (prctl, setuid,
chdir, open, execve ...), and a strict policy would break every start. Those calls go on, in the
kernel, with the runtime's own rights: as if there were no filter yet.

This is no grant to anybody else. It holds for one process, which the runtime named when it handed
the listener over, and until that process executes a program, which nobody can take back: the kernel
marks a process that was forked and has executed nothing since, and never sets the mark again. What
the process started meanwhile (hooks) is judged like everybody.
"""

from __future__ import annotations

from supervisor.kernel.task import has_executed, thread_group


class Latch:
    """Open until process `tgid`, which began at `start` (ticks since boot), executes a program."""

    def __init__(self, tgid: int, start: int) -> None:
        self._process = (tgid, start)
        self.open = not has_executed(tgid, start)

    def holds(self, tid: int) -> bool:
        """Whether thread `tid` is the runtime's. Who asks makes sure afterwards that it waits."""
        if self.open and has_executed(*self._process):
            self.open = False
        return self.open and thread_group(tid) == self._process[0]
