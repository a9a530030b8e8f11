"""A policy file to a CompiledPolicy: rules, filter, ceiling.

Imported only where a policy is compiled or checked: it brings YAML, pydantic and libseccomp along.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from supervisor.kernel import bpf
from supervisor.kernel.syscalls import NATIVE_ARCHES, CallSpec, Condition, Match, number
from supervisor.model import Decision, Verdict
from supervisor.policy import schema
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.cubes import (
    FILE_TYPES,
    S_IFMT,
    UNIVERSE,
    Cube,
    cubes,
    disjoint,
    overlap,
    subtract,
)
from supervisor.policy.families import FamilySpec, NodeMatch, Traits
from supervisor.policy.match import NodeRange
from supervisor.policy.mount_compile import mount_rules
from supervisor.policy.mounts import MountRules
from supervisor.policy.rules import Rule, RuleSet
from supervisor.policy.source import Source
from supervisor.policy.values import REFUSALS

# Past so many tests of device numbers the filter notifies more and the session decides.
_CUBES_MAX: Final = 128
Sets = Mapping[str, RuleSet | MountRules]


def compile_policy(
    file: Path,
    content: bytes,
    traits: Traits,
    families: Mapping[str, FamilySpec],
    *,
    arches: Sequence[int] = NATIVE_ARCHES,
) -> CompiledPolicy:
    """The compiled form of a policy file's content.

    Raises PolicyFindings with every error in it, KernelError where libseccomp cannot do a filter.
    """
    document, sets, served = _read(file, content, traits, families)
    return CompiledPolicy(
        name=document.name or file.stem,
        source=str(file),
        digest=hashlib.sha256(content).hexdigest(),
        on_error=document.on_error,
        filter=bpf.build(
            filter_rules(sets, served, families), arches, contained=traits.nodes != "none"
        ),
        calls={
            (arch, nr): spec
            for arch in arches
            for spec in served
            if (nr := number(spec.name, arch)) is not None
        },
        ceiling=_ceiling(sets),
        families=sets,
        match=None if document.match is None else document.match.applies().to_json(),
    )


def rules_of(
    file: Path, content: bytes, traits: Traits, families: Mapping[str, FamilySpec]
) -> list[bpf.FilterRule]:
    """What a filter for this policy does, for who loads one by other means. Raises PolicyFindings.

    The refusal of a listener of the target's own is not among them.
    """
    _, sets, served = _read(file, content, traits, families)
    return filter_rules(sets, served, families)


def _read(
    file: Path, content: bytes, traits: Traits, families: Mapping[str, FamilySpec]
) -> tuple[Any, dict[str, RuleSet | MountRules], list[CallSpec]]:
    """The document, the rules by family, and the calls that the filter may notify."""
    source = Source(str(file), content)
    # With errors already, this is what of the policy can still be looked at.
    document = schema.validate(source, schema.model_of(families))
    sets = {
        name: (_mount_rules if name == "mount" else _rules)(
            source, name, getattr(document.syscalls, name), file.name
        )
        for name, family in families.items()
        if family.keys is not None and getattr(document.syscalls, name) is not None
    }
    source.fail()
    return document, sets, _served(sets, traits, families)


def _rules(source: Source, family: str, section: Any, file: str) -> RuleSet:
    otherwise = _otherwise(source, family, section, file)
    rules: list[Rule] = []
    for index, raw in enumerate(section.rules):
        where = ("syscalls", family, "rules", index)
        rule = Rule(
            place=f"{file}:{source.root.at(where).mark.line}",
            verdict=raw.do.verdict,
            value=raw.do.value,
            realise=raw.do.realise,
            silent=raw.silent,
            nodes=_tuple(getattr(raw, "devices", None)),
            globs=_tuple(getattr(raw, "path", None)),
            uids=_tuple(getattr(raw, "uid", None)),
            gids=_tuple(getattr(raw, "gid", None)),
        )
        rules.append(rule)
    out = RuleSet(tuple(rules), otherwise)
    _races(source, family, section, out)
    return out


def _otherwise(source: Source, family: str, section: Any, file: str) -> Decision:
    node = source.root.at(("syscalls", family))
    return Decision(
        Verdict.CONTINUE if section.otherwise == "kernel" else Verdict.REFUSE,
        f"{file}:{node.mark.line if node.kind == 'mapping' else _key_line(source, family)}",
        "no rule matches",
    )


def _mount_rules(source: Source, family: str, section: Any, file: str) -> MountRules:
    otherwise = _otherwise(source, family, section, file)
    return mount_rules(source, family, section, file, otherwise)


def _key_line(source: Source, family: str) -> int:
    return source.root.at(("syscalls", family), key=True).mark.line


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _races(source: Source, family: str, section: Any, rules: RuleSet) -> None:
    """Refuses a `continue` that the caller could turn into something the policy refuses.

    A path is memory: another thread can change it between the look and the kernel's own. So where
    for one device a path switches between a refusal and a continue, the continue is no decision.
    """
    if not any(rule.globs is not None for rule in rules.rules):
        return
    verdicts = {rules.otherwise.verdict, *(rule.verdict for rule in rules.rules)}
    if Verdict.CONTINUE not in verdicts:
        return
    reported: set[int] = set()
    for device in _devices(rules):
        for index in _switched(rules, device) - reported:
            where: tuple[int | str, ...] = ("syscalls", family, "rules", index)
            if index < 0:
                if rules.otherwise.verdict is not Verdict.CONTINUE:
                    continue
                where = ("syscalls", family, "otherwise")
                message = "`otherwise: kernel` beside a refusal by path is a race"
            elif (
                rules.rules[index].verdict is not Verdict.CONTINUE
                or section.rules[index].accept_race
            ):
                continue
            else:
                message = "`continue` beside a refusal by path is a race"
                where = (*where, "do")
            reported.add(index)
            source.add(
                source.root.at(where).mark,
                f"{message}: the caller can change the path after it was looked at. "
                "Refuse or emulate instead, or write accept_race: true on a continue rule",
            )


def _devices(rules: RuleSet) -> list[tuple[str, int, int] | None]:
    """One device for each way in which rules can overlap: corners of their ranges."""
    if all(rule.nodes is None for rule in rules.rules):
        return [None]
    ranges = {nodes for rule in rules.rules for nodes in rule.nodes or ()}
    # Any range's low corner, alone and with the majors and minors where others begin.
    majors = {(kind, low) for kind, low, _, _, _ in ranges}
    out: dict[tuple[str, int, int] | None, None] = {("c", 4095, 1048575): None, None: None}
    for kind, low, high, first, last in sorted(ranges):
        out[kind, low, first] = None
        if len(ranges) <= 256:
            for other, major in majors:
                if other == kind and low <= major <= high:
                    for _, _, _, minor, _ in ranges:
                        if first <= minor <= last:
                            out[kind, major, minor] = None
    return list(out)


def _switched(rules: RuleSet, device: tuple[str, int, int] | None) -> set[int]:
    """The rules between which a path can switch a caller of `device` from a refusal to a continue.

    -1 is `otherwise`. The caller's ids are no memory: for one caller a rule on ids alone either
    decides, and ends the list, or is not there.
    """
    by_path: set[int] = set()
    out: set[int] = set()
    for index in rules.meeting(device):
        rule = rules.rules[index]
        if rule.globs is not None:
            by_path.add(index)
            continue
        out |= _mixed(rules, by_path | {index})
        if not rule.needs_facts:
            return out
    return out | _mixed(rules, by_path | {-1})


def _mixed(rules: RuleSet, those: set[int]) -> set[int]:
    verdicts = {
        rules.rules[index].verdict if index >= 0 else rules.otherwise.verdict for index in those
    }
    switches = Verdict.CONTINUE in verdicts and verdicts & (REFUSALS | {Verdict.RETURN})
    return those if switches and len(those) > 1 else set()


def _node_sets(sets: Sets) -> dict[str, RuleSet]:
    return {name: rules for name, rules in sets.items() if isinstance(rules, RuleSet)}


def _served(
    sets: Sets, traits: Traits, families: Mapping[str, FamilySpec]
) -> list[CallSpec]:
    realises = frozenset(
        rule.realise
        for rules in _node_sets(sets).values()
        for rule in rules.rules
        if rule.verdict is Verdict.EMULATE
    )
    mounts = any(rules.emulates for rules in sets.values() if isinstance(rules, MountRules))
    out: list[CallSpec] = []
    for name, family in families.items():
        if family.keys is None:
            out += family.serves(traits, realises, mounts=mounts)
        elif name in sets:
            out += family.calls
    return out


_ALL_NODES: tuple[NodeRange, ...] = (("b", 0, 0xFFF, 0, 0xFFFFF), ("c", 0, 0xFFF, 0, 0xFFFFF))


def _ceiling(sets: Sets) -> tuple[tuple[str, int, int, int, int, bool], ...]:
    closed: dict[NodeRange, bool] = {}
    for rules in _node_sets(sets).values():
        for rule in rules.rules:
            if rule.verdict is Verdict.EMULATE:
                for nodes in rule.nodes or _ALL_NODES:
                    closed[nodes] = closed.get(nodes, True) and rule.realise == "closed"
    return tuple(sorted((*nodes, only) for nodes, only in closed.items()))


def filter_rules(
    sets: Sets, served: Sequence[CallSpec], families: Mapping[str, FamilySpec]
) -> list[bpf.FilterRule]:
    """What the filter does for each call that is served, and for the doors that lead around one."""
    out: list[bpf.FilterRule] = []
    settled = {name: _settle(rules) for name, rules in _node_sets(sets).items()}
    for spec in served:
        family = families[spec.family]
        if family.keys is None:
            out += [
                bpf.FilterRule(spec.name, bpf.RET_USER_NOTIF, match)
                for match in family.always(spec, None)
            ]
            continue
        nodes = next((key for key in family.keys.values() if isinstance(key, NodeMatch)), None)
        if nodes is None:
            out += [
                bpf.FilterRule(spec.name, bpf.RET_USER_NOTIF, match)
                for match in family.always(spec, sets[spec.family])
            ]
            continue
        for action, those in settled[spec.family].items():
            out += [bpf.FilterRule(spec.name, action, _match(spec, nodes, cube)) for cube in those]
    by_path = any(
        rule.globs is not None for rules in _node_sets(sets).values() for rule in rules.rules
    )
    if by_path or any(families[spec.family].io_uring for spec in served):
        # What goes through a ring never meets the filter.
        out.append(bpf.FilterRule("io_uring_setup", bpf.ret_errno(errno.ENOSYS)))
    if any(isinstance(rules, MountRules) for rules in sets.values()):
        # The other way to a new mount, and to a remount, has its options in calls of their own: no
        # single one could be decided. Who hears that there is none takes mount(2), mount(8) too.
        out += [
            bpf.FilterRule(name, bpf.ret_errno(errno.ENOSYS)) for name in ("fsopen", "fspick")
        ]
    return out


def _match(spec: CallSpec, nodes: NodeMatch, cube: Cube) -> Match:
    mode, dev = spec.index(nodes.mode), spec.index(nodes.dev)
    if mode is None or dev is None:
        raise TypeError(f"{spec.name} has no device")
    match = (Condition(mode, S_IFMT, FILE_TYPES[cube.kind]),)
    return match if not cube.mask else (*match, Condition(dev, cube.mask, cube.value))


def _settle(rules: RuleSet) -> dict[int, list[Cube]]:
    """What the filter does with each device: the cubes of each action but "allow".

    A rule whose verdict the registers settle is answered by the filter where nobody wants to know
    of it: a `continue`, and what is `silent`. All else that a rule or `otherwise` could refuse,
    grant or look into notifies.
    """
    earlier: list[Cube] = []
    allowed: list[Cube] = []
    out: dict[int, list[Cube]] = {}
    wanted: list[Cube] = []
    quick = len(rules.rules) > _CUBES_MAX
    for rule in rules.rules:
        action = None if quick or rule.needs_facts else _action(rule)
        region = cubes(rule.nodes)
        if action is None:
            wanted += region
        else:
            mine = disjoint(subtract(region, [cube for cube in earlier if _meets(cube, region)]))
            if action == bpf.RET_ALLOW:
                allowed += mine
            else:
                out.setdefault(action, []).extend(mine)
        earlier += region
    silent = [cube for those in out.values() for cube in those]
    if rules.otherwise.verdict is Verdict.REFUSE or len(set(wanted)) > _CUBES_MAX:
        wanted = list(UNIVERSE)
    notified = subtract(dict.fromkeys(wanted), silent + allowed)
    if len(notified) + len(silent) > _CUBES_MAX:
        return {bpf.RET_USER_NOTIF: list(UNIVERSE)}
    out[bpf.RET_USER_NOTIF] = notified
    return out


def _meets(cube: Cube, region: Sequence[Cube]) -> bool:
    return any(overlap(cube, other) for other in region)


def _action(rule: Rule) -> int | None:
    if rule.verdict is Verdict.CONTINUE:
        return bpf.RET_ALLOW
    if not rule.silent:
        return None
    if rule.verdict is Verdict.KILL:
        return bpf.RET_KILL_PROCESS
    return bpf.ret_errno(rule.value if rule.verdict is Verdict.ERRNO else errno.EPERM)
