"""Why a policy decides a call as it does: each rule that was tried, and what in it did not hold.

This goes the way of rules.py and mounts.py with words; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from supervisor.kernel.device_numbers import split_device
from supervisor.kernel.mounts import without_magic
from supervisor.kernel.simulate import Run, action_text
from supervisor.kernel.strace import argument
from supervisor.kernel.syscalls import Kind
from supervisor.kernel.text import errno_name, printable
from supervisor.model import Decision, Facts, Verdict
from supervisor.policy.asked import Asked
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.devices import device_text
from supervisor.policy.directories import DirectoryRule
from supervisor.policy.match import glob_matches, lexical, node_matches
from supervisor.policy.mounts import MountRule, split_options
from supervisor.policy.opens import OpenRule, how_of, may_match
from supervisor.policy.options import OptionRule, option_of, text_of
from supervisor.policy.rules import Rule
from supervisor.policy.sockets import (
    ADDRESS_KEYS,
    AnyRule,
    AnyRules,
    SocketRule,
    address_text,
    network_text,
    ports_text,
)
from supervisor.policy.xattrs import XattrRule, call_of


@dataclass(frozen=True, slots=True)
class Tried:
    """One rule that was tried. `objection` is the first condition that did not hold, as a sentence;
    "" for the rule that decided. `look`: at which of the two looks.
    """

    place: str
    look: int
    key: str
    objection: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All there is to say of one call under one policy.

    `decision` and `tried` are None and empty where the filter does not notify the call.
    """

    asked: Asked
    run: Run
    decision: Decision | None
    facts: Facts | None
    tried: tuple[Tried, ...]

    @property
    def filtered(self) -> str:
        """What the filter does: "notify", "allow", "errno EPERM" ..."""
        return action_text(self.run.action)


def verdict_text(decision: Decision) -> str:
    """A verdict in words, with the errno or the number that comes with it."""
    if decision.verdict is Verdict.ERRNO:
        return f"errno {errno_name(decision.value)}"
    if decision.verdict is Verdict.RETURN:
        return f"return {decision.value}"
    return decision.verdict.value


def explain(policy: CompiledPolicy, asked: Asked) -> Explanation:
    """Why the policy decides the call as it does."""
    run = asked.filtered(policy.filter)
    if action_text(run.action) != "notify":
        return Explanation(asked, run, None, None, ())
    decision, facts = asked.decided(policy)
    rules = policy.families.get(asked.spec.family)
    tried: list[Tried] = []
    if rules is not None:
        tried += _tried(rules, asked, facts)
    if tried and not tried[-1].key and tried[-1].place != decision.rule:
        tried = []  # it was not for a rule to decide: the arguments mean nothing
    return Explanation(asked, run, decision, facts, tuple(tried))


def _tried(rules: AnyRules, asked: Asked, facts: Facts | None) -> Iterator[Tried]:
    look = 1 if facts is None else 2
    for rule in rules.rules:
        if isinstance(rule, XattrRule):
            key, text = _of_xattr(rule, asked, facts)
        elif isinstance(rule, OpenRule):
            key, text = _of_open(rule, asked, facts, rules.otherwise)
        elif isinstance(rule, DirectoryRule):
            key, text = _of_place(rule, asked, facts)
        elif isinstance(rule, Rule):
            key, text = _of_node(rule, asked, facts)
        elif isinstance(rule, OptionRule):
            key, text = _of_option(rule, asked, facts)
        elif isinstance(rule, SocketRule):
            key, text = _of_socket(rule, asked, facts)
            key = ADDRESS_KEYS.get(asked.spec.family, key) if key == "to" else key
        else:
            key, text = _of_mount(rule, asked, facts)
        yield Tried(rule.place, look, key, text)
        if not key:
            return


def _or(values: Sequence[str], most: int = 8) -> str:
    shown = [*values[:most], *(["others"] if len(values) > most else [])]
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _path_text(path: bytes) -> str:
    return printable(path)


def device_of(asked: Asked) -> tuple[str, int, int]:
    """(type, major, minor) of what a mknod is to make."""
    args = dict(zip((param.name for param in asked.spec.params), asked.snapshot.args, strict=True))
    mode, dev = args["mode"], args["dev"]
    if not isinstance(mode, int) or not isinstance(dev, int):
        raise TypeError("mode and dev are numbers")
    kind = {0o020000: "c", 0o060000: "b"}[mode & 0o170000]
    return kind, *split_device(dev)


def _of_node(rule: Rule, asked: Asked, facts: Facts | None) -> tuple[str, str]:
    kind, major, minor = device_of(asked)
    if rule.nodes is not None and not any(
        node_matches(nodes, kind, major, minor) for nodes in rule.nodes
    ):
        device = device_text((kind, major, major, minor, minor))
        return "devices", f"{device} is not {_or([device_text(nodes) for nodes in rule.nodes])}"
    return _of_place(rule, asked, facts)


def _of_place(
    rule: Rule | SocketRule, asked: Asked, facts: Facts | None
) -> tuple[str, str]:
    """What a rule asks of a path, and of who calls."""
    if facts is None:
        return _first_look(rule, rule.globs, asked)
    key, text = _second_look(rule, rule.globs, facts.path)
    return (key, text) if key else _of_caller(rule, facts)


def _of_open(
    rule: OpenRule, asked: Asked, facts: Facts | None, otherwise: Decision
) -> tuple[str, str]:
    how = how_of(asked.snapshot.name, asked.snapshot.args)
    if not rule.about(how):
        if how is not None and rule.access is not None and how.access not in rule.access:
            return "access", f"{how.access or 'no access'} is not {_or(rule.access)}"
        return "do", "nothing that can be given is what it asks for, or the kernel refuses it"
    if facts is not None:
        key, text = _second_look(rule, rule.globs, facts.path)
        return (key, text) if key else _of_caller(rule, facts)
    written = asked.path or b""
    if written and lexical(written) is None and not may_match(rule, written, otherwise):
        return "path", f"{_path_text(written)} does not end as {_or(rule.globs or ())}"
    return _first_look(rule, rule.globs, asked)


def _of_xattr(rule: XattrRule, asked: Asked, facts: Facts | None) -> tuple[str, str]:
    call = call_of(asked.snapshot.name, asked.snapshot.args)
    key = rule.objection(call)
    if key == "name":
        return key, f"{argument(call.name, Kind.NAME)} is not {_or(rule.names or ())}"
    if key:
        if call.value is None:
            return key, "an attribute that is removed has no value"
        shown = argument(call.value, Kind.XATTR)
        more = "" if call.whole is not None else f" and more, {call.size} bytes,"
        return key, f"{shown}{more} is not {_or([repr(one) for one in rule.values or ()])}"
    if facts is None:
        return _first_look(rule, rule.globs, asked)
    key, text = _second_look(rule, rule.globs, facts.path)
    return (key, text) if key else _of_caller(rule, facts)


def _first_look(
    rule: Rule | SocketRule, globs: tuple[str, ...] | None, asked: Asked
) -> tuple[str, str]:
    """The first look knows the path as it was written, where that says where it leads, and nobody.

    A rule that grants matches what is not known; one that refuses does not.
    """
    grants = rule.verdict.grants
    if globs is not None:
        path = lexical(asked.path) if asked.path is not None else None
        if path is None:
            if not grants:
                return "path", "where the path leads is not known from how it is written"
        elif not any(glob_matches(glob, path) for glob in globs):
            return "path", f"{_path_text(path)}, as it is written, does not match {_or(globs)}"
    if rule.caller is not None and not grants:
        return "caller", "who calls is looked at only where something could be granted"
    return "", ""


def _second_look(
    rule: AnyRule, globs: tuple[str, ...] | None, path: bytes | None
) -> tuple[str, str]:
    grants = rule.verdict.grants
    key = "target" if isinstance(rule, MountRule) else "path"
    if globs is not None:
        if path is None:
            if grants:
                return key, "where the path leads is not known"
        elif not any(glob_matches(glob, path) for glob in globs):
            return key, f"{_path_text(path)}, where it leads, does not match {_or(globs)}"
    return "", ""


def _of_caller(rule: AnyRule, facts: Facts) -> tuple[str, str]:
    if rule.caller is None:
        return "", ""
    key = rule.caller.objection(facts, unknown=not rule.verdict.grants)
    if not key:
        return "", ""
    value = getattr(facts, {"capability": "capabilities"}.get(key, key))
    if value is None:
        return key, f"{key} is not known"
    if isinstance(value, frozenset):
        return key, f"the caller has none of {_or(rule.caller.capabilities or ())}"
    shown = _path_text(value) if isinstance(value, bytes) else value
    return key, f"{key} is {shown}"


def _of_socket(rule: SocketRule, asked: Asked, facts: Facts | None) -> tuple[str, str]:
    address = asked.address
    if asked.spec.family == "accept" and asked.peer is None:
        if rule.by_address:
            return "to", "nobody has said who connects"
        return _first_look(rule, None, asked) if facts is None else _of_caller(rule, facts)
    if address is None:
        return "to", "there is no address that is known here"
    key = rule.objection(address)
    if key:
        wanted: dict[str, Sequence[str]] = {
            "family": rule.families or (),
            "to": [network_text(one) for one in rule.networks or ()],
            "port": [ports_text(one) for one in rule.ports or ()],
            "abstract": [f"@{glob}" for glob in rule.names or ()],
            "path": rule.globs or (),
        }
        shown = address.family if key == "family" else address_text(address)
        return key, f"{shown} is not {_or(wanted[key])}"
    return _of_place(rule, asked, facts)


def _of_option(rule: OptionRule, asked: Asked, facts: Facts | None) -> tuple[str, str]:
    option = option_of(asked.snapshot)
    if not rule.about(*option):
        key = "level" if all(name is None for _, name in rule.options or ()) else "optname"
        shown = text_of((option[0], None) if key == "level" else option)
        return key, f"{shown} is not {_or([text_of(one) for one in rule.options or ()])}"
    return ("", "") if facts is None else _of_caller(rule, facts)


def _of_mount(rule: MountRule, asked: Asked, facts: Facts | None) -> tuple[str, str]:
    _, _, fstype, flags, data = asked.snapshot.args
    name = fstype.decode("utf-8", "surrogateescape") if isinstance(fstype, bytes) else ""
    if rule.types is not None and name not in rule.types:
        return "fstype", f"{argument(fstype, Kind.TEXT)} is not {_or(rule.types)}"
    options = split_options(data) if isinstance(data, bytes) else []
    assert isinstance(flags, int)
    objection = rule.objection(without_magic(flags), options)
    if objection:
        return "options", objection
    if facts is None:
        return "", ""
    target = facts.target if facts.target is not None else facts.path
    key, text = _second_look(rule, rule.targets, target)
    if key:
        return key, text
    if rule.by_source:
        if facts.source is None:
            if rule.verdict.grants:
                return "source", "what the source is is not known"
        elif not rule.matches_source(facts.source):
            wanted = [*(rule.sources or ()), *map(device_text, rule.devices)]
            return "source", f"{_source_text(facts)} is not {_or(wanted)}"
    return _of_caller(rule, facts)


def _source_text(facts: Facts) -> str:
    source = facts.source
    assert source is not None
    device = "" if source.device is None else " {}:{}".format(*source.device)
    return f"{source.kind}{device} {_path_text(source.name)}".rstrip()
