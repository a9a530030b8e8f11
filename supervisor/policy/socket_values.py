"""Single values of rules about sockets. As in values.py, errors are for who wrote the value."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final, cast

from supervisor.kernel.address_text import read
from supervisor.kernel.addresses import FAMILIES, AddressError, address_of
from supervisor.model import SocketSettings
from supervisor.policy.sockets import Network, Ports
from supervisor.policy.values import Mistakes, near, wrong

_PORT_MAX: Final = 65535
# What getpeername(2) shows; the first one if nothing is said.
_PEERNAMES: Final = ("real", "asked")
# RFC 6052, 2.2
_PREFIXES: Final = (32, 40, 48, 56, 64, 96)
_PREFIX_LENGTHS: Final = "32, 40, 48, 56, 64 or 96"
_UNUSED_BYTE: Final = 8
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_family(value: object) -> str:
    """The name of a family of addresses."""
    if not isinstance(value, str) or value not in FAMILIES:
        raise wrong(f"unknown family {value!r}" + near(str(value), list(FAMILIES)))
    return value


def parse_network(value: object) -> Network:
    """An address, or a network with its prefix: 10.0.0.0/8, ::1, fe80::/10.

    An IPv6 network of mapped addresses is the IPv4 network that it means.
    """
    if not isinstance(value, str):
        raise wrong('an address is a text in quotes, such as "10.0.0.0/8" or "::1"')
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        text = str(error)
        if "host bits" in text:
            whole = ipaddress.ip_network(value, strict=False)
            text = f"{value} is an address in {whole}: write one of them"
        else:
            text = f"{value!r} is no address and no network, such as 10.0.0.0/8 or ::1"
        raise wrong(text) from None
    low, high = int(network.network_address), int(network.broadcast_address)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        return 4, low & 0xFFFFFFFF, high & 0xFFFFFFFF
    return network.version, low, high


def parse_ports(value: object) -> Ports:
    """A port, or a range of them."""
    if isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    elif isinstance(value, str) and (found := re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", value)):
        low, high = int(found[1]), int(found[2])
    else:
        raise wrong('a port is a number, or a range such as "8000-8999"')
    if not 0 <= low <= high <= _PORT_MAX:
        raise wrong(f"no such ports: from 0 to {_PORT_MAX}, the lower one first")
    return low, high


def _with_peername(
    value: object, key: str, parse: Callable[[object], SocketSettings]
) -> SocketSettings:
    """What `parse` makes of a value, or of that below `key` in a mapping that says more."""
    if not isinstance(value, dict):
        return parse(value)
    mistakes = Mistakes()
    for name in value:
        if name not in (key, "peername"):
            text = f"unknown setting {name!r}" + near(str(name), [key, "peername"])
            mistakes.add(text, str(name))
    if key not in value:
        mistakes.add(f"the key {key!r} is missing")
    peername = value.get("peername", _PEERNAMES[0])
    if peername not in _PEERNAMES:
        mistakes.add(f"peername is {' or '.join(_PEERNAMES)}", "peername")
    found = mistakes.read(parse, value[key], key) if key in value else None
    mistakes.end()
    return replace(cast("SocketSettings", found), peername=peername == "asked")


def parse_redirect(value: object) -> SocketSettings:
    """Where a call is led to, or a mapping with that as `to`, and `peername`."""
    return _with_peername(value, "to", _redirect)


def parse_translate(value: object) -> SocketSettings:
    """A prefix, or a mapping with that as `prefix`, and `peername`."""
    return _with_peername(value, "prefix", _translate)


def _redirect(value: object) -> SocketSettings:
    """Where a call is led to instead: 10.0.0.1:80, [::1]:80, an address alone (at the same port),
    /run/a.sock, or @abstract.
    """
    if not isinstance(value, str):
        raise wrong('redirect takes an address in quotes, such as "127.0.0.1:8443"')
    try:
        address = ipaddress.ip_address(value)
        text = f"[{value}]:0" if address.version == 6 else f"{value}:0"
    except ValueError:
        text = value
    try:
        found = address_of(read(text), "connect")
    except (ValueError, AddressError):
        found = None
    named = found is not None and (found.path or found.name)
    if found is None or not (named or found.port or (found.ip is not None and text != value)):
        raise wrong(
            f"{value!r} is no address to lead to: write 127.0.0.1:8443, [::1]:8443, an address "
            "alone for the same port, /run/a.sock, or @abstract"
        )
    if found.path is not None and not found.path.startswith(b"/"):
        raise wrong(f"{value!r}: a path to lead to begins with /")
    return SocketSettings(found.raw)


def _translate(value: object) -> SocketSettings:
    """The prefix below which IPv4 addresses are found on an IPv6 network: 64:ff9b::/96."""
    try:
        prefix = ipaddress.IPv6Network(value if isinstance(value, str) else "")
    except ValueError:
        raise wrong(
            'translate takes an IPv6 prefix in quotes, such as "64:ff9b::/96"'
        ) from None
    if prefix.prefixlen not in _PREFIXES:
        raise wrong(f"a prefix to translate by has {_PREFIX_LENGTHS} bits (RFC 6052)")
    raw = prefix.network_address.packed
    if raw[_UNUSED_BYTE]:
        raise wrong("bits 64 to 71 of a prefix to translate by are zero (RFC 6052)")
    return SocketSettings(prefix=(raw, prefix.prefixlen))


def parse_emulate(setting: object) -> SocketSettings:
    """The settings of `emulate` for a socket: there are none."""
    if setting != {}:
        raise wrong("emulate of a socket takes no settings: write do: emulate")
    return SocketSettings()
