"""What the listing of a filter says of its tests."""

from __future__ import annotations

import itertools
import re

import pytest

from supervisor.kernel.simulate import run
from supervisor.kernel.syscalls import I386, X86_64, arch_name, number
from supervisor.policy.annotate import annotated
from supervisor.policy.compiled import CompiledPolicy
from tests.support.policies import CHAR, mknod, mounts


def said_on(compiled: CompiledPolicy, arch: int, name: str, *args: int) -> list[str]:
    """What is said of the tests that hold for a call, in the order in which they are made."""
    lines = annotated(compiled)
    nr = number(name, arch)
    assert nr is not None
    way = run(compiled.filter, nr, arch, args).way
    out = []
    for at, following in itertools.pairwise(way):
        found = re.search(r" if == \S+ goto (\d+) else (\d+) +; (.*)", lines[at])
        if found and int(found[1]) == following:
            out.append(found[3])
    return out


@pytest.mark.parametrize("arch", [X86_64, I386])
def test_the_way_of_a_call_is_said(arch: int) -> None:
    compiled = mknod(
        "{devices: [kvm, zero], do: refuse, silent: true}", "{devices: zero, do: emulate}",
        "{devices: [kvm], do: {errno: EIO}, silent: true}", nodes="none", otherwise="kernel",
    )  # fmt: skip
    said = said_on(compiled, arch, "mknod", 0, CHAR, 10 << 8 | 232)
    assert said == [
        arch_name(arch), "mknod", "mknod: mode char", "mknod: dev kvm (p.yaml:6, p.yaml:8)"
    ]  # fmt: skip
    assert said_on(compiled, arch, "mknodat", 0, 0, CHAR, 0x105)[-1] == (
        "mknodat: dev zero (p.yaml:6, p.yaml:7)"
    )


def test_what_the_filter_answers_is_said() -> None:
    compiled = mounts("{fstype: ext4, do: {emulate: {via: fuse}}}")
    assert said_on(compiled, X86_64, "fsopen") == ["x86_64", "fsopen"]
    assert said_on(compiled, X86_64, "ioctl", 0, 0x5412)[-1] == "ioctl: request TIOCSTI"
    assert said_on(compiled, X86_64, "mount", 0, 0, 0, 0)[-1] == "mount: mountflags"


def test_every_instruction_is_listed() -> None:
    compiled = mknod('{devices: ["char 1:*", "block 7:0-100"], do: emulate}')
    lines = annotated(compiled)
    assert [int(line.split()[0]) for line in lines] == list(range(len(compiled.filter) // 8))
