"""Policies and calls for tests, made in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.syscalls import NATIVE_ARCHES, X86_64, number
from supervisor.model import Arg, Snapshot
from supervisor.policy.compile import compile_policy
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.rules import RuleSet
from supervisor.policy.traits import Nodes, Traits

CHAR, BLOCK = 0o020000, 0o060000


def policy(
    text: str, nodes: Nodes = "host", arches: Sequence[int] = NATIVE_ARCHES
) -> CompiledPolicy:
    """The policy of a YAML text; its rules stand in "p.yaml"."""
    return compile_policy(Path("p.yaml"), text.encode(), Traits(nodes), FAMILIES, arches=arches)


def mknod(
    *rules: str, otherwise: str = "refuse", nodes: Nodes = "host",
    arches: Sequence[int] = NATIVE_ARCHES,
) -> CompiledPolicy:
    """A policy of mknod rules, each in YAML's flow style; the first stands in line 5."""
    lines = "".join(f"\n    - {rule}" for rule in rules) or " []"
    text = f"version: 1\nsyscalls:\n  mknod:\n    otherwise: {otherwise}\n    rules:{lines}\n"
    return policy(text, nodes, arches)


def node_rules(policy: CompiledPolicy) -> RuleSet:
    """The policy's rules for device nodes."""
    rules = policy.families["mknod"]
    assert isinstance(rules, RuleSet)
    return rules


def mounts(
    *rules: str, otherwise: str = "kernel", arches: Sequence[int] = NATIVE_ARCHES
) -> CompiledPolicy:
    """A policy of mount rules, each in YAML's flow style; the first stands in line 6."""
    lines = "".join(f"\n      - {rule}" for rule in rules) or " []"
    text = f"version: 1\nsyscalls:\n  mount:\n    otherwise: {otherwise}\n    rules:{lines}\n"
    return policy(text, arches=arches)


def mount_call(
    source: Arg = b"/a.img",
    target: Arg = b"/mnt",
    fstype: Arg = b"ext4",
    flags: int = 0,
    data: Arg = 0,
    arch: int = X86_64,
) -> Snapshot:
    """A snapshot of mount."""
    nr = number("mount", arch)
    assert nr is not None
    return Snapshot(1, 1, arch, nr, 0, "mount", (source, target, fstype, flags, data))


def device(major: int, minor: int) -> int:
    """The 32-bit number that mknod(2) takes."""
    return (minor & 0xFF) | major << 8 | (minor & 0xFFF00) << 12


def call(path: bytes | int, mode: int = CHAR, dev: int = 0x103, arch: int = X86_64) -> Snapshot:
    """A snapshot of mknod."""
    nr = number("mknod", arch)
    assert nr is not None
    return Snapshot(1, 1, arch, nr, 0, "mknod", (path, mode, dev))
