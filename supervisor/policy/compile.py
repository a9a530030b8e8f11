"""A policy file to a CompiledPolicy: rules, filter, ceiling.

Imported only where a policy is compiled or checked: it brings YAML, pydantic and libseccomp along.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from supervisor.kernel import bpf
from supervisor.kernel.addresses import AF_INET, AF_INET6
from supervisor.kernel.mounts import MS_REMOUNT
from supervisor.kernel.syscalls import (
    NATIVE_ARCHES,
    SOCKETCALLS,
    CallSpec,
    Condition,
    Match,
    numbers,
)
from supervisor.model import Verdict
from supervisor.policy import store
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.cubes import FILE_TYPES, S_IFMT, Cube
from supervisor.policy.directories import DirectoryRules
from supervisor.policy.draft import Draft, Sets, read_draft
from supervisor.policy.families import FamilySpec, Needs, NodeMatch
from supervisor.policy.match import NodeRange
from supervisor.policy.mounts import MountRules
from supervisor.policy.opens import OpenRules
from supervisor.policy.options import OptionRules
from supervisor.policy.rules import RuleSet
from supervisor.policy.settle import settle_mounts, settle_nodes, settle_options
from supervisor.policy.socket_compile import crosses
from supervisor.policy.sockets import AnyRules, SocketRules
from supervisor.policy.source import place_of
from supervisor.policy.traits import Traits
from supervisor.policy.xattr_filter import filter_of
from supervisor.policy.xattrs import XattrRules


def compile_policy(
    file: Path,
    content: bytes,
    traits: Traits,
    families: Mapping[str, FamilySpec],
    *,
    arches: Sequence[int] = NATIVE_ARCHES,
    search: Sequence[Path] | None = None,
) -> CompiledPolicy:
    """The compiled form of a policy file's content; `search` is where what it includes is found.

    Raises PolicyFindings with every error in it, KernelError where libseccomp cannot do a filter.
    """
    draft = read_draft(file, content, families, search=search)
    draft.source.fail()
    return compile_draft(draft, content, traits, families, arches=arches)


def compile_named(
    name_or_path: str, traits: Traits, families: Mapping[str, FamilySpec]
) -> CompiledPolicy:
    """The policy that `name_or_path` means (store.find), compiled afresh. Raises as above."""
    file = store.find(name_or_path)
    content = store.read(file, name_or_path if "/" in name_or_path else None)
    return compile_policy(file, content, traits, families)


def compile_draft(
    draft: Draft,
    content: bytes,
    traits: Traits,
    families: Mapping[str, FamilySpec],
    *,
    arches: Sequence[int] = NATIVE_ARCHES,
) -> CompiledPolicy:
    """The compiled form of a draft without errors. Raises KernelError as above."""
    document = draft.document
    sets, served = _served(draft.sets, traits, families)
    return CompiledPolicy(
        name=document.name or draft.file.stem,
        source=str(draft.file),
        digest=hashlib.sha256(content).hexdigest(),
        on_error=document.on_error,
        filter=bpf.build(
            filter_rules(sets, served, families), arches, contained=traits.nodes != "none"
        ),
        calls={
            (arch, nr): spec
            for arch in arches
            for spec in served
            for nr in numbers(spec.name, arch)
        },
        ceiling=_ceiling(sets),
        families=sets,
        match=None if document.match is None else document.match.applies().to_json(),
        limits=document.limits.model_dump(exclude_none=True),
        included=draft.included,
        otherwise="" if document.otherwise == "refuse" else place_of(
            draft.source.root.at(("otherwise",), key=True)
        ),
    )


def rules_of(
    file: Path,
    content: bytes,
    traits: Traits,
    families: Mapping[str, FamilySpec],
    *,
    search: Sequence[Path] | None = None,
) -> list[bpf.FilterRule]:
    """What a filter for this policy does, for who loads one by other means. Raises PolicyFindings.

    The refusal of a listener of the target's own is not among them.
    """
    draft = read_draft(file, content, families, search=search)
    draft.source.fail()
    return filter_rules(*_served(draft.sets, traits, families), families)


def _node_sets(sets: Sets) -> dict[str, RuleSet]:
    return {
        name: rules for name, rules in sets.items()
        if isinstance(rules, RuleSet) and not isinstance(rules, DirectoryRules)
    }  # fmt: skip


def _served(
    sets: Sets, traits: Traits, families: Mapping[str, FamilySpec]
) -> tuple[Sets, list[CallSpec]]:
    """The rules, and the calls that are served. What a family and a companion both are about is the
    family's, whose rules are told of it.
    """
    realises = frozenset(
        rule.realise
        for rules in _node_sets(sets).values()
        for rule in rules.rules
        if rule.verdict is Verdict.EMULATE and not rule.audit
    )
    needs = Needs(
        realises,
        mounts=any(rules.emulates for rules in sets.values() if isinstance(rules, MountRules)),
        peer_names=any(
            rules.names_peers for rules in sets.values() if isinstance(rules, SocketRules)
        ),
        own_names=any(
            crosses(rule)
            for rules in sets.values() if isinstance(rules, SocketRules) for rule in rules.rules
        ),
        loops=any(
            one.loops is not None
            for rules in sets.values() if isinstance(rules, OpenRules) for one in rules.lent
        ),
        hosts=any(rules.hosts for rules in sets.values() if isinstance(rules, SocketRules)),
    )
    out: list[CallSpec] = []
    for name, family in families.items():
        if family.keys is None:
            out += family.serves(traits, needs)
        elif name in sets:
            out += family.calls
    rules = sets.get("xattr")
    if not isinstance(rules, XattrRules):
        return sets, out
    mine = {spec.name for spec in families["xattr"].calls}
    only = [spec for spec in out if spec.family == "xattr" or spec.name not in mine]
    if len(only) < len(out):
        sets = {**sets, "xattr": replace(rules, nodes=True)}
    return sets, only


_ALL_NODES: tuple[NodeRange, ...] = (("b", 0, 0xFFF, 0, 0xFFFFF), ("c", 0, 0xFFF, 0, 0xFFFFF))


def _ceiling(sets: Sets) -> tuple[tuple[str, int, int, int, int, bool], ...]:
    closed: dict[NodeRange, bool] = {}
    for rules in _node_sets(sets).values():
        for rule in rules.rules:
            if rule.verdict is Verdict.EMULATE and not rule.audit:
                for nodes in rule.nodes or _ALL_NODES:
                    closed[nodes] = closed.get(nodes, True) and rule.realise == "closed"
    return tuple(sorted((*nodes, only) for nodes, only in closed.items()))


def _enforces(rules: AnyRules) -> bool:
    """Whether a call may come to anything else than it would without us: what is only recorded
    (`mode: audit`) does not, so that there is no door to close around it.
    """
    every = [*rules.rules, rules.otherwise]
    return any(not one.audit and one.verdict is not Verdict.CONTINUE for one in every)


def filter_rules(
    sets: Sets, served: Sequence[CallSpec], families: Mapping[str, FamilySpec]
) -> list[bpf.FilterRule]:
    """What the filter does for each call that is served, and for the doors that lead around one."""
    out: list[bpf.FilterRule] = []
    settled = {
        name: settle_nodes(rules)
        for name, rules in _node_sets(sets).items()
        if not isinstance(rules, OpenRules)
    }
    for spec in served:
        family = families[spec.family]
        if family.keys is None:
            out += [
                bpf.FilterRule(spec.name, bpf.RET_USER_NOTIF, match)
                for match in family.always(spec, None)
            ]
            out += _wrapped(spec)
            continue
        rules = sets[spec.family]
        if isinstance(rules, OpenRules | DirectoryRules):
            every = family.always(spec, rules)
            out += [bpf.FilterRule(spec.name, bpf.RET_USER_NOTIF, match) for match in every]
            continue
        if isinstance(rules, MountRules):
            every = family.always(spec, rules)
            again = [match for match in every if match[0].value & MS_REMOUNT]
            out += [bpf.FilterRule(spec.name, bpf.RET_USER_NOTIF, match) for match in again]
            new = settle_mounts(rules, [match for match in every if match not in again])
            out += [bpf.FilterRule(spec.name, action, match) for action, match in new]
            continue
        if isinstance(rules, XattrRules):
            every_match = filter_of(rules, spec)
            out += [bpf.FilterRule(spec.name, action, match) for action, match in every_match]
            continue
        if isinstance(rules, OptionRules):
            for action, those in settle_options(rules).items():
                out += [bpf.FilterRule(spec.name, action, _option(cube)) for cube in those]
            if rules.watches:
                out += _wrapped(spec)
            continue
        if isinstance(rules, SocketRules):
            if rules.watches:
                out += [
                    bpf.FilterRule(spec.name, bpf.RET_USER_NOTIF, match)
                    for match in family.always(spec, rules)
                ]
                out += _wrapped(spec)
            continue
        nodes = next(key for key in family.keys.values() if isinstance(key, NodeMatch))
        for action, those in settled[spec.family].items():
            out += [bpf.FilterRule(spec.name, action, _match(spec, nodes, cube)) for cube in those]
    by_path = any(
        rule.globs is not None and not rule.audit
        for rules in _node_sets(sets).values()
        for rule in rules.rules
    )
    rings = any(
        families[spec.family].io_uring and (spec.family not in sets or _enforces(sets[spec.family]))
        for spec in served
    )
    if by_path or rings:
        # What goes through a ring never meets the filter.
        out.append(bpf.FilterRule("io_uring_setup", bpf.ret_errno(errno.ENOSYS)))
    if any(isinstance(rules, SocketRules) and _enforces(rules) for rules in sets.values()):
        out += [
            bpf.FilterRule("socket", bpf.ret_errno(errno.EPROTONOSUPPORT), match)
            for match in _SCTP
        ]
    if any(isinstance(rules, MountRules) and _enforces(rules) for rules in sets.values()):
        # The other way to a new mount, and to a remount, has its options in calls of their own: no
        # single one could be decided. Who hears that there is none takes mount(2), mount(8) too.
        out += [
            bpf.FilterRule(name, bpf.ret_errno(errno.ENOSYS)) for name in ("fsopen", "fspick")
        ]
    if any(isinstance(rules, XattrRules) and _enforces(rules) for rules in sets.values()):
        # What they are about lies in memory: no filter could tell those that are to be looked at.
        out += [
            bpf.FilterRule(name, bpf.ret_errno(errno.ENOSYS))
            for name in ("setxattrat", "removexattrat")
        ]
    return out


def _wrapped(spec: CallSpec) -> list[bpf.FilterRule]:
    """The same by way of socketcall: its arguments lie in memory, and are all to be looked at."""
    if spec.name not in SOCKETCALLS:
        return []
    which = Condition(0, 0xFFFFFFFF, SOCKETCALLS[spec.name])
    return [bpf.FilterRule("socketcall", bpf.RET_USER_NOTIF, (which,))]


# socket(domain, type, protocol): SCTP connects and binds by setsockopt(2) as well, and to several
# addresses at once. It is also what a SOCK_SEQPACKET of IPv4 or IPv6 is if nothing is said.
_PROTO: Final = 132
_SEQPACKET: Final = 5
# Bits that no family or protocol of the kernel's needs are not looked at: a profile that has to say
# what is left has a line for each pair of the others.
_SCTP: Final[tuple[Match, ...]] = (
    (Condition(2, 0xFF, _PROTO),),
    (Condition(0, 0x3F & ~(AF_INET ^ AF_INET6), AF_INET & AF_INET6), Condition(1, 0xF, _SEQPACKET)),
)


def _option(cube: Cube) -> Match:
    """setsockopt and getsockopt: (socket, level, option, ...)."""
    level, name = cube.mask >> 32, cube.mask & 0xFFFFFFFF
    out = (Condition(1, level, cube.value >> 32),) if level else ()
    return (*out, Condition(2, name, cube.value & 0xFFFFFFFF)) if name else out


def _match(spec: CallSpec, nodes: NodeMatch, cube: Cube) -> Match:
    mode, dev = spec.index(nodes.mode), spec.index(nodes.dev)
    if mode is None or dev is None:
        raise TypeError(f"{spec.name} has no device")
    match = (Condition(mode, S_IFMT, FILE_TYPES[cube.kind]),)
    return match if not cube.mask else (*match, Condition(dev, cube.mask, cube.value))
