"""Stops a process at one place of its own: by ptrace(2), at a system call, or once it has forked.

`python -m tests.support.tracing PID TEXT` lets one that stands still go on, and stops it once it
has sent a message with that text: for one that this process waits for meanwhile, as for a child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Final

_CONT: Final = 7
_DETACH: Final = 17
_SYSCALL: Final = 24
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_GET_EVENT_MESSAGE: Final = 0x4201
_GET_SYSCALL_INFO: Final = 0x420E
_TRACESYSGOOD: Final = 1
_TRACEFORK, _TRACEVFORK, _TRACECLONE = 2, 4, 8
_FORKED: Final = (1, 2, 3)  # PTRACE_EVENT_FORK, _VFORK, _CLONE
_WALL: Final = 0x40000000
_ENTRY, _EXIT = 1, 2
SYS_SENDMSG: Final = 46

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def _call(pid: int) -> tuple[int, list[int]]:
    """What `pid` stands at, and the words of that: number and arguments, or what it came to."""
    room = ctypes.create_string_buffer(88)
    _ptrace(_GET_SYSCALL_INFO, pid, len(room), ctypes.addressof(room))
    return room.raw[0], list(struct.unpack_from("=7q", room.raw, 24))


def _stopped(pid: int) -> int:
    """Waits until `pid` stands still; the status."""
    _, status = os.waitpid(pid, _WALL)
    assert os.WIFSTOPPED(status), status
    return status


def _to_call(pid: int, number: int, wanted: Callable[[list[int]], bool], at: int) -> int:
    """Lets `pid` go on to the entry or the exit of such a call; what the exit comes to, or 0."""
    inside = False
    while True:
        status = _stopped(pid)
        # a signal is passed on
        passed = 0 if status >> 16 else os.WSTOPSIG(status)
        if passed == signal.SIGTRAP | 0x80:
            passed = 0
            where, words = _call(pid)
            if where == _ENTRY:
                inside = words[0] == number and wanted(words[1:])
            if inside and where == at:
                return words[0] if at == _EXIT else 0
            if where == _EXIT:
                inside = False
        _ptrace(_SYSCALL, pid, 0, passed)


def message(pid: int, words: list[int]) -> bytes:
    """What `pid` sends, whose sendmsg(2) has these arguments."""
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        memory.seek(words[1])
        (vector,) = struct.unpack_from("=Q", memory.read(24), 16)
        memory.seek(vector)
        base, length = struct.unpack("=QQ", memory.read(16))
        memory.seek(base)
        return memory.read(length)


def stop_after(
    pid: int, number: int, wanted: Callable[[list[int]], bool] = lambda _: True, *,
    begin: Callable[[], object] = lambda: None,
    good: Callable[[int], bool] = lambda result: not result,
) -> None:
    """Stops (SIGSTOP) the thread `pid`, and so its process, once a call with this number has come
    to what is `good`; `wanted` looks at its arguments. Nothing of what follows that call is done.
    `begin` is called once none can be missed."""
    _ptrace(_SEIZE, pid, 0, _TRACESYSGOOD)
    try:
        _ptrace(_INTERRUPT, pid)
        begin()
        while not good(_to_call(pid, number, wanted, _EXIT)):
            _ptrace(_SYSCALL, pid)
    finally:
        os.kill(pid, signal.SIGSTOP)
        _ptrace(_DETACH, pid)


@contextlib.contextmanager
def held_before(
    pid: int, number: int, wanted: Callable[[list[int]], bool] = lambda _: True, *,
    begin: Callable[[], object],
) -> Iterator[None]:
    """The thread `pid` does not begin such a call as long as this lasts; `begin` makes it."""
    _ptrace(_SEIZE, pid, 0, _TRACESYSGOOD)
    try:
        _ptrace(_INTERRUPT, pid)
        begin()
        _to_call(pid, number, wanted, _ENTRY)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have been killed
            _ptrace(_DETACH, pid)


@contextlib.contextmanager
def child_held(pid: int, which: int, *, begin: Callable[[], object]) -> Iterator[int]:
    """The `which`th child that `pid` forks from now on, which does nothing as long as this lasts.
    `pid` itself is let go."""
    _ptrace(_SEIZE, pid, 0, _TRACEFORK | _TRACEVFORK | _TRACECLONE)
    child = 0
    try:
        begin()
        for turn in range(1, which + 1):
            while _stopped(pid) >> 16 not in _FORKED:
                _ptrace(_CONT, pid)
            message = ctypes.c_ulong()
            _ptrace(_GET_EVENT_MESSAGE, pid, 0, ctypes.addressof(message))
            _stopped(message.value)
            if turn < which:
                _ptrace(_DETACH, message.value)
                _ptrace(_CONT, pid)
        child = message.value
        _ptrace(_DETACH, pid)
        yield child
    finally:
        if child:
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                _ptrace(_DETACH, child)


def stop_after_message(pid: int, text: bytes, begin: Callable[[], object]) -> None:
    """Stops `pid` once it has sent a message with `text` in it."""
    stop_after(
        pid, SYS_SENDMSG, lambda words: text in message(pid, words), begin=begin,
        good=lambda sent: sent > 0,
    )


if __name__ == "__main__":
    _whom = int(sys.argv[1])
    stop_after_message(_whom, sys.argv[2].encode(), lambda: os.kill(_whom, signal.SIGCONT))
