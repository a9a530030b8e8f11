"""Calls as strace(1) writes them, read again: for people who ask what a policy does with one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from errno import EFAULT, errorcode
from typing import Final

from supervisor.kernel.address_text import from_strace
from supervisor.kernel.constants import CONSTANTS
from supervisor.kernel.device_numbers import join_device
from supervisor.kernel.mounts import (
    MNT_DETACH,
    MNT_EXPIRE,
    MNT_FORCE,
    MS,
    MS_MGC_VAL,
    UMOUNT_NOFOLLOW,
)
from supervisor.kernel.opening import FLAGS, RESOLVE, pack_how
from supervisor.kernel.socket_options import LEVELS, named
from supervisor.kernel.strace import BITS, MOUNT_FLAGS, TYPES
from supervisor.kernel.syscalls import AT_FDCWD, Kind
from supervisor.kernel.xattrs import VALUE_SHOWN
from supervisor.model import Arg

_CONSTANTS: Final[Mapping[str, int]] = {
    **CONSTANTS,
    **{name: value for value, name in TYPES.items()},
    **{name: bit for bit, name in BITS},
    **{f"MS_{MOUNT_FLAGS.get(name, name.upper())}": bits for name, bits in MS.items()},
    "MS_MGC_VAL": MS_MGC_VAL,
    "AT_FDCWD": AT_FDCWD,
    "AT_REMOVEDIR": 0x200,
    "AT_SYMLINK_FOLLOW": 0x400,
    "AT_SYMLINK_NOFOLLOW": 0x100,
    "AT_EMPTY_PATH": 0x1000,
    "MNT_FORCE": MNT_FORCE,
    "MNT_DETACH": MNT_DETACH,
    "MNT_EXPIRE": MNT_EXPIRE,
    "UMOUNT_NOFOLLOW": UMOUNT_NOFOLLOW,
    "NULL": 0,
    **LEVELS,
    **{name: numbers[0][1] for name, numbers in named().items()},
    **{f"{name}_OLD": old for name, ((_, old), *new) in named().items() if new},
    "O_RDONLY": 0,
    **FLAGS,
    **RESOLVE,
    **{name: -value for value, name in errorcode.items()},
}
_ESCAPES: Final[Mapping[str, bytes]] = {
    "n": b"\n", "t": b"\t", "r": b"\r", "v": b"\v", "f": b"\f", '"': b'"', "\\": b"\\",
}  # fmt: skip
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_DEVICE = re.compile(r"makedev\(\s*(\w+)\s*,\s*(\w+)\s*\)")
# What strace writes before a call: -f the process, -t the time, -i the address, -n the number.
_BEFORE: Final = re.compile(r"\s*(?:(?:\[[^]\"]*\]|[0-9][0-9:.]*)\s+)*")
_NAME: Final = re.compile(r"([a-z_][a-z0-9_]*)\s*\(")
_AFTER: Final = re.compile(r"\s*(=.*)?", re.DOTALL)
_UNFINISHED: Final = re.compile(r"\s*<unfinished \.\.\.>\s*\Z")
# What a descriptor leads to (-y), and in numbers what the constants before it are (-X verbose).
_FD: Final = re.compile(r"(-?[0-9]+|AT_FDCWD)<((?:->|<[^<>]*>|[^<>])*)>")
_COMMENT: Final = re.compile(r"\s*/\*.*?\*/")
_STRUCT = re.compile(r"\{\s*(\w+=[^{},]+(?:,\s*\w+=[^{},]+)*)\}")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"(?:\.\.\.)?', re.DOTALL)
_END = re.compile(r"\s*(?:[,)]|\Z)")
_OPENED, _CLOSED = frozenset("([{"), frozenset(")]}")


def split_call(text: str) -> tuple[str, list[str]]:
    """The name of a call as strace prints it, and its arguments. ValueError where it is none."""
    text = text[_BEFORE.match(text).end() :]  # type: ignore[union-attr]  # it matches nothing, too
    found = _NAME.match(text)
    if found is None:
        raise ValueError("no call: write it as NAME(ARGUMENT, ...) or as NAME NAME=VALUE ...")
    rest, unfinished = _UNFINISHED.subn(")", text[found.end() :])
    arguments, end = _arguments(rest)
    if not _AFTER.fullmatch(rest, end) and not unfinished:
        raise ValueError(f"what is this behind the call: {rest[end:][:40]}")
    return found[1], arguments


def _is_alone(rest: str, start: int, string: re.Match[str]) -> bool:
    """Whether a string is an argument by itself: nothing stands beside it."""
    return not rest[start : string.start()].strip() and bool(_END.match(rest, string.end()))


def _arguments(rest: str) -> tuple[list[str], int]:
    """What stands between commas up to the bracket that closes the call, and where that ends.

    What is in quotes, in brackets or said of a descriptor is left out.
    """
    out: list[str] = []
    start = position = depth = 0
    while position < len(rest):
        char = rest[position]
        skipped = None
        if char == '"':
            skipped = _STRING.match(rest, position)
            if skipped is None or not (depth or _is_alone(rest, start, skipped)):
                raise ValueError(f"cannot read the arguments from here on: {rest[position:][:40]}")
        elif position == start or rest[position - 1] in " (":
            skipped = _FD.match(rest, position)
        if skipped is not None:
            position = skipped.end()
            continue
        if not depth and char in ",)":
            word = rest[start:position].strip()
            if char == "," or out or word:
                out.append(word)
            if char == ")":
                return out, position + 1
            start = position + 1
        depth += (char in _OPENED) - (char in _CLOSED)
        position += 1
    raise ValueError(f"a bracket is open: {rest[start:][:40]}")


def leads_to(text: str) -> str | None:
    """The path that `strace -y` says a descriptor leads to; None where it says none."""
    found = _FD.fullmatch(text)
    return found[2] if found is not None and found[2].startswith("/") else None


def read_argument(text: str, kind: Kind) -> Arg:
    """The value of an argument as strace writes it. ValueError where it means nothing."""
    if kind.is_address:
        address = from_strace(text)
        return 0 if address is None else address
    if kind in (Kind.VALUE, Kind.ROOM) or (
        kind in (Kind.BUFFER, Kind.POINTER) and text.startswith(('"', "[", "{"))
    ):
        return 0  # no policy looks at what is there
    if text.startswith('"'):
        if not kind.is_string:
            raise ValueError(f"{text} is a string, where a number is wanted")
        if text.endswith("..."):
            if kind is Kind.XATTR and len(shown := _unescaped(text[1:-4])) == VALUE_SHOWN:
                return shown
            raise ValueError(f"{text} was cut off: strace -s 4096 shows whole strings")
        return _unescaped(text[1:-1])
    if kind is Kind.HOW and (found := _STRUCT.fullmatch(text)):
        fields = dict(field.strip().split("=", 1) for field in found[1].split(","))
        if not fields.keys() <= {"flags", "mode", "resolve"}:
            raise ValueError(f"{text} is no struct open_how")
        return pack_how(**{name: sum_of(value) for name, value in fields.items()})
    text = _COMMENT.sub("", _FD.sub(r"\1", text))
    if kind.is_string:
        value = sum_of(text)
        if value > 0:
            raise ValueError(f"{text} is an address: what that memory has in it is not known")
        return -EFAULT if kind in (Kind.PATH, Kind.NAME) and not value else value
    if kind is Kind.DEV and (found := _DEVICE.fullmatch(text)):
        return join_device(_number(found[1]), _number(found[2]))
    return sum_of(text)


def sum_of(text: str) -> int:
    """Numbers and constants with | between them. ValueError for a name that is not known."""
    value = 0
    for word in text.split("|"):
        name = word.strip()
        if not name:
            raise ValueError("an argument is empty")
        value = value | _number(name) if value >= 0 else value
    return value


def _number(word: str) -> int:
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    sign, digits = (-1, word[1:]) if word.startswith("-") else (1, word)
    if re.fullmatch(r"0[0-7]+", digits):
        return sign * int(digits, 8)
    try:
        return sign * int(digits, 0)
    except ValueError:
        raise ValueError(f"{word} is no number and no constant that is known here") from None


def _unescaped(text: str) -> bytes:
    out, position = bytearray(), 0
    for found in _ESCAPE.finditer(text):
        out += text[position : found.start()].encode("utf-8", "surrogateescape")
        word = found[1]
        if word[0] == "x" and len(word) == 3:
            out.append(int(word[1:], 16))
        elif word[0] in "01234567":
            out.append(int(word, 8) & 0xFF)
        elif word in _ESCAPES:
            out += _ESCAPES[word]
        else:
            raise ValueError(f"\\{word} is no escape that strace writes")
        position = found.end()
    return bytes(out + text[position:].encode("utf-8", "surrogateescape"))
