"""What is odd in a policy without being wrong: `seccompd check` says it as a warning.

Each function here looks for one kind of thing, and adds findings where they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from supervisor.kernel.mounts import USERNS_TYPES
from supervisor.model import Verdict
from supervisor.policy import grants
from supervisor.policy.callers import CHOSEN
from supervisor.policy.cubes import cubes
from supervisor.policy.devices import protected
from supervisor.policy.draft import Draft
from supervisor.policy.grants import entries
from supervisor.policy.mounts import TEXT_TYPES, MountRule
from supervisor.policy.opens import OpenRules
from supervisor.policy.races import can_race, place_against, races
from supervisor.policy.rules import Rule
from supervisor.policy.shadows import TooMany, shadows
from supervisor.policy.sockets import AnyRule, AnyRules
from supervisor.policy.source import Node, Source
from supervisor.policy.traits import Nodes
from supervisor.policy.xattrs import XattrRule


def lint(draft: Draft, nodes: Nodes | None = None) -> None:
    """Adds warnings to the findings of a draft. `nodes`: whom it is for, where that is said."""
    for family, rules in draft.sets.items():
        for check in (_chosen, _unreachable, _accepted_races, _by_kernel, _twice):
            check(draft, family, rules)
        grants.warn(draft, rules, family)
        if isinstance(rules, OpenRules):
            _given(draft, family, rules, nodes)
        if nodes is not None:
            _for_whom(draft, family, rules, nodes)
    _left_to_kernel(draft)
    _unused_lists(draft)
    for source in draft.source.included:
        _not_taken_over(draft, source)


def _warn(node: Node, message: str) -> None:
    Source.at(node, message, "warning")


def _key(node: Node, key: str) -> Node:
    return node.at((key,), key=True)


def _chosen(draft: Draft, family: str, rules: AnyRules) -> None:
    every: Sequence[AnyRule] = rules.rules
    for index, rule in enumerate(every):
        if rule.caller is None:
            continue
        node = draft.node(family, index)
        for key, why in CHOSEN.items():
            if node.kind == "mapping" and key in node.pairs:
                _warn(_key(node, key), f"{key} is no protection: {why}")


def _unreachable(draft: Draft, family: str, rules: AnyRules) -> None:
    try:
        for shadow in shadows(rules):
            node = draft.node(family, shadow.index)
            if not shadow.by:
                continue  # see _by_kernel
            places = [rules.rules[number].place for number in shadow.by[:4]]
            if len(shadow.by) > len(places):
                places.append("others")
            verb = "decides" if len(places) == 1 else "decide"
            _warn(
                node,
                f"this rule is never reached: {' and '.join(places)} {verb} all that it matches",
            )
    except TooMany:
        _warn(
            draft.node(family, 0),
            "too many rules to hold each against each: some may be unreachable unseen",
        )


def _accepted_races(draft: Draft, family: str, rules: AnyRules) -> None:
    try:
        found = {race.index: race for race in races(rules) if can_race(family)}
    except TooMany:
        return  # that is an error already
    section = getattr(draft.document.syscalls, family)
    for index, raw in enumerate(section.rules):
        if not raw.accept_race:
            continue
        node = _key(draft.node(family, index), "accept_race")
        if index in found:
            race = found[index]
            _warn(
                node,
                f"a caller that changes the {' or the '.join(race.texts)} in time gets past "
                f"{place_against(race, rules)} by this rule",
            )
        else:
            _warn(node, "accept_race says nothing here: no pointer leads from this to a refusal")


def _by_kernel(draft: Draft, family: str, rules: AnyRules) -> None:
    """What the filter never notifies, and what the kernel does for a container anyway."""
    every: Sequence[AnyRule] = rules.rules
    for index, rule in enumerate(every):
        node = draft.node(family, index)
        if isinstance(rule, Rule):
            for number, nodes in enumerate(rule.nodes or ()):
                if not cubes([nodes]):
                    _warn(
                        entries(node, "devices")[number],
                        "character device 0:0 is a whiteout: the kernel makes it for everybody, "
                        "and the filter never notifies it",
                    )
        elif isinstance(rule, MountRule) and rule.verdict is Verdict.EMULATE:
            _mounts_by_kernel(node, rule)


def _twice(draft: Draft, family: str, rules: AnyRules) -> None:
    """Devices that a rule names more than once, maybe by different words."""
    every: Sequence[AnyRule] = rules.rules
    for index, rule in enumerate(every):
        if not isinstance(rule, Rule):
            continue
        first: dict[object, int] = {}
        for number, nodes in enumerate(rule.nodes or ()):
            if first.setdefault(nodes, number) != number:
                named = entries(draft.node(family, index), "devices")
                once = named[first[nodes]].scalar
                _warn(named[number], f"this device is in the list already, as {once}")


def _mounts_by_kernel(node: Node, rule: MountRule) -> None:
    for number, fstype in enumerate(rule.types or ()):
        since = USERNS_TYPES.get(fstype)
        if since is not None:
            version = ".".join(map(str, since))
            _warn(
                entries(node, "fstype")[number],
                f"the kernel lets root of a container mount {fstype} by itself (since Linux "
                f"{version}): leave that to `otherwise: kernel`, or to do: continue",
            )
    if rule.devices and rule.types and TEXT_TYPES.issuperset(rule.types):
        _warn(
            _key(node, "source"),
            f"{', '.join(rule.types)} is mounted from no device: a device's number never matches",
        )


def _given(draft: Draft, family: str, rules: OpenRules, nodes: Nodes | None) -> None:
    """What opens are given: the host's own devices, and what takes more rights than there are."""
    for index, rule in enumerate(rules.rules):
        if rule.inject is None:
            continue
        node = draft.node(family, index).at(("do",))
        if rule.inject.device is not None:
            if what := protected(*rule.inject.device):
                _warn(node, f"{rule.inject.text()} gives {what}")
            if nodes == "host" and not rule.inject.writes:
                text = "for an ordinary user the host's node is given: it may be opened again"
                _warn(node, f"{text} for writing, where the host lets this user")
        elif not rule.inject.ours and nodes == "host":
            thing = rule.inject.text().partition(" ")[0]
            _warn(node, f"for an ordinary user no {thing} can be given: this is EPERM")


def _for_whom(draft: Draft, family: str, rules: AnyRules, nodes: Nodes) -> None:
    """Settings that cannot be carried out for an ordinary user, or without namespaces."""
    every: Sequence[AnyRule] = rules.rules
    for index, rule in enumerate(every):
        if rule.verdict is not Verdict.EMULATE:
            continue
        text = ""
        if isinstance(rule, MountRule):
            if nodes == "none":
                text = "under --map none nothing is mounted: this is EPERM"
            elif nodes == "host" and rule.settings.via == "kernel":
                text = "for an ordinary user the kernel's drivers are out of reach: this is EPERM"
        elif isinstance(rule, XattrRule):
            if nodes == "host" and rule.root:
                text = "for an ordinary user nobody acts as the host's root: this is EPERM"
        elif not isinstance(rule, Rule):
            pass
        elif nodes == "host" and rule.realise == "node":
            text = "an ordinary user gets no real node: this is EPERM"
        elif nodes == "none" and rule.realise in ("bind", "closed"):
            text = f"under --map none nothing is mounted: realise: {rule.realise} is a real node"
        if text:
            _warn(draft.node(family, index).at(("do",)), text)


def _left_to_kernel(draft: Draft) -> None:
    """What `otherwise: kernel` comes to where the kernel may not refuse by itself."""
    document = draft.document
    hosts = document.match is not None and "host" in document.match.user_namespace
    if document.otherwise == "kernel" and hosts:
        _warn(
            _key(draft.source.root, "otherwise"),
            "root of a container without a user namespace of its own is the host's: what its "
            "profile notifies, and no family is about, it may do as far as its capabilities go",
        )


def _unused_lists(draft: Draft) -> None:
    """Lists of a policy with rules of its own; a file without is there to be included by others."""
    if any(rules.rules for rules in draft.sets.values()):
        for key in draft.unused:
            _warn(key, f"the list {key.scalar} is used nowhere")


# What of an included file does not count, and what holds where the including one says nothing.
_OWN: Final[Mapping[str, object]] = {
    "mode": "enforce", "otherwise": "refuse", "on_error": "EPERM", "limits": None,
}  # fmt: skip


def _not_taken_over(draft: Draft, source: Source) -> None:
    """What an included file says and the policy does not: of it lists and rules count alone."""
    entry, root, main = source.entry, source.root, draft.source.root
    if entry is None or root.kind != "mapping":
        return
    for key, usual in _OWN.items():
        said, here = _said(root, (key,), usual), _said(main, (key,), usual)
        if said not in (usual, here):
            text = "it has limits of its own" if usual is None else f"it says {key}: {said}"
            _warn(entry, f"{text}, which does not count here: say it in this policy where meant")
    for family in draft.sets:
        where = ("syscalls", family, "otherwise")
        said, here = _said(root, where, "refuse"), _said(main, where, "refuse")
        if said != here and _said(root, where[:2], None):
            _warn(
                entry,
                f"it says otherwise: {said} for {family}, which does not count here: calls that no "
                f"rule matches go by otherwise: {here}",
            )
    for other in source.included:
        _not_taken_over(draft, other)


def _said(root: Node, where: Sequence[str], usual: object) -> object:
    """The value at a path of keys; `usual` where it is not there."""
    node = root
    for key in where:
        if node.kind != "mapping" or key not in node.pairs:
            return usual
        node = node.pairs[key][1]
    return node.value()
