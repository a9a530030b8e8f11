"""Rulings: what a policy's decision means for the session, and when it is taken again."""

from __future__ import annotations

import struct
from errno import EBUSY, EFAULT, ENODEV, EPERM

import pytest

from supervisor.engine.decide import Judge, reply_to
from supervisor.engine.limits import Limits
from supervisor.engine.snapshot import PROCEED
from supervisor.kernel.syscalls import NATIVE_ARCHES, X86_64, number, numbers
from supervisor.model import Decision, Facts, Snapshot, Verdict
from tests.support.policies import BLOCK, CHAR, call, device, mknod, policy

NULL = '{devices: ["null"], do: emulate}'
LOOP = "{devices: [loop0], do: {errno: EBUSY}}"
ZERO = "{devices: [zero], do: {return: 7}}"
KILL = "{devices: [mem], do: kill}"
BELOW = '{devices: [full], path: "/srv/**", do: emulate}'


def judge(*, kernel_refuses: bool = True, memo: int = 1024) -> Judge:
    policy = mknod(NULL, LOOP, ZERO, KILL, BELOW)
    return Judge(policy, kernel_refuses=kernel_refuses, limits=Limits(memo=memo))


@pytest.mark.parametrize(
    ("decision", "reply"),
    [
        (Decision(Verdict.CONTINUE, "r"), PROCEED),
        (Decision(Verdict.REFUSE, "r"), PROCEED),
        (Decision(Verdict.RETURN, "r", value=5), (5, 0, 0)),
        (Decision(Verdict.ERRNO, "r", value=ENODEV), (0, -ENODEV, 0)),
    ],
)
def test_replies(decision: Decision, reply: tuple[int, int, int]) -> None:
    assert reply_to(decision) == reply


@pytest.mark.parametrize(
    ("snapshot", "verdict", "reply"),
    [
        (call(b"/dev/null"), Verdict.EMULATE, None),
        (call(b"/dev/loop0", BLOCK, device(7, 0)), Verdict.ERRNO, (0, -EBUSY, 0)),
        (call(b"/dev/zero", dev=device(1, 5)), Verdict.RETURN, (7, 0, 0)),
        (call(b"/dev/mem", dev=device(1, 1)), Verdict.KILL, None),
        (call(b"/dev/sda", BLOCK, device(8, 0)), Verdict.REFUSE, PROCEED),
        (call(b"/tmp/full", dev=device(1, 7)), Verdict.REFUSE, PROCEED),
    ],
)
def test_rulings(
    snapshot: Snapshot, verdict: Verdict, reply: tuple[int, int, int] | None
) -> None:
    ruling = judge().rule(b"key", snapshot)
    assert (ruling.decision.verdict, ruling.reply) == (verdict, reply)
    assert ruling.refuses == (not verdict.grants)


def test_a_refusal_is_never_left_to_a_kernel_that_would_grant() -> None:
    """The callers may be root of the machine: `continue` would let them have it (rule 13)."""
    ruling = judge(kernel_refuses=False).rule(b"key", call(b"/dev/sda", BLOCK, device(8, 0)))
    assert (ruling.decision.verdict, ruling.reply) == (Verdict.REFUSE, None)


def test_paths_are_looked_at_twice() -> None:
    found = judge()
    snapshot = call(b"/srv/full", dev=device(1, 7))
    ruling = found.rule(b"key", snapshot)
    assert (ruling.decision.needs_facts, ruling.reply) == (True, None)
    assert ruling.spec is not None
    good = found.again(snapshot, ruling.spec, Facts(b"/srv/full", 0, 0))
    assert good.verdict is Verdict.EMULATE
    bad = found.again(snapshot, ruling.spec, Facts(b"/etc/full", 0, 0))
    assert bad.verdict is Verdict.REFUSE


def test_calls_that_no_rule_is_about_get_on_error() -> None:
    ruling = judge().rule(b"key", Snapshot(1, 1, X86_64, 99999, 0, "?", ()))
    assert (ruling.spec, ruling.reply) == (None, (0, -EPERM, 0))


def test_companions_are_known() -> None:
    nr = number("unlink", X86_64)
    assert nr is not None
    ruling = judge().rule(b"key", Snapshot(1, 1, X86_64, nr, 0, "unlink", (b"x",)))
    assert ruling.companion
    assert ruling.decision.verdict is Verdict.EMULATE


def test_equal_calls_get_the_earlier_ruling() -> None:
    found = judge()
    first = found.rule(b"a", call(b"/dev/null"))
    assert found.memo[b"a"] is first
    assert found.rule(b"b", call(b"/tmp/null")) is first, "one decision, one ruling"


def key(path: bytes | int, dev: int) -> tuple[bytes, int]:
    """The key of call(path, dev=dev), as a receiver makes it, and the length of its registers."""
    text = path if isinstance(path, bytes) else b""
    head = struct.pack("=IiQQ", X86_64, 133, CHAR, dev)
    length = len(path) if isinstance(path, bytes) else path
    return head + struct.pack("=i", length) + text, len(head)


@pytest.mark.parametrize("path", [b"/srv/full", b"/tmp/full", b"srv/full", b"", -EFAULT])
def test_other_strings_need_no_snapshot(path: bytes | int) -> None:
    full = device(1, 7)
    found = judge()
    assert found.by_string(*key(path, full)) is None, "nothing is known of these registers"
    first, head = key(b"/etc/full", full)
    found.rule(first, call(b"/etc/full", dev=full), head)
    assert found.by_string(*key(path, full)) == judge().rule(b"", call(path, dev=full))
    assert key(path, full)[0] in found.memo
    assert found.by_string(*key(path, device(1, 5))) is None, "other registers"


def test_the_memory_is_bounded() -> None:
    found = judge(memo=8)
    for i in range(100):
        found.rule(b"%d" % i, call(b"/dev/null%d" % i))
        assert len(found.memo) <= 8
    for dev in range(100):
        name, head = key(b"/srv/full", dev << 20 | 0x107)
        found.rule(name, call(b"/srv/full", dev=device(1, 7)), head)
        assert len(found._narrowed) <= 8
    assert name in found.memo


@pytest.mark.parametrize("arch", NATIVE_ARCHES)
def test_what_an_earlier_policy_was_to_hear(arch: int) -> None:
    """What a container cannot do without goes on; what policies name is refused, as ever."""
    nothing = policy("version: 1\nsyscalls: {}\n")
    heard = ["unlink", "rename", "umount2", "openat", "mkdir", "mknod", "mount", "connect", "ioctl"]
    calls = {name: nr for name in [*heard, "chmod", "link"] for nr in numbers(name, arch)}
    for kernel_refuses in (True, False):
        asked = Judge(nothing, kernel_refuses=kernel_refuses, foreign=True, heard=heard)
        replies = {
            name: asked.rule(name.encode(), Snapshot(1, 1, arch, nr, 0, name, ())).reply
            for name, nr in calls.items()
        }
        goes_on = {name for name, reply in replies.items() if reply == PROCEED}
        everyday = {"unlink", "rename", "umount2", "openat", "mkdir"}
        assert goes_on == (everyday if kernel_refuses else set())
        assert set(replies.values()) <= {PROCEED, (0, -EPERM, 0)}
