"""Options of sockets by their names, as setsockopt(2) has them: those of csrc/socket_options.c."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple

from supervisor.kernel.shim import ffi, lib

MOST_SET: Final = lib.SD_MOST_SET
# With the NUL at its end: IFNAMSIZ, TCP_CA_NAME_MAX
TEXT_MAX: Final = lib.SD_SET_MAX - 1
_NUMBER = struct.Struct("=i")
_UNSIGNED = struct.Struct("=I")
# struct sd_room
_ROOM = struct.Struct("=Qi4x")


_MANUALS: Final = {
    socket.SOL_SOCKET: "socket(7)", socket.IPPROTO_TCP: "tcp(7)", socket.IPPROTO_IP: "ip(7)",
    socket.IPPROTO_IPV6: "ipv6(7)",
}  # fmt: skip


class Option(NamedTuple):
    """The two numbers that setsockopt takes; `text`: its value is a text, and no number."""

    level: int
    number: int
    text: bool

    @property
    def manual(self) -> str:
        """The manual page that says what it does."""
        return _MANUALS.get(self.level, "setsockopt(2)")


@cache
def options() -> Mapping[str, Option]:
    """Those that a rule can set, by name."""
    found: dict[str, Option] = {}
    at = 0
    while one := lib.sd_option_known(at):
        at += 1
        if one.form in (lib.SD_OPTION_NUMBER, lib.SD_OPTION_TEXT):
            name = ffi.string(one.name).decode()
            found[name] = Option(one.level, one.number, one.form == lib.SD_OPTION_TEXT)
    return found


LEVELS: Final[Mapping[str, int]] = {
    "SOL_SOCKET": 1, "SOL_IP": 0, "SOL_TCP": 6, "SOL_UDP": 17, "SOL_IPV6": 41, "SOL_ICMPV6": 58,
    "SOL_SCTP": 132, "SOL_UDPLITE": 136, "SOL_RAW": 255, "SOL_PACKET": 263, "SOL_NETLINK": 270,
    "SOL_ALG": 279, "SOL_TLS": 282, "SOL_XDP": 283, "SOL_MPTCP": 284,
    "IPPROTO_IP": 0, "IPPROTO_TCP": 6, "IPPROTO_UDP": 17, "IPPROTO_IPV6": 41, "IPPROTO_ICMPV6": 58,
    "IPPROTO_SCTP": 132, "IPPROTO_UDPLITE": 136, "IPPROTO_RAW": 255, "IPPROTO_MPTCP": 262,
}  # fmt: skip


def is_plain(level: int, number: int) -> bool:
    """Whether it means the same whoever sets it or asks for it: it has nothing to do with memory,
    descriptors or processes of the caller's. False for what has no name here."""
    return bool(lib.sd_option_is_plain(level, number))


def room_of(read: bytes) -> tuple[int, int]:
    """The last argument of getsockopt(2) and what it points to, as the session has read them: where
    the length is, and how long the value may be."""
    where, length = _ROOM.unpack(read)
    return where, length


@cache
def named() -> Mapping[str, tuple[tuple[int, int], ...]]:
    """Every option that has a name here, as (level, number): those that keep times have two."""
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    at = 0
    while one := lib.sd_option_known(at):
        at += 1
        name = ffi.string(one.name).decode()
        found[name] = (*found.get(name, ()), (one.level, one.number))
    return found


@cache
def settable() -> Mapping[tuple[int, int], bool]:
    """Of the options that a rule can set, by level and number, whether the value is a text."""
    return {(one.level, one.number): one.text for one in options().values()}


@cache
def _names() -> Mapping[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    for name, numbers in named().items():
        found.setdefault(numbers[0], name)
    return found


def level_text(level: int) -> str:
    """A level by its name, as strace writes it, or its number."""
    return next((name for name, number in LEVELS.items() if number == level), str(level))


def option_name(level: int, number: int) -> str:
    """The name of an option; "" where it has none here."""
    return _names().get((level, number), "")


def option_text(level: int, number: int) -> str:
    """An option as a policy names it: by its name, or as LEVEL:NUMBER."""
    return option_name(level, number) or f"{level}:{number}"


def packed(value: int | str) -> bytes:
    """A value as the kernel takes it."""
    if isinstance(value, str):
        return value.encode() + b"\0"
    return (_NUMBER if value < 1 << 31 else _UNSIGNED).pack(value)
