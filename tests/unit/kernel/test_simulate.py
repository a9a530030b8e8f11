"""The interpreter of filters against the kernel: real filters, real calls, by both entries."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.kernel import bpf
from supervisor.kernel.simulate import run
from supervisor.kernel.syscalls import I386, NATIVE_ARCHES, X32_BIT, X86_64, names, number
from supervisor.policy.compiled import CompiledPolicy
from tests.support.policies import BLOCK, CHAR, mknod, policy
from tests.support.scratch import compile_c, scratch

# No call here comes to such an errno by itself.
FIRST = 2000
# An address that nobody can read: what the filter lets pass does nothing.
NOWHERE = 1


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with scratch(0o755) as folder:
        yield compile_c("filtered_calls", folder)


def told_apart(code: bytes) -> tuple[bytes, dict[int, int]]:
    """The filter with an errno of its own for each action but "allow", and which is whose."""
    errnos: dict[int, int] = {}
    out = b""
    for opcode, jt, jf, k in bpf.instructions(code):
        value = k
        if opcode == 0x06 and k != bpf.RET_ALLOW:
            value = bpf.ret_errno(errnos.setdefault(k, FIRST + len(errnos)))
        out += struct.pack("=HBBI", opcode, jt, jf, value)
    return out, errnos


Call = tuple[int, int, int, list[int]]  # how it is made (see filtered_calls.c), arch, nr, arguments


def calls(rnd: random.Random, count: int) -> list[Call]:
    """Calls that filters are about, and others, with registers as a caller may have them."""
    found: list[Call] = []
    while len(found) < count:
        arch = rnd.choice(NATIVE_ARCHES)
        nr = number(rnd.choice(names()), arch)
        if nr is None:
            continue
        if rnd.random() < 0.1:
            nr = rnd.choice((39, 20, 102, 110)) if arch == X86_64 else rnd.choice((20, 24, 47, 49))
        values = (
            NOWHERE, 0x5412, 0x541C, 0x103, 0x105, 0xC0ED0000, 0x20, 0x1000, 8, 0x200, CHAR | 0o644,
            0, rnd.getrandbits(32), 1 << rnd.randrange(32),
        )  # fmt: skip
        args = [NOWHERE, *(rnd.choice(values) for _ in range(4)), 0]
        if nr in (number("mknodat", arch), number("seccomp", arch)):
            args[1] = rnd.choice((NOWHERE, 8, 9))
            args[0] = rnd.choice((NOWHERE, 0xFFFFFF9C))
        if nr in (number("mknod", arch), number("mknodat", arch)):
            at = 1 if nr == number("mknod", arch) else 2
            args[at] = rnd.choice((CHAR, BLOCK, rnd.getrandbits(16))) | 0o644
        elif nr == number("seccomp", arch):
            args[2] = NOWHERE  # nothing can be installed from there
        elif nr == number("mount", arch):
            args[:3] = [NOWHERE] * 3
        elif nr != number("ioctl", arch):
            args = [0xFFFF, NOWHERE, rnd.choice(values), NOWHERE, rnd.choice(values), 0]
        upper = rnd.choice((0, 0xDEADBEEF << 32))
        if nr != number("io_uring_setup", arch):
            args = [value | upper for value in args]
        if arch == X86_64 and rnd.random() < 0.1:
            nr |= X32_BIT
        found.append((int(arch == I386), arch, nr, args))
    return found


def policies() -> Iterator[CompiledPolicy]:
    yield policy("version: 1\nsyscalls: {}\n", "none")
    yield mknod('{devices: ["null"], do: emulate}', nodes="host")
    yield mknod('{devices: ["char 1:3-9"], do: refuse, silent: true}', "{do: emulate}")
    yield mknod("{devices: [zero], path: /dev/**, do: emulate}", otherwise="kernel", nodes="none")
    yield mknod(
        '{devices: ["block *:*"], do: {errno: EIO}, silent: true}',
        '{devices: ["char 1:*"], do: kill, silent: true}', "{do: continue}", nodes="private",
    )  # fmt: skip
    for rules in (
        "{fstype: ext4, source: /**, options: {allow: [ro, nosuid]}, do: emulate}",
        "{options: {allow: [noexec]}, do: {errno: EIO}}, {do: continue, accept_race: true}",
        "{do: {errno: EIO}, silent: true}",
    ):
        for otherwise in ("kernel", "refuse"):
            yield policy(
                f"version: 1\nsyscalls:\n  mount:\n    otherwise: {otherwise}\n    rules: [{rules}]"
            )


def test_it_does_what_the_kernel_does(program: Path) -> None:
    rnd = random.Random(5)
    seen: set[int] = set()
    for compiled in policies():
        code, errnos = told_apart(compiled.filter)
        some = calls(rnd, 1500)
        words = b"".join(struct.pack("=QQ6Q", how, nr, *args) for how, _, nr, args in some)
        done = subprocess.run(
            [program], input=struct.pack("=I", len(code) // 8) + code + words, capture_output=True
        )
        assert done.returncode == 0
        found = [said for (said,) in struct.iter_unpack("=i", done.stdout)]
        assert len(found) == len(some)
        for said, (_, arch, nr, args) in zip(found, some, strict=True):
            action = run(compiled.filter, nr, arch, args).action
            assert (said if said >= FIRST else None) == errnos.get(action), (arch, nr, args, said)
            seen.add(action)
    assert {bpf.RET_ALLOW, bpf.RET_USER_NOTIF, bpf.RET_KILL_PROCESS} < seen
    assert len(seen) >= 6
