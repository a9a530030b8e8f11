"""The filter against an interpreter: random policies, random calls, every architecture."""

from __future__ import annotations

import ctypes.util
import errno
import random
import stat
import sys
from typing import Any

import pytest

from supervisor.errors import KernelError
from supervisor.handlers.node_files import NodeFiles
from supervisor.kernel import bpf
from supervisor.kernel.simulate import action_text, disassemble, run
from supervisor.kernel.syscalls import AARCH64, I386, NATIVE_ARCHES, X32_BIT, X86_64, number
from supervisor.model import Verdict
from supervisor.policy.compile import filter_rules
from supervisor.policy.match import node_matches
from supervisor.policy.rules import RuleSet
from supervisor.policy.traits import Nodes
from tests.support.policies import BLOCK, CHAR, device, mknod, mounts, node_rules, policy

ENOSYS = bpf.ret_errno(errno.ENOSYS)
GARBAGE = 0xDEADBEEF00000000
EMPTY = policy("version: 1\nsyscalls: {}\n", "none")


def nr(name: str, arch: int) -> int:
    found = number(name, arch)
    assert found is not None
    return found


def ask(program: bytes, name: str, arch: int, *args: int, upper: int = 0) -> int:
    padded = [value | upper for value in (*args, *(0,) * (6 - len(args)))]
    return run(program, nr(name, arch), arch, padded).action


def answer(verdict: Verdict, value: int, *, silent: bool, audit: bool) -> int:
    """What a filter should do where one rule decides, said with no regard to how it does it."""
    if audit or not (silent or verdict is Verdict.CONTINUE):
        return bpf.RET_USER_NOTIF
    if verdict is Verdict.CONTINUE:
        return bpf.RET_ALLOW
    return bpf.RET_KILL_PROCESS if verdict is Verdict.KILL else bpf.ret_errno(value or errno.EPERM)


def agreed(answers: list[int]) -> int:
    """Where memory or who calls decides between answers that differ, somebody has to look."""
    return answers[0] if len(set(answers)) == 1 else bpf.RET_USER_NOTIF


def expected(rules: RuleSet, mode: int, dev: int) -> int:
    """What a filter should do with a device."""
    kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(mode & 0xFFFF))
    dev &= 0xFFFFFFFF
    if kind is None or (kind == "c" and dev == 0):
        return bpf.RET_ALLOW
    major, minor = dev >> 8 & 0xFFF, (dev & 0xFF) | (dev >> 12 & 0xFFF00)
    answers = []
    for rule in rules.rules:
        if rule.nodes is None or any(
            node_matches(nodes, kind, major, minor) for nodes in rule.nodes
        ):
            answers.append(
                answer(rule.verdict, rule.value, silent=rule.silent, audit=rule.audit)
            )
            if not rule.needs_facts:
                return agreed(answers)
    last = rules.otherwise
    return agreed([*answers, answer(last.verdict, 0, silent=False, audit=last.audit)])


DEVICES = (
    '"null"',
    "zero",
    '"char 1:*"',
    '"char 0:0-9"',
    '"char 5:1-2"',
    '"block 7:0-300"',
    '"loop*"',
    '"char 4-6:*"',
    '"block *:*"',
    '"char 10:229"',
    '"block 259:70000"',
    '"char 4095:1048575"',
)
ACTIONS = (
    "do: emulate",
    "do: refuse",
    "do: {errno: EACCES}",
    "do: refuse, silent: true",
    "do: {errno: ENXIO}, silent: true",
    "do: kill, silent: true",
    "do: kill",
    "do: continue",
    "do: {return: 0}",
    "do: emulate, path: /dev/**",
    "do: refuse, uid: 0",
    "do: continue, host_uid: 7",
    "do: refuse, silent: true, host_uid: 7",
    "do: continue, mode: audit",
)


@pytest.mark.parametrize("seed", range(60))
def test_it_does_what_the_rules_want_and_no_more(seed: int) -> None:
    rnd = random.Random(seed)
    rules = []
    for _ in range(rnd.choice((0, 1, 2, 3, 5))):
        some = ", ".join(rnd.sample(DEVICES, rnd.choice((1, 1, 2, 3))))
        which = "" if rnd.random() < 0.1 else f"devices: [{some}], "
        rules.append(f"{{{which}{rnd.choice(ACTIONS)}}}")
    arches = (AARCH64,) if seed % 4 == 3 else NATIVE_ARCHES
    nodes: Nodes = rnd.choice(("host", "private", "none"))
    compiled = mknod(*rules, otherwise="refuse", nodes=nodes, arches=arches)
    alone = [rule for rule in rules if "path" not in rule and "_uid" not in rule]
    kernel = mknod(*alone, otherwise="kernel", arches=arches)
    for one in (compiled, kernel):
        known = [
            (kind, low, high, first, last)
            for rule in node_rules(one).rules
            for kind, low, high, first, last in rule.nodes or ()
        ]
        for _ in range(150):
            dev = rnd.choice((0, 1, 0x103, 0x105, rnd.getrandbits(32), rnd.getrandbits(9)))
            mode = rnd.choice((CHAR, BLOCK, CHAR, rnd.getrandbits(16))) | 0o644
            if known and rnd.random() < 0.6:
                kind, low, high, first, last = rnd.choice(known)
                edges = rnd.choice((low, high, high + 1)), rnd.choice((first, last, last + 1))
                dev = device(edges[0] & 0xFFF, edges[1] & 0xFFFFF)
                mode = CHAR if kind == "c" else BLOCK
            upper = rnd.choice((0, GARBAGE))
            arch = rnd.choice(arches)
            want = expected(node_rules(one), mode, dev)
            high_mode = mode | rnd.choice((0, 0x10000, 0x7FFF0000))
            if number("mknod", arch) is not None:
                assert ask(one.filter, "mknod", arch, 1, high_mode, dev, upper=upper) == want
            assert ask(one.filter, "mknodat", arch, 3, 1, high_mode, dev, upper=upper) == want


@pytest.mark.parametrize("arch", NATIVE_ARCHES)
def test_the_kernels_own_business_never_notifies(arch: int) -> None:
    program = mknod("{do: emulate}").filter
    for mode in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR, stat.S_IFLNK, 0):
        assert ask(program, "mknod", arch, 1, mode | 0o666, 0x103) == bpf.RET_ALLOW
    assert ask(program, "mknod", arch, 1, CHAR | 0o666, 0) == bpf.RET_ALLOW
    assert ask(program, "mknod", arch, 1, CHAR | 0o666, 0, upper=GARBAGE) == bpf.RET_ALLOW
    assert ask(program, "mknod", arch, 1, BLOCK | 0o666, 0) == bpf.RET_USER_NOTIF


@pytest.mark.parametrize("program", [EMPTY.filter, mknod("{do: emulate}").filter])
def test_other_architectures_get_enosys(program: bytes) -> None:
    for call in (0, 39, 133, 259, 317, 1000):
        assert run(program, call, AARCH64).action == ENOSYS
        assert run(program, call, 0).action == ENOSYS
        assert run(program, call | X32_BIT, X86_64).action == ENOSYS
    # -1 is how a tracer skips a call; the kernel answers ENOSYS by itself.
    assert run(program, 0xFFFFFFFF, X86_64).action == bpf.RET_ALLOW


@pytest.mark.parametrize("arch", NATIVE_ARCHES)
@pytest.mark.parametrize("upper", [0, GARBAGE])
def test_a_listener_of_the_targets_own_is_refused(arch: int, upper: int) -> None:
    program = EMPTY.filter
    busy = bpf.ret_errno(errno.EBUSY)
    for flags in (8, 8 | 1, 8 | 1 << 5, 0xFFFFFFFF):
        assert ask(program, "seccomp", arch, 1, flags, upper=upper) == busy
    for operation, flags in ((1, 0), (1, 7), (1, 0x10), (0, 8), (2, 8), (3, 8)):
        assert ask(program, "seccomp", arch, operation, flags, upper=upper) == bpf.RET_ALLOW


@pytest.mark.parametrize("arch", NATIVE_ARCHES)
@pytest.mark.parametrize("upper", [0, GARBAGE])
@pytest.mark.parametrize("nodes", ["host", "private", "none"])
@pytest.mark.parametrize("rules", [(), ("{do: refuse}",), ("{do: emulate}",)])
def test_nobody_types_into_the_terminal_from_a_container(
    arch: int, upper: int, nodes: Nodes, rules: tuple[str, ...]
) -> None:
    program = mknod(*rules, nodes=nodes).filter
    refused = bpf.RET_ALLOW if nodes == "none" else bpf.ret_errno(errno.EPERM)
    for request in (0x5412, 0x541C):
        assert ask(program, "ioctl", arch, 0, request, 7, upper=upper) == refused
    # TCGETS, TIOCSPGRP, TIOCGWINSZ, TIOCSCTTY and what is near
    for request in (0x5401, 0x5410, 0x5411, 0x5413, 0x541B, 0x541D, 0x540E, 0, 0x80005412):
        assert ask(program, "ioctl", arch, 0x5412, request, 0x5412, upper=upper) == bpf.RET_ALLOW


def test_every_filter_of_a_container_has_it() -> None:
    for nodes in ("host", "private"):
        program = policy("version: 1\nsyscalls: {}\n", nodes).filter
        for arch in NATIVE_ARCHES:
            assert ask(program, "ioctl", arch, 0, 0x5412) == bpf.ret_errno(errno.EPERM)


def test_what_no_rule_is_about_is_decided_without_a_look_at_its_arguments() -> None:
    compiled = mknod('{devices: ["null"], do: emulate}')
    named = {(arch, call) for arch, call in compiled.calls}
    named |= {
        (arch, nr(name, arch))
        for arch in NATIVE_ARCHES
        for name in ("seccomp", "io_uring_setup", "ioctl")
    }
    for arch in NATIVE_ARCHES:
        for call in range(470):
            if (arch, call) not in named:
                result = run(compiled.filter, call, arch, [0xFFFFFFFFFFFFFFFF] * 6)
                assert result.action == bpf.RET_ALLOW
                assert not result.looked_at_args


@pytest.mark.parametrize("arch", NATIVE_ARCHES)
def test_companions_notify_where_a_node_may_be_a_bind_mount(arch: int) -> None:
    names = (
        "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "umount2",
        "umount",
    )  # fmt: skip
    rest = {spec.name for spec in NodeFiles.calls} - set(names)
    cases: tuple[tuple[Nodes, set[str]], ...] = (
        ("host", {*names, *rest}),
        ("private", {*names}),
        ("none", set()),
    )
    for nodes, notified in cases:
        program = mknod("{do: emulate}", nodes=nodes).filter
        for name in (*names, *rest):
            if number(name, arch) is None:
                continue
            want = bpf.RET_USER_NOTIF if name in notified else bpf.RET_ALLOW
            assert ask(program, name, arch) == want, name
    assert ask(mknod("{do: emulate}").filter, "unlinkat", arch, 3, 1, 0x200) == bpf.RET_ALLOW
    only_nodes = mknod("{do: {emulate: {realise: node}}}")
    assert ask(only_nodes.filter, "unlink", arch) == bpf.RET_ALLOW
    assert ask(mknod("{do: refuse}").filter, "unlink", arch) == bpf.RET_ALLOW


@pytest.mark.parametrize("arch", NATIVE_ARCHES)
def test_umounts_notify_where_something_of_ours_may_go_with_them(arch: int) -> None:
    fuse = "{fstype: ext4, do: {emulate: {via: fuse}}}"
    kernel = '{fstype: ext4, source: "**", do: emulate}'
    for compiled, want in (
        (mounts(fuse), bpf.RET_USER_NOTIF),
        (mounts(kernel), bpf.RET_USER_NOTIF),
        (mounts("{fstype: ext4, do: refuse}", otherwise="refuse"), bpf.RET_ALLOW),
    ):
        program = compiled.filter
        assert ask(program, "umount2", arch, 0, 0) == want
        assert ask(program, "umount2", arch, 0, 3) == want
        # a look at what expires would take the kernel's mark away
        assert ask(program, "umount2", arch, 0, 4) == bpf.RET_ALLOW
        if number("umount", arch) is not None:
            assert ask(program, "umount", arch) == want


@pytest.mark.parametrize("arch", NATIVE_ARCHES)
def test_io_uring_is_refused_where_it_would_go_past_a_rule(arch: int) -> None:
    by_path = mknod("{path: /dev/**, do: emulate}", nodes="none")
    assert ask(by_path.filter, "io_uring_setup", arch) == ENOSYS
    assert ask(mknod("{do: emulate}").filter, "io_uring_setup", arch) == ENOSYS
    plain = mknod("{do: emulate}", nodes="none")
    assert ask(plain.filter, "io_uring_setup", arch) == bpf.RET_ALLOW
    assert ask(EMPTY.filter, "io_uring_setup", arch) == bpf.RET_ALLOW
    rule = "syscalls: {connect: [{port: 80, do: refuse}]}"
    assert ask(policy(f"version: 1\n{rule}").filter, "io_uring_setup", arch) == ENOSYS
    audited = policy(f"version: 1\nmode: audit\n{rule}").filter
    assert ask(audited, "io_uring_setup", arch) == bpf.RET_ALLOW
    opens = "version: 1\nsyscalls: {open: [{uid: 5, do: %s}]}"
    for verdict, want in (("{errno: EACCES}", ENOSYS), ("continue", bpf.RET_ALLOW)):
        assert ask(policy(opens % verdict).filter, "io_uring_setup", arch) == want
    assert ask(audited, "socket", arch, 2, 5, 0) == bpf.RET_ALLOW


@pytest.mark.parametrize("arch", NATIVE_ARCHES)
@pytest.mark.parametrize("name", ["fsopen", "fspick"])
def test_the_other_way_to_a_mount_is_not_there_where_rules_are(arch: int, name: str) -> None:
    for compiled in (
        mounts("{fstype: ext4, do: {emulate: {via: fuse}}}"),
        mounts("{fstype: ext4, do: refuse}", otherwise="refuse"),
    ):
        assert ask(compiled.filter, name, arch) == ENOSYS
    # what is only recorded, or nothing but the kernel's, leaves calls as they are without us
    for let_go in (
        policy("version: 1\nmode: audit\nsyscalls: {mount: []}"),
        policy("version: 1\nmode: audit\nsyscalls: {mount: [{do: refuse}]}"),
        mounts("{fstype: ext4, mode: audit, do: refuse}", otherwise="kernel"),
    ):
        assert ask(let_go.filter, name, arch) == bpf.RET_ALLOW
    part = mounts("{fstype: ext4, mode: audit, do: {emulate: {via: fuse}}}",
                  "{fstype: squashfs, source: /a, do: {emulate: {via: fuse}}}",
                  otherwise="kernel")  # fmt: skip
    assert ask(part.filter, name, arch) == ENOSYS
    assert ask(mknod("{do: emulate}").filter, name, arch) == bpf.RET_ALLOW
    assert ask(EMPTY.filter, name, arch) == bpf.RET_ALLOW


def test_many_rules_still_make_a_filter() -> None:
    rules = [f'{{devices: ["char 1:{i}"], do: refuse, silent: true}}' for i in range(300)]
    program = mknod(*rules).filter
    assert len(program) // 8 < bpf.INSTRUCTIONS_MAX
    assert ask(program, "mknod", I386, 1, CHAR, 0x103) == bpf.RET_USER_NOTIF


def test_every_call_in_the_policy_is_one_that_the_filter_can_notify() -> None:
    compiled = mknod('{devices: ["null"], do: emulate}')
    for (arch, call), spec in compiled.calls.items():
        args: Any = {"mknod": (0, CHAR, 0x103), "mknodat": (0, 0, CHAR, 0x103)}.get(spec.name, ())
        padded = [*args, *(0,) * (6 - len(args))]
        assert run(compiled.filter, call, arch, padded).action == bpf.RET_USER_NOTIF, spec.name


def test_rules_with_other_actions_never_overlap() -> None:
    compiled = mknod('{devices: ["null"], do: refuse, silent: true}', "{do: emulate}", nodes="none")
    from supervisor.handlers.registry import FAMILIES

    rules = filter_rules(compiled.families, list(FAMILIES["mknod"].calls), FAMILIES)
    assert {rule.action for rule in rules} == {bpf.RET_USER_NOTIF, bpf.ret_errno(errno.EPERM)}


def new_or_remount(flags: int) -> str:
    """What the kernel makes of the flags of mount(2), in its own order (path_mount)."""
    if flags & 0xFFFF0000 == 0xC0ED0000:
        flags &= 0xFFFF
    if flags & 1 << 31:
        return "invalid"
    if flags & 32 and not flags & 4096:
        return "remount"
    if flags & (32 | 4096 | 8192 | 0xF << 17):
        return "the caller's own"
    return "new"


MOUNT_BITS = (0, 1, 2, 4, 8, 32, 256, 4096, 8192, 16384, 32768, 1 << 17, 1 << 18, 1 << 19, 1 << 20,
              1 << 21, 1 << 24, 1 << 25, 1 << 30, 1 << 31)  # fmt: skip


# <linux/mount.h>; what a rule need not allow stands in docs/mounts.md.
FLAGS = {
    "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "mand": 64, "dirsync": 128,
    "nosymfollow": 256, "noatime": 1024, "nodiratime": 2048, "posixacl": 1 << 16,
    "iversion": 1 << 23, "lazytime": 1 << 25,
}  # fmt: skip
ALWAYS = 1 << 15 | 1 << 21 | 1 << 24  # silent, relatime, strictatime


def random_mount_rules(rnd: random.Random) -> tuple[list[str], list[tuple[int | None, bool, int]]]:
    """Rules, and for each the flags that it takes (None: any), whether it asks for more, and its
    answer.
    """
    texts, known = [], []
    for _ in range(rnd.choice((0, 1, 1, 2, 3, 4))):
        words = rnd.sample(sorted(FLAGS), rnd.choice((0, 1, 2, 5)))
        limited = rnd.random() < 0.6
        do, answered = rnd.choice(
            (
                ("do: emulate, fstype: ext4, source: /**", bpf.RET_USER_NOTIF),
                ("do: {emulate: {via: fuse}}, fstype: ext4", bpf.RET_USER_NOTIF),
                ("do: {errno: EIO}", bpf.RET_USER_NOTIF),
                ("do: refuse, target: /x", bpf.RET_USER_NOTIF),
                ("do: refuse, silent: true", bpf.ret_errno(errno.EPERM)),
                ("do: kill, silent: true", bpf.RET_KILL_PROCESS),
                ("do: continue, accept_race: true", bpf.RET_ALLOW),
                ("do: continue, accept_race: true, fstype: [tmpfs]", bpf.RET_ALLOW),
                ("do: continue, accept_race: true, mode: audit", bpf.RET_USER_NOTIF),
            )
        )
        options = f"options: {{allow: [{', '.join(words)}]}}, " if limited else ""
        texts.append(f"{{{options}{do}}}")
        allowed = sum(FLAGS[word] for word in words) | ALWAYS if limited else None
        known.append((allowed, limited or "fstype" in do or "target" in do, answered))
    return texts, known


@pytest.mark.parametrize("arch", [*NATIVE_ARCHES, AARCH64])
@pytest.mark.parametrize("seed", range(25))
def test_mounts_notify_where_a_rule_could_want_them(arch: int, seed: int) -> None:
    rnd = random.Random(seed)
    texts, known = random_mount_rules(rnd)
    # `kernel` beside a refusal is a race that nobody can accept; as a last rule it can be.
    refusing = any(one not in (bpf.RET_ALLOW,) for _, _, one in known)
    if rnd.random() < 0.5:
        texts, known = [*texts, "{do: continue, accept_race: true}"], [
            *known, (None, False, bpf.RET_ALLOW)
        ]  # fmt: skip
        refusing = False
    last = "refuse" if refusing or rnd.random() < 0.5 else "kernel"
    compiled = mounts(*texts, otherwise=last, arches=(arch,))
    program = compiled.filter
    by_kernel = any("do: emulate" in text for text in texts)
    for _ in range(300):
        flags = sum({rnd.choice(MOUNT_BITS) for _ in range(rnd.choice((0, 1, 2, 3, 5)))})
        if rnd.random() < 0.4:
            flags = flags & 0xFFFF | 0xC0ED0000
        if rnd.random() < 0.1:
            flags = rnd.getrandbits(32)
        what = new_or_remount(flags)
        if what != "new":
            notified = what == "remount" and by_kernel
            want = bpf.RET_USER_NOTIF if notified else bpf.RET_ALLOW
        else:
            real = flags & 0xFFFF if flags >> 16 == 0xC0ED else flags
            answers = []
            for allowed, asks, answered in known:
                if allowed is None or not real & ~(allowed | OPERATION_BITS):
                    answers.append(answered)
                    if not asks:
                        break
            else:
                answers.append(bpf.RET_ALLOW if last == "kernel" else bpf.RET_USER_NOTIF)
            want = agreed(answers)
        upper = rnd.choice((0, GARBAGE))
        got = ask(program, "mount", arch, 1, 1, 1, flags, 1, upper=upper)
        assert got == want, (hex(flags), texts, last)


# rec says how a bind mount is made; in a new one it has no meaning.
OPERATION_BITS = 32 | 4096 | 8192 | 16384 | 0xF << 17


@pytest.mark.parametrize("arch", NATIVE_ARCHES)
def test_mount_alone_notifies_where_mounts_are_granted(arch: int) -> None:
    program = mounts('{fstype: ext4, source: "/**", do: emulate}').filter
    assert ask(program, "mknod", arch, 1, CHAR, 0x103) == bpf.RET_ALLOW
    assert ask(program, "io_uring_setup", arch) == bpf.RET_ALLOW
    assert ask(mknod("{do: emulate}").filter, "mount", arch, 1, 1, 1, 0, 0) == bpf.RET_ALLOW


def test_a_person_can_read_it() -> None:
    lines = disassemble(mknod('{devices: ["null"], do: refuse, silent: true}').filter)
    text = "\n".join(lines)
    for part in (
        "load arch",
        "load args[1].low",
        "and 0xf000",
        "goto",
        "return notify",
        "return errno EPERM",
        "return errno EBUSY",
        "return allow",
    ):
        assert part in text
    assert action_text(bpf.RET_KILL_PROCESS) == "kill"


def test_no_libseccomp_to_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyseccomp does where the linker's cache knows none."""
    monkeypatch.delitem(sys.modules, "pyseccomp", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    with pytest.raises(KernelError, match="apt-get install libseccomp2"):
        bpf.build([])
    monkeypatch.undo()
    assert bpf.build([])
