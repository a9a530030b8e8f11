"""The terminal that a front shares with its command."""

from __future__ import annotations

import contextlib
import os

from supervisor.kernel.launch import below


class Terminal:
    """The terminal that was ours when we started, to be given back after a command that took it."""

    def __init__(self) -> None:
        self._fd: int | None = None
        for fd in (0, 1, 2):
            try:
                if os.tcgetpgrp(fd) == os.getpgrp():
                    self._fd = os.dup(fd)
                    return
            except OSError:
                continue

    def give_back(self, init: int | None) -> None:
        """Makes our process group the foreground again (our SIGTTOU is blocked).

        Only after a group that has ended or is the command's, below process `init` (None: that has
        ended): where our shell has put us in the background, the terminal is the shell's.
        """
        if self._fd is None:
            return
        with contextlib.suppress(OSError):
            group = os.tcgetpgrp(self._fd)
            if group <= 0 or group == os.getpgrp():
                return
            if _has_ended(group) or (init is not None and below(group, init)):
                os.tcsetpgrp(self._fd, os.getpgrp())

    def close(self) -> None:
        """After the end of the command's last process."""
        self.give_back(None)
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _has_ended(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
