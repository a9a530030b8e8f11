"""The watches of a session: memory that it shares with its watchdog, one for each listener.

The ids that a session has received lie there from the moment the kernel hands them out, so that a
session that dies or hangs leaves nobody without an answer.
"""

from __future__ import annotations

import fcntl
import os
from typing import Any, Final

from supervisor.kernel.shim import ffi, lib

# Most listeners of one session. What nobody touches takes no memory.
SLOTS: Final[int] = lib.SD_WATCHES
_SIZE: Final[int] = lib.SD_WATCH_SIZE
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Watches:
    """SLOTS of `struct sd_watch`. `fd` is a memfd of SIZE bytes, to be given to each session."""

    SIZE: Final = SLOTS * _SIZE

    def __init__(self, fd: int) -> None:
        """Takes over `fd`, a descriptor of what `create` made."""
        self.fd = fd
        memory = lib.sd_watches_map(fd)
        if memory == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno), "mmap")
        self._memory = ffi.gc(memory, lib.sd_watches_unmap)

    @classmethod
    def create(cls) -> Watches:
        """Fresh ones, all zero."""
        fd = os.memfd_create("seccompd-watch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, cls.SIZE)
            # A session that has been taken over must not cut away what we look at.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def __getitem__(self, slot: int) -> Any:
        """The `struct sd_watch *` of a slot; it is valid as long as this object is."""
        if not 0 <= slot < SLOTS:
            raise IndexError(slot)
        return ffi.cast("struct sd_watch *", self._memory + slot * _SIZE)

    def clear(self, slot: int) -> None:
        """Makes a slot as fresh as it was, for another listener."""
        ffi.memmove(self[slot], bytes(_SIZE), _SIZE)

    def close(self) -> None:
        """Lets go of the descriptor and of the memory; no watch may be in use any more."""
        ffi.release(self._memory)
        os.close(self.fd)
