"""What a person should hear, on the standard error stream that CMD shares with us."""

from __future__ import annotations

import contextlib
import os
import select
from errno import EMFILE, ENFILE

from supervisor.observe.writer import LineWriter


def complain(text: str) -> None:
    """One line on stderr, if it can be written at once.

    The stream is CMD's as well: one that it has filled, stopped or closed must not stop us.
    """
    line = f"seccompd: {text}"
    try:
        writer = LineWriter(2)
    except OSError as error:
        if error.errno in (EMFILE, ENFILE):  # which is what the line may be about
            _without_a_descriptor(line)
        return
    writer.line(line)
    writer.close()


def _without_a_descriptor(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, (line.encode("utf-8", "backslashreplace") + b"\n")[: select.PIPE_BUF])
