"""The filter for opens and sockets, run by an interpreter: random policies, random calls."""

from __future__ import annotations

import random

import pytest

from supervisor.kernel.bpf import RET_ALLOW, RET_USER_NOTIF
from supervisor.kernel.simulate import run
from supervisor.kernel.syscalls import I386, X86_64, number
from supervisor.policy.compiled import CompiledPolicy
from tests.support.policies import policy

ACCESS = ("read-only", "write-only", "read-write")  # of O_RDONLY, O_WRONLY, O_RDWR
ACTIONS = (
    "{inject: {device: kvm}}", '{inject: {content: "x"}}', "{errno: EIO}", "refuse", "kill",
    "continue, accept_race: true",
)  # fmt: skip
# O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_NONBLOCK, O_NOFOLLOW, O_CLOEXEC; and those of which nothing
# is given and nothing refused: O_DIRECTORY, O_PATH
PLAIN_BITS = (0o100, 0o200, 0o1000, 0o2000, 0o4000, 0o400000, 0o2000000)
OTHER_BITS = (0o200000, 0o10000000)
UPPER = 0xDEAD << 32  # what int leaves in a register of 64 bits


def open_policy(rnd: random.Random) -> tuple[CompiledPolicy, set[str]]:
    """A policy about opens, and the ways of opening that a rule of it could want."""
    lines, wanted = [], set[str]()
    for which in range(rnd.randrange(1, 5)):
        some = rnd.sample(ACCESS, rnd.randrange(1, 3)) if rnd.random() < 0.6 else list(ACCESS)
        do = rnd.choice(ACTIONS)
        access = f"access: [{', '.join(some)}], " if len(some) < len(ACCESS) else ""
        lines.append(f'    - {{path: "/{which}", {access}do: {do}}}\n')
        wanted |= set() if do.startswith("continue") else {*some}
    lines.append("    - {do: continue, accept_race: true}\n")
    return policy("version: 1\nsyscalls:\n  open:\n" + "".join(lines)), wanted


def action(compiled: CompiledPolicy, name: str, arch: int, registers: list[int]) -> int:
    """What the filter does with a call."""
    nr = number(name, arch)
    assert nr is not None
    return run(compiled.filter, nr, arch, registers).action


@pytest.mark.parametrize("seed", range(60))
def test_opens(seed: int) -> None:
    """An open leaves the kernel where a rule could want one like it, by its flags."""
    rnd = random.Random(seed)
    compiled, wanted = open_policy(rnd)
    for _ in range(60):
        arch, name = rnd.choice((X86_64, I386)), rnd.choice(("open", "openat", "creat", "openat2"))
        way = rnd.choice((0, 1, 2))
        other = rnd.choice(OTHER_BITS) if rnd.random() < 0.2 else 0
        flags = way | other | sum(rnd.sample(PLAIN_BITS, rnd.randrange(4)))
        registers = [rnd.getrandbits(47) for _ in range(6)]
        if name in ("open", "openat"):
            registers[1 if name == "open" else 2] = flags | (UPPER if rnd.random() < 0.3 else 0)
        notified = ACCESS[1 if name == "creat" else way] in wanted
        if name in ("open", "openat") and other:
            notified = False
        if name == "openat2":  # whose flags lie in memory
            notified = bool(wanted)
        found = action(compiled, name, arch, registers)
        assert found == (RET_USER_NOTIF if notified else RET_ALLOW), (name, oct(flags), arch)


@pytest.mark.parametrize("seed", range(20))
def test_sends(seed: int) -> None:
    """A send leaves the kernel where it may have an address; connect and bind where rules are."""
    rnd = random.Random(seed)
    family = rnd.choice(("connect", "bind"))
    compiled = policy(f'version: 1\nsyscalls:\n  {family}:\n    - {{port: 5, do: emulate}}\n')
    calls = {"connect": ("connect", "sendto", "sendmsg", "sendmmsg"), "bind": ("bind",)}
    for _ in range(60):
        arch = rnd.choice((X86_64, I386))
        name = rnd.choice([*calls["connect"], *calls["bind"]])
        registers = [rnd.getrandbits(47) for _ in range(6)]
        registers[5] = length = rnd.choice((0, 1, 2, 16, 28, 110, 128, UPPER, UPPER | 16))
        notified = name in calls[family] and (name != "sendto" or length & 0xFFFFFFFF)
        found = action(compiled, name, arch, registers)
        assert found == (RET_USER_NOTIF if notified else RET_ALLOW), (name, length, arch)
