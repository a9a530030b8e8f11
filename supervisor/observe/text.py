"""Bytes that a caller chose, as text that is safe to print, to log and to parse."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from errno import errorcode
from functools import lru_cache
from typing import Any

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\udc80-\udcff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _escaped(found: re.Match[str]) -> str:
    character = found.group()
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def printable(data: bytes) -> str:
    r"""UTF-8 as it is; the backslash, control and direction characters, and bytes that are no
    UTF-8, as \xNN for each byte. No two different inputs give the same text."""
    return _UNSAFE.sub(_escaped, data.decode("utf-8", "surrogateescape"))


def unprintable(text: str) -> bytes:
    """The bytes that `printable` was given."""
    return re.sub(
        rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found.group(1), 16)]), text.encode()
    )


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


@lru_cache(maxsize=256)
def errno_name(errno: int) -> str:
    """ "EPERM" for 1; the number as text for one that has no name."""
    return errorcode.get(errno, str(errno))


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
