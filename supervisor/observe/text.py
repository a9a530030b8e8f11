"""Text of records: what is safe to print (kernel/text.py), and where to print it."""

from __future__ import annotations

import os

from supervisor.kernel.text import errno_name, printable, unprintable

__all__ = ["errno_name", "printable", "reopen_for_writing", "unprintable"]


def reopen_for_writing(fd: int) -> int | None:
    """A descriptor of our own for the same file, that never blocks; None where there is none.

    O_NONBLOCK belongs to the open file, which CMD shares: so another one has to be opened. A socket
    cannot be opened again.
    """
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return None
