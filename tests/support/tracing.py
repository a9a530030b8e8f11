"""Stops a process at one place of its own: by ptrace(2), right after a system call."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Callable
from typing import Final

_SYSCALL: Final = 24
_DETACH: Final = 17
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_GET_SYSCALL_INFO: Final = 0x420E
_TRACESYSGOOD: Final = 1
_WALL: Final = 0x40000000
_ENTRY, _EXIT = 1, 2

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


def stop_after(pid: int, number: int, wanted: Callable[[list[int]], bool]) -> None:
    """Stops (SIGSTOP) `pid`, of one thread, once a call with this number has come to 0; `wanted`
    looks at its arguments. Nothing of what follows that call is done."""
    _ptrace(_SEIZE, pid, 0, _TRACESYSGOOD)
    try:
        _ptrace(_INTERRUPT, pid)
        inside = False
        while True:
            _, status = os.waitpid(pid, _WALL)
            assert os.WIFSTOPPED(status), status
            if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
                at, words = _call(pid)
                if inside and at == _EXIT and words[0] == 0:
                    return
                inside = at == _ENTRY and words[0] == number and wanted(words[1:])
            _ptrace(_SYSCALL, pid)
    finally:
        os.kill(pid, signal.SIGSTOP)
        _ptrace(_DETACH, pid)
