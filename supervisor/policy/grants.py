"""What a rule gives away of the host's: `seccompd check` says it as a warning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

from supervisor.kernel.mounts import MS
from supervisor.model import Verdict
from supervisor.policy.boxes import Box, Budget, Index, TooMany, meet, without
from supervisor.policy.devices import (
    HARDWARE,
    PROTECTED,
    SERIES,
    SERVING,
    device_text,
    parse_device,
)
from supervisor.policy.directories import DirectoryRules
from supervisor.policy.draft import Draft
from supervisor.policy.globs import includes
from supervisor.policy.match import NodeRange, text_matches
from supervisor.policy.mount_values import FLAG_NAMES, UNSET
from supervisor.policy.mounts import TEXT_TYPES, MountRule, MountRules
from supervisor.policy.rules import Rule, RuleSet
from supervisor.policy.shapes import NODES_MAX
from supervisor.policy.sockets import AnyRules
from supervisor.policy.source import Node, Source
from supervisor.policy.values import slip
from supervisor.policy.xattrs import OPAQUE, XattrRules

_STEPS_MAX: Final = 200_000
_SHOWN: Final = 3
# An option by which an image stops the whole machine, and how the kernel names devices in /dev.
PANIC: Final = "errors=panic"
_NODES: Final = "/dev/*"
# Nobody who meant a flag has written these.
_NO_WORD: Final = frozenset("=*?[")
# How alike a word must be to a flag: options are many, and short ones look alike.
_ALIKE: Final = 0.8


def warn(draft: Draft, rules: AnyRules, family: str) -> None:
    """Adds warnings about what the rules of one family grant."""
    if isinstance(rules, RuleSet) and not isinstance(rules, DirectoryRules):
        _nodes(draft, family, rules)
    elif isinstance(rules, XattrRules):
        _xattrs(draft, family, rules)
    elif isinstance(rules, MountRules):
        for index, rule in enumerate(rules.rules):
            node = draft.node(family, index)
            _words(node)
            if rule.verdict is Verdict.EMULATE:
                for place, text in _mount(node, rule):
                    Source.at(place, text, "warning")


def _xattrs(draft: Draft, family: str, rules: XattrRules) -> None:
    for index, rule in enumerate(rules.rules):
        if not any(rule.ceilings()):
            continue
        named = entries(draft.node(family, index), "name")
        for name, entry in zip(rule.names or (), named, strict=False):
            if name != OPAQUE:
                text = (
                    f"{name} as the host's root: what goes by such names, like an overlay of the "
                    "host's, believes of the container's files what the container says"
                )
                Source.at(entry, text, "warning")


def entries(node: Node, key: str) -> list[Node]:
    """The entries of a rule's key: those of a list, or the one value."""
    value = node.at((key,))
    return value.items if value.kind == "list" else [value]


# -- device nodes


def _nodes(draft: Draft, family: str, rules: RuleSet) -> None:
    """Rules that grant what is protected, unless an earlier rule has decided that already."""
    granting = [
        index for index, rule in enumerate(rules.rules)
        if rule.verdict is Verdict.EMULATE and rule.realise != "closed"
    ]  # fmt: skip
    before = rules.rules[: granting[-1]] if granting else ()
    settled = [
        () if rule.needs_facts or len(rule.nodes or ()) > NODES_MAX else rule.nodes or ()
        for rule in before
    ]
    earlier = Index([[_box(nodes) for nodes in some] for some in settled])
    budget = Budget(_STEPS_MAX)
    for index in granting:
        rule = rules.rules[index]
        node = draft.node(family, index)
        if rule.nodes is None:
            text = "without `devices` this grants the host's disks and its memory"
            Source.at(node.at(("do",)), text, "warning")
            continue
        for number, nodes in enumerate(rule.nodes):
            what = [
                text for own, text in _near(_box(nodes))
                if (both := meet(own, _box(nodes)))
                and _left(both, index, rules.rules, earlier, budget)
            ]  # fmt: skip
            if what:
                text = f"{device_text(nodes)} grants {_and(what)}"
                Source.at(entries(node, "devices")[number], text, "warning")


@cache
def _hosts_own() -> tuple[Sequence[tuple[Box, str]], Index]:
    """What is the host's own, with what a container would get by it; and a way to find it."""
    named = [(_box(nodes), text) for nodes, text in PROTECTED]
    known = [box for box, _ in named] + [_box(nodes) for nodes in SERVING]
    rest = without([_box(parse_device("char *:*"))], known, Budget(_STEPS_MAX))
    every = [*named, *((box, HARDWARE) for box in rest)]
    return every, Index([[box] for box, _ in every])


def _near(box: Box) -> Iterator[tuple[Box, str]]:
    """What of the host's own may be in `box`."""
    every, index = _hosts_own()
    return (every[number] for number in index.near(box, Budget(_STEPS_MAX)))


def _box(nodes: NodeRange) -> Box:
    kind, low, high, first, last = nodes
    return (ord(kind),) * 2, (low, high), (first, last)


def _left(box: Box, index: int, rules: Sequence[Rule], earlier: Index, budget: Budget) -> bool:
    """Whether some of `box` comes as far as rule `index`; True where that takes too long to say."""
    try:
        holes = [
            _box(nodes) for number in earlier.near(box, budget) if number < index
            for nodes in rules[number].nodes or ()
        ]  # fmt: skip
        return bool(without([box], holes, budget))
    except TooMany:
        return True


def _and(texts: Sequence[str]) -> str:
    some = list(dict.fromkeys(texts))
    if len(some) > _SHOWN:
        some = [*some[:_SHOWN], "more"]
    return " and ".join([", ".join(some[:-1]), some[-1]] if len(some) > 1 else some)


# -- mounts


def _mount(node: Node, rule: MountRule) -> Iterator[tuple[Node, str]]:
    if rule.settings.via == "kernel":
        yield from _sources(node, rule)
        for word, glob in _allowed(node):
            if text_matches(glob, PANIC):
                yield word, f"{glob} allows {PANIC}: then a broken image stops the whole machine"
    if not rule.settings.force & MS["nodev"]:
        yield (
            node.at(("do",)),
            "devices: true: every device node of the filesystem opens, also nodes of the host's "
            "disks and memory, which whoever made the image can have put there",
        )


def _sources(node: Node, rule: MountRule) -> Iterator[tuple[Node, str]]:
    """Sources that are the host's disks; a loop device has what somebody put there."""
    if rule.types and TEXT_TYPES.issuperset(rule.types):
        return
    loop = SERIES["loop"][1]
    for entry in entries(node, "source") if rule.by_source else ():
        text = str(entry.scalar)
        if text.startswith("block"):
            low, _, high = text.split()[1].partition(":")[0].partition("-")
            disks = {low, high or low} != {str(loop)}
        else:
            named = text.startswith("/dev/") and not text.startswith("/dev/loop")
            every = text.startswith(("/", "**")) and includes(text, _NODES, Budget(_STEPS_MAX))
            disks = named or every
        if disks:
            yield entry, f"{text} mounts the host's disks, where the caller can open them"


def _allowed(node: Node) -> Iterator[tuple[Node, str]]:
    """The words of `options: {allow: ...}`."""
    options = node.at(("options",))
    if options.kind == "mapping" and "allow" in options.pairs:
        for word in entries(options, "allow"):
            if word.kind == "scalar" and word.scalar is not None:
                yield word, word.scalar


def _words(node: Node) -> None:
    """Words that allow nothing that anybody would ask for: most likely they are slips."""
    for word, text in _allowed(node):
        said = ""
        plain = text.strip().lower().removeprefix("ms_")
        if text in UNSET:
            said = f"{text} is how it is without a flag: it need not be allowed"
        elif text != text.strip():
            said = f"{text!r} has blanks around it: no option has"
        elif text in FLAG_NAMES or not _NO_WORD.isdisjoint(text):
            continue
        elif plain in FLAG_NAMES:
            said = f"{text} is no option: the flag is written {plain}"
        elif text.startswith("MS_"):
            said = f"{text} is no option: flags are named as mount(8) does (ro, nosuid ...)"
        elif near := slip(plain, FLAG_NAMES, _ALIKE):
            said = f"{text} is an option that no flag stands for: did you mean {near}?"
        if said:
            Source.at(word, said, "warning")
