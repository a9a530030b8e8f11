"""The language for each family: what a rule may match, and what becomes of a call."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.model import Verdict
from supervisor.policy.call_text import parse
from supervisor.policy.compiled import CompiledPolicy
from tests.support.policies import policy

# Of each family: a call, the keys of a rule about it, and a rule by which it is carried out.
CALLS = {
    "mknod": ('mknod("/a", S_IFCHR|0666, makedev(1, 5))', "devices: zero", "emulate"),
    "mkdir": ('mkdir("/a", 0755)', "path: /a", "emulate"),
    "mount": (
        'mount("/a.img", "/m", "ext4", MS_RDONLY, "noload")',
        'fstype: ext4, source: "/a.img", options: {allow: [ro, noload]}', "{emulate: {via: fuse}}",
    ),
    "connect": (
        'connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("10.0.0.1")}, 16)',
        'to: "10.0.0.1"', "emulate",
    ),
    "bind": (
        'bind(3, {sa_family=AF_UNIX, sun_path="/run/a"}, 110)', 'path: "/run/a"', "emulate",
    ),
    "accept": (
        'accept(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("10.0.0.1")}, [16])',
        'from: "10.0.0.1"', "emulate",
    ),
    "setsockopt": (
        "setsockopt(3, SOL_SOCKET, SO_MARK, [1], 4)", "optname: SO_MARK", "{emulate: {value: 1}}",
    ),
    "getsockopt": ("getsockopt(3, SOL_TCP, TCP_INFO, 0, 0)", "optname: TCP_INFO", "emulate"),
    "open": ('open("/dev/kvm", O_RDWR)', "path: /dev/kvm", "{inject: {device: kvm}}"),
    "xattr": ('setxattr("/a", "user.x", "y", 1, 0) = 0', "name: user.x", "emulate"),
}  # fmt: skip
# What a call comes to by the last of these, where that is not "emulate".
GRANTED = {"open": Verdict.INJECT}
IMAGE = {"source": "image /a.img"}
# Who calls: the key, a value of it, a caller whom that matches, and one whom it does not.
WHO: list[tuple[str, str, Any, Any]] = [
    ("uid", '[3, "5-6"]', 5, 7),
    ("gid", "5", 5, 0),
    ("host_uid", '"100000-165535"', 100_000, 165_536),
    ("host_gid", "[1, 2]", 2, 3),
    ("capability", "[sys_admin, mknod]", ["mknod"], ["net_admin"]),
    ("executable", '"/usr/bin/*"', "/usr/bin/sh", "/usr/sbin/sh"),
    ("cgroup", '"/vms/**"', "/vms/a/b", "/vm"),
]
# What is called: another call, which the keys do not match.
OTHERS = {
    "devices": ("mknod", "devices: zero", 'mknod("/a", S_IFBLK|0666, makedev(1, 5))'),
    "path of a node": ("mknod", 'path: "/a"', 'mknod("/b", S_IFCHR|0666, makedev(1, 5))'),
    "path of a directory": ("mkdir", "path: /a", 'mkdirat(AT_FDCWD, "/a/b", 0755)'),
    "fstype": ("mount", "fstype: ext4", 'mount("/a.img", "/m", "ext3", MS_RDONLY, "noload")'),
    "target": ("mount", 'target: "/m"', 'mount("/a.img", "/n", "ext4", MS_RDONLY, "noload")'),
    "flags": (
        "mount", "options: {allow: [ro, noload]}",
        'mount("/a.img", "/m", "ext4", MS_RDONLY|MS_SYNCHRONOUS, "noload")',
    ),
    "flags that have to be there": (
        "mount", 'options: {allow: ["*"], require: [ro]}',
        'mount("/a.img", "/m", "ext4", 0, "noload")',
    ),
    "options": (
        "mount", "options: {allow: [ro, noload]}",
        'mount("/a.img", "/m", "ext4", MS_RDONLY, "noload,dax")',
    ),
    "to": (
        "connect", 'to: "10.0.0.0/31"',
        'connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("10.0.0.2")}, 16)',
    ),
    "port": (
        "connect", 'port: "1-80"',
        'connect(3, {sa_family=AF_INET, sin_port=htons(81), sin_addr=inet_addr("10.0.0.1")}, 16)',
    ),
    "family": (
        "connect", "family: inet",
        'connect(3, {sa_family=AF_UNIX, sun_path="/run/a"}, 110)',
    ),
    "path of a socket": (
        "bind", 'path: "/run/*"', 'bind(3, {sa_family=AF_UNIX, sun_path="/run/a/b"}, 110)',
    ),
    "from": (
        "accept", 'from: "10.0.0.0/31"',
        'accept(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("10.0.0.2")}, [16])',
    ),
    "port of a peer": (
        "accept", 'port: "1-80"',
        'accept(3, {sa_family=AF_INET, sin_port=htons(81), sin_addr=inet_addr("10.0.0.1")}, [16])',
    ),
    "family of a peer": ("accept", "family: inet", "accept(3, {sa_family=AF_UNIX}, [110 => 2])"),
    "path of an open": ("open", 'path: "/dev/*"', 'open("/dev/net/tun", O_RDWR)'),
    "optname": ("setsockopt", "optname: SO_MARK", "setsockopt(3, SOL_SOCKET, SO_DEBUG, [1], 4)"),
    "an option by its number": (
        "setsockopt", 'optname: "1:36"', "setsockopt(3, SOL_SOCKET, SO_DEBUG, [1], 4)",
    ),
    "the same number of another level": (
        "setsockopt", "optname: SO_MARK", "setsockopt(3, SOL_TCP, 36, [1], 4)",
    ),
    "level": ("getsockopt", "level: SOL_TCP", "getsockopt(3, SOL_SOCKET, SO_ERROR, 0, 0)"),
    "name of an attribute": (
        "xattr", 'name: "user.x*"', 'setxattr("/a", "user.y", "y", 1, 0)',
    ),
    "value": ("xattr", "value: [z, y]", 'setxattr("/a", "user.x", "yy", 2, 0)'),
    "a value of a call that removes": ("xattr", 'value: "y"', 'removexattr("/a", "user.x")'),
    "path of a file": ("xattr", 'path: "/a"', 'setxattr("/b", "user.x", "y", 1, 0)'),
    "access": ("open", "path: /dev/kvm, access: read-write", 'open("/dev/kvm", O_RDONLY)'),
}  # fmt: skip


def rules(family: str, *some: str) -> CompiledPolicy:
    """A policy in which what no rule matches is left to the kernel."""
    lines = "".join(f"\n      - {rule}" for rule in some)
    return policy(
        f"version: 1\nsyscalls:\n  {family}:\n    otherwise: kernel\n    rules:{lines}\n"
    )


def verdict(compiled: CompiledPolicy, text: str, **caller: Any) -> Verdict:
    """What becomes of a call, by two looks at it."""
    return parse(FAMILIES, text).told({**IMAGE, **caller}).decided(compiled)[0].verdict


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize(("key", "value", "matching", "other"), WHO, ids=lambda one: str(one)[:12])
def test_who_calls_in_every_family(
    family: str, key: str, value: str, matching: Any, other: Any
) -> None:
    """Rules that grant and rules that refuse: the latter match as well where nobody knows."""
    text, where, do = CALLS[family]
    granted = GRANTED.get(family, Verdict.EMULATE)
    grants = rules(family, f"{{{where}, {key}: {value}, do: {do}}}")
    assert verdict(grants, text, **{key: matching}) is granted
    assert verdict(grants, text, **{key: other}) is Verdict.CONTINUE
    refuses = rules(
        family, f"{{{where}, {key}: {value}, do: {{errno: EXDEV}}}}", f"{{{where}, do: {do}}}",
        "{do: continue, accept_race: true}",
    )  # fmt: skip
    assert verdict(refuses, text, **{key: matching}) is Verdict.ERRNO
    assert verdict(refuses, text, **{key: other}) is granted
    if key not in ("uid", "gid"):  # whose ids are known at the second look, always
        assert verdict(grants, text) is Verdict.CONTINUE
        assert verdict(refuses, text) is Verdict.ERRNO


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_called(what: str) -> None:
    family, keys, other = OTHERS[what]
    text, _, do = CALLS[family]
    if family == "mount":
        given = ('fstype: ext4', 'source: "/a.img"', "options: {allow: [ro, noload]}")
        keys = ", ".join([keys, *(one for one in given if one.split(":")[0] not in keys)])
    compiled = rules(family, f"{{{keys}, do: {do}}}")
    granted = GRANTED.get(family, Verdict.EMULATE)
    assert verdict(compiled, text) is granted
    assert verdict(compiled, other) is Verdict.CONTINUE


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize(
    ("do", "wanted"),
    [
        ("continue", Verdict.CONTINUE), ("refuse", Verdict.REFUSE), ("kill", Verdict.KILL),
        ("{errno: EXDEV}", Verdict.ERRNO), ("{return: 7}", Verdict.RETURN),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_verdicts_in_every_family(family: str, do: str, wanted: Verdict, mode: str) -> None:
    text, where, _ = CALLS[family]
    where = where if do != "continue" or family != "mount" else "fstype: ext4"
    rule = f"{{{where}, mode: {mode}, accept_race: true, do: {do}}}"
    last = "{do: continue, accept_race: true}"
    decision = parse(FAMILIES, text).told(IMAGE).decided(rules(family, rule, last))[0]
    assert (decision.verdict, decision.audit) == (wanted, mode == "audit")
    assert decision.value == {Verdict.ERRNO: 18, Verdict.RETURN: 7}.get(wanted, 0)


def test_no_family_is_missing() -> None:
    assert set(CALLS) == {name for name, family in FAMILIES.items() if family.keys is not None}


def test_a_race_names_the_key_of_its_family() -> None:
    rule = '{address: "10.0.0.1", do: continue}'
    with pytest.raises(Exception, match="beside a refusal by address is a race"):
        policy(f"version: 1\nsyscalls:\n  bind:\n    - {rule}\n")


def test_a_word_that_is_no_action_of_a_family_names_all_that_are() -> None:
    with pytest.raises(Exception, match="one of continue, refuse, kill, errno, return, inject"):
        rules("open", "{path: /a, do: emulate}")
