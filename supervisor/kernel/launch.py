"""Launches a command: the front's side of csrc/launch.c, with Python's types."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from supervisor.kernel import features
from supervisor.kernel.shim import check, ffi, lib

SI_KERNEL = 0x80


class Namespace(IntFlag):
    """Namespaces that a command may get, named as unshare(1) names them."""

    USER = lib.SD_NS_USER
    MOUNT = lib.SD_NS_MOUNT
    PID = lib.SD_NS_PID
    NET = lib.SD_NS_NET
    IPC = lib.SD_NS_IPC
    UTS = lib.SD_NS_UTS
    CGROUP = lib.SD_NS_CGROUP
    TIME = lib.SD_NS_TIME


class Stage(IntEnum):
    """Where init was when something failed, or was refused."""

    IDENTITY = lib.SD_STAGE_IDENTITY
    MOUNTS = lib.SD_STAGE_MOUNTS
    PROC = lib.SD_STAGE_PROC
    SYSFS = lib.SD_STAGE_SYSFS
    MQUEUE = lib.SD_STAGE_MQUEUE
    LOOPBACK = lib.SD_STAGE_LOOPBACK
    TIME = lib.SD_STAGE_TIME
    FORK = lib.SD_STAGE_FORK
    NO_NEW_PRIVS = lib.SD_STAGE_NO_NEW_PRIVS
    FILTER = lib.SD_STAGE_FILTER
    HANDOVER = lib.SD_STAGE_HANDOVER
    EXEC = lib.SD_STAGE_EXEC


class Kind(IntEnum):
    """What an event says; ENDED is the end of init, after which nothing follows."""

    ENDED = 0
    LISTENER = lib.SD_EVENT_LISTENER
    NOTE = lib.SD_EVENT_NOTE
    FAILED = lib.SD_EVENT_FAILED
    STOPPED = lib.SD_EVENT_STOPPED
    CONTINUED = lib.SD_EVENT_CONTINUED
    EXITED = lib.SD_EVENT_EXITED


class Event(NamedTuple):
    """A message of init. `value` is an errno, a signal or an exit status, by its kind."""

    kind: Kind
    stage: int = 0
    value: int = 0
    listener: int = -1


class Signal(NamedTuple):
    """A signal that the front got: number, si_code, and the sender's pid as the front sees it."""

    number: int
    code: int
    sender: int


class Launch(NamedTuple):
    """What to launch, and how. `filter` is an array of struct sock_filter.

    `identity` is (uid, gid) of the command in its new user namespace, None without one. `held`: it
    waits for another `go` once its listener has been sent.
    """

    command: Sequence[str]
    filter: bytes
    namespaces: Namespace
    identity: tuple[int, int] | None
    drop_groups: bool = False
    preserve_fds: int = 0
    held: bool = False


class Init:
    """The init of one launch: a child process, and the socket to it (it dies when that closes)."""

    def __init__(self, launch: Launch) -> None:
        """Makes init, which waits for `go`. OSError where the kernel refuses the namespaces."""
        words = [ffi.new("char[]", os.fsencode(word)) for word in launch.command]
        argv = ffi.new("char *[]", [*words, ffi.NULL])
        spec = ffi.new("struct sd_launch_spec *")
        code = ffi.from_buffer(launch.filter)
        spec.namespaces = int(launch.namespaces)
        spec.uid, spec.gid = launch.identity or (0, 0)
        spec.drop_groups = launch.drop_groups
        spec.wait_killable = features.available("wait_killable")
        spec.held = launch.held
        spec.preserve_fds = launch.preserve_fds
        spec.filter, spec.filter_size = code, len(launch.filter)
        spec.argv = argv
        pid = ffi.new("int32_t *")
        self.sock: int = check(lib.sd_launch_begin(spec, pid), "clone")
        self.pid: int = pid[0]
        self.network = 0  # the inode of its network namespace

    def go(self) -> None:
        """Lets init start the command, or go on with it."""
        check(lib.sd_launch_go(self.sock), "init")

    def kill(self, signal: Signal) -> None:
        """Passes a signal on to the command, unless it got that one already with our group."""
        message = ffi.new("struct sd_signal *")
        message.number, message.code, message.sender = signal.number, signal.code, signal.sender
        lib.sd_launch_kill(self.sock, message)

    def next(self) -> Event | None:
        """The next event, None where there is none yet."""
        event: Any = ffi.new("struct sd_launch_event *")
        fd: Any = ffi.new("int32_t *", -1)
        result = lib.sd_launch_next(self.sock, event, fd)
        if result == 0:
            return Event(Kind.ENDED)
        if result == -11:  # EAGAIN
            return None
        check(result, "init")
        return Event(Kind(event.kind), event.stage, event.value, fd[0])

    def close(self) -> None:
        """Ends init, the command with it, and waits for them."""
        if self.sock >= 0:
            os.close(self.sock)
            self.sock = -1
            os.waitpid(self.pid, 0)


class Signals:
    """The signals that come to this process, blocked and read from a descriptor."""

    def __init__(self) -> None:
        self.fd: int = check(lib.sd_signals_open(), "signalfd")

    def next(self) -> Signal | None:
        """The next signal, None where there is none."""
        found = ffi.new("struct sd_signal *")
        if check(lib.sd_signals_next(self.fd, found), "signalfd"):
            return Signal(found.number, found.code, found.sender)
        return None

    def close(self) -> None:
        """Signals stay blocked: one that comes now must not spoil the exit status."""
        os.close(self.fd)


def below(pid: int, ancestor: int) -> bool:
    """Whether process `pid` is a descendant of process `ancestor`."""
    while pid > 1 and pid != ancestor:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            return False
    return pid == ancestor


def stop_self(number: int) -> None:
    """Stops this process by signal `number`; comes back when it has been continued."""
    check(lib.sd_signals_stop_self(number), "kill")


def detach_stream(fd: int) -> None:
    """Puts /dev/null in place of descriptor `fd`."""
    check(lib.sd_detach_stream(fd), "/dev/null")
