"""The watches of a session: memory that it shares with its watchdog, one for each listener.

The ids that a session has received lie there from the moment the kernel hands them out, so that a
session that dies or hangs leaves nobody without an answer.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, Final

from supervisor.kernel.shim import ffi, lib

# Most listeners of one session. What nobody touches takes no memory.
SLOTS: Final[int] = lib.SD_WATCHES
_SIZE: Final[int] = lib.SD_WATCH_SIZE
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Watches:
    """SLOTS of `struct sd_watch`. `fd` is a memfd or a file of SIZE bytes, to be given to each
    session."""

    SIZE: Final = SLOTS * _SIZE

    def __init__(self, fd: int) -> None:
        """Takes over `fd`, a descriptor of what `create` or `file` made."""
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

    @classmethod
    def file(cls, path: Path) -> int:
        """A descriptor of those in a file, which is made where it is not there. OSError.

        A file has no seals: whoever does not trust another process with the daemon's life gives it
        no descriptor of one to keep (`keep_memory`).
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o600)
        try:
            os.ftruncate(fd, cls.SIZE)
            os.posix_fallocate(fd, 0, _SIZE)
            return fd
        except BaseException:
            os.close(fd)
            raise

    def keep_memory(self) -> None:
        """Lets go of the descriptor alone."""
        os.close(self.fd)
        self.fd = -1

    def __getitem__(self, slot: int) -> Any:
        """The `struct sd_watch *` of a slot; it is valid as long as this object is."""
        if not 0 <= slot < SLOTS:
            raise IndexError(slot)
        return ffi.cast("struct sd_watch *", self._memory + slot * _SIZE)

    def clear(self, slot: int) -> None:
        """Makes a slot as fresh as it was, for another listener. OSError where there is no room:
        who writes to memory that a full file system cannot give is killed."""
        os.posix_fallocate(self.fd, slot * _SIZE, _SIZE)
        ffi.memmove(self[slot], bytes(_SIZE), _SIZE)

    def close(self) -> None:
        """Lets go of the descriptor and of the memory; no watch may be in use any more."""
        ffi.release(self._memory)
        if self.fd >= 0:
            os.close(self.fd)
