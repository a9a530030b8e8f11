"""Listeners in other processes: taken from those that hold one."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from errno import EBADF, ESRCH

from supervisor.kernel.shim import check, lib
from supervisor.kernel.task import PROC, start_time


def listener_of(pid: int, call: int) -> int:
    """A copy of the listener of process `pid` on which call `call` waits. OSError where it has
    none, or does not let itself be looked at."""
    pidfd = os.pidfd_open(pid)
    try:
        fd = _listener(pid, pidfd, lambda fd: lib.sd_id_valid(fd, call) == 0)
        if fd is None:
            raise OSError(ESRCH, "it has no listener that this call waits on")
        return fd
    finally:
        os.close(pidfd)


def first_listener(pid: int, began: int) -> int | None:
    """A copy of the listener that process `pid`, which began at `began` (ticks since boot), has
    made; None where it holds none, or has gone. OSError where it does not let itself be looked at.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        return _listener(pid, pidfd, lambda _: True) if start_time(pid) == began else None
    finally:
        os.close(pidfd)


def is_listener(fd: int) -> bool:
    """Whether a descriptor is a listener of seccomp's, and nothing else."""
    try:
        return os.readlink(f"{PROC}/self/fd/{fd}") == "anon_inode:seccomp notify"
    except OSError:
        return False


def _listener(pid: int, pidfd: int, wanted: Callable[[int], bool]) -> int | None:
    for number in os.listdir(f"{PROC}/{pid}/fdinfo"):
        # What a descriptor leads to only its owner may read: so those that can be one are taken.
        # To close a copy of anything else might wait for somebody.
        if _inode(f"{PROC}/{pid}/fdinfo/{number}") != _anonymous_inode():
            continue
        fd = lib.sd_take_descriptor(pidfd, int(number))
        if fd == -EBADF:
            continue  # closed meanwhile
        check(fd, "pidfd_getfd")
        if is_listener(fd) and wanted(fd):
            return int(fd)
        os.close(fd)
    return None


@functools.cache
def _anonymous_inode() -> tuple[str, ...]:
    """That of listeners, and of all else that the kernel makes without a file."""
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        return _inode(f"{PROC}/self/fdinfo/{fd}")
    finally:
        os.close(fd)


def _inode(fdinfo: str) -> tuple[str, ...]:
    """What tells an open file's inode from others; () where it has been closed."""
    try:
        with open(fdinfo, encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(line for line in lines if line.startswith(("mnt_id:", "ino:")))
