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
        if one.form != lib.SD_OPTION_OTHER:
            name = ffi.string(one.name).decode()
            found[name] = Option(one.level, one.number, one.form == lib.SD_OPTION_TEXT)
    return found


def packed(value: int | str) -> bytes:
    """A value as the kernel takes it."""
    if isinstance(value, str):
        return value.encode() + b"\0"
    return (_NUMBER if value < 1 << 31 else _UNSIGNED).pack(value)
