"""A policy's section on sockets to SocketRules, with what only whole rules can get wrong."""

from __future__ import annotations

from typing import Any, Final

from supervisor.kernel.addresses import AF_INET, AF_INET6, AF_UNIX, family_of, port_of
from supervisor.model import Decision, SocketSettings
from supervisor.policy.callers import caller_match
from supervisor.policy.sockets import ADDRESS_KEYS, SocketRule, SocketRules
from supervisor.policy.source import Source, place_of, rule_node

_IPV4: Final = 4
# What only some families have: the keys, and who has them.
_KEYS: Final = (
    ("to", ("inet", "inet6")),
    ("address", ("inet", "inet6")),
    ("from", ("inet", "inet6")),
    ("port", ("inet", "inet6")),
    ("path", ("unix",)),
    ("abstract", ("unix",)),
)

_NUMBERS: Final = {"inet": AF_INET, "inet6": AF_INET6, "unix": AF_UNIX}


def crosses(rule: SocketRule) -> bool:
    """Whether a rule may lead a socket to another family than that of the address asked for."""
    how = rule.settings
    targets = {family_of(one) for one in (how.balance.to if how.balance else ())}
    if how.redirect:
        targets.add(family_of(how.redirect))
    if how.prefix:
        targets.add(AF_INET6)
    return not rule.audit and any(one != target for one in _asked(rule) for target in targets)


def _asked(rule: SocketRule) -> set[int]:
    """The families of the addresses that a rule may be about."""
    names = set(rule.families or _NUMBERS)
    if rule.networks is not None:
        names &= {"inet" if version == _IPV4 else "inet6" for version, _, _ in rule.networks}
    if rule.ports is not None or rule.settings.prefix:
        names.discard("unix")
    if rule.globs is not None or rule.names is not None:
        names &= {"unix"}
    return {_NUMBERS[name] for name in names & _NUMBERS.keys()}


def socket_rules(
    source: Source, family: str, section: Any, otherwise: Decision, *, audit: bool
) -> SocketRules:
    """The rules of the section `family`; what is wrong with them becomes findings of `source`."""
    rules = []
    for index, raw in enumerate(section.rules):
        node = rule_node(source, family, index)
        _hold_together(source, node, raw)
        rules.append(
            SocketRule(
                place=place_of(node),
                verdict=raw.do.verdict,
                value=raw.do.value,
                silent=raw.silent,
                families=_tuple(raw.family),
                networks=_tuple(getattr(raw, ADDRESS_KEYS.get(family, "to"))),
                ports=_tuple(raw.port),
                globs=_tuple(getattr(raw, "path", None)),
                names=_tuple(getattr(raw, "abstract", None)),
                caller=caller_match(raw),
                audit=audit or raw.mode == "audit",
                settings=_settings(source, node, raw),
            )
        )
    return SocketRules(tuple(rules), otherwise)


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _settings(source: Source, node: Any, raw: Any) -> SocketSettings:
    how = raw.do.how
    if not isinstance(how, SocketSettings) or how == SocketSettings():
        return SocketSettings()
    where = node.at(("do",))
    if how.host and any(getattr(raw, key) is not None for key in ("path", "abstract")):
        source.at(where, "network: host is for what goes to IPv4 and IPv6 addresses")
    if how == SocketSettings(options=how.options, host=how.host):
        return how
    if how.prefix is not None:
        if raw.to is None or any(version != _IPV4 for version, _, _ in raw.to):
            source.at(where, "translate leads on what goes to IPv4 addresses: name them by `to`")
        return how
    named = [key for key in ("to", "path", "abstract") if getattr(raw, key, None) is not None]
    targets = how.balance.to if how.balance is not None else (how.redirect,)
    if not named:
        word = "redirect" if how.balance is None else "balance"
        text = f"{word} leads elsewhere what goes to some addresses: name them by `to`, `path` or "
        source.at(where, text + "`abstract`")
    elif "to" not in named and any(port_of(target) == 0 for target in targets):
        source.at(where, "what goes to a unix socket has no port: say which one it is led to")
    return how


def _hold_together(source: Source, node: Any, raw: Any) -> None:
    """Keys that no address can match all at once."""
    said = [(key, of) for key, of in _KEYS if getattr(raw, key, None) is not None]
    for key, of in said:
        if raw.family is not None and not set(of) & set(raw.family):
            text = f"{key} is for {' and '.join(of)}: this rule never matches"
            source.at(node.at((key,), key=True), text)
            return
    for one, of in said:
        for other, theirs in said:
            if not set(of) & set(theirs) or (one, other) == ("path", "abstract"):
                source.at(
                    node.at((other,), key=True),
                    f"no socket has both {one} and {other}: write two rules",
                )
                return
