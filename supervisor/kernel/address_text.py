"""Addresses of sockets as text and back: as people write them, and as strace(1) prints them."""

from __future__ import annotations

import re
import struct
from socket import inet_ntop, inet_pton
from typing import Final

from supervisor.kernel.addresses import AF_INET, AF_INET6, AF_NETLINK, AF_UNIX
from supervisor.kernel.text import printable, unprintable

_FAMILY = struct.Struct("=H")
_INET = struct.Struct("!H4s8x")
_INET6 = struct.Struct("!H4x16s4x")
_NETLINK = struct.Struct("=2xII")
_PORTED: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})")
_HEX: Final = re.compile(r"0x((?:[0-9a-f]{2})*)")


def written(data: bytes) -> str:
    """`10.0.0.1:80`, `[::1]:80`, `/run/a.sock`, `@abstract`, `netlink:0:0`; of all else the bytes
    as `0x...`. Two addresses that can be decided differently are never written the same way.
    """
    family = _FAMILY.unpack_from(data)[0] if len(data) >= _FAMILY.size else -1
    text = ""
    if family == AF_INET and len(data) >= 16:
        port, ip = _INET.unpack_from(data, 2)
        text = f"{inet_ntop(AF_INET, ip)}:{port}"
    elif family == AF_INET6 and len(data) >= 28:
        port, ip = _INET6.unpack_from(data, 2)
        text = f"[{inet_ntop(AF_INET6, ip)}]:{port}"
    elif family == AF_UNIX and 2 < len(data) <= 110:
        name = data[2:]
        if name[0] == 0:
            text = "@" + printable(name[1:])
        else:
            path = name.partition(b"\0")[0]
            # what is relative could be taken for one of the others
            text = ("" if path[:1] == b"/" else "unix:") + printable(path)
    elif family == AF_NETLINK and len(data) >= 12:
        text = "netlink:{}:{}".format(*_NETLINK.unpack_from(data, 2))
    return text or f"0x{data.hex()}"


def read(text: str) -> bytes:
    """The struct sockaddr of what `written` gives. ValueError where it is none."""
    if found := _HEX.fullmatch(text):
        return bytes.fromhex(found[1])
    if found := _PORTED.fullmatch(text):
        port = int(found[3])
        if port > 65535:
            raise ValueError(f"{text}: no such port")
        if found[1] is not None:
            return _FAMILY.pack(AF_INET6) + _INET6.pack(port, _packed(AF_INET6, found[1]))
        return _FAMILY.pack(AF_INET) + _INET.pack(port, _packed(AF_INET, found[2]))
    if text.startswith("@"):
        return _FAMILY.pack(AF_UNIX) + b"\0" + unprintable(text[1:])
    if found := re.fullmatch(r"netlink:([0-9]+):([0-9]+)", text):
        return _FAMILY.pack(AF_NETLINK) + _NETLINK.pack(int(found[1]), int(found[2]))
    if text.startswith(("/", "unix:")):
        return _FAMILY.pack(AF_UNIX) + unprintable(text.removeprefix("unix:")) + b"\0"
    raise ValueError(
        f"{text!r} is no address: write 10.0.0.1:80, [::1]:80, /run/a.sock, @abstract, netlink:0:0"
    )


def _packed(family: int, text: str) -> bytes:
    try:
        return inet_pton(family, text)
    except OSError:
        raise ValueError(f"{text} is no address") from None


# -- strace


def as_strace(data: bytes) -> str:
    """As strace prints it: {sa_family=AF_INET, sin_port=htons(80), ...}."""
    family = _FAMILY.unpack_from(data)[0] if len(data) >= _FAMILY.size else -1
    if family == AF_INET and len(data) >= 16:
        port, ip = _INET.unpack_from(data, 2)
        address = inet_ntop(AF_INET, ip)
        return f'{{sa_family=AF_INET, sin_port=htons({port}), sin_addr=inet_addr("{address}")}}'
    if family == AF_INET6 and len(data) >= 28:
        port, ip = _INET6.unpack_from(data, 2)
        address = inet_ntop(AF_INET6, ip)
        return (
            f"{{sa_family=AF_INET6, sin6_port=htons({port}), "
            f'inet_pton(AF_INET6, "{address}", &sin6_addr)}}'
        )
    if family == AF_UNIX and 2 < len(data) <= 110:
        name = data[2:]
        mark, text = ("@", name[1:]) if name[0] == 0 else ("", name.partition(b"\0")[0])
        quoted = printable(text).replace('"', '\\"')
        return f'{{sa_family=AF_UNIX, sun_path={mark}"{quoted}"}}'
    if family == AF_NETLINK and len(data) >= 12:
        pid, groups = _NETLINK.unpack_from(data, 2)
        return f"{{sa_family=AF_NETLINK, nl_pid={pid}, nl_groups={groups:08x}}}"
    return f"0x{data.hex()}"


_STRACE: Final = (
    (
        re.compile(
            r'sa_family=AF_INET, sin_port=htons\((\d+)\), sin_addr=inet_addr\("([0-9.]+)"\)'
        ),
        "{1}:{0}",
    ),
    (
        re.compile(
            r"sa_family=AF_INET6, sin6_port=htons\((\d+)\),.*?"
            r'inet_pton\(AF_INET6, "([0-9A-Fa-f:.]+)", &sin6_addr\)'
        ),
        "[{1}]:{0}",
    ),
    (re.compile(r'sa_family=AF_UNIX, sun_path=@"((?:[^"\\]|\\.)*)"'), "@{0}"),
    (re.compile(r'sa_family=AF_UNIX, sun_path="((?:[^"\\]|\\.)*)"'), "unix:{0}"),
    (re.compile(r"\{sa_family=AF_UNIX\}"), "0x0100"),
)


def from_strace(text: str) -> bytes | None:
    """The struct sockaddr in what strace prints of an argument; None where that is NULL.

    ValueError where there is none.
    """
    if text == "NULL" or "msg_name=NULL" in text:
        return None
    for pattern, form in _STRACE:
        found = pattern.search(text)
        if found is not None:
            return read(form.format(*(part.replace('\\"', '"') for part in found.groups())))
    if found := re.search(r"sa_family=AF_NETLINK, nl_pid=(\d+), nl_groups=([0-9a-f]+)", text):
        return read(f"netlink:{found[1]}:{int(found[2], 16)}")
    found = re.search(r"0x[0-9a-f]*", text)
    return read(found[0] if found else text)
