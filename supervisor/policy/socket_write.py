"""Rules about sockets as text: the smallest one for a call, and those that many calls need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from supervisor.kernel.addresses import Address, ip_text
from supervisor.policy import write
from supervisor.policy.asked import Asked
from supervisor.policy.sockets import ADDRESS_KEYS

# What may be said beside where a call is led to, as records have it.
LEAD_SETTINGS: Final = ("by", "rest", "wait", "peername", "network")
# Where a peer's port is of the kernel's choice, and its path of the peer's.
_WHOEVER: Final = frozenset(("accept",))
_HOST: Final = "network: host"
_Pick = Callable[[Iterable[bytes]], list[str]]


def where_of(family: str) -> str:
    """The key for addresses in rules of a family."""
    return ADDRESS_KEYS.get(family, "to")


def socket_rule(asked: Asked) -> str:
    """A rule for one address and one port, or for one unix socket: for all that have a path, where
    nobody knows which one the call leads to."""
    address = asked.address
    pairs: list[tuple[str, str]] = []
    if address is None:
        pass
    elif asked.spec.family in _WHOEVER and address.ip is None:
        pairs = [("family", address.family)]
    elif address.ip is not None:
        pairs = _inet(asked.spec.family, [address])
    elif address.path is not None:
        globs = [write.glob_of(path) for path in asked.places()]
        pairs = [("path", write.one_or_list(globs or ["**"]))]
    elif address.name is not None:
        pairs = [("abstract", write.quoted(write.text_glob_of(address.name)))]
    else:
        pairs = [("family", address.family)]
    return write.rule([*pairs, ("do", "emulate")])


def _inet(family: str, addresses: Sequence[Address]) -> list[tuple[str, str]]:
    """The keys for addresses that have one port in common, or of which none counts."""
    texts = dict.fromkeys(ip_text(one.family, one.ip or 0) for one in addresses)
    pairs = [(where_of(family), write.one_or_list(list(texts)))]
    return pairs if family in _WHOEVER else [*pairs, ("port", str(addresses[0].port))]


def socket_rules(calls: Sequence[Asked], pick: _Pick) -> list[write.NewRule]:
    """Rules for calls of one family that went to the same place: for each port, for all paths, and
    for all abstract names.
    """
    led: dict[str, list[Asked]] = {}
    for asked in calls:
        led.setdefault(_do((asked.recorded or {}).get("emulate", {})), []).append(asked)
    return [rule for do, some in led.items() for rule in _rules(some, pick, do)]


def beside(rules: Mapping[str, Sequence[write.NewRule]]) -> list[str]:
    """The families that have no rules, and have to be gated all the same: who has sockets of the
    host's network could do there what these are about."""
    every = (dict(one.pairs).get("do", "") for some in rules.values() for one in some)
    hosts = any(_HOST in str(do) for do in every)
    return [family for family in ("connect", "bind") if hosts and family not in rules]


def _do(settings: Mapping[str, Any]) -> str:
    """Where calls were led to; without a port to that which was asked for."""
    if prefix := settings.get("translate"):
        return _lead("translate", "prefix", write.quoted(prefix), settings)
    if redirect := settings.get("redirect"):
        return _lead("redirect", "to", _target(redirect), settings)
    if several := settings.get("balance"):
        return _lead("balance", "to", f"[{', '.join(map(_target, several))}]", settings)
    more = [_HOST] if "network" in settings else []
    more += [_set(settings)] if "set" in settings else []
    return f"{{emulate: {{{', '.join(more)}}}}}" if more else "emulate"


def _set(settings: Mapping[str, Any]) -> str:
    said = [
        f"{name}: {write.quoted(value) if isinstance(value, str) else int(value)}"
        for name, value in settings["set"].items()
    ]
    return f"set: {{{', '.join(said)}}}"


def _lead(name: str, key: str, where: str, settings: Mapping[str, Any]) -> str:
    more = [f"{one}: {settings[one]}" for one in LEAD_SETTINGS if one in settings]
    more += [_set(settings)] if "set" in settings else []
    return f"{{{name}: {{{', '.join([f'{key}: {where}', *more])}}}}}" if more else (
        f"{{{name}: {where}}}"
    )


def _target(text: str) -> str:
    return write.quoted(lead_text(text))


def lead_text(text: object) -> str:
    """Where a record says that calls were led to, as a policy has it: without a port to that which
    was asked for."""
    address, _, port = str(text).rpartition(":")
    return str(text) if port != "0" else address.strip("[]")


def _rules(calls: Sequence[Asked], pick: _Pick, do: str) -> list[write.NewRule]:
    ports: dict[int, list[Address]] = {}
    paths: list[bytes] = []
    names: list[str] = []
    others: dict[str, None] = {}
    family = calls[0].spec.family
    for asked in calls:
        address = asked.address
        if address is None:
            continue
        if address.port is not None:
            ports.setdefault(0 if family in _WHOEVER else address.port, []).append(address)
        elif family in _WHOEVER:
            others[address.family] = None
        elif address.path is not None:
            paths += asked.places()
        elif address.name is not None:
            names.append(write.text_glob_of(address.name))
        elif address.family != "unspec":
            others[address.family] = None
    rules = [_inet(family, some) for _, some in sorted(ports.items())]
    rules += [[("path", write.one_or_list(pick(paths)))]] if paths else []
    rules += [[("abstract", write.one_or_list(sorted(set(names))))]] if names else []
    rules += [[("family", write.one_or_list(list(others)))]] if others else []
    return [write.NewRule([*pairs, ("do", do)]) for pairs in rules]
