"""Bytes that a caller chose, as text that is safe to print, to log and to parse."""

from __future__ import annotations

import re
from errno import errorcode
from functools import lru_cache

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


@lru_cache(maxsize=256)
def errno_name(errno: int) -> str:
    """ "EPERM" for 1; the number as text for one that has no name."""
    return errorcode.get(errno, str(errno))
