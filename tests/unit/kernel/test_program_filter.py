"""The filter of a FUSE program: what it says of each number there is, on each architecture."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import pyseccomp
import pytest

from supervisor.kernel.bpf import RET_ALLOW, RET_KILL_PROCESS, RET_USER_NOTIF, ret_errno
from supervisor.kernel.shim import check, ffi, lib
from supervisor.kernel.simulate import longest, run
from supervisor.kernel.syscalls import AARCH64, I386, X32_BIT, X86_64

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="filters of x86_64")

EPERM, ENOSYS = ret_errno(errno.EPERM), ret_errno(errno.ENOSYS)
REFUSED = {
    # other namespaces, other processes, and what only the host's root has any business with
    EPERM: (
        "setns unshare pivot_root chroot ptrace process_vm_readv process_vm_writev bpf userfaultfd "
        "perf_event_open keyctl add_key request_key kexec_load init_module finit_module "
        "delete_module open_by_handle_at swapon swapoff reboot acct quotactl seccomp"
    ),
    # what a library has another way for, and memory that no limit counts
    ENOSYS: (
        "io_uring_setup open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr clone3 "
        "memfd_create memfd_secret shmget msgget semget mq_open"
    ),
    RET_USER_NOTIF: "mount",
}
BY_ARGUMENT = "setgroups socket clone fork vfork"
FORK, THREAD = 0x01200011, 0x003D0F00  # the flags that glibc's fork() and pthread_create() have
NEW = (0x80, *(1 << bit for bit in (17, 25, 26, 27, 28, 29, 30)))  # CLONE_NEW*, <linux/sched.h>
HIGH = 1 << 32  # what the kernel does not look at


def number(name: str) -> int:
    found: int = pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name)
    assert found >= 0, name
    return found


def words(names: str) -> list[int]:
    return [number(name) for name in names.split()]


def the_filter(*, alone: bool) -> bytes:
    room = ffi.new("uint64_t[]", lib.SD_FILTER_MOST)
    length = check(lib.sd_program_filter(room, alone), "a filter")
    return bytes(ffi.buffer(room, length * 8))


@pytest.fixture(scope="module", params=[False, True], ids=["may fork", "alone"])
def code(request: pytest.FixtureRequest) -> bytes:
    return the_filter(alone=request.param)


def test_every_number_gets_what_it_is_to_get(code: bytes) -> None:
    expected = {nr: action for action, names in REFUSED.items() for nr in words(names)}
    other = set(words(BY_ARGUMENT))
    assert not other & expected.keys()
    for nr in range(0x1000):
        if nr not in other:
            assert run(code, nr, X86_64).action == expected.get(nr, RET_ALLOW), nr
    for nr in (X32_BIT - 1, 0x10000):
        assert run(code, nr, X86_64).action == RET_ALLOW


def test_x32_and_other_architectures_end_the_program(code: bytes) -> None:
    known = [nr for names in (*REFUSED.values(), BY_ARGUMENT) for nr in words(names)]
    everywhere = [0, *range(600), X32_BIT, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    for nr in (*everywhere, *(X32_BIT + nr for nr in known)):
        arches = (I386, AARCH64, 0, X86_64 & ~X32_BIT, 0xFFFFFFFF)
        for arch in (*arches, *((X86_64,) if nr & 0xC0000000 else ())):
            assert run(code, nr, arch).action == RET_KILL_PROCESS, (nr, hex(arch))


@pytest.mark.parametrize(
    ("name", "values", "action"),
    [
        ("setgroups", (0, HIGH), ret_errno(0)),
        ("setgroups", (1, 65536, 0xFFFFFFFF), RET_ALLOW),  # it has no CAP_SETGID
        ("socket", (2, 10, 16, HIGH | 2), RET_ALLOW),  # inet, inet6, netlink
        ("socket", (0, 1, 3, 17, 38, 40, 0xFFFFFFFF), ret_errno(errno.EAFNOSUPPORT)),
        ("clone", [flags | new for flags in (FORK, THREAD) for new in NEW], EPERM),
        ("clone", (THREAD, HIGH | THREAD), RET_ALLOW),
    ],
)
def test_what_depends_on_the_first_argument(
    code: bytes, name: str, values: Sequence[int], action: int
) -> None:
    for value in values:
        assert run(code, number(name), X86_64, (value,)).action == action, hex(value)


def test_who_is_alone_makes_threads_and_no_process() -> None:
    for alone, action in ((False, RET_ALLOW), (True, EPERM)):
        code = the_filter(alone=alone)
        for name, value in (("clone", FORK), ("clone", 0), ("fork", 0), ("vfork", 0)):
            assert run(code, number(name), X86_64, (value,)).action == action, name


def test_it_finds_each_number_soon(code: bytes) -> None:
    """The kernel runs it for each of them when it is installed, and somebody waits for that."""
    assert max(longest(code, nr, X86_64) for nr in range(600)) <= 16
