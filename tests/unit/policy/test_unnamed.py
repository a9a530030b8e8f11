"""Calls that no rule can be about, as filters of others notify them."""

from __future__ import annotations

from errno import EBUSY, EPERM

import pytest

from supervisor.kernel.syscalls import AARCH64, I386, NATIVE_ARCHES, X86_64, names, numbers
from supervisor.model import Verdict
from supervisor.policy.compiled import CompiledPolicy
from tests.support.policies import policy

LEFT = "version: 1\non_error: EBUSY\notherwise: kernel\nsyscalls: {}\n"
X32 = 0x40000000
BY_THEMSELVES = {"mkdir", "mkdirat"}


# From <asm/unistd_64.h> and <asm/unistd_32.h>.
@pytest.mark.parametrize(
    ("arch", "nr"),
    [(X86_64, 0), (X86_64, 3), (X86_64, 59), (X86_64, 462), (I386, 3), (I386, 6), (I386, 11)],
    ids=["read", "close", "execve", "mseal", "i386 read", "i386 close", "i386 execve"],
)
def test_a_call_of_none_is_the_kernels_where_the_policy_says_so(arch: int, nr: int) -> None:
    said = policy(LEFT).unnamed(arch, nr)
    assert (said.verdict, said.rule) == (Verdict.CONTINUE, "p.yaml:3")
    said = policy(LEFT.replace("kernel", "refuse")).unnamed(arch, nr)
    assert (said.verdict, said.value, said.rule) == (Verdict.ERRNO, EBUSY, "p.yaml")


def test_it_is_refused_where_nothing_is_said() -> None:
    said = policy("version: 1\nsyscalls: {}\n").unnamed(X86_64, 0)
    assert (said.verdict, said.value) == (Verdict.ERRNO, EPERM)


@pytest.mark.parametrize("name", sorted({*names()} - BY_THEMSELVES))
def test_what_seccompd_knows_is_refused(name: str) -> None:
    """Calls of families that the policy does not have, and those that lead around rules."""
    left = policy(LEFT)
    for arch in NATIVE_ARCHES:
        for nr in numbers(name, arch):
            assert left.unnamed(arch, nr).verdict is Verdict.ERRNO


@pytest.mark.parametrize("name", sorted(BY_THEMSELVES))
def test_directories_are_as_calls_of_none_where_no_rule_is_about_them(name: str) -> None:
    """No rule of another family rests on who makes which directory."""
    left, refused = policy(LEFT), policy(LEFT.replace("kernel", "refuse"))
    for arch in NATIVE_ARCHES:
        for nr in numbers(name, arch):
            assert left.unnamed(arch, nr).verdict is Verdict.CONTINUE
            assert refused.unnamed(arch, nr).verdict is Verdict.ERRNO


@pytest.mark.parametrize(
    ("arch", "nr"),
    [(X86_64, X32), (X86_64, X32 | 520), (AARCH64, 63), (0, 0), (X86_64, -1), (I386, -(1 << 31))],
    ids=["x32 read", "x32 execve", "aarch64 read", "no architecture", "none", "the least"],
)
def test_what_is_no_call_of_ours_is_refused(arch: int, nr: int) -> None:
    assert policy(LEFT).unnamed(arch, nr).verdict is Verdict.ERRNO


def test_it_is_kept_with_the_policy() -> None:
    left = policy(LEFT)
    again = CompiledPolicy.from_json(left.to_json())
    assert again.unnamed(X86_64, 0) == left.unnamed(X86_64, 0)
    assert again.otherwise == "p.yaml:3"
