"""The rules of sockets, and the decision: first match decides, in two looks as for device nodes.

All of an address lies in the caller's memory and is read once; what was read is what is used. Where
a path of the file system leads, and who asks, is known at the second look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from errno import EFAULT, EINVAL
from typing import Any, Final

from supervisor.kernel.addresses import Address, AddressError, address_of, ip_text
from supervisor.model import Arg, Balance, Decision, Facts, SocketSettings, Verdict
from supervisor.policy.callers import CallerMatch
from supervisor.policy.match import glob_matches, lexical, text_matches
from supervisor.policy.mounts import MountRule, MountRules
from supervisor.policy.options import OptionRule, OptionRules
from supervisor.policy.rules import (
    Rule,
    RuleSet,
    looks,
    otherwise_from_json,
    otherwise_to_json,
    passed_by,
    spares,
    to_be_seen,
)
from supervisor.policy.xattrs import XattrRule, XattrRules

# (4 or 6, first address, last address)
Network = tuple[int, int, int]
Ports = tuple[int, int]

# The operation of a call, by its name.
OPERATIONS: Final = {
    "connect": "connect", "bind": "bind", "sendto": "send", "sendmsg": "send", "sendmmsg": "send",
    "accept": "accept", "accept4": "accept",
}  # fmt: skip
# The key of addresses and networks, where it is not `to`.
ADDRESS_KEYS: Final = {"bind": "address", "accept": "from"}
_AS_ASKED: Final = SocketSettings()
_UNSEEN: Final = "who connects is known once there is a connection"
# What of accept comes to its end with a connection, whoever it is of.
_TAKEN: Final = (Verdict.EMULATE, Verdict.REFUSE)
_CONNECTED: Final = "without an address it goes where the socket is connected to"
_VERSIONS: Final = {"inet": 4, "inet6": 6}


@dataclass(frozen=True, slots=True)
class SocketRule:
    """One rule; None is "any". `place` is where it stands, as FILE:LINE.

    `families` are names of FAMILIES, `globs` match paths of the file system and `names` abstract
    names. A rule that has `networks` or `ports` matches IPv4 and IPv6 alone.
    """

    place: str
    verdict: Verdict
    value: int = 0
    silent: bool = False
    families: tuple[str, ...] | None = None
    networks: tuple[Network, ...] | None = None
    ports: tuple[Ports, ...] | None = None
    globs: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    caller: CallerMatch | None = None
    audit: bool = False
    settings: SocketSettings = _AS_ASKED

    @property
    def needs_facts(self) -> bool:
        """Whether it looks at what only path work knows."""
        return self.globs is not None or self.caller is not None

    @property
    def by_address(self) -> bool:
        """Whether it looks at an address."""
        asked = (self.families, self.networks, self.ports, self.globs, self.names)
        return any(one is not None for one in asked)

    def decision(self) -> Decision:
        """What a call gets that this rule decides."""
        return Decision(
            self.verdict, self.place, value=self.value, settings=self.settings,
            silent=self.silent, audit=self.audit,
            caller=self.caller.said() if self.caller else (),
        )  # fmt: skip

    def objection(self, address: Address) -> str:
        """The key that an address does not match, as far as it is known by itself; "" if all do."""
        if self.families is not None and address.family not in self.families:
            return "family"
        if self.networks is not None:
            version, ip = _VERSIONS.get(address.family), address.ip
            if ip is None or not any(
                one == version and low <= ip <= high for one, low, high in self.networks
            ):
                return "to"
        if self.ports is not None:
            port = address.port
            if port is None or not any(low <= port <= high for low, high in self.ports):
                return "port"
        if self.names is not None:
            text = None if address.name is None else address.name.decode("utf-8", "surrogateescape")
            if text is None or not any(text_matches(glob, text) for glob in self.names):
                return "abstract"
        return "path" if self.globs is not None and address.path is None else ""

    def matches_path(self, path: bytes | None, *, nowhere: bool = False) -> bool:
        """Whether a path that is known by now is one of those asked for.

        What nobody knows is no grant, and refuses where it can; `nowhere`: see Facts.
        """
        if self.globs is None:
            return True
        if path is None:
            return not self.verdict.grants or (nowhere and self.audit)
        return any(glob_matches(glob, path) for glob in self.globs)

    def may_match(self, address: Address, *, looks: bool) -> bool:
        """The first look: what is not known yet matches where the rule `looks`."""
        if self.objection(address):
            return False
        if self.globs is not None and address.path is not None:
            path = lexical(address.path)
            if path is None:
                return looks
            if not self.matches_path(path):
                return False
        return self.caller is None or looks

    def matches(self, address: Address, facts: Facts) -> bool:
        """The second look."""
        if self.objection(address) or not self.matches_path(facts.path, nowhere=facts.nowhere):
            return False
        return self.matches_caller(facts)

    def matches_caller(self, facts: Facts) -> bool:
        """Whether the caller is one that the rule asks for."""
        return self.caller is None or self.caller.matches(facts, unknown=not self.verdict.grants)

    def to_json(self) -> list[Any]:
        """The rule as JSON's types."""
        return [
            self.place, self.verdict.value, self.value, self.silent, self.families, self.networks,
            self.ports, self.globs, self.names,
            None if self.caller is None else self.caller.to_json(), self.audit,
            _settings_to_json(self.settings),
        ]  # fmt: skip

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> SocketRule:
        """The rule that to_json() wrote."""
        place, verdict, value, silent, families, networks, ports = data[:7]
        globs, names, caller, audit, settings = data[7:]
        return cls(
            place, Verdict(verdict), value, silent, _rows(families), _rows(networks), _rows(ports),
            _rows(globs), _rows(names),
            None if caller is None else CallerMatch.from_json(caller), audit,
            _settings_from_json(settings),
        )  # fmt: skip


def _settings_to_json(settings: SocketSettings) -> list[Any]:
    prefix, balance = settings.prefix, settings.balance
    return [
        settings.redirect.hex(), None if prefix is None else [prefix[0].hex(), prefix[1]],
        None if balance is None else
        [[one.hex() for one in balance.to], balance.by, balance.rest, balance.wait],
        settings.peername, settings.options, settings.host,
    ]  # fmt: skip


def _settings_from_json(data: Sequence[Any]) -> SocketSettings:
    redirect, prefix, balance, peername, options, host = data
    return SocketSettings(
        bytes.fromhex(redirect), None if prefix is None else (bytes.fromhex(prefix[0]), prefix[1]),
        None if balance is None else Balance(tuple(map(bytes.fromhex, balance[0])), *balance[1:]),
        peername, tuple((name, value) for name, value in options), host,
    )  # fmt: skip


def _rows(values: Sequence[Any] | None) -> Any:
    if values is None:
        return None
    return tuple(tuple(one) if isinstance(one, list) else one for one in values)


@dataclass(frozen=True, slots=True)
class SocketRules:
    """The rules of sockets in order, and what becomes of a call that none matches.

    The same call gets the same Decision, to the object.
    """

    rules: tuple[SocketRule, ...]
    otherwise: Decision
    _decisions: list[tuple[Decision, Decision]] = field(
        default_factory=list, compare=False, repr=False
    )
    _ours: dict[tuple[Verdict, int, str, bool], Decision] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        for decision in (*(rule.decision() for rule in self.rules), self.otherwise):
            spared = spares(decision, self.otherwise)
            again = to_be_seen(decision) if spared else replace(decision, needs_facts=True)
            self._decisions.append((decision, again))

    @property
    def restricts(self) -> bool:
        """Whether a call may come to anything else than the kernel would make of it."""
        every: list[SocketRule | Decision] = [*self.rules, self.otherwise]
        return any(one.verdict is not Verdict.CONTINUE for one in every)

    @property
    def watches(self) -> bool:
        """Whether somebody has to look at the calls: not where all of them go on anyway."""
        every: list[SocketRule | Decision] = [*self.rules, self.otherwise]
        return self.restricts or any(one.audit for one in every)

    @property
    def names_peers(self) -> bool:
        """Whether getpeername(2) is to show what was asked for."""
        return any(rule.settings.peername and not rule.audit for rule in self.rules)

    @property
    def hosts(self) -> bool:
        """Whether a call is made in the host's network."""
        return any(rule.settings.host and not rule.audit for rule in self.rules)

    @property
    def balances(self) -> frozenset[Balance]:
        """The backends that rules share connections out to."""
        return frozenset(rule.settings.balance for rule in self.rules if rule.settings.balance)

    def decide(self, operation: str, address: Arg, facts: Facts | None) -> Decision:
        """The decision on a call with this struct sockaddr; 0 is none. That of accept is who
        connects: 0 is nobody yet, and until then most decisions `needs_facts`, Facts or not.
        """
        if operation == "accept" and (facts is None or isinstance(address, int)):
            return self._before_peer(facts)
        if isinstance(address, int):
            if not address:
                verdict = Verdict.EMULATE if self.restricts else Verdict.CONTINUE
                return self._of_ours(verdict, 0, _CONNECTED)
            if address in (-EFAULT, -EINVAL):
                return self._of_ours(Verdict.ERRNO, -address, "unreadable")
            return self._of_ours(Verdict.REFUSE, 0, "unreadable")
        try:
            known = address_of(address, operation)
        except AddressError as error:
            return self._of_ours(Verdict.ERRNO, error.errno, "no address that is known here")
        if known.family == "unspec":
            return self._of_ours(Verdict.EMULATE, 0, "it ends a connection")
        if facts is not None:
            for number, rule in enumerate(self.rules):
                if rule.matches(known, facts):
                    return self._decisions[number][0]
            return self._decisions[-1][0]
        return self._first(known)

    def _before_peer(self, facts: Facts | None) -> Decision:
        """On an accept, before anybody was taken: what rules that look at no peer make of it. Who
        is granted or refused is taken first, so that a record can say who it was.
        """
        asking: list[Decision] = []  # of rules that may match, by who calls
        found: Decision | None = self._decisions[-1][0]
        for number, rule in enumerate(self.rules):
            decision = self._decisions[number][0]
            if rule.by_address:
                found = None
                break
            if rule.caller is not None and facts is None:
                asking.append(decision)
            elif facts is None or rule.matches_caller(facts):
                found = decision
                break
        settles = [one for one in (*asking, found) if one and one.verdict not in _TAKEN]
        if found is not None and settles and not asking:
            return found
        asks = bool(settles and asking)
        return self._of_ours(Verdict.EMULATE, 0, _UNSEEN, needs_facts=True, asks_caller=asks)

    def _first(self, address: Address) -> Decision:
        asks = behind = False
        for number, rule in enumerate(self.rules):
            if rule.objection(address):
                continue
            # a path that is not asked for is looked at by nobody
            asks = asks or rule.needs_facts
            if rule.may_match(address, looks=looks(rule, self.otherwise)):
                return self._decided(number, asks=asks, behind=behind or rule.caller is not None)
            behind = behind or passed_by(rule)
        return self._decided(-1, asks=asks, behind=behind)

    def _decided(self, number: int, *, asks: bool, behind: bool) -> Decision:
        plain, again = self._decisions[number]
        if plain.verdict.grants:
            return again if asks else plain
        return again if behind and spares(plain, self.otherwise) else plain

    def _of_ours(
        self, verdict: Verdict, value: int, reason: str, *, needs_facts: bool = False,
        asks_caller: bool = False,
    ) -> Decision:
        """What no rule decides, but the call's own arguments do."""
        key = verdict, value, reason, asks_caller
        if key not in self._ours:
            where, audit = self.otherwise.rule, self.otherwise.audit
            self._ours[key] = Decision(
                verdict, where, reason, value=value, audit=audit, needs_facts=needs_facts,
                asks_caller=asks_caller,
            )
        return self._ours[key]

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON's types."""
        return {
            "sockets": True,
            "otherwise": otherwise_to_json(self.otherwise),
            "rules": [rule.to_json() for rule in self.rules],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SocketRules:
        """The rules that to_json() wrote."""
        return cls(
            tuple(SocketRule.from_json(row) for row in data["rules"]),
            otherwise_from_json(data["otherwise"]),
        )


AnyRule = Rule | MountRule | SocketRule | OptionRule | XattrRule
AnyRules = RuleSet | MountRules | SocketRules | OptionRules | XattrRules


def network_text(network: Network) -> str:
    """A network as a policy has it: an address, a prefix, or a range."""
    version, low, high = network
    family, bits = ("inet", 32) if version == 4 else ("inet6", 128)
    first = ip_text(family, low)
    if low == high:
        return first
    length = (high - low + 1).bit_length() - 1
    return f"{first}/{bits - length}"


def ports_text(ports: Ports) -> str:
    """A port, or a range of them."""
    low, high = ports
    return str(low) if low == high else f"{low}-{high}"


def address_text(address: Address) -> str:
    """An address for a person: 10.0.0.1 port 80, /run/x.sock, @name."""
    if address.ip is not None:
        return f"{ip_text(address.family, address.ip)} port {address.port}"
    if address.path is not None:
        return address.path.decode("utf-8", "backslashreplace")
    if address.name is not None:
        return "@" + address.name.decode("utf-8", "backslashreplace")
    return address.family
