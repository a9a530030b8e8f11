"""Warnings about policies that load, and proofs about rules, held against all calls there are."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.device_numbers import MINOR_MAX
from supervisor.model import Decision, Facts, Source, Verdict
from supervisor.policy import store
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.devices import PROTECTED, device_text
from supervisor.policy.draft import read_draft
from supervisor.policy.lint import lint
from supervisor.policy.match import NodeRange
from supervisor.policy.shadows import shadows
from supervisor.policy.source import PolicyFindings
from supervisor.policy.traits import Nodes
from tests.support.policies import call, device, mknod, mount_call, mounts

HEAD = "version: 1\nsyscalls:\n  mknod:\n"
MOUNT = "version: 1\nsyscalls:\n  mount:\n    otherwise: kernel\n    rules:\n"


def warnings(text: str, nodes: Nodes | None = None) -> list[str]:
    draft = read_draft(Path("p.yaml"), text.encode(), FAMILIES)
    lint(draft, nodes)
    assert all(finding.severity == "warning" for finding in draft.source.findings)
    return [f"{f.mark.line}:{f.mark.column} {f.message}" for f in draft.source.findings]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + '    - {devices: ["null"], path: /a/**, do: emulate}\n', []),
        (HEAD + "    - {devices: zero, uid: 0, do: emulate}\n", ["4:23 uid is no protection"]),
        (
            HEAD + "    - {devices: zero, executable: /bin/x, do: refuse}\n",
            ["4:23 executable is no protection"],
        ),
        (HEAD + "    - {devices: zero, host_uid: 5, cgroup: /a, do: emulate}\n", []),
        (
            HEAD + "    - {devices: zero, do: emulate}\n    - {devices: [zero], do: refuse}\n",
            ["5:7 this rule is never reached: p.yaml:4 decides all that it matches"],
        ),
        (
            HEAD + "    - {devices: char 203:0-5, do: emulate}\n"
            "    - {devices: char 203:6-9, do: kill}\n"
            "    - {devices: char 203:3-7, path: /x, do: refuse}\n",
            ["6:7 this rule is never reached: p.yaml:4 and p.yaml:5 decide all"],
        ),
        (
            HEAD + "    - {devices: zero, path: /dev/**, do: emulate}\n"
            "    - {devices: zero, path: '/dev/*/x', do: emulate}\n",
            ["5:7 this rule is never reached: p.yaml:4 decides"],
        ),
        # Where a path leads to may not be known: then what refuses by it matches.
        (
            HEAD + "    - {devices: zero, path: /dev/**, do: emulate}\n"
            "    - {devices: zero, path: '/dev/*/x', do: refuse}\n",
            [],
        ),
        (
            HEAD + "    - {devices: zero, uid: [0, 1-9], do: emulate}\n"
            "    - {devices: zero, uid: 0-9, gid: 5, do: kill}\n",
            ["4:23 uid is", "5:7 this rule is never reached: p.yaml:4", "5:23 uid", "5:33 gid"],
        ),
        (
            HEAD + '    - {devices: ["null", "char 0:0"], do: emulate}\n',
            ["4:26 character device 0:0 is a whiteout"],
        ),
        (
            HEAD + "    - {path: /a, do: continue, accept_race: true}\n",
            ["4:32 a caller that changes the path in time gets past p.yaml:3 (otherwise)"],
        ),
        (
            HEAD + "    - {devices: zero, do: continue, accept_race: true}\n",
            ["4:37 accept_race says nothing here"],
        ),
        (HEAD + "    - {do: emulate}\n", ["4:12 without `devices` this grants the host's disks"]),
        (
            HEAD + '    - {devices: "char 1:*", do: emulate}\n',
            ["4:17 char 1:* grants the host's memory, "],
        ),
        (
            HEAD + "    - {devices: [zero, mem, 'char 10:196'], path: /a, do: emulate}\n"
            "    - {devices: mem, do: {emulate: {realise: closed}}}\n",
            ["4:24 mem grants the host's memory", "4:29 char 10:196 grants the host's devices"],
        ),
        (
            HEAD + "    - {devices: [zero, zero, full, 'char 1:5', 'char 1:*'], do: refuse}\n",
            ["4:24 this device is in the list already, as zero", "4:36 this device is in the list"],
        ),
        (  # what an earlier rule decides is not granted by a later one
            HEAD + "    - {devices: [mem, 'char 1:0-2', 'block 8:*'], do: refuse}\n"
            "    - {devices: ['char 1:0-3', 'block 8:1'], do: emulate}\n"
            "    - {devices: 'block 8-9:1', path: /a, do: emulate}\n",
            ["6:17 block 8-9:1 grants the host's block devices"],
        ),
        (
            MOUNT + '      - {fstype: ext4, source: "**", options: {allow: ["*"]}, '
            "do: {emulate: {via: kernel, devices: true}}}\n",
            [
                "6:32 ** mounts the host's disks",
                "6:56 * allows errors=panic",
                "6:67 devices: true: every device node",
            ],
        ),
        (
            MOUNT + '      - {fstype: ext4, source: ["block *:*", "block 8:1", /dev/sd*, "/dev/**",'
            ' "block 7:0", "/images/**"], do: emulate}\n'
            '      - {fstype: squashfs, source: "**", do: {emulate: {via: fuse}}}\n',
            [
                "6:33 block *:* mounts the host's disks",
                "6:46 block 8:1 mounts the host's disks",
                "6:59 /dev/sd* mounts the host's disks",
                "6:69 /dev/** mounts the host's disks",
            ],
        ),
        (
            MOUNT + "      - {fstype: ext4, source: /a, options: {allow: "
            '[ro, rw, "ro ", MS_RDONLY, MS_NODEV, nosuidd, acl, "x=nodev", user_xattr]}, '
            "do: emulate}\n",
            [
                "6:58 rw is how it is without a flag",
                "6:62 'ro ' has blanks around it",
                "6:69 MS_RDONLY is no option: flags are named as mount(8) does",
                "6:80 MS_NODEV is no option: the flag is written nodev",
                "6:90 nosuidd is an option that no flag stands for: did you mean nosuid?",
            ],
        ),
        (
            "version: 1\nlists: {a: [zero], b: [$a], c: [full]}\nsyscalls:\n  mknod:\n"
            "    - {devices: [$b], do: emulate}\n",
            ["2:29 the list c is used nowhere"],
        ),
        (
            MOUNT + "      - {fstype: [ext4, fuse], source: /a, do: emulate}\n",
            None,
        ),
        (
            MOUNT + "      - {fstype: [ext4], source: /a, options: {allow: [ro]}, do: emulate}\n"
            "      - {fstype: [ext4], source: /a, options: {allow: [ro, nosuid]}, do: emulate}\n"
            "      - {fstype: [ext4], source: /a, options: {allow: [nosuid]}, do: emulate}\n"
            "      - {fstype: [ext4], source: /a, target: /x, options: {allow: ro}, do: emulate}\n",
            [
                "8:9 this rule is never reached: p.yaml:7",
                "9:9 this rule is never reached: p.yaml:6",
            ],
        ),
        (
            MOUNT + '      - {fstype: ext4, source: "**", mode: audit, do: refuse}\n'
            "      - {fstype: ext4, options: {allow: [ro]}, do: kill, mode: audit}\n"
            "      - {fstype: ext4, source: block 8:1, do: {errno: EIO}, mode: audit}\n",
            [
                "7:9 this rule is never reached: p.yaml:6 decides",
                "8:9 this rule is never reached: p.yaml:6 decides",
            ],
        ),
        (  # where the source is not known, what grants does not match
            MOUNT + '      - {fstype: ext4, source: "**", do: {emulate: {via: fuse}}}\n'
            "      - {fstype: ext4, do: kill, mode: audit}\n",
            [],
        ),
        (
            MOUNT + "      - {fstype: [nfs, tmpfs], source: 'block 7:0', do: emulate}\n",
            [
                "6:24 the kernel lets root of a container mount tmpfs by itself (since Linux 3",
                "6:32 nfs, tmpfs is mounted from no device",
            ],
        ),
        ("version: 1\notherwise: kernel\nmatch: {door: oci}\nsyscalls: {}\n", []),
        (
            "version: 1\notherwise: kernel\nmatch: {user_namespace: [own, host]}\nsyscalls: {}\n",
            ["2:1 root of a container without a user namespace of its own is the host's"],
        ),
    ],
)
def test_what_is_odd_is_said(text: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(PolicyFindings):
            read_draft(Path("p.yaml"), text.encode(), FAMILIES).source.fail()
        return
    found = warnings(text)
    assert len(found) == len(expected), found
    for said, start in zip(sorted(found), sorted(expected), strict=True):
        assert said.startswith(start), (said, start)


def some_of(nodes: NodeRange) -> list[NodeRange]:
    """The range, its corners, and what reaches a little beyond it."""
    kind, low, high, first, last = nodes
    return [
        nodes, (kind, low, low, first, first), (kind, high, high, last, last),
        (kind, low, high, last, min(last + 1, MINOR_MAX)), (kind, low, low, 0, first),
        (kind, max(low - 1, 0), high, first, last),
    ]  # fmt: skip


@pytest.mark.parametrize("protected", PROTECTED, ids=lambda pair: str(pair[1]))
def test_what_meets_the_hosts_own_is_said(protected: tuple[NodeRange, str]) -> None:
    own, what = protected
    for nodes in some_of(own):
        text = device_text(nodes)
        (said,) = warnings(HEAD + f"    - {{devices: '{text}', path: /a/**, do: emulate}}\n")
        assert said.startswith(f"4:17 {text} grants ")
        assert what in said or said.endswith(" and more")
        closed = f"    - {{devices: '{text}', do: {{emulate: {{realise: closed}}}}}}\n"
        assert warnings(HEAD + closed) == []
        assert warnings(HEAD + f"    - {{devices: '{text}', do: {{errno: EIO}}}}\n") == []


def test_what_an_ordinary_user_cannot_do_is_said_where_it_is_asked_for() -> None:
    text = HEAD + "    - {devices: zero, do: {emulate: {realise: node}}}\n"
    assert warnings(text) == warnings(text, "private") == warnings(text, "none") == []
    assert warnings(text, "host")[0].startswith("4:27 an ordinary user gets no real node")
    bound = HEAD + "    - {devices: zero, do: {emulate: {realise: bind}}}\n"
    assert "under --map none" in warnings(bound, "none")[0]
    kernel = MOUNT + "      - {fstype: ext4, source: /a, do: emulate}\n"
    assert "out of reach" in warnings(kernel, "host")[0]
    assert "under --map none" in warnings(kernel, "none")[0]
    assert warnings(kernel, "private") == []


@pytest.mark.parametrize("name", sorted(store.available([store.shipped()])))
def test_what_ships_is_clean(name: str) -> None:
    assert warnings((store.shipped() / f"{name}.yaml").read_text()) == []


# -- proofs, against every call of a small world

DEVICES = [("c", 1, 3), ("c", 1, 5), ("b", 7, 0)]
PATHS = [b"/a", b"/a/b", b"/b/a", b"/b/b/a", b"x"]
RESOLVED: list[bytes | None] = [b"/a", b"/a/b", b"/b/a", b"/b/b/a", None]
IDS = [0, 1]


def some_rules(
    rnd: random.Random, verdicts: tuple[str, ...], audits: float = 0
) -> list[str]:
    rules = []
    for _ in range(rnd.choice((2, 3, 4))):
        keys = []
        if rnd.random() < 0.7:
            keys.append(
                "devices: ["
                + rnd.choice(('"null"', "zero", '"char 1:*"', '"block *:*"', '"null", loop0'))
                + "]"
            )
        if rnd.random() < 0.6:
            keys.append(f'path: "{rnd.choice(("/a", "/a/**", "/**/a", "/b/*", "/**"))}"')
        if rnd.random() < 0.4:
            keys.append(f"uid: {rnd.choice((0, 1, '0-1'))}")
        if rnd.random() < 0.2:
            keys.append(f"capability: {rnd.choice(('mknod', '[mknod, sys_admin]'))}")
        keys.append(f"do: {rnd.choice(verdicts)}")
        if rnd.random() < audits:
            keys.append("mode: audit")
        rules.append("{" + ", ".join(keys) + "}")
    return rules


def lets_go_and_refuses(decisions: Iterable[Decision]) -> bool:
    """Whether some of them let a call go on as it is, and some keep it from happening."""
    found = list(decisions)
    goes_on = any(one.audit or one.verdict is Verdict.CONTINUE for one in found)
    refused = (Verdict.REFUSE, Verdict.ERRNO, Verdict.RETURN)
    return goes_on and any(one.verdict in refused and not one.audit for one in found)


def decisions(
    policy: CompiledPolicy, node: tuple[str, int, int], uid: int, held: frozenset[str] | None
) -> Iterator[Decision]:
    """Everything that a call with this fixed part can come to, by what is in memory."""
    kind, major, minor = node
    mode = 0o020666 if kind == "c" else 0o060666
    for written in PATHS:
        first = policy.decide("mknod", call(written, mode, device(major, minor)))
        if not first.needs_facts:
            yield first
            continue
        for path in RESOLVED:
            facts = Facts(path, uid, 0, capabilities=held)
            yield policy.decide("mknod", call(written, mode, device(major, minor)), facts)


HELD = (None, frozenset[str](), frozenset({"mknod"}), frozenset({"sys_admin"}))


@pytest.mark.parametrize("seed", range(600))
def test_a_policy_that_loads_has_no_race(seed: int) -> None:
    rnd = random.Random(seed)
    verdicts = rnd.choice((("continue", "continue", "refuse", "{errno: EIO}", "emulate"),
                           ("refuse", "emulate", "{return: 0}", "continue")))  # fmt: skip
    rules = some_rules(rnd, verdicts, audits=rnd.choice((0, 0.5)))
    otherwise = rnd.choice(("refuse", "refuse", "kernel"))
    try:
        policy = mknod(*rules, otherwise=otherwise)
    except PolicyFindings as error:
        assert "race" in str(error)  # noqa: PT017
        return
    for node, uid, held in itertools.product(DEVICES, IDS, HELD):
        found = decisions(policy, node, uid, held)
        assert not lets_go_and_refuses(found), (rules, otherwise, node, uid, held)


def test_not_everything_is_called_a_race() -> None:
    rnd = random.Random(1)
    loaded = with_continue = 0
    for _ in range(200):
        rules = some_rules(rnd, ("continue", "refuse", "emulate"))
        try:
            policy = mknod(*rules)
        except PolicyFindings:
            continue
        loaded += 1
        every = [
            decision.verdict
            for node, uid in itertools.product(DEVICES, IDS)
            for decision in decisions(policy, node, uid, None)
        ]
        with_continue += Verdict.CONTINUE in every
    assert loaded > 60
    assert with_continue > 20


@pytest.mark.parametrize("seed", range(300))
def test_what_is_never_reached_never_decides(seed: int) -> None:
    rnd = random.Random(seed)
    policy = mknod(*some_rules(rnd, ("refuse", "{errno: EIO}", "emulate", "kill")))
    rules = policy.families["mknod"]
    found = {rules.rules[shadow.index].place: shadow for shadow in shadows(rules)}
    used = {
        decision.rule
        for node, uid, held in itertools.product(DEVICES, IDS, HELD)
        for decision in decisions(policy, node, uid, held)
        if not decision.needs_facts
    }
    assert not used & set(found)
    for shadow in found.values():
        assert all(by < shadow.index for by in shadow.by)


def test_most_of_what_is_never_reached_is_found() -> None:
    rnd = random.Random(2)
    found = unused = 0
    for _ in range(300):
        policy = mknod(*some_rules(rnd, ("refuse", "emulate")))
        rules = policy.families["mknod"]
        used = {
            decision.rule
            for node, uid, held in itertools.product(DEVICES, IDS, HELD)
            for decision in decisions(policy, node, uid, held)
        }
        unused += len({rule.place for rule in rules.rules} - used)
        found += len(list(shadows(rules)))
    assert found > 0.5 * unused > 20


@pytest.mark.parametrize("seed", range(150))
def test_mounts_that_load_have_no_race(seed: int) -> None:
    """The same for mounts: type, source, target and options are memory; flags are not."""
    rnd = random.Random(seed)
    rules = []
    for _ in range(rnd.choice((1, 2, 3))):
        keys = []
        if rnd.random() < 0.6:
            keys.append(f"fstype: {rnd.choice(('tmpfs', 'ext4', '[ext4, tmpfs]'))}")
        if rnd.random() < 0.3:
            keys.append(f"uid: {rnd.choice((0, 1))}")
        if rnd.random() < 0.3:
            keys.append(f"options: {{allow: [{rnd.choice(('ro', 'nosuid', 'x*'))}]}}")
        verdict = rnd.choice(("continue", "refuse", "{errno: EIO}"))
        if "uid" not in "".join(keys) or verdict != "continue":
            keys.append(f"do: {verdict}")
            if rnd.random() < 0.2:
                keys.append("mode: audit")
            rules.append("{" + ", ".join(keys) + "}")
    otherwise = rnd.choice(("refuse", "kernel"))
    try:
        policy = mounts(*rules, otherwise=otherwise)
    except PolicyFindings as error:
        assert "race" in str(error) or "goes by fstype" in str(error)  # noqa: PT017
        return
    for uid, flags in itertools.product(IDS, (0, 1, 2)):
        found = []
        for fstype, data in itertools.product((b"tmpfs", b"ext4", b"proc"), (b"", b"xy", b"z")):
            asked = mount_call(b"/s", fstype=fstype, flags=flags, data=data)
            decision = policy.decide("mount", asked)
            if decision.needs_facts:
                facts = Facts(b"/t", uid, 0, Source("text", b"/s"), b"/t")
                decision = policy.decide("mount", asked, facts)
            found.append(decision)
        assert not lets_go_and_refuses(found), (rules, otherwise, uid, flags)
