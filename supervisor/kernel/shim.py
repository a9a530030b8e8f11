"""The only door to the C module: its functions, and the one place where -errno becomes OSError."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from supervisor import _shim

ffi: Any = _shim.ffi
lib: Any = _shim.lib
# As ffi.new, which writes to all of a structure: what nobody uses of a large one takes no memory.
new_large: Any = ffi.new_allocator(lib.sd_zeroed, lib.sd_free, should_clear_after_alloc=False)


def realise() -> None:
    """Has cffi make now what it makes of a declaration when that is first used: processes that are
    forked afterwards share it."""
    for name in dir(lib):
        getattr(lib, name)
    for name in ffi.list_types()[1]:
        with suppress(ffi.error):  # one that is declared and no more
            ffi.sizeof(f"struct {name}")
        ffi.typeof(f"struct {name} *")


def check(result: int, what: str) -> int:
    """`result` as it is where it is >= 0; OSError with `what` as its file name otherwise."""
    if result < 0:
        raise OSError(-result, os.strerror(-result), what)
    return result


def send_fds(sock: int, data: bytes, fds: Sequence[int]) -> None:
    """Sends one message with descriptors over a unix socket."""
    check(lib.sd_send_fds(sock, data, len(data), ffi.new("int[]", list(fds)), len(fds)), "sendmsg")


def receive_fds(sock: int, most: int = 16, *, size: int = 4096) -> tuple[bytes, list[int]]:
    """The next message and its descriptors (close-on-exec); b"" once the other side has closed.

    At most `size` bytes of it.
    """
    data = ffi.new("char[]", size)
    fds = ffi.new("int[]", most)
    size = check(lib.sd_receive_fds(sock, data, size, fds, most), "recvmsg")
    return ffi.buffer(data, size)[:], [fd for fd in fds if fd >= 0]
