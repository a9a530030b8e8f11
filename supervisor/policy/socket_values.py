"""Single values of rules about sockets. As in values.py, errors are for who wrote the value."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from supervisor.kernel.address_text import read
from supervisor.kernel.addresses import FAMILIES, AddressError, address_of
from supervisor.kernel.socket_options import MOST_SET, TEXT_MAX, options
from supervisor.model import Balance, SocketSettings
from supervisor.policy.sockets import Network, Ports
from supervisor.policy.values import Mistakes, near, parse_seconds, wrong

_PORT_MAX: Final = 65535
# What getpeername(2) shows; the first one if nothing is said.
_PEERNAMES: Final = ("real", "asked")
# How backends take turns; the first one if nothing is said.
METHODS: Final = ("round-robin", "least-connections", "hash")
MOST_BACKENDS: Final = 64
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


def _parse_peername(value: object) -> bool:
    if value not in _PEERNAMES:
        raise wrong(f"peername is {' or '.join(_PEERNAMES)}")
    return value == "asked"


def _parse_method(value: object) -> str:
    if value not in METHODS:
        raise wrong(f"by is {', '.join(METHODS[:-1])} or {METHODS[-1]}")
    return str(value)


def parse_options(value: object) -> tuple[tuple[str, int | str], ...]:
    """Options that are set, by name: {TCP_NODELAY: 1, TCP_CONGESTION: bbr}."""
    if not isinstance(value, dict) or not value:
        raise wrong("set takes options by name, such as {TCP_NODELAY: 1}")
    if len(value) > MOST_SET:
        raise wrong(f"no more than {MOST_SET} options")
    mistakes = Mistakes()
    for name, one in value.items():
        if name not in options():
            text = f"no option that can be set: {name!r}" + near(str(name), list(options()))
            mistakes.add(text, str(name))
        elif why := objection(one, text=options()[name].text):
            mistakes.add(f"{name} takes {why}", str(name))
    mistakes.end()
    return tuple((str(name), int(x) if isinstance(x, bool) else x) for name, x in value.items())


def objection(value: object, *, text: bool) -> str:
    """What an option takes that cannot have this value; "": it can."""
    if text:
        fine = isinstance(value, str) and value.isascii() and value.isprintable()
        fits = isinstance(value, str) and 0 < len(value) <= TEXT_MAX
        return "" if fine and fits else f"a name of {TEXT_MAX} letters at most"
    fine = isinstance(value, int) and -(1 << 31) <= value < 1 << 32
    return "" if fine else "a number of 32 bits, true or false"


def parse_network_of(value: object) -> bool:
    """In whose network a call is made."""
    if value != "host":
        raise wrong("network is host, or left out for the container's own")
    return True


# What every way to carry a call out elsewhere can be told besides.
_ALIKE: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    "peername": ("peername", _parse_peername), "set": ("options", parse_options),
    "network": ("host", parse_network_of),
}  # fmt: skip
_OF_BALANCE: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    "by": ("by", _parse_method), "rest": ("rest", parse_seconds), "wait": ("wait", parse_seconds),
}  # fmt: skip


def _with_more(
    value: object,
    key: str,
    parse: Callable[[object], Any],
    more: Mapping[str, tuple[str, Callable[[object], Any]]],
) -> tuple[Any, dict[str, Any]]:
    """What `parse` makes of a value, or of that below `key` in a mapping that says `more`; and what
    that is: by the words of a policy, what it is called here, and who reads it."""
    if not isinstance(value, dict):
        return parse(value), {}
    mistakes = Mistakes()
    known = [key, *more]
    for name in value:
        if name not in known:
            mistakes.add(f"unknown setting {name!r}" + near(str(name), known), str(name))
    if key not in value:
        mistakes.add(f"the key {key!r} is missing")
    said = {
        field: mistakes.read(read, value[name], name)
        for name, (field, read) in more.items()
        if name in value
    }
    found = mistakes.read(parse, value[key], key) if key in value else None
    mistakes.end()
    return found, said


def parse_redirect(value: object) -> SocketSettings:
    """Where a call is led to, or a mapping with that as `to`, and `peername`."""
    target, more = _with_more(value, "to", _target, _ALIKE)
    return SocketSettings(target, **more)


def parse_translate(value: object) -> SocketSettings:
    """A prefix, or a mapping with that as `prefix`, and `peername`."""
    prefix, more = _with_more(value, "prefix", _prefix, _ALIKE)
    return SocketSettings(prefix=prefix, **more)


def parse_balance(value: object) -> SocketSettings:
    """Backends, or a mapping with those as `to`, with `by`, `rest`, `wait`, and `peername`."""
    to, more = _with_more(value, "to", _backends, {**_OF_BALANCE, **_ALIKE})
    how = {name: more.pop(name) for name in _OF_BALANCE if name in more}
    return SocketSettings(balance=Balance(to, **how), **more)


def _backends(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not value:
        raise wrong('balance takes a list of backends, such as ["10.0.0.1:80", "10.0.0.2:80"]')
    if len(value) > MOST_BACKENDS:
        raise wrong(f"no more than {MOST_BACKENDS} backends")
    mistakes = Mistakes()
    found: list[bytes] = []
    for number, one in enumerate(value):
        target = mistakes.read(_target, one, number)
        if target in found:
            mistakes.add(f"{one} is among the backends twice", number)
        found.append(target)
    mistakes.end()
    return tuple(found)


def _target(value: object) -> bytes:
    """Where a call is led to instead: 10.0.0.1:80, [::1]:80, an address alone (at the same port),
    /run/a.sock, or @abstract.
    """
    if not isinstance(value, str):
        raise wrong('an address to lead to is in quotes, such as "127.0.0.1:8443"')
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
    return found.raw


def _prefix(value: object) -> tuple[bytes, int]:
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
    return raw, prefix.prefixlen


def parse_nothing(setting: object) -> SocketSettings:
    """The settings of `emulate` for who accepts: none."""
    if setting != {}:
        raise wrong("emulate of accept takes no settings")
    return SocketSettings()


def parse_emulate(setting: object) -> SocketSettings:
    """The settings of `emulate` for a socket: `set` and `network`, or none."""
    known = {name: _ALIKE[name] for name in ("set", "network")}
    if not isinstance(setting, dict) or set(setting) - set(known):
        raise wrong(f"emulate of a socket takes no settings but {' and '.join(known)}")
    mistakes = Mistakes()
    said = {
        field: mistakes.read(read, setting[name], name)
        for name, (field, read) in known.items()
        if name in setting
    }
    mistakes.end()
    return SocketSettings(**said)
