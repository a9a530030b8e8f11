"""Profiles for runtimes: built by libseccomp they do to every call what our own filter does."""

from __future__ import annotations

import itertools
import json
import os
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import PolicyError
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel import bpf
from supervisor.kernel.simulate import run
from supervisor.kernel.syscalls import I386, X86_64, number
from supervisor.policy.compile import rules_of
from supervisor.policy.lxc_profile import lxc
from supervisor.policy.profile import WAIT_KILLABLE, oci
from supervisor.policy.traits import Traits
from tests.support.needs import need
from tests.support.policies import policy

POLICIES = {
    "refuses": "{devices: [null_, 'char 5:*'], do: emulate}",
    "leaves": "{devices: ['char 10:229', 'block 7:0-7'], do: emulate}",
    "silent": "{devices: ['char 4:*'], do: refuse, silent: true}",
    "continues": "{devices: ['char 1:3-9'], do: continue}",
}
OPTIONS = """
version: 1
syscalls:
  setsockopt:
    otherwise: kernel
    rules:
      - {optname: [SO_MARK, TCP_ULP], do: refuse}
      - {optname: SO_PRIORITY, uid: 0, do: refuse}
      - {level: SOL_PACKET, do: {errno: EACCES}, silent: true}
"""
ACTIONS = {"SCMP_ACT_ALLOW": bpf.RET_ALLOW, "SCMP_ACT_NOTIFY": bpf.RET_USER_NOTIF,
           "SCMP_ACT_KILL_PROCESS": bpf.RET_KILL_PROCESS}  # fmt: skip
PODMAN = Path("/usr/share/containers/seccomp.json")


def text(name: str) -> str:
    otherwise = "kernel" if name == "leaves" else "refuse"
    rule = POLICIES[name].replace("null_", '"null"')
    return f"version: 1\nsyscalls:\n  mknod: {{otherwise: {otherwise}, rules: [{rule}]}}\n"


def rules(name: str) -> list[bpf.FilterRule]:
    return rules_of(Path("p.yaml"), text(name).encode(), Traits("private"), FAMILIES)


def built(profile: Mapping[str, Any], arch: int, others: Sequence[int] = ()) -> bytes:
    """The filter that a runtime makes of a profile, for `arch` and `others`: by libseccomp."""
    import pyseccomp

    def action(value: Mapping[str, Any], default: bool = False) -> int:
        name = value["defaultAction" if default else "action"]
        errno = value.get("defaultErrnoRet" if default else "errnoRet", 1)
        return ACTIONS.get(name, bpf.RET_ERRNO | int(errno))

    default = action(profile, default=True)
    found = pyseccomp.SyscallFilter(default)
    found.set_attr(pyseccomp.Attr.ACT_BADARCH, bpf.ret_errno(38))
    if arch != X86_64:
        found.remove_arch(pyseccomp.system_arch())
        found.add_arch(arch)
    for other in others:
        found.add_arch(other)
    for entry in profile["syscalls"]:
        if entry.get("includes") or entry.get("excludes"):
            continue
        for name in entry["names"]:
            nr = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
            if nr == -1 or action(entry) == default:
                continue
            ops = {"SCMP_CMP_MASKED_EQ": pyseccomp.MASKED_EQ, "SCMP_CMP_EQ": pyseccomp.EQ,
                   "SCMP_CMP_NE": pyseccomp.NE}  # fmt: skip
            args = [
                pyseccomp.Arg(arg["index"], ops[arg["op"]], arg["value"], arg.get("valueTwo", 0))
                for arg in entry.get("args") or ()
            ]
            found.add_rule(action(entry), nr, *args)
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        found.export_bpf(file)
        file.seek(0)
        return file.read()


def calls(count: int) -> list[tuple[str, list[int]]]:
    """Calls near the borders of what the policies say, with garbage where the kernel looks not."""
    source = random.Random(7)
    out = []
    for _ in range(count):
        kind = source.choice([0o020000, 0o060000, 0o010000, 0o100000, 0o140000, 0, 0o040000])
        major = source.choice([0, 1, 4, 5, 7, 10, 11, 4095, source.randrange(4096)])
        minor = source.choice([0, 1, 3, 7, 8, 229, 256, source.randrange(1 << 20)])
        dev = (minor & 0xFF) | major << 8 | (minor & 0xFFF00) << 12
        junk = source.choice([0, 0, 1 << 32, 0xFFFFFFFF << 32])
        mode = kind | source.randrange(0o10000)
        name = source.choice(["mknod", "mknodat"])
        args = [0x1000, mode | junk, dev | junk]
        out.append((name, args if name == "mknod" else [5, *args]))
    for flags in (0, 8, 9, 1 << 3 | 1 << 5, 16):
        out += [("seccomp", [operation, flags, 0]) for operation in (0, 1, 2)]
    for name in ("unlink", "rename", "linkat", "umount2", "unlinkat", "io_uring_setup", "getppid"):
        out += [(name, [1, 0, flags, 0]) for flags in (0, 0x200, 4)]
    return out


@pytest.mark.parametrize("arch", [X86_64, I386])
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("base", ["none", "allowed", "refused", "podman"])
def test_it_does_what_our_own_filter_does(arch: int, name: str, base: str) -> None:
    named = ["mknod", "mknodat", "seccomp", "rename", "openat", "io_uring_setup"]
    bases: dict[str, Any] = {
        "none": None,
        "allowed": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 77,
                    "syscalls": [{"names": named, "action": "SCMP_ACT_ALLOW"}]},
        "refused": {"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": named, "action": "SCMP_ACT_ERRNO", "errnoRet": 78}]},
    }  # fmt: skip
    if base == "podman":
        if not PODMAN.exists():
            need(str(PODMAN))
        bases[base] = json.loads(PODMAN.read_text())

    def passes(call: str) -> int:
        """What the base says of a call that is not ours to answer."""
        if base == "podman" and call == "io_uring_setup":
            return bpf.RET_ERRNO | 38
        if base == "allowed" and call not in named:
            return bpf.RET_ERRNO | 77
        return bpf.RET_ERRNO | 78 if base == "refused" and call in named else bpf.RET_ALLOW

    found = built(oci(rules(name), bases[base], listener="/x", metadata=None), arch)
    own = policy(text(name), "private").filter
    for call, args in calls(3000):
        nr = number(call, arch) if call != "getppid" else {X86_64: 110, I386: 64}[arch]
        assert nr is not None
        expected = run(own, nr, arch, args).action
        if call == "seccomp" and args[1] & 8:
            expected = bpf.RET_ERRNO | 16
        elif expected == bpf.RET_ALLOW:
            if base == "podman" and call in ("umount2",):
                continue  # there it depends on capabilities
            expected = passes(call)
        assert run(found, nr, arch, args).action == expected, (call, args)


@pytest.mark.parametrize("arch", [X86_64, I386])
@pytest.mark.parametrize("base", ["none", "allowed", "refused", "podman"])
def test_options_of_sockets(arch: int, base: str) -> None:
    """What a base allows is asked of the session: for i386 libseccomp would allow it by socketcall
    as well, whose registers say nothing of an option."""
    named = {"names": ["setsockopt", "getsockopt", "socketcall"]}
    bases: dict[str, Any] = {
        "none": None,
        "allowed": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 77,
                    "syscalls": [{**named, "action": "SCMP_ACT_ALLOW"}]},
        "refused": {"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{**named, "action": "SCMP_ACT_ERRNO", "errnoRet": 78}]},
    }  # fmt: skip
    if base == "podman":
        if not PODMAN.exists():
            need(str(PODMAN))
        bases[base] = json.loads(PODMAN.read_text())
    options = rules_of(Path("p.yaml"), OPTIONS.encode(), Traits("private"), FAMILIES)
    found = built(oci(options, bases[base], listener="/x", metadata=None), arch)
    own = policy(OPTIONS, "private").filter
    asks = base in ("allowed", "podman")
    for level, name in ((1, 36), (6, 31), (1, 12), (263, 5), (263, 36), (1, 2), (6, 36)):
        args = [3, level, name, 0, 4]
        expected = run(own, number("setsockopt", arch) or 0, arch, args).action
        if expected == bpf.RET_ALLOW and base == "refused":
            expected = bpf.ret_errno(78)
        action = run(found, number("setsockopt", arch) or 0, arch, args).action
        assert action == (bpf.RET_USER_NOTIF if asks else expected), (level, name)
    if arch == I386:
        source = random.Random(3)
        for _ in range(200):
            args = [14, *(source.choice([0, source.getrandbits(32)]) for _ in range(5))]
            action = run(found, 102, arch, args).action
            assert action in {bpf.RET_USER_NOTIF, bpf.ret_errno(13), bpf.ret_errno(78)}, args
            assert action == bpf.RET_USER_NOTIF or not asks
        expected = bpf.ret_errno(78) if base == "refused" else bpf.RET_ALLOW
        assert run(found, 102, arch, [15, 0]).action == expected


VSOCK = {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 40, "valueTwo": 0, "op": "SCMP_CMP_NE"}]}  # fmt: skip
NO_AUDIT = [
    {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
     "args": [{"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"},
              {"index": 2, "value": 9, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]},
    *({"names": ["socket"], "action": "SCMP_ACT_ALLOW",
       "args": [{"index": index, "value": value, "valueTwo": 0, "op": "SCMP_CMP_NE"}]}
      for index, value in ((2, 9), (0, 16))),
]  # fmt: skip


@pytest.mark.parametrize("arch", [X86_64, I386])
@pytest.mark.parametrize("base", ["docker", "podman"])
def test_a_base_that_looks_at_the_same_arguments(arch: int, base: str) -> None:
    """What Docker's and podman's profiles say of socket, where ours has no SCTP."""
    whole = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 77,
             "syscalls": [VSOCK] if base == "docker" else NO_AUDIT}  # fmt: skip
    text = b"version: 1\nsyscalls: {connect: [{do: emulate}], bind: [{do: emulate}]}\n"
    ours = rules_of(Path("p.yaml"), text, Traits("private"), FAMILIES)
    found = built(oci(ours, whole, listener="/x", metadata=None), arch)
    nr = number("socket", arch)
    assert nr is not None
    kinds = (1, 2, 3, 5, 0x80001, 0x80805)
    for domain, kind, protocol in itertools.product(range(64), kinds, (0, 6, 9, 17, 132, 262)):
        action = run(found, nr, arch, [domain, kind, protocol]).action
        if protocol == 132 or (domain in (2, 10) and kind & 15 == 5):
            expected = bpf.ret_errno(93)  # EPROTONOSUPPORT
        elif base == "docker":
            expected = bpf.ret_errno(77) if domain == 40 else bpf.RET_ALLOW
        else:
            expected = bpf.ret_errno(22) if (domain, protocol) == (16, 9) else bpf.RET_ALLOW
        assert action == expected, (domain, kind, protocol)


@pytest.mark.parametrize(
    ("action", "tests"),
    [
        ("ALLOW", [("LT", 0, 9)]),
        ("ERRNO", [("NE", 0, 16)]),
        ("ALLOW", [("EQ", 0, 1), ("EQ", 0, 2)]),
    ],
)
def test_arguments_that_cannot_be_put_together(
    action: str, tests: list[tuple[str, int, int]]
) -> None:
    args = [{"index": index, "value": value, "op": f"SCMP_CMP_{op}"} for op, index, value in tests]
    entry = {"names": ["socket"], "action": f"SCMP_ACT_{action}", "args": args}
    text = b"version: 1\nsyscalls: {connect: [{do: emulate}], bind: [{do: emulate}]}\n"
    ours = rules_of(Path("p.yaml"), text, Traits("private"), FAMILIES)
    with pytest.raises(PolicyError, match="looks at arguments of socket"):
        oci(ours, {"defaultAction": "A", "syscalls": [entry]}, listener="/x", metadata=None)


def test_a_value_has_no_bits_outside_of_its_mask() -> None:
    """As libseccomp has it: what those of the policy say must not be asked of them."""
    args = [{"index": 0, "value": 0xF0, "valueTwo": 0x10F, "op": "SCMP_CMP_MASKED_EQ"}]
    base = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": args}]}
    text = b"version: 1\nsyscalls: {connect: [{do: emulate}], bind: [{do: emulate}]}\n"
    ours = rules_of(Path("p.yaml"), text, Traits("private"), FAMILIES)
    alone = built(base, X86_64)
    both = built(oci(ours, base, listener="/x", metadata=None), X86_64)
    for domain, kind in itertools.product((1, 2, 15, 16, 17, 31, 0x10F), (1, 2)):
        call = number("socket", X86_64) or 0, X86_64, [domain, kind, 0]
        assert run(both, *call).action == run(alone, *call).action, (domain, kind)


@pytest.mark.parametrize("args", [
    [("EQ", 0, 1)], [("EQ", 2, 6)], [("MASKED_EQ", 0, 1)], [],
])
def test_a_base_that_says_two_things_of_a_call(args: list[tuple[str, int, int]]) -> None:
    """Which one libseccomp goes by is chance where the policy adds conditions to them."""
    first = {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}
    tests = [{"index": index, "value": value, "valueTwo": value, "op": f"SCMP_CMP_{op}"}
             for op, index, value in args]
    second: dict[str, Any] = {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": tests}
    text = b"version: 1\nsyscalls: {connect: [{do: emulate}], bind: [{do: emulate}]}\n"
    ours = rules_of(Path("p.yaml"), text, Traits("private"), FAMILIES)
    base = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [first, second]}
    with pytest.raises(PolicyError, match="two things of the same calls of socket"):
        oci(ours, base, listener="/x", metadata=None)
    second["includes"], apart = {"caps": ["CAP_X"]}, {**first, "excludes": {"caps": ["CAP_X"]}}
    oci(ours, {**base, "syscalls": [apart, second]}, listener="/x", metadata=None)


def test_options_that_a_base_allows_and_refuses() -> None:
    options = rules_of(Path("p.yaml"), OPTIONS.encode(), Traits("private"), FAMILIES)
    entries = [{"names": ["setsockopt"], "action": f"SCMP_ACT_{one}"} for one in ("ALLOW", "ERRNO")]
    base = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries}
    with pytest.raises(PolicyError, match="allows setsockopt and refuses it"):
        oci(options, base, listener="/x", metadata=None)


def test_options_of_sockets_for_lxc() -> None:
    options = rules_of(Path("p.yaml"), OPTIONS.encode(), Traits("private"), FAMILIES)
    equal = "SCMP_CMP_MASKED_EQ,4294967295"
    for base in (None, "2\ndenylist\nread\n", "2\nallowlist errno 5\nsetsockopt\nread\n"):
        lines = lxc(options, base).splitlines()
        assert [line for line in lines if line.startswith("setsockopt")] == ["setsockopt notify"]
        assert f"socketcall notify [0,14,{equal}]" in lines
    lines = lxc(options, "2\ndenylist\nsetsockopt errno 5\n").splitlines()
    assert f"setsockopt notify [1,1,{equal}] [2,36,{equal}]" in lines
    assert not [line for line in lines if line.startswith("setsockopt allow")]


MOUNTS = """
version: 1
syscalls:
  mount: [{fstype: ext4, source: "/x", do: emulate}]
"""


@pytest.mark.parametrize("base", ["none", "podman"])
def test_all_architectures_in_one_filter(base: str) -> None:
    """As runtimes load it. umount is a call that x86_64 lacks, and i386 has."""
    import pyseccomp

    known = {"SCMP_ARCH_X86_64": X86_64, "SCMP_ARCH_X86": I386,
             "SCMP_ARCH_X32": pyseccomp.Arch.X32}  # fmt: skip
    if base == "podman" and not PODMAN.exists():
        need(str(PODMAN))
    mounts = rules_of(Path("p.yaml"), MOUNTS.encode(), Traits("private"), FAMILIES)
    parsed = json.loads(PODMAN.read_text()) if base == "podman" else None
    profile = oci(mounts, parsed, listener="/x", metadata=None)
    names = profile.get("architectures") or [
        name for one in profile["archMap"] if one["architecture"] == "SCMP_ARCH_X86_64"
        for name in (one["architecture"], *one["subArchitectures"])
    ]  # fmt: skip
    assert names == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    found = built(profile, X86_64, [known[name] for name in names[1:]])
    for arch in (X86_64, I386):
        for name in ("mount", "umount2"):
            nr = number(name, arch)
            assert nr is not None
            assert run(found, nr, arch, [0, 0, 0, 0, 0]).action == bpf.RET_USER_NOTIF
            bind_or_expire = [0, 4, 0, 0x1000, 0]
            assert run(found, nr, arch, bind_or_expire).action != bpf.RET_USER_NOTIF
    umount = number("umount", I386)
    assert umount is not None
    assert run(found, umount, I386, [0]).action == bpf.RET_USER_NOTIF
    assert run(found, 0x40000000 + 165, X86_64, [0] * 5).action == bpf.RET_ERRNO | 38


AMD64 = {"architecture": "SCMP_ARCH_X86_64",
         "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}  # fmt: skip


def test_what_it_says_besides_rules() -> None:
    flags = [WAIT_KILLABLE]
    profile = oci(rules("leaves"), None, listener="/run/x.sock", metadata="m", flags=flags)
    assert {key: profile[key] for key in profile if key != "syscalls"} == {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "listenerPath": "/run/x.sock",
        "listenerMetadata": "m",
        "flags": [WAIT_KILLABLE],
    }
    base = {"defaultAction": "SCMP_ACT_KILL", "archMap": [AMD64], "other": "kept", "syscalls": None}
    profile = oci(rules("leaves"), base, listener="/x", metadata=None)
    assert profile["other"] == "kept"
    assert profile["archMap"] == [AMD64 | {"subArchitectures": ["SCMP_ARCH_X86"]}]
    assert "architectures" not in profile
    first = profile["syscalls"][0]
    assert first["action"] == "SCMP_ACT_NOTIFY"


@pytest.mark.parametrize(
    ("base", "why"),
    [
        ({"syscalls": [{"names": ["mknod"], "action": "A", "args": [{"index": 1}]}]}, "arguments"),
        ({"syscalls": [{"action": "A"}]}, "no seccomp profile"),
        ({"syscalls": 5}, "no seccomp profile"),
        ({}, "no defaultAction"),
    ],
)
def test_a_base_that_will_not_do(base: dict[str, Any], why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        oci(rules("leaves"), base, listener="/x", metadata=None)


def lxc_rules(profile: str) -> list[tuple[str, str, tuple[tuple[int, int, int], ...]]]:
    """(call, action, conditions) of each line, as LXC reads them."""
    out = []
    for line in profile.splitlines()[2:]:
        words = line.split()
        if line.startswith("[") or not words:
            continue
        tests = []
        for word in words[1:]:
            if word.startswith("["):
                index, value, op, mask = word[1:-1].split(",")
                assert op == "SCMP_CMP_MASKED_EQ"
                tests.append((int(index), int(mask), int(value)))
        action = " ".join(word for word in words[1:] if not word.startswith("["))
        out.append((words[0], action, tuple(tests)))
    return out


def lxc_action(found: Sequence[tuple[str, str, Any]], call: str, args: Sequence[int]) -> str | None:
    met = [
        action for name, action, tests in found
        if name == call and all(args[index] & mask == value for index, mask, value in tests)
    ]  # fmt: skip
    assert len(met) <= 1, "rules that do not overlap need no order"
    return met[0] if met else None


@pytest.mark.parametrize("name", POLICIES)
def test_lxc(name: str) -> None:
    base = "2\nallowlist\n[all]\nopenat\nmknod\nrename errno 5 # why not\n[x86]\nmknodat allow\n"
    found = lxc_rules(lxc(rules(name), base))
    plain = lxc_rules(lxc(rules(name), None))
    own = policy(text(name), "private").filter
    assert ("openat", "", ()) in found
    for call, registers in calls(2000):
        if call not in ("mknod", "mknodat"):
            continue
        nr = number(call, X86_64)
        assert nr is not None
        args = [arg & 0xFFFFFFFF for arg in registers]
        action = run(own, nr, X86_64, args).action
        expected = {bpf.RET_USER_NOTIF: "notify", bpf.RET_ALLOW: "allow"}.get(
            action, f"errno {action & 0xFFFF}"
        )
        assert lxc_action(found, call, args) == expected
        assert lxc_action(plain, call, args) == (None if expected == "allow" else expected)


def test_lxc_bases_that_will_not_do() -> None:
    for base in ("1\nwhitelist\n", "", "2\ndenylist\n[all]\nmknod errno 1 [0,1,SCMP_CMP_EQ]\n"):
        with pytest.raises(PolicyError):
            lxc(rules("leaves"), base)


def test_the_filter_of_podmans_profile_is_not_too_long() -> None:
    if not PODMAN.exists():
        need(str(PODMAN))
    base = json.loads(PODMAN.read_text())
    program = built(oci(rules("refuses"), base, listener="/x", metadata=None), X86_64)
    assert len(program) // struct.calcsize("HBBI") < bpf.INSTRUCTIONS_MAX // 2


def test_profiles_with_opens() -> None:
    opens = "version: 1\nsyscalls:\n  open: [{path: /a, do: {inject: {content: a}}}]\n"
    found = rules_of(Path("p.yaml"), opens.encode(), Traits("private"), FAMILIES)
    made = lxc(found, None)
    assert made.startswith("2\ndenylist\n")
    assert "openat2 notify" in made
    assert "openat" in json.dumps(oci(found, None, listener="/l", metadata=None, flags=()))
