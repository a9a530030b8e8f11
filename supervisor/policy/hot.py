"""How long a filter is for those calls that a policy is not about, and for those that it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from supervisor.kernel.simulate import action_text, longest, run
from supervisor.kernel.syscalls import NATIVE_ARCHES, X86_64, arch_name, number
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.doors import DOORS
from supervisor.policy.options import OptionRules

# getpid on x86_64 and on i386: calls that no policy will ever be about.
_UNRELATED = (39, 20)


def hot_path(policy: CompiledPolicy) -> Iterator[tuple[str, int, str]]:
    """(architecture, instructions, what of): what the filter costs calls that it does not name."""
    for arch, nr in zip(NATIVE_ARCHES, _UNRELATED, strict=True):
        result = run(policy.filter, nr, arch)
        what = "a call that is not in the policy"
        if not result.looked_at_args:
            what += " (answered from the kernel's table, without the filter, since Linux 5.11)"
        yield arch_name(arch), result.steps, what


def named_paths(policy: CompiledPolicy) -> Iterator[tuple[str, int]]:
    """(name, instructions at most) for each call of the policy on x86_64."""
    for (arch, nr), spec in policy.calls.items():
        if arch == X86_64:
            yield spec.name, longest(policy.filter, nr, arch)


# Calls that a filter answers for the sake of rules that are about other calls.
_INSTEAD: Final = ("io_uring_setup", "fsopen", "setxattrat")

_BY_SOCKETCALL: Final = (
    "of 32-bit programs by socketcall: what no rule refuses is made by seccompd for them; "
    "options without a name here, and such as take pointers, descriptors or process numbers, are "
    "refused (ENOPROTOOPT)"
)
_LEFT: Final = (
    "otherwise: kernel: what a runtime's own profile notifies, and no family of seccompd is about, "
    "goes on with the caller's own rights, whatever its arguments"
)


def answered_calls(policy: CompiledPolicy) -> Iterator[str]:
    """A sentence for each call that the filter answers because it leads around the rules, and for
    those that come by other filters."""
    for name in _INSTEAD:
        nr = number(name, X86_64)
        assert nr is not None
        answer = action_text(run(policy.filter, nr, X86_64).action)
        if answer != "allow":
            yield f"{name} is refused ({answer}): {DOORS[name].why}"
    for name, rules in policy.families.items():
        if isinstance(rules, OptionRules) and rules.restricts:
            yield f"{name} {_BY_SOCKETCALL}"
    if policy.otherwise:
        yield _LEFT
