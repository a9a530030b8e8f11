"""Explanations, held against the decisions that they explain."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.mounts import MS
from supervisor.kernel.syscalls import I386, X86_64
from supervisor.kernel.text import printable
from supervisor.model import Facts, Source, Verdict
from supervisor.observe import audit
from supervisor.policy import smallest
from supervisor.policy.asked import Asked, named
from supervisor.policy.call_text import parse
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.explain import explain
from supervisor.policy.recorded import recorded
from tests.support.policies import mknod, mounts, policy


def asked(text: str, **caller: Any) -> Asked:
    return replace(parse(FAMILIES, text), caller=caller)


KVM = 'mknod("/dev/kvm", S_IFCHR|0666, makedev(10,232))'


def test_each_rule_is_tried_and_says_what_did_not_hold() -> None:
    compiled = mknod(
        '{devices: ["null", zero], do: emulate}',
        '{devices: [kvm], path: ["/srv/**", "/a"], do: emulate}',
        "{devices: [kvm], host_uid: 1-5, do: {errno: ENODEV}}",
        "{devices: [kvm], capability: [sys_admin, mknod], do: emulate}",
        '{devices: [kvm], executable: "/bin/*", uid: 5, do: emulate}',
        "{devices: [kvm], do: {errno: EXDEV}}",
    )
    found = explain(compiled, asked("mknod pathname=kvm mode=char dev=10:232", executable="/x"))
    assert [(one.place, one.key) for one in found.tried] == [
        ("p.yaml:6", "devices"),
        ("p.yaml:7", "path"),
        ("p.yaml:8", ""),
    ], "who refuses matches whom nobody knows"
    found = explain(compiled, asked(KVM, resolved="/b", host_uid=9, capability=["chown"], uid=5))
    assert [(one.key, one.objection) for one in found.tried] == [
        ("devices", "kvm is not null or zero"),
        ("path", "/b, where it leads, does not match /srv/** or /a"),
        ("host_uid", "host_uid is 9"),
        ("capability", "the caller has none of sys_admin or mknod"),
        ("executable", "executable is not known"),
        ("", ""),
    ]
    assert found.decision
    assert (found.decision.verdict, found.decision.value) == (Verdict.ERRNO, 18)
    assert found.filtered == "notify"


def test_the_filter_is_asked_first() -> None:
    compiled = mknod("{devices: [zero], do: refuse, silent: true}")
    fifo = explain(compiled, asked("mknod pathname=x mode=fifo"))
    assert (fifo.filtered, fifo.decision, fifo.tried) == ("allow", None, ())
    zero = explain(compiled, asked("mknod pathname=x mode=char dev=1:5"))
    assert (zero.filtered, zero.decision) == ("errno EPERM", None)
    assert zero.run.way[-1] < len(compiled.filter) // 8


def test_calls_by_name_by_strace_and_from_a_record() -> None:
    by_name = parse(FAMILIES, "mknod pathname=/dev/kvm mode=char dev=10:232")
    assert parse(FAMILIES, KVM).snapshot == by_name.snapshot
    assert parse(FAMILIES, KVM + " = -1 EPERM (Operation not permitted) [x]").snapshot == (
        by_name.snapshot
    )
    at = parse(FAMILIES, "mknodat pathname=a/b mode=block dev=8:0", I386)
    assert at.snapshot.args == (-100, b"a/b", 0o060666, 0x800)
    assert at.snapshot.arch == I386
    mount = parse(FAMILIES, "mount source=/a target=/b filesystemtype=ext4 mountflags=ro,nosuid")
    assert mount.snapshot.args == (b"/a", b"/b", b"ext4", 3, 0)
    for wrong in (
        "", "mknod", "reboot()", 'mknod("x")', "mknod x", "mknod mode=chair", "mknod foo=1", "{",
        "{}", '{"syscall": "mknod", "args": {}}', "mknod pathname='x", "umount pathname=/x",
    ):  # fmt: skip
        if wrong == "mknod":
            continue
        with pytest.raises(ValueError, match=r"."):
            parse(FAMILIES, wrong)


def some(rnd: random.Random, *values: Any) -> Any:
    return rnd.choice(values)


@pytest.mark.parametrize("seed", range(60))
def test_it_says_of_device_nodes_what_is_decided(seed: int) -> None:
    rnd = random.Random(seed)
    rules = []
    for _ in range(rnd.choice((1, 3, 12))):
        keys = [f"devices: {some(rnd, '[zero]', 'char 1:*', 'block *:*')}"]
        if rnd.random() < 0.6:
            keys.append(f'path: "{some(rnd, "/a/**", "/**/b", "/a", "**")}"')
        if rnd.random() < 0.4:
            keys.append(f"{some(rnd, 'uid', 'host_uid')}: {some(rnd, 0, 1)}")
        if rnd.random() < 0.3:
            keys.append(some(rnd, "capability: mknod", 'executable: "/bin/*"', 'cgroup: "/x"'))
        keys.append(f"do: {some(rnd, 'emulate', 'refuse', '{errno: EIO}', 'kill')}")
        rules.append("{" + ", ".join(keys) + "}")
    compiled = mknod(*rules)
    for _ in range(40):
        call = named(
            FAMILIES, "mknod",
            {"pathname": some(rnd, "/a", "/a/b", "b", "/a/../b", "/c"),
             "mode": some(rnd, "char", "block"), "dev": some(rnd, "1:5", "1:3")},
        )  # fmt: skip
        facts = Facts(
            some(rnd, b"/a", b"/a/b", b"/c", None), some(rnd, 0, 1), 0,
            host_uid=some(rnd, 0, 1, None), capabilities=some(rnd, None, frozenset({"mknod"})),
            executable=some(rnd, None, b"/bin/x"), cgroup=some(rnd, None, b"/x", b"/y"),
        )  # fmt: skip
        check(compiled, replace(call, facts=facts))


@pytest.mark.parametrize("seed", range(60))
def test_it_says_of_mounts_what_is_decided(seed: int) -> None:
    rnd = random.Random(seed)
    rules = []
    for _ in range(rnd.choice((1, 3, 6))):
        keys = [f"fstype: {some(rnd, 'ext4', '[ext4, xfs]')}"]
        keys.append(f"source: {some(rnd, '/a', '[/b, block 7:0-7]', '/**')}")
        if rnd.random() < 0.5:
            keys.append(f"target: {some(rnd, '/m', '/m/**')}")
        if rnd.random() < 0.5:
            keys.append(f"options: {{allow: [{some(rnd, 'ro', 'nosuid', 'x*')}]}}")
        if rnd.random() < 0.4:
            keys.append(some(rnd, "capability: mknod", "uid: 1"))
        keys.append(f"do: {some(rnd, 'emulate', 'refuse', '{errno: EIO}')}")
        rules.append("{" + ", ".join(keys) + "}")
    compiled = mounts(*rules, otherwise="refuse")
    for _ in range(40):
        call = named(
            FAMILIES, "mount",
            {"source": "/a", "target": "/m", "filesystemtype": some(rnd, "ext4", "xfs", "proc"),
             "mountflags": some(rnd, 0, MS["ro"], MS["remount"]), "data": some(rnd, None, "xy")},
        )  # fmt: skip
        source = some(
            rnd, None, Source("image", b"/a"), Source("device", b"/dev/loop1", (7, 1)),
            Source("image", b"/c"),
        )  # fmt: skip
        target = some(rnd, b"/m", b"/m/x", b"/n", None)
        facts = Facts(target, some(rnd, 0, 1), 0, source, target, capabilities=some(
            rnd, None, frozenset({"mknod"})
        ))  # fmt: skip
        check(compiled, replace(call, facts=facts))


def check(compiled: CompiledPolicy, call: Asked) -> None:
    found = explain(compiled, call)
    if found.filtered != "notify":
        assert found.decision is None
        return
    assert found.decision is not None
    rules = compiled.families[call.spec.family]
    places = [rule.place for rule in rules.rules]
    if found.tried:
        assert [one.place for one in found.tried] == places[: len(found.tried)]
        assert all(one.objection for one in found.tried[:-1])
        if found.tried[-1].key:
            assert found.decision.rule not in places
            assert len(found.tried) == len(places)
        else:
            assert found.tried[-1].place == found.decision.rule
    else:
        assert found.decision.rule not in places


@pytest.mark.parametrize("seed", range(25))
def test_the_smallest_rule_allows_the_call_and_no_other(seed: int) -> None:
    rnd = random.Random(seed)
    names = ("/srv/a b", "x/null", "/a*b?[c]", "/q\"'{}: #", "/sä/\x07", "/../e\\d", "/\x85\u2028")
    text = "version: 1\nsyscalls:\n  mknod:\n    - {devices: [zero], do: emulate}\n"
    text += "    - {devices: [full], path: /**, do: {errno: EIO}}\n"
    call = named(
        FAMILIES, some(rnd, "mknod", "mknodat"),
        {"pathname": rnd.choice(names), "mode": "char", "dev": some(rnd, "1:3", "1:7", "10:232")},
    )  # fmt: skip
    plain = [name for name in names if name[0] == "/" and ".." not in name]
    call = replace(call, caller={"resolved": rnd.choice(plain)} if rnd.random() < 0.5 else {})
    compiled = policy(text)
    decision, facts = call.decided(compiled)
    assert decision.verdict is not Verdict.EMULATE
    rules = compiled.families["mknod"]
    found = smallest.smallest(rules, call, facts, FAMILIES, "host")
    assert found is not None
    added, before = found
    lines = text.splitlines()
    at = int(before.rpartition(":")[2]) - 1 if before else len(lines)
    lines.insert(at, f"    - {added}")
    changed = policy("\n".join(lines))
    granted, _ = call.decided(changed)
    assert (granted.verdict, granted.rule) == (Verdict.EMULATE, f"p.yaml:{at + 1}")
    other = named(FAMILIES, "mknod", {"pathname": "/elsewhere", "mode": "char", "dev": "10:232"})
    assert other.decided(changed)[0].verdict is not Verdict.EMULATE
    device = named(FAMILIES, "mknod", {"pathname": "/srv/a b", "mode": "char", "dev": "10:231"})
    assert device.decided(changed)[0].verdict is not Verdict.EMULATE


RELATIVE = [
    ("", "x", {}, '{devices: [kvm], path: "**/x", do: emulate}'),
    ("", "../a b/x*/", {}, r'{devices: [kvm], path: "**/x\\*", do: emulate}'),
    ("", "/srv/../x", {}, '{devices: [kvm], path: "**/x", do: emulate}'),
    ("", "a/..", {}, "{devices: [kvm], do: emulate}"),
    ("", "x", {"cwd": "/srv"}, '{devices: [kvm], path: "/srv/x", do: emulate}'),
    ("", "x", {"resolved": "/srv/y"}, '{devices: [kvm], path: "/srv/y", do: emulate}'),
    # where a policy looks at paths, it takes one for known, which it is not
    ("path: /etc/**, ", "x", {}, '{devices: [kvm], path: "**/x", do: emulate}'),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "path", "caller", "rule"), RELATIVE)
def test_the_smallest_rule_for_a_relative_path_allows_it_wherever_it_is(
    keys: str, path: str, caller: dict[str, Any], rule: str
) -> None:
    text = f"version: 1\nsyscalls:\n  mknod:\n    - {{devices: [kvm], {keys}do: refuse}}\n"
    if not keys:
        text = text.replace("kvm", "zero")
    compiled = policy(text)
    call = replace(named(FAMILIES, "mknod", {"pathname": path, "mode": "char", "dev": "10:232"}),
                   caller=caller)  # fmt: skip
    decision, facts = call.decided(compiled)
    assert decision.verdict is Verdict.REFUSE
    found = smallest.smallest(compiled.families["mknod"], call, facts, FAMILIES, "host")
    assert found is not None
    assert found[0] == rule
    changed = policy(text.replace("  mknod:\n", f"  mknod:\n    - {rule}\n"))
    name = path.rstrip("/").rpartition("/")[2].replace("..", "z")
    for start in (caller.get("cwd"),) if caller else ("/", "/srv/tree", "/etc/a/b"):
        where = caller.get("resolved", f"{start}/{name}".replace("//", "/"))
        granted, _ = replace(call, caller={"resolved": where}).decided(changed)
        assert granted.verdict is Verdict.EMULATE, where
    careful = smallest.warnings(call, rule, FAMILIES)
    assert any("is not known: --cwd or --resolved says it" in one for one in careful) == (
        not caller
    )


def test_the_smallest_rule_names_no_image_and_no_socket_that_nobody_knows() -> None:
    compiled = mounts('{fstype: xfs, source: "/i/*", do: emulate}', otherwise="refuse")
    call = asked('mount("a.img", "m", "squashfs", 0, NULL)')
    _, facts = call.decided(compiled)
    found = smallest.smallest(compiled.families["mount"], call, facts, FAMILIES, "host")
    assert found is not None
    assert found[0] == (
        '{fstype: squashfs, source: "**", options: {allow: []}, do: {emulate: {via: fuse}}}'
    )
    careful = smallest.warnings(call, found[0], FAMILIES)
    assert len([one for one in careful if "is not known" in one]) == 2
    compiled = policy('version: 1\nsyscalls: {connect: [{path: "/run/x", do: emulate}]}\n')
    call = asked('connect(3, {sa_family=AF_UNIX, sun_path="s"}, 110)')
    _, facts = call.decided(compiled)
    found = smallest.smallest(compiled.families["connect"], call, facts, FAMILIES, "host")
    assert found is not None
    assert found[0] == '{path: "**", do: emulate}'


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        ('open("/dev/kvm", O_RDWR)', '{path: "/dev/kvm", do: {inject: {device: kvm}}}'),
        ('openat(3, "/dev/./net/tun", O_RDWR)',
         '{path: "/dev/net/tun", do: {inject: {device: "net/tun"}}}'),
        ('open("/dev/kvm", O_RDONLY|O_DIRECTORY)', None),
        ('open("/srv/kvm", O_RDWR)', None),
        ('open("/dev/fusea", O_RDWR)', None),
        ('openat(3, "kvm", O_RDWR)', None),
    ],
)  # fmt: skip
def test_the_smallest_rule_of_an_open(call: str, rule: str | None) -> None:
    """Of a device at its usual place; what else would be given nobody can guess."""
    text = "version: 1\nsyscalls:\n  open:\n    - {path: /dev/fuse, do: {inject: {device: fuse}}}\n"
    compiled, wanted = policy(text), asked(call)
    decision, facts = wanted.decided(compiled)
    assert decision.verdict is Verdict.CONTINUE
    found = smallest.smallest(compiled.families["open"], wanted, facts, FAMILIES, "private")
    assert found == (None if rule is None else (rule, ""))
    if rule is not None:
        granted, _ = wanted.decided(policy(f"{text}    - {rule}\n"))
        assert granted.verdict is Verdict.INJECT


def test_the_smallest_rule_of_a_mount() -> None:
    compiled = mounts('{fstype: ext4, source: "/images/*", do: emulate}', otherwise="refuse")
    for nodes, caller, wanted in (
        ("host", {}, 'source: "/x \\\\* y", target: "/m", options: {allow: [ro, "a=b"]}, '
                     "do: {emulate: {via: fuse}}"),
        ("private", {"source": "device 253:1 /dev/vda1"},
         'source: block 253:1, target: "/m", options: {allow: [ro, "a=b"]}, do: emulate'),
    ):  # fmt: skip
        call = asked(
            'mount("/x * y", "/m", "ext4", MS_RDONLY|MS_SILENT, "a=b")', **caller
        )
        decision, facts = call.decided(compiled)
        assert decision.verdict is Verdict.REFUSE
        found = smallest.smallest(
            compiled.families["mount"], call, facts, FAMILIES, nodes  # type: ignore[arg-type]
        )
        assert found == ("{fstype: ext4, " + wanted + "}", "")


def test_records_of_calls_are_read_back_to_the_bit(tmp_path: Path) -> None:
    rnd = random.Random(4)
    specs = {spec.name: spec for family in FAMILIES.values() for spec in family.calls}
    for _ in range(200):
        path = b"/" + rnd.randbytes(rnd.randrange(20)).replace(b"\0", b"/").replace(b".", b"_")
        if rnd.random() < 0.5:
            call = named(FAMILIES, "mknodat", {"dirfd": rnd.randrange(9), "mode": "char"})
            args = (call.snapshot.args[0], rnd.choice((path, -14)), *call.snapshot.args[2:])
        else:
            call = named(FAMILIES, "mount", {"mountflags": rnd.getrandbits(25)})
            args = (rnd.choice((path, 0)), path, b"ext4", call.snapshot.args[3],
                    rnd.choice((path, 0, -7)))  # fmt: skip
        snapshot = call.snapshot._replace(args=args)
        spec = specs[snapshot.name]
        facts = Facts(
            path, 1, 2, Source("device", path, (8, 1)), path, 3, 4, frozenset({"mknod"}), path, path
        )
        record = json.loads(json.dumps({
            "syscall": spec.name, "arch": "x86_64", "args": audit.arguments(snapshot, spec),
            "facts": audit.facts_of(facts), "resolved": printable(path), "uid": 5, "gid": 6,
        }))  # fmt: skip
        found = recorded(FAMILIES, record)
        assert found is not None
        assert found.snapshot.args == snapshot.args
        assert found.snapshot.arch == X86_64
        assert found.facts == facts
