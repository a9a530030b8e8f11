"""A caller by its thread id: what /proc says of it, without a look at its memory or its files."""

from __future__ import annotations

import functools
import os
import signal
from typing import Any, Final, NamedTuple

from supervisor.kernel.shim import ffi, lib

PROC = "/proc"
_OF_A_CHILD: Final = 1 << (signal.SIGCHLD - 1)
# PF_FORKNOEXEC of the kernel's <linux/sched.h>, as /proc/PID/stat shows it.
_FORKED_ONLY: Final = 0x40
_found: Any = ffi.new("struct sd_identity *")
_raw = ffi.buffer(_found)


class Identity(NamedTuple):
    """A thread: its process, itself, itself in its own pid namespace, its effective ids, its name
    (which it chooses itself)."""

    tgid: int
    tid: int
    own_tid: int
    uid: int
    gid: int
    comm: bytes


def identify(tid: int, *, by_pidfd: bool) -> bytes | None:
    """Who a thread is, now: equal bytes for what is equal; None where it has gone."""
    return _raw[:] if lib.sd_identify(tid, by_pidfd, _found) == 0 else None


def identity_of(raw: bytes) -> Identity:
    """What `identify` has found."""
    who = ffi.from_buffer("struct sd_identity *", raw)
    comm = ffi.buffer(who.comm, who.comm_length)[:]
    return Identity(who.tgid, who.tid, who.own_tid, who.uid, who.gid, comm)


def open_task(tid: int) -> int:
    """An O_PATH descriptor of /proc/TID: whatever is opened below it is of this very task."""
    return os.open(f"{PROC}/{tid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def status(tid: int) -> bytes:
    """/proc/TID/status as it is; empty where the task has gone."""
    return read(f"{PROC}/{tid}/status")


def read(name: str, task: int | None = None) -> bytes:
    """A file of /proc/TID, whose descriptor `task` is; empty where the task has gone.

    Never read here: cmdline and environ, which are the task's own memory and may stall us.
    """
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=task)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 16)
    except OSError:
        return b""
    finally:
        os.close(fd)


def field(text: bytes, name: bytes) -> bytes:
    """What stands behind "NAME:<tab>"; empty where the kernel has no such line."""
    # The first line is Name, which the task chooses itself: the kernel escapes newlines in it.
    start = text.find(b"\n" + name + b":\t")
    if start < 0:
        return b""
    start += len(name) + 3
    return text[start : text.find(b"\n", start)]


def thread_group(tid: int) -> int | None:
    """The process that the thread belongs to; None where it has gone."""
    group = field(status(tid), b"Tgid")
    return int(group) if group else None


def signals(tid: int) -> tuple[int, int]:
    """(signals on their way to the thread, signals it blocks), each a mask; (0, 0) if it has gone.

    A handler that runs blocks its own signal: so a change of the second says that one has begun.
    """
    text = status(tid)
    pending, shared, blocked = (
        int(field(text, name) or b"0", 16) for name in (b"SigPnd", b"ShdPnd", b"SigBlk")
    )
    return (pending | shared) & ~blocked, blocked


def interrupted(tid: int) -> tuple[bool, bool]:
    """(a signal waits that the thread does not block; it is this thread that will see to it).

    Nobody can be asked whose one for the whole process is. The kernel gives it to the first thread
    where that does not block it, but that of a child to who made the child.
    """
    text = status(tid)
    own, shared, blocked = (
        int(field(text, name) or b"0", 16) for name in (b"SigPnd", b"ShdPnd", b"SigBlk")
    )
    first = field(text, b"Tgid") == field(text, b"Pid")
    alone = field(text, b"Threads") == b"1"
    given = shared if alone else shared & ~_OF_A_CHILD if first else 0
    certain = (own | given) & ~blocked
    return bool((own | shared) & ~blocked), bool(certain)


def _stat(pid: int) -> tuple[int, int, int] | None:
    """(flags, start in ticks since boot, parent) of a process; None where it has gone."""
    try:
        fd = os.open(f"{PROC}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # The name, in parentheses, may hold anything; the state behind it is field 3.
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
        return int(fields[6]), int(fields[19]), int(fields[1])
    except (OSError, IndexError):
        return None
    finally:
        os.close(fd)


def start_time(pid: int) -> int | None:
    """When a process began, in ticks since boot; None where it has gone."""
    found = _stat(pid)
    return None if found is None else found[1]


@functools.cache
def _knows_the_mark() -> bool:
    """Whether this kernel's mark means what we think. pid 1 has executed its program for certain.
    So has whoever we were forked from, and a child of a child of theirs that executes nothing
    (a session) carries the mark; who cannot tell does without.
    """
    own, first = _stat(os.getpid()), _stat(1)
    return bool(own and first and own[0] & _FORKED_ONLY and not first[0] & _FORKED_ONLY)


def ancestors(pid: int) -> list[tuple[int, int]]:
    """Those above a process, each with its start in ticks since boot, from its parent up to where
    its pid namespace ends, or somebody has gone."""
    out: list[tuple[int, int]] = []
    found = _stat(pid)
    while found is not None and found[2] > 1:
        parent, found = found[2], _stat(found[2])
        if found is not None:
            out.append((parent, found[1]))
    return out


def program_of(pid: int) -> str | None:
    """The name of a process, which it chooses itself; None where it has gone."""
    try:
        with open(f"{PROC}/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return None


def has_executed(pid: int, start: int) -> bool:
    """Whether the process that began at `start` has executed a program since it was forked.

    True as well where it has gone, and where nobody can tell. It is the process that counts, its
    first thread: threads carry the mark, too, all their life. To be asked by a process that was
    itself forked and has executed nothing.
    """
    found = _stat(pid)
    if found is None or found[1] != start or not _knows_the_mark():
        return True
    return not found[0] & _FORKED_ONLY


def forked_only(pid: int) -> bool:
    """Whether process `pid` has executed nothing since it was forked."""
    found = _stat(pid)
    return found is not None and bool(found[0] & _FORKED_ONLY)
