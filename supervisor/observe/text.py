"""Text of records: what is safe to print (kernel/text.py), and where to print it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from supervisor.kernel.text import errno_name, printable, unprintable

__all__ = ["errno_name", "members", "printable", "quoted", "reopen_for_writing", "unprintable"]

# A string as JSON, ASCII alone.
quoted = json.encoder.encode_basestring_ascii
_dumps = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def members(values: Mapping[str, Any]) -> str:
    """JSON of an object without its braces, ASCII alone, on one line."""
    parts = []
    for name, value in values.items():
        kind = type(value)  # most are plain, and take no encoder
        text = quoted(value) if kind is str else value if kind is int else _dumps(value)
        parts.append(f"{quoted(name)}:{text}")
    return ",".join(parts)


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
