"""Rules to classic BPF. The only importer of pyseccomp.

libseccomp makes wrong code for some mixtures of operators; with EQ and MASKED_EQ alone a random
differential against an interpreter found none, so that those two are all that is used here. The
program is exported, checked in tests by an interpreter, and installed by the shim.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from supervisor.errors import KernelError
from supervisor.kernel.syscalls import (
    NATIVE_ARCHES,
    SOCKETCALLS,
    Condition,
    Match,
    number,
)

# <linux/seccomp.h>
SET_MODE_FILTER: Final = 1
FILTER_FLAG_NEW_LISTENER: Final = 1 << 3
RET_KILL_PROCESS: Final = 0x80000000
RET_ERRNO: Final = 0x00050000
RET_USER_NOTIF: Final = 0x7FC00000
RET_ALLOW: Final = 0x7FFF0000

# BPF_MAXINSNS
INSTRUCTIONS_MAX: Final = 4096
# No call has a number that high yet.
_NUMBERS: Final = 1024


def ret_errno(value: int) -> int:
    """The action that answers with an errno (> 0)."""
    return RET_ERRNO | value


@dataclass(frozen=True, slots=True)
class FilterRule:
    """One call that does not simply pass: the action, and when it applies.

    Rules with different actions must not hold for the same call: libseccomp promises no order.
    """

    name: str
    action: int
    match: Match = ()


# The kernel refuses a second listener while ours lives. Once ours has gone, a target could install
# one of its own and continue calls that were to be refused.
NO_LISTENER: Final = FilterRule(
    "seccomp",
    ret_errno(errno.EBUSY),
    (
        Condition(0, 0xFFFFFFFF, SET_MODE_FILTER),
        Condition(1, FILTER_FLAG_NEW_LISTENER, FILTER_FLAG_NEW_LISTENER),
    ),
)

# <asm-generic/ioctls.h>. The first puts a character into a terminal's input as if it had been
# typed, the second pastes into a virtual console's.
TIOCSTI: Final = 0x5412
TIOCLINUX: Final = 0x541C

# A container shares the terminal that it was started from: what it typed there, the shell outside
# would read when the container has ended. The kernel takes the request's low 32 bits.
NO_TYPING: Final = tuple(
    FilterRule("ioctl", ret_errno(errno.EPERM), (Condition(1, 0xFFFFFFFF, request),))
    for request in (TIOCSTI, TIOCLINUX)
)


def _library() -> ModuleType:
    """pyseccomp. Raises KernelError where there is no libseccomp that it can load."""
    try:
        import pyseccomp
    except (RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # not about libseccomp
        raise KernelError(
            f"no filter can be made without libseccomp: {error}",
            hint="install it (`apt-get install libseccomp2` in Debian). Where it is there, "
            "/sbin/ldconfig could not be asked for it: `ulimit -n` and `ulimit -u` show limits",
        ) from error
    module: ModuleType = pyseccomp
    return module


def build(
    rules: Iterable[FilterRule],
    arches: Sequence[int] = NATIVE_ARCHES,
    *,
    contained: bool = False,
) -> bytes:
    """The filter: a packed `struct sock_filter[]` in host byte order.

    What no rule names is allowed without a look at its arguments, so that the kernel's cache of
    actions answers it. Another architecture (and x32) gets ENOSYS. NO_LISTENER is always there,
    NO_TYPING where the command is `contained`, in a user namespace of its own.
    Raises KernelError where libseccomp cannot express a rule.
    """
    pyseccomp = _library()
    every = [*rules, NO_LISTENER, *(NO_TYPING if contained else ())]
    ahead = [rule for rule in every if _goes_ahead(rule, arches)]
    every = [rule for rule in every if rule not in ahead]
    whole = None
    for arch in arches:
        part = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        part.set_attr(pyseccomp.Attr.ACT_BADARCH, ret_errno(errno.ENOSYS))
        native = pyseccomp.system_arch()
        if arch != native:
            part.remove_arch(native)
            part.add_arch(arch)
        for rule in every:
            nr = number(rule.name, arch)
            if nr is not None:
                _add(part, rule, nr, arch, arch == native)
        if whole is None:
            whole = part
        else:
            whole.merge(part)
    if whole is None:
        raise KernelError("a filter needs an architecture")
    with os.fdopen(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b") as file:
        whole.export_bpf(file)
        file.seek(0)
        program = _ahead(ahead, arches) + file.read()
    if len(program) > 8 * INSTRUCTIONS_MAX:
        raise KernelError(
            f"the filter has {len(program) // 8} instructions, the kernel takes {INSTRUCTIONS_MAX}",
            hint="have fewer `silent` and `continue` rules",
        )
    return program


def _goes_ahead(rule: FilterRule, arches: Sequence[int]) -> bool:
    """Whether it answers, whatever the arguments, a call that is newer than this libseccomp. Those
    have the same number everywhere.
    """
    numbers = {number(rule.name, arch) for arch in arches}
    if rule.match or rule.action == RET_USER_NOTIF or len(numbers) > 1:
        return False
    pyseccomp = _library()
    return bool(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, rule.name) == -1)


def _ahead(rules: Sequence[FilterRule], arches: Sequence[int]) -> bytes:
    """The instructions for those, before all others: load the number, and for each compare and
    return.
    """
    if not rules:
        return b""
    out = struct.pack("=HBBI", 0x20, 0, 0, 0)
    for rule in rules:
        out += struct.pack("=HBBI", 0x15, 0, 1, number(rule.name, arches[0]))
        out += struct.pack("=HBBI", 0x06, 0, 0, rule.action)
    return out


def _add(part: object, rule: FilterRule, nr: int, arch: int, native: bool) -> None:
    pyseccomp = _library()
    assert isinstance(part, pyseccomp.SyscallFilter)
    arguments = [
        pyseccomp.Arg(test.arg, pyseccomp.MASKED_EQ, test.mask, test.value) for test in rule.match
    ]
    own = nr
    if not native:
        # libseccomp takes the native number (or one it makes up) and translates it by the name.
        own = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, rule.name)
        # libseccomp has numbers of its own for calls that can come by way of socketcall(2) as well,
        # and makes rules for both ways.
        if rule.name not in SOCKETCALLS and pyseccomp.resolve_syscall(arch, rule.name) != nr:
            own = -1
    try:
        if own == -1:
            raise OSError(errno.EFAULT, "unknown to libseccomp")
        part.add_rule(rule.action, own, *arguments)
    except OSError as error:
        # A call newer than this libseccomp. Its raw number works on the native architecture; on
        # the other one a companion's call stays the kernel's, with its EPERM.
        if not native and rule.action == RET_USER_NOTIF and not rule.match:
            return
        raise KernelError(f"libseccomp cannot filter {rule.name}: {error.strerror}") from error


def known_calls() -> list[str]:
    """The names of all calls that this libseccomp knows on the native architectures."""
    pyseccomp = _library()
    found: set[str] = set()
    for arch in NATIVE_ARCHES:
        for nr in range(_NUMBERS):
            with contextlib.suppress(ValueError):
                found.add(pyseccomp.resolve_syscall(arch, nr).decode())
    return sorted(found)


def instructions(program: bytes) -> list[tuple[int, int, int, int]]:
    """The program as (code, jt, jf, k)."""
    return [(code, jt, jf, k) for code, jt, jf, k in struct.iter_unpack("=HBBI", program)]


def libseccomp_version() -> tuple[int, int, int]:
    """The version of the libseccomp that pyseccomp has loaded (seccomp_version(3))."""
    import ctypes

    function = _library()._libseccomp.seccomp_version
    function.restype = ctypes.POINTER(ctypes.c_uint * 3)
    major, minor, micro = function().contents
    return major, minor, micro
