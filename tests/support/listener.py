"""A real listener: a command below a policy's filter, without namespaces."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supervisor.engine.snapshot import Receiver
from supervisor.kernel.launch import Event, Init, Kind, Launch, Namespace
from supervisor.kernel.shim import check, ffi, lib
from supervisor.policy.compiled import CompiledPolicy


class Listened:
    """`command` below the filter of `policy`; `listener` is its listener."""

    def __init__(self, policy: CompiledPolicy, command: Sequence[str]) -> None:
        self._init = Init(Launch(command, policy.filter, Namespace(0), None))
        self._init.go()
        self.listener = self._next(Kind.LISTENER).listener

    def status(self) -> int:
        """The exit status of the command, once it has ended."""
        return self._next(Kind.EXITED).value

    def let_go(self) -> None:
        """From now on the listener is only whose it was given to."""
        if self.listener >= 0:
            os.close(self.listener)
            self.listener = -1

    def close(self) -> None:
        """Ends the command."""
        self.let_go()
        self._init.close()

    def _next(self, kind: Kind) -> Event:
        while True:
            assert select.select([self._init.sock], [], [], 20)[0], f"no {kind.name}"
            event = self._init.next()
            if event is not None:
                assert event.kind is not Kind.ENDED
                if event.kind is kind:
                    return event


def received(listener: int) -> bool:
    """Whether somebody has received a call there, and no other one waits."""
    return _events(listener) == [select.POLLOUT]


def waits(listener: int) -> bool:
    """Whether a call waits there that nobody has received."""
    return _events(listener) == [select.POLLIN]


def _events(listener: int) -> list[int]:
    poller = select.poll()
    poller.register(listener, select.POLLIN | select.POLLOUT)
    return [events for _, events in poller.poll(0)]


def listener_of(pid: int) -> int:
    """A copy of the only listener that a process has."""
    links = ((fd, os.readlink(fd)) for fd in Path(f"/proc/{pid}/fd").iterdir())
    (fd,) = (int(fd.name) for fd, link in links if link == "anon_inode:seccomp notify")
    pidfd = os.pidfd_open(pid)
    try:
        copy: int = check(lib.sd_take_descriptor(pidfd, fd), "pidfd_getfd")
        return copy
    finally:
        os.close(pidfd)


class Waiting:
    """A call that waits for its answer, which it never gets: `listener` and its `id`."""

    def __init__(self, policy: CompiledPolicy, command: Sequence[str]) -> None:
        self._listened = Listened(policy, command)
        self.listener = self._listened.listener
        receiver = Receiver(self.listener, deadline_timer(), watch(), policy.calls)
        assert receiver.receive(20_000_000) is not None, "no call came"
        self.id: int = receiver.call.id

    def close(self) -> None:
        """Ends its caller."""
        self._listened.close()


def watch() -> Any:
    """Memory for the ids that a receiver has received."""
    return ffi.new("struct sd_watch *")


def deadline_timer() -> int:
    """A timer for the watchdog."""
    timer: int = check(lib.sd_deadline_timer(), "timerfd_create")
    return timer
