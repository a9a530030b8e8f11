"""Policies learned from records: they grant the calls again, and nothing of the host's own."""

from __future__ import annotations

import json
import os
import random
import string
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli import learn as cli
from supervisor.errors import PolicyError, UsageError
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.device_numbers import join_device
from supervisor.kernel.fuse_programs import PROGRAMS
from supervisor.kernel.text import printable
from supervisor.model import Decision, Facts, Outcome, Source, Verdict
from supervisor.observe.audit import AuditLog
from supervisor.policy.asked import named
from supervisor.policy.call_text import parse
from supervisor.policy.compile import compile_named
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.devices import NAMES, PROTECTED
from supervisor.policy.draft import read_draft
from supervisor.policy.generalise import globs_for
from supervisor.policy.lint import lint
from supervisor.policy.match import glob_matches
from supervisor.policy.merge import merged
from supervisor.policy.recorded import recorded
from supervisor.policy.rules import Rule
from supervisor.policy.said import settings_of
from supervisor.policy.traits import Traits
from supervisor.policy.write import NewRule
from tests.support.policies import policy

CLOSED: dict[str, Any] = {"emulate": {"realise": "closed"}}


def node(
    path: bytes, dev: int, resolved: bytes | None = None, kind: int = 0o020666, **more: Any
) -> dict[str, Any]:
    return {
        "v": 1,
        "session": "s",
        "policy": "learn",
        "time": "t",
        "syscall": "mknod",
        "arch": "x86_64",
        "nr": 133,
        "uid": 0,
        "gid": 0,
        "args": {"pathname": printable(path), "mode": kind, "dev": dev},
        "verdict": "emulate",
        "rule": "learn.yaml:13",
        "result": 0,
        "how": "node",
        "resolved": printable(resolved if resolved is not None else path),
        "facts": {"uid": 0, "gid": 0},
    } | (CLOSED if dev == 0x501 else {}) | more


def mount(
    source: bytes, target: bytes, fstype: str = "ext4", *, flags: int = 3, **more: Any
) -> dict[str, Any]:
    return {
        "syscall": "mount",
        "arch": "x86_64",
        "nr": 165,
        "uid": 0,
        "gid": 0,
        "args": {
            "source": printable(source),
            "target": printable(target),
            "filesystemtype": fstype,
            "mountflags": flags,
            "flags": ["ro", "nosuid"],
            "data": "noload,x=$y",
        },
        "verdict": "emulate",
        "rule": "learn.yaml:18",
        "emulate": {"via": "fuse"},
        "result": 0,
        "how": "fuse, pid 7",
        "resolved": printable(target),
        "facts": {"uid": 0, "gid": 0, "source": {"kind": "image", "name": printable(source)}},
    } | more


def learned(tmp_path: Path, *records: dict[str, Any], merge: str | None = None) -> str:
    log, out = tmp_path / "log", tmp_path / "out.yaml"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    out.unlink(missing_ok=True)
    cli.learn([log], str(out), merge=merge)
    return out.read_text()


def grants(text: str, record: dict[str, Any]) -> bool:
    compiled = policy(text)
    return decided(compiled, record).verdict is Verdict.EMULATE


def clean(text: str) -> bool:
    draft = read_draft(Path("p.yaml"), text.encode(), FAMILIES)
    lint(draft)
    return not draft.source.everything()


def test_devices_of_one_folder_become_one_rule(tmp_path: Path) -> None:
    records = [
        node(b"/srv/tree/dev/" + name, dev)
        for name, dev in (
            (b"null", 0x103),
            (b"zero", 0x105),
            (b"full", 0x107),
            (b"tty", 0x500),
        )
    ]
    text = learned(tmp_path, *records)
    assert '- {devices: ["null", zero, full, tty], path: "/srv/tree/dev/*", do: emulate}' in text
    assert clean(text)
    assert all(grants(text, record) for record in records)
    assert not grants(text, node(b"/srv/tree/null", 0x103))
    assert not grants(text, node(b"/srv/tree/dev/kvm", 0xAE8))


def test_both_names_of_a_place_are_in_it(tmp_path: Path) -> None:
    """An absolute path has to match as it was written, and where it leads."""
    record = node(b"/alias/null", 0x103, b"/srv/dev/null")
    relative = node(b"../dev/zero", 0x105, b"/srv/dev/zero")
    text = learned(tmp_path, record, relative)
    assert grants(text, record)
    assert grants(text, relative)
    assert "/alias/null" in text


def directory(path: bytes, redirect: str = "") -> dict[str, Any]:
    made = {"syscall": "mkdir", "nr": 83, "args": {"pathname": printable(path), "mode": 0o777}}
    return node(path, 0) | made | ({"emulate": {"redirect": redirect}} if redirect else {})


def as_before(text: str, record: dict[str, Any]) -> bool:
    """Whether a policy has the call carried out as it was."""
    expected: dict[str, Any] = record.get("emulate", {})
    return settings_of(decided(policy(text), record)) == expected


def test_what_was_led_elsewhere_is_not_taken_over_by_what_was_not(tmp_path: Path) -> None:
    plain = [directory(f"/w/d{n}/{name}".encode()) for n in range(8) for name in "ab"]
    led = directory(b"/w/d3/data", "/srv/data")
    text = learned(tmp_path, *plain, led)
    assert clean(text)
    assert '"/w/**"' in text
    assert all(grants(text, record) and as_before(text, record) for record in [*plain, led])


def test_nor_the_other_way_round(tmp_path: Path) -> None:
    """Three names that were led elsewhere are a folder's, but not where others are in that."""
    led = [directory(f"/w/{name}".encode(), "/srv/data") for name in "abc"]
    plain = directory(b"/w/d")
    others = [node(f"/dev/{n}".encode(), 0x103) for n in "abc"]
    text = learned(tmp_path, *led, plain, *others)
    assert clean(text)
    assert all(grants(text, record) and as_before(text, record) for record in [*led, plain])
    assert '"/dev/*"' in text, "names of other families are still generalised"


def test_nor_by_a_merge(tmp_path: Path) -> None:
    file = tmp_path / "base.yaml"
    file.write_text(
        "version: 1\nsyscalls:\n  mkdir:\n    - {path: /w/data, do: {redirect: /srv/data}}\n"
    )
    led = directory(b"/w/data", "/srv/data")
    plain = [directory(f"/w/{name}".encode()) for name in "abcd"]
    text = learned(tmp_path, led, *plain, merge=str(file))
    assert all(grants(text, record) and as_before(text, record) for record in [*plain, led])


def test_a_merge_reaches_nothing_that_the_policy_refuses_by_path(tmp_path: Path) -> None:
    """Nobody asked for it yet, so no record says that it is refused."""
    file = tmp_path / "base.yaml"
    file.write_text(
        "version: 1\nsyscalls:\n  mkdir:\n    - {path: /srv/secret, do: refuse}\n"
        "    - {path: /w/data, do: {redirect: /b}}\n    - {path: /home/**, do: emulate}\n"
    )
    for folder in ("/srv", "/w", "/x"):
        made = [directory(f"{folder}/{name}".encode()) for name in "abc"]
        text = learned(tmp_path, *made, merge=str(file))
        assert all(grants(text, record) for record in made)
        assert not grants(text, directory(b"/srv/secret"))
        assert not as_before(text, directory(b"/w/data"))
        assert ('"/x/*"' in text) == (folder == "/x"), "elsewhere a folder is a folder"


def test_many_folders_are_what_they_share(tmp_path: Path) -> None:
    """However deep each of them is."""
    paths = [f"/w/x/d{n}{below}".encode() for n in range(20) for below in ("", "/a", "/a/s")]
    assert globs_for(paths) == ["/w/x/**"]
    text = learned(tmp_path, *map(directory, paths))
    assert '"/**"' not in text
    assert all(grants(text, directory(path)) for path in paths)


def test_a_backslash_in_a_name_is_learned(tmp_path: Path) -> None:
    call = {
        "syscall": "setxattr", "nr": 188, "resolved": "/f",
        "args": {"pathname": "/f", "name": "user.a\\x5cb", "value": "y", "size": 1, "flags": 0},
    }  # fmt: skip
    record = node(b"/f", 0) | call
    text = learned(tmp_path, record)
    assert grants(text, record)
    assert clean(text)
    other = record | {"args": record["args"] | {"name": "user.ab"}}
    assert decided(policy(text), other).verdict is not Verdict.EMULATE


HOSTILE = [
    b'/a"b',
    b"/a'b",
    b"/x: y",
    b"/{a, b}",
    b"/[!x]",
    b"/*",
    b"/**",
    b"/?",
    b"/a\\*",
    b"/# c",
    b"/a\nrules:\n  - {do: emulate}",
    b"/\x80\xff",
    "/\u2028\u202e".encode(),
    b"/$list",
    b"/ ",
    b"/\x07",
    b"/- x",
    b"/&a *b !!c",
    b"/%41",
    b"/a]",
    b"/a}",
    "/é".encode(),
    b"/|",
    b"/>",
    b"/null",
    b"/0x10",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_no_name_is_yaml_or_a_wildcard(tmp_path: Path, path: bytes) -> None:
    text = learned(
        tmp_path,
        node(path, 0x103),
        node(b"/s" + path, 0x103, kind=0o060666, verdict="refuse", rule="x"),
    )
    assert grants(text, node(path, 0x103))
    assert clean(text)
    compiled = policy(text)
    (rule,) = compiled.families["mknod"].rules
    for other in (b"/other", b"/a/b/c", b"/list", b"/x", b"/zzz", path + b"x", b"/q" + path):
        assert not grants(text, node(other, 0x103)), other
    assert rule.nodes == (("c", 1, 1, 3, 3),)  # type: ignore[union-attr]
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert len(lines) == 6


@pytest.mark.parametrize("seed", range(30))
def test_whatever_was_granted_is_granted_again(tmp_path: Path, seed: int) -> None:
    rnd = random.Random(seed)
    names = [b"dev", b"a", b"tmp.Xa8dK2pQ1z", b"1234567", b"x*", b"rootfs", b"9f8e7d6c5b4a39281"]
    records = []
    for _ in range(rnd.choice((1, 5, 40))):
        path = b"/" + b"/".join(
            rnd.choice(
                (
                    *names,
                    rnd.randbytes(3).replace(b"\0", b"_").replace(b"/", b"_").replace(b".", b"_"),
                )
            )
            for _ in range(rnd.randrange(1, 5))
        )
        written = rnd.choice((path, b"x", b"../y"))
        records.append(node(written, rnd.choice((0x103, 0x105, 0x500, 0x501)), path))
        if rnd.random() < 0.3:
            records.append(mount(path, b"/mnt/" + rnd.choice(names)))
    text = learned(tmp_path, *records)
    assert clean(text)
    assert all(grants(text, record) for record in records)


@pytest.mark.parametrize(
    ("mode", "dev"),
    [
        (0o060660, 0x800),
        (0o060660, 0x700),
        (0o020666, 0x101),
        (0o020666, 0x104),
        (0o020666, 0x10B),
        (0o020600, 0x401),
        (0o020600, 0xAEC),
        (0o020600, 0x1500),
        (0o020600, 0xA90),
    ],
)
def test_the_hosts_own_is_never_learned(tmp_path: Path, mode: int, dev: int) -> None:
    """Even where the policy of the run granted it."""
    own = node(b"/dev/x", dev, kind=mode)
    text = learned(tmp_path, own, node(b"/dev/null", 0x103))
    assert not grants(text, own)
    assert "never learned" in text
    disk = mount(
        b"/dev/sda1",
        b"/mnt",
        how="kernel",
        facts={
            "uid": 0,
            "gid": 0,
            "source": {"kind": "device", "name": "/dev/sda1", "device": "8:1"},
        },
    )
    assert "syscalls: {}" in learned(tmp_path, disk)


def test_the_console_stays_closed(tmp_path: Path) -> None:
    text = learned(tmp_path, node(b"/dev/console", 0x501), node(b"/dev/null", 0x103))
    assert "{devices: [console], path:" in text
    assert "realise: closed" in text


@pytest.mark.parametrize("name", ["build", "default", "docker", "learn"])
def test_no_shipped_policy_is_widened(tmp_path: Path, name: str) -> None:
    """What is learned under it grants no device that it does not grant, and opens none that it
    makes closed; and grants all others, but what is the host's own."""
    base = compile_named(name, Traits("host"), FAMILIES)
    samples = {(nodes[0], nodes[1], nodes[3]) for nodes, _ in PROTECTED} | set(NAMES.values())
    for rule in base.families["mknod"].rules:
        assert isinstance(rule, Rule)
        samples |= {(nodes[0], nodes[1], nodes[3]) for nodes in rule.nodes or ()}
    records = []
    for kind, major, minor in sorted(samples):
        mode = 0o020600 if kind == "c" else 0o060600
        record = node(b"/t/%d-%d" % (major, minor), join_device(major, minor), kind=mode)
        decision = decided(base, record)
        record["verdict"] = decision.verdict.value
        record["emulate"] = settings_of(decision) if decision.verdict is Verdict.EMULATE else {}
        records.append(record)
    text = learned(tmp_path, *records)
    new = policy(text)
    assert clean(text)
    assert any(record["emulate"] for record in records), "nothing of it is closed"
    for record in records:
        before, after = decided(base, record), decided(new, record)
        assert after.verdict == before.verdict, record
        assert before.verdict is not Verdict.EMULATE or after.settings == before.settings, record


def decided(compiled: CompiledPolicy, record: dict[str, Any]) -> Decision:
    asked = recorded(FAMILIES, record)
    assert asked is not None
    return asked.decided(compiled)[0]


def test_a_device_lends_no_place_to_another(tmp_path: Path) -> None:
    records = [
        node(b"/a/dev/null", 0x103), node(b"/b/zero", 0x105), node(b"/c/console", 0x501),
        node(b"/c/vcs", 0x700, **CLOSED),
    ]  # fmt: skip
    text = learned(tmp_path, *records)
    assert "/".join(line.strip() for line in text.splitlines() if "- {" in line) == (
        '- {devices: [console], path: "/c/console", do: {emulate: {realise: closed}}}/'
        '- {devices: [char 7:0], path: "/c/vcs", do: {emulate: {realise: closed}}}/'
        '- {devices: ["null"], path: "/a/dev/null", do: emulate}/'
        '- {devices: [zero], path: "/b/zero", do: emulate}'
    )


def test_what_failed_is_not_learned(tmp_path: Path) -> None:
    """Nor what only a policy in audit mode would have granted, nor what led nobody knows where."""
    there = node(b"/dev/null", 0x103, errno="EEXIST")
    nameless = node(b"", 0x103, errno="ENOENT")
    only = node(b"/x", 0x103, mode="audit", answered_by="kernel")
    nowhere = node(b"x", 0x103)
    for record in (there, nameless, only, nowhere):
        del record["resolved"], record["facts"]
    text = learned(tmp_path, there, nameless, only, nowhere)
    assert "syscalls: {}" in text
    assert '#   1 x mknod("/dev/null", S_IFCHR|0666, makedev(1, 3))  (EEXIST)' in text
    assert text.count("#   1 x") == 4
    known = learned(tmp_path, nowhere | {"directory": "/srv/tree"})
    assert 'path: "/srv/tree/x"' in known


def test_a_mount_keeps_the_settings_of_its_rule(tmp_path: Path) -> None:
    squash: dict[str, Any] = {
        "via": "fuse", "program": list(PROGRAMS["squashfuse"]), "force": ["ro"],
    }  # fmt: skip
    own: dict[str, Any] = {
        "via": "fuse", "program": ["/opt/x y", "{source}", "{target}"], "from": "container",
    }  # fmt: skip
    by_kernel: dict[str, Any] = {
        "via": "kernel", "shift": "false", "force": ["nosuid", "noexec"], "devices": True,
    }  # fmt: skip
    records = [
        mount(b"/i/a", b"/m", "squashfs", emulate=squash),
        mount(b"/i/b", b"/m", "ext4", emulate=own),
        mount(b"/i/c", b"/m", "xfs", emulate=by_kernel),
    ]
    text = learned(tmp_path, *records)
    assert clean(text)
    for asked, said in zip(records, (squash, own, by_kernel), strict=True):
        decision = decided(policy(text), asked)
        assert settings_of(decision) == {k: v for k, v in said.items() if k != "devices"}
    assert "source: /i/a" in text.replace('"', "")


BASE = """version: 1
syscalls:
  mknod:
    - {devices: [zero], uid: 0, host_uid: ["1000-1999", 5], capability: mknod, do: emulate}
    - {devices: ["null"], cgroup: "/a/**", executable: "/bin/*", do: emulate}
  mkdir:
    - {path: "/srv/*", host_uid: 5, do: emulate}
    - {path: /a, do: {redirect: "/b c/é"}}
  mount:
    - {fstype: xfs, source: "/i/*", host_gid: 7, do: {emulate: {devices: true}}}
  connect:
    - {to: 10.0.0.1, port: 443, do: {redirect: "127.0.0.1:8443"}}
    - {to: 192.0.2.0/24, do: {translate: "64:ff9b::/96"}}
    - {to: "::/0", host_uid: 5, do: {redirect: "::1"}}
    - {to: 10.0.0.3, do: {redirect: {to: "127.0.0.1:80", peername: asked}}}
    - {to: 198.51.100.0/24, do: {translate: {prefix: "64:ff9b::/96", peername: asked}}}
    - {do: emulate}
  open:
    - {path: "/dev/net/*", do: {inject: {device: tun}}}
    - {path: "/dev/sd*", do: {inject: {device: "block 8:0", access: read-only}}}
    - {path: /etc/key, host_uid: 5, do: {inject: {file: /srv/key}}}
    - {path: /srv/read, do: {inject: {directory: /srv/all}}}
    - {path: /srv/write, do: {inject: {directory: /srv/all, access: read-write}}}
    - {path: /proc/kcore, do: {inject: {file: /proc/kcore}}}
    - {path: /kernel, do: {inject: {directory: /proc}}}
    - {path: /etc/text, do: {inject: {content: "text"}}}
    - {path: "/dev/loop*", do: {inject: {loops: "64-71"}}}
"""
FACTS = Facts(
    None, 0, 0, None, None, 5, 7, frozenset({"mknod"}), b"/bin/sh", b"/a/b",
)  # fmt: skip
ASKED = [
    'mknod("/t/zero", S_IFCHR|0666, makedev(1, 5))',
    'mknod("/t/null", S_IFCHR|0666, makedev(1, 3))',
    'mkdir("/srv/one", 0755)',
    'mkdirat(AT_FDCWD, "/srv/two", 0700)',
    'mkdir("/a", 0755)',
    'mount("/i/x", "/m", "xfs", MS_RDONLY, NULL)',
    'connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("10.0.0.1")}, 16)',
    'connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.1")}, 16)',
    'connect(3, {sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo=htonl(0), '
    'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28)',
    'connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("10.0.0.2")}, 16)',
    'connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("10.0.0.3")}, 16)',
    'connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("198.51.100.1")}, 16)',
    'open("/dev/net/tun", O_RDWR)',
    'open("/etc/key", O_RDONLY)',
    'open("/dev/loop64", O_RDWR)',
    'open("/srv/read", O_RDONLY|O_DIRECTORY)',
    'open("/srv/write", O_RDONLY)',
]  # fmt: skip
NEVER = [
    'open("/dev/sda", O_RDONLY)', 'open("/proc/kcore", O_RDONLY)',
    'open("/kernel", O_RDONLY|O_DIRECTORY)',
]


def as_recorded(base: CompiledPolicy, text: str) -> dict[str, Any]:
    """The record that a session writes of a call that it carries out under `base`."""
    asked = parse(FAMILIES, text)
    source = asked.snapshot.args[0] if asked.spec.family == "mount" else None
    found = Source("image", source) if isinstance(source, bytes) else None
    path = asked.known_path()
    facts = FACTS._replace(path=path, target=path, source=found)
    decision = base.decide(asked.spec.family, asked.snapshot, facts)
    reading, writing = os.pipe()
    log = AuditLog(writing, policy="p", session="s")
    log.record(
        asked.snapshot, asked.spec, decision, Outcome(0, path=path, facts=facts), 0.0,
        who='"uid":0,"gid":0', delivered=True,
    )  # fmt: skip
    log.let_go()
    with os.fdopen(reading) as lines:
        record: dict[str, Any] = json.loads(lines.readline())
    return record


def test_what_rules_ask_of_callers_lead_to_and_give_is_learned(tmp_path: Path) -> None:
    base = policy(BASE)
    records = [as_recorded(base, text) for text in ASKED + NEVER]
    records.append(as_recorded(base, 'open("/etc/text", O_RDONLY)'))
    text = learned(tmp_path, *records)
    assert clean(text)
    new = policy(text)
    for record in records[: len(ASKED)]:
        asked = recorded(FAMILIES, record)
        assert asked is not None
        before, after = asked.decided(base)[0], asked.decided(new)[0]
        assert after.verdict == before.verdict, record
        assert settings_of(after) == {
            key: value for key, value in settings_of(before).items() if key != "devices"
        }
        kept = {key: some for key, some in before.caller if key not in ("uid", "executable")}
        assert dict(after.caller) == kept
    for record in records[len(ASKED) :]:
        asked = recorded(FAMILIES, record)
        assert asked is not None
        assert not asked.granted(new), record
    for said in (
        "the host's block devices: never learned", "has in files: never learned",
        "# Not taken over: uid, for root of the container can", "# Not taken over: executable, for",
        "# Not taken over: devices: true, for",
        f'  1 x open("/etc/text", O_RDONLY, 0000)  (the content of {records[-1]["rule"]})',
    ):  # fmt: skip
        assert said in text


GIVEN = r"""version: 1
syscalls:
  open:
    - {path: "/proc/cpu*", access: read-only, do: {inject: {content: "a\tb: \"0\"\n- x # é\n"}}}
    - {path: /etc/other, do: {inject: {content: "other"}}}
"""


def test_a_content_is_learned_from_the_policy_that_gave_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base.yaml"
    base.write_text(GIVEN)
    policy_ = compile_named(str(base), Traits("host"), FAMILIES)
    calls = ('open("/proc/cpuinfo", O_RDONLY)', 'open("/proc/cpu2", O_RDONLY)')
    records = [as_recorded(policy_, text) for text in calls]
    assert all("inject" not in record for record in records)
    log, out = tmp_path / "log", tmp_path / "out.yaml"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    cli.learn([log], str(out), base=str(base))
    text = out.read_text()
    assert clean(text)
    new = policy(text)
    for record in records:
        asked = recorded(FAMILIES, record)
        assert asked is not None
        assert asked.decided(new)[0].settings == asked.decided(policy_)[0].settings
    assert text.count("content") == 1
    # A policy that has another rule there, and one that has none.
    for changed in (GIVEN.replace("/proc/cpu*", "/proc/mem*"), "version: 1\nsyscalls: {}\n"):
        base.write_text(changed)
        out.unlink()
        cli.learn([log], str(out), base=str(base))
        assert "  1 x open(" in out.read_text()
        assert "(the content of base.yaml:4)" in out.read_text()
    out.unlink()
    cli.learn([log], str(out), merge=str(base))
    assert "was given the content of base.yaml:4, and is given nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("errno", "granted"),
    [("EINPROGRESS", True), ("EAGAIN", True), ("ECONNREFUSED", False), ("EACCES", False)],
)
def test_a_connection_that_is_under_way_has_not_failed(
    tmp_path: Path, errno: str, granted: bool
) -> None:
    """That is what every program sees that does not wait: curl, Go, asyncio."""
    base = policy(BASE)
    record = as_recorded(base, ASKED[6]) | {"errno": errno}
    text = learned(tmp_path, record)
    asked = recorded(FAMILIES, record)
    assert asked is not None
    assert asked.granted(policy(text)) is granted
    assert ("failed all the same" in text) is not granted


@pytest.mark.parametrize("via", ["fuse", "kernel"])
def test_no_mount_of_a_device_is_learned(tmp_path: Path, via: str) -> None:
    source = {"kind": "device", "name": "/dev/sda1", "device": "8:1"}
    disk = mount(b"/dev/sda1", b"/mnt", how=f"{via}, x", emulate={"via": via})
    disk["facts"] = {"uid": 0, "gid": 0, "source": source}
    text = learned(tmp_path, disk)
    assert "syscalls: {}" in text
    assert "the host's block devices: never learned" in text


def test_nor_one_that_may_stop_the_machine(tmp_path: Path) -> None:
    panics = mount(b"/a.img", b"/mnt", emulate={"via": "kernel"})
    panics["args"]["data"] = "noload,errors=panic"
    text = learned(tmp_path, panics)
    assert "syscalls: {}" in text
    assert "never learned" in text


@pytest.mark.parametrize("name", ["1", "2024", "true", "1e3", "0x1f", "0o7", "null", "~"])
def test_any_name_of_a_file_is_the_name_of_a_policy(tmp_path: Path, name: str) -> None:
    log, out = tmp_path / "log", tmp_path / f"{name}.yaml"
    log.write_text(json.dumps(node(b"/dev/null", 0x103)) + "\n")
    cli.learn([log], str(out))
    assert policy(out.read_text()).name in (name, "learned")


def test_a_session_that_nobody_has_is_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(json.dumps(node(b"/dev/null", 0x103)) + "\n")
    with pytest.raises(PolicyError, match="no record is of session typo") as caught:
        cli.learn([log], None, session="typo")
    assert caught.value.hint == "there are 's'"


def test_mounts(tmp_path: Path) -> None:
    records = [
        mount(b"/images/a.img", b"/mnt"),
        mount(b"/images/b.img", b"/mnt"),
        mount(b"/images/c.img", b"/mnt"),
        mount(b"/s", b"/m", "tmpfs", verdict="continue"),
    ]
    text = learned(tmp_path, *records)
    assert "otherwise: kernel" in text
    assert '"/images/*"' in text
    assert 'options: {allow: [ro, nosuid, noload, "x=$y"]}' in text
    assert "do: {emulate: {via: fuse}}" in text
    assert '#   1 x mount("/s", "/m", "tmpfs"' in text
    assert "tmpfs" not in "".join(line for line in text.splitlines() if line[0] != "#")
    assert all(grants(text, record) for record in records[:3])


def test_mounts_that_were_left_to_the_kernel_stay_so(tmp_path: Path) -> None:
    """A container that runs has a filter that notifies them for good."""
    left = mount(b"/s", b"/m", "tmpfs", verdict="continue")
    text = learned(tmp_path, left, node(b"/dev/null", 0x103))
    assert decided(policy(text), left).verdict is Verdict.CONTINUE
    assert "  mount: {otherwise: kernel}\n" in text
    assert "mount:" not in learned(tmp_path, left | {"verdict": "refuse", "errno": "EPERM"})


@pytest.mark.parametrize("data", ["rw", "bind,nosuid", "remount", "*,$x,[a]", "ro,defaults,}: #"])
def test_options_of_a_text_are_no_flags(tmp_path: Path, data: str) -> None:
    """What stands in a mount's text may be spelled as a flag is, or as another call."""
    asked = mount(b"/images/a.img", b"/mnt")
    asked["args"] |= {"data": data, "mountflags": 0}
    text = learned(tmp_path, asked)
    assert clean(text)
    assert grants(text, asked)
    for flags in (1, 2):  # ro, nosuid: nobody asked for those
        other = mount(b"/images/a.img", b"/mnt")
        other["args"] |= {"data": data, "mountflags": flags}
        assert not grants(text, other)


MANY = [node(b"/srv/%d/dev/null" % number, 0x103) for number in range(9)]
REFUSED = node(b"/srv/x/dev/null", 0x103, verdict="refuse", rule="base.yaml:9", errno="EPERM")


def test_what_was_refused_is_not_granted_for_being_near(tmp_path: Path) -> None:
    near = learned(tmp_path, *MANY)
    assert grants(near, REFUSED), "many folders become what is below all of them"
    text = learned(tmp_path, *MANY, REFUSED)
    assert all(grants(text, record) for record in MANY)
    assert not grants(text, REFUSED)
    assert '1 x mknod("/srv/x/dev/null"' in text


def test_nor_by_an_existing_policy_that_is_extended(tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("version: 1\nsyscalls: {mknod: [{devices: zero, do: refuse}]}\n")
    assert grants(learned(tmp_path, *MANY, merge=str(old)), REFUSED)
    text = learned(tmp_path, *MANY, REFUSED, merge=str(old))
    assert all(grants(text, record) for record in MANY)
    assert not grants(text, REFUSED)


def test_what_was_refused_once_and_granted_then_is_not_said_to_be_refused(tmp_path: Path) -> None:
    granted = node(b"/srv/x/dev/null", 0x103, how="bind")
    text = learned(tmp_path, granted, REFUSED)
    assert grants(text, granted)
    assert "refused" not in text


def test_what_nobody_may_overwrite(tmp_path: Path) -> None:
    there = tmp_path / "there.yaml"
    there.write_text("")
    with pytest.raises(UsageError, match="exists"):
        cli.check_goal(str(there))


MERGE_INTO = [
    "version: 1\nsyscalls: {}\n",
    "version: 1\nsyscalls: {mknod: []}\n",
    "version: 1\nsyscalls: {mknod: [{devices: zero, do: refuse}]}\n",
    "# top\nversion: 1\nsyscalls:\n  # mine\n  mknod:\n    # first\n"
    "    - {devices: zero, do: refuse}\n",
    "version: 1\nsyscalls:\n  mknod:\n    otherwise: refuse\n    rules:\n      - devices: [zero]\n"
    "        do: refuse # why\n",
    "version: 1\nsyscalls:\n  mount:\n    otherwise: kernel\n    rules: []\n",
    "version: 1\nsyscalls:\n  mknod: []",
    "version: 1\nlists: {}\n",
]


@pytest.mark.parametrize("text", MERGE_INTO)
def test_an_existing_policy_is_extended_and_nothing_of_it_lost(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(text)
    records = [node(b"/dev/zero", 0x105), mount(b"/i.img", b"/mnt")]
    new = learned(tmp_path, *records, merge=str(old))
    assert all(grants(new, record) for record in records)
    shown = capsys.readouterr().out.splitlines()
    added = [line for line in shown if line.startswith("+") and not line.startswith("+++")]
    assert added
    for line in text.splitlines():
        assert line in new or "{}" in line or "[" in line


def test_what_is_granted_already_adds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("version: 1\nsyscalls: {mknod: [{devices: [zero], do: emulate}]}\n")
    assert learned(tmp_path, node(b"/dev/zero", 0x105), merge=str(old)) == old.read_text()
    assert capsys.readouterr().out == ""


def test_what_the_admin_said_otherwise_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was left to the kernel, where the new policy would refuse it."""
    old = tmp_path / "old.yaml"
    old.write_text(
        "version: 1\nsyscalls:\n  mknod:\n    - {devices: [kvm], do: {errno: ENODEV}}\n  mount: []"
    )
    tmpfs = mount(b"none", b"/t", "tmpfs", verdict="continue", rule="x")
    del tmpfs["facts"]
    text = learned(tmp_path, node(b"/dev/kvm", 0xAE8), node(b"/z", 0x105), tmpfs, merge=str(old))
    said = capsys.readouterr()
    assert "old.yaml:4 has errno ENODEV for mknod" in said.err
    assert said.err.count("stand in front of it") == 1
    assert '1 x mount("none", "/t", "tmpfs"' in said.err
    assert "is refused under the new policy" in said.err
    assert "adds nothing" not in said.err
    assert "\n\\ No newline at end of file\n" in said.out or text.endswith("\n")
    assert learned(tmp_path, merge=str(old)) == old.read_text()
    assert "adds nothing" in capsys.readouterr().err


def test_a_caller_whom_the_admin_shut_out_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(
        "version: 1\nsyscalls:\n  mknod:\n    - {devices: [zero], host_uid: 7, do: emulate}\n"
    )
    of_another = {"uid": 0, "gid": 0, "host_uid": 8}
    record = node(b"/z", 0x105, facts=of_another, caller={"host_uid": ["8-9"]})
    text = learned(tmp_path, record, merge=str(old))
    assert 'host_uid: "8-9"' in text, "what the rule asked that granted it is taken over"
    said = capsys.readouterr().err
    assert f"{old.name}:4 allows mknod" in said
    assert "to others only (host_uid is 8): the new rules stand in front of it" in said
    learned(tmp_path, node(b"/z", 0x103), merge=str(old))
    assert "to others only" not in capsys.readouterr().err


def test_a_text_that_cannot_be_extended_is_said() -> None:
    rules = [NewRule([("do", "kill")])]
    with pytest.raises(PolicyError, match="no list of rules"):
        merged("p", "version: 1\nsyscalls: {mknod: {otherwise: refuse}}\n", {"mknod": rules})


@pytest.mark.parametrize(
    ("paths", "globs"),
    [
        ([b"/dev/null"], ["/dev/null"]),
        ([b"/d/a", b"/d/b"], ["/d/a", "/d/b"]),
        ([b"/d/a", b"/d/b", b"/d/c"], ["/d/*"]),
        ([b"/tmp/tmp.aB3dE5fG7h/dev/null"], ["/tmp/tmp.*/dev/null"]),
        # without a small letter, without a digit: mktemp makes those, too
        ([b"/tmp/tmp.I80N4VYPBA/n"], ["/tmp/tmp.*/n"]),
        ([b"/tmp/tmp.abcdefghij/n"], ["/tmp/tmp.*/n"]),
        ([b"/tmp/mmdebstrap.ABCDEFGHIJ/n"], ["/tmp/mmdebstrap.*/n"]),
        ([b"/tmp/tmpabcdefgh/n"], ["/tmp/tmp*/n"]),
        ([b"/w/build-a1b2c3/x"], ["/w/build-*/x"]),
        ([b"/v/123e4567-e89b-12d3-a456-426614174000/x"], ["/v/*/x"]),
        ([b"/proc/12345/x", b"/proc/23456/x"], ["/proc/*/x"]),
        ([b"/v/tmpab12_x9z.img"], ["/v/tmp*.img"]),
        ([b"/tmp/mkfs-Xy12Zq/x"], ["/tmp/mkfs-*/x"]),
        ([b"/x/3f4e5a6b7c8d/y"], ["/x/*/y"]),
        ([b"/tmp/build.4711/x", b"/srv/job-123456"], ["/srv/job-*", "/tmp/build.*/x"]),
        ([b"/proc/17/root/dev/null"], ["/proc/*/root/dev/null"]),
        ([b"/v/x-%b/%b" % (b"1234abcd-" * 2, b"*" * 2)], [r"/v/x-1234abcd-1234abcd-/\*\*"]),
        ([b"/a/Makefile", b"/usr/x86"], ["/a/Makefile", "/usr/x86"]),
        ([f"/srv/{n}{n}/dev/null".encode() for n in "abcdefghi"], ["/srv/**"]),
    ],
)
def test_paths_are_generalised_as_a_person_would(paths: list[bytes], globs: list[str]) -> None:
    assert globs_for(paths) == globs


# Of distributions, machines, disks and programs.
ORDINARY = """
ubuntu2204 x86_64 python3 debian12 debian-12-genericcloud-amd64.qcow2 fedora39 mips64el armv7l
arm64v8 ppc64le riscv64 s390x i386 win2k19 Win10x64 Win2019Server SLES15SP5 CentOS7 RockyLinux
openSUSELeap15 README Makefile MyDisk2 GitHub VMware e2fsprogs sha256 base64 bookworm64 linux64
aarch64 lib32gcc1
1stdisk 10gdisk1 jdk8u292 nvme0n1p1 mmcblk0p1 build42 cgroup2 ubuntu-22.04-server-cloudimg-amd64.img
vmlinuz-6.1.0-13-amd64 2204 2024 1000 img2024a libstdc++6 tmpfs tmp. tmpl
"""


@pytest.mark.parametrize("name", ORDINARY.split())
def test_names_that_people_gave_stay(name: str) -> None:
    path = f"/srv/{name}/dev/null"
    assert globs_for([path.encode()]) == [path]


@pytest.mark.parametrize("seed", range(10))
def test_most_of_what_mktemp_makes_is_not_learned_by_its_letters(seed: int) -> None:
    letters = string.ascii_letters + string.digits  # those of mkstemp(3)
    rnd = random.Random(seed)
    made = ["".join(rnd.choices(letters, k=rnd.choice((6, 8, 10)))) for _ in range(1000)]
    for folder, most in (("/tmp", 30), ("/srv", 100)):
        stay = sum("*" not in globs_for([f"{folder}/x.{name}/y".encode()])[0] for name in made)
        assert stay < most, folder


@pytest.mark.parametrize("name", ["my-files", "x.backup", "Backup", "README", "ubuntu24"])
def test_names_that_people_gave_stay_in_a_folder_for_everybody(name: str) -> None:
    assert globs_for([f"/tmp/{name}/y".encode()]) == [f"/tmp/{name}/y"]


def test_sources_of_mounts_are_generalised_like_paths(tmp_path: Path) -> None:
    text = learned(
        tmp_path,
        mount(b"/images/ubuntu2204.img", b"/mnt/x86_64"),
        mount(b"/tmp/tmp.aB3dE5fG7h/disk.img", b"/mnt/x86_64"),
    )
    assert '"/images/ubuntu2204.img", "/tmp/tmp.*/disk.img"' in text
    assert 'target: "/mnt/x86_64"' in text


@pytest.mark.parametrize("seed", range(100))
def test_globs_match_what_they_were_made_of(seed: int) -> None:
    rnd = random.Random(seed)
    letters = b"ab1Z*?[]\\.-_\xff\xc3 "
    paths = [
        b"/"
        + b"/".join(
            bytes(rnd.choices(letters, k=rnd.randrange(1, 14))).replace(b".", b"a")
            for _ in range(rnd.randrange(1, 5))
        )
        for _ in range(rnd.randrange(1, 20))
    ]
    globs = globs_for(paths)
    assert len(globs) <= 6
    for path in paths:
        assert any(glob_matches(glob, path) for glob in globs), (path, globs)


def test_named_calls_are_no_records() -> None:
    assert named(FAMILIES, "mknod", {}).recorded is None
    assert isinstance(policy("version: 1\nsyscalls: {}\n"), CompiledPolicy)
