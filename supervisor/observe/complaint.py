"""What a person should hear, on the standard error stream that CMD shares with us."""

from __future__ import annotations

from supervisor.observe.writer import LineWriter


def complain(text: str) -> None:
    """One line on stderr, if it can be written at once.

    The stream is CMD's as well: one that it has filled, stopped or closed must not stop us.
    """
    try:
        writer = LineWriter(2)
    except OSError:
        return
    writer.line(f"seccompd: {text}")
    writer.close()
