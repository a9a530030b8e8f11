"""Addresses of sockets, as a caller passes them: what each can mean to the kernel, and no more.

The sources are the kernel's own checks (net/ipv4, net/ipv6, net/unix, net/netlink). An address that
could be understood in two ways is made into one that cannot.
"""

from __future__ import annotations

import struct
from errno import EAFNOSUPPORT, EINVAL
from typing import Final, NamedTuple

AF_UNSPEC: Final = 0
AF_UNIX: Final = 1
AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16

# The address is a socket's own, and leads nowhere.
_OWN: Final = ("bind", "accept")

FAMILIES: Final = ("inet", "inet6", "unix", "netlink")

_INET = struct.Struct("!H4s")
_INET_SIZE: Final = 16
_INET6 = struct.Struct("!HI16s")
_INET6_LEAST: Final = 24  # without sin6_scope_id: SIN6_LEN_RFC2133
_UNIX_MOST: Final = 110
_NETLINK_SIZE: Final = 12
_FAMILY = struct.Struct("=H")
_PORT = struct.Struct("!H")
_MAPPED: Final = bytes(10) + b"\xff\xff"
_LOOPBACK: Final = bytes((127, 0, 0, 1))
_LOOPBACK_6: Final = bytes(15) + b"\1"
# RFC 7335: what hosts call themselves that reach IPv4 over IPv6.
_WITHOUT_IPV4: Final = bytes((192, 0, 0, 2))
_UNUSED_BYTE: Final = 8


class AddressError(Exception):
    """No address; `errno` is what the kernel says to it."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Address(NamedTuple):
    """Where a call leads, or what a socket is bound to.

    `family` is one of FAMILIES or "unspec" (a connect that ends a connection). `ip` is of "inet"
    the IPv4 address, also where it was written as an IPv6 one, of "inet6" the IPv6 address. Of
    "unix" there is either `path`, or `name`, an abstract one without the NUL in front, or neither
    (bind: the kernel chooses). `raw` is the address for the kernel; `unspecified`: its family was
    AF_UNSPEC, which not every socket takes for an IPv4 address.
    """

    family: str
    raw: bytes
    ip: int | None = None
    port: int | None = None
    path: bytes | None = None
    name: bytes | None = None
    unspecified: bool = False


def address_of(data: bytes, operation: str) -> Address:
    """What the kernel takes `data` for in an `operation`: "connect", "bind" or "send"; or, of
    "accept", what it says of who has connected.

    Raises AddressError.
    """
    if len(data) < _FAMILY.size:
        raise AddressError(EINVAL)
    family: int = _FAMILY.unpack_from(data)[0]
    if family in (AF_INET, AF_UNSPEC):
        return _inet(data, operation, family)
    if family == AF_INET6:
        return _inet6(data, operation)
    if family == AF_UNIX:
        return _unix(data, operation)
    if family == AF_NETLINK and len(data) >= _NETLINK_SIZE:
        return Address("netlink", data[:_NETLINK_SIZE])
    raise AddressError(EINVAL if family == AF_NETLINK else EAFNOSUPPORT)


def _inet(data: bytes, operation: str, family: int) -> Address:
    if family == AF_UNSPEC and operation == "connect":
        return Address("unspec", bytes(_INET_SIZE))
    if len(data) < _INET_SIZE:
        raise AddressError(EINVAL)
    port, ip = _INET.unpack_from(data, 2)
    if operation in _OWN:
        if family == AF_UNSPEC and any(ip):
            raise AddressError(EAFNOSUPPORT)
    elif not any(ip):
        ip = _LOOPBACK  # as which the kernel takes it
    raw = _FAMILY.pack(AF_INET) + _INET.pack(port, ip) + bytes(8)
    value = int.from_bytes(ip, "big")
    return Address("inet", raw, value, port, unspecified=family == AF_UNSPEC)


def _inet6(data: bytes, operation: str) -> Address:
    if len(data) < _INET6_LEAST:
        raise AddressError(EINVAL)
    port, flow, ip = _INET6.unpack_from(data, 2)
    scope = data[24:28] if len(data) >= 28 else bytes(4)
    if operation not in _OWN and not any(ip):
        ip = _LOOPBACK_6
    elif operation not in _OWN and ip == _MAPPED + bytes(4):
        ip = _MAPPED + _LOOPBACK
    raw = _FAMILY.pack(AF_INET6) + _INET6.pack(port, flow, ip) + scope
    if ip.startswith(_MAPPED):
        return Address("inet", raw, int.from_bytes(ip[12:], "big"), port)
    return Address("inet6", raw, int.from_bytes(ip, "big"), port)


def _unix(data: bytes, operation: str) -> Address:
    text = data[2:]
    if len(data) > _UNIX_MOST or (not text and operation not in _OWN):
        raise AddressError(EINVAL)
    if not text:
        return Address("unix", data)
    if text[0] == 0:
        return Address("unix", data, name=text[1:])
    path = text.partition(b"\0")[0]
    # the longest path has no NUL at its end
    return Address("unix", (data[:2] + path + b"\0")[:_UNIX_MOST], path=path)


def embedded(prefix: bytes, bits: int, ip: int) -> bytes:
    """The IPv6 address of an IPv4 address below a prefix of 32, 40, 48, 56, 64 or 96 bits.

    RFC 6052, 2.2: the ninth byte (bits 64 to 71) is none of either's, and is zero.
    """
    out = bytearray(prefix[: bits // 8])
    for byte in ip.to_bytes(4, "big"):
        if len(out) == _UNUSED_BYTE:
            out.append(0)
        out.append(byte)
    return bytes(out).ljust(16, b"\0")


def inet6(ip: bytes, port: int) -> bytes:
    """The struct sockaddr of an IPv6 address."""
    return _FAMILY.pack(AF_INET6) + _INET6.pack(port, 0, ip) + bytes(4)


def in_family(raw: bytes, family: int) -> bytes:
    """What is the same in another family as an address that a socket is bound to: any address, the
    loopback's (of a unix socket, too), an IPv4 one written as one of IPv6. For all others of IPv6
    there is one of hosts that have no IPv4 of their own. Among unix sockets it has no name.
    """
    if family == AF_UNIX:
        return _FAMILY.pack(AF_UNIX)
    port, ip = port_of(raw) or 0, _inet_of(raw)
    if family == AF_INET:
        return _FAMILY.pack(AF_INET) + _INET.pack(port, ip) + bytes(8)
    return inet6(_MAPPED + ip, port)


def _inet_of(raw: bytes) -> bytes:
    if family_of(raw) == AF_INET:
        return raw[4:8]
    if family_of(raw) != AF_INET6:
        return _LOOPBACK
    ip = raw[8:24]
    if ip.startswith(_MAPPED):
        return ip[12:]
    if not any(ip):
        return bytes(4)
    return _LOOPBACK if ip == _LOOPBACK_6 else _WITHOUT_IPV4


def family_of(raw: bytes) -> int:
    """AF_* of a struct sockaddr."""
    return int(_FAMILY.unpack_from(raw)[0])


def with_port(target: bytes, port: int | None) -> bytes:
    """The address `target`; of IPv4 or IPv6 at `port` if it has none of its own."""
    own: int = _PORT.unpack_from(target, _FAMILY.size)[0]
    if own or port is None or family_of(target) not in (AF_INET, AF_INET6):
        return target
    return target[: _FAMILY.size] + _PORT.pack(port) + target[_FAMILY.size + _PORT.size :]


def port_of(raw: bytes) -> int | None:
    """The port of an IPv4 or IPv6 address, None of all others."""
    if family_of(raw) not in (AF_INET, AF_INET6):
        return None
    return int(_PORT.unpack_from(raw, _FAMILY.size)[0])


def ip_text(family: str, ip: int) -> str:
    """An address as people write it."""
    from socket import inet_ntop  # not worth its time where no address is shown

    version, size = (AF_INET, 4) if family == "inet" else (AF_INET6, 16)
    return inet_ntop(version, ip.to_bytes(size, "big"))
