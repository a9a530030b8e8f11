"""What opens are made by: nodes of the shim, and files of our own."""

from __future__ import annotations

import fcntl
import os
from errno import EPERM
from typing import Any, Final

from supervisor.engine.maker_calls import Refused
from supervisor.kernel.shim import ffi, lib

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def held(fd: int, kind: int) -> Any:
    """A node of the shim, of which the descriptor is now."""
    node = lib.sd_node_new(fd, kind)
    if node == ffi.NULL:
        raise MemoryError
    return ffi.gc(node, lib.sd_node_drop)


def content_file(text: str) -> int:
    """A file with this content, which nobody can change."""
    file = os.memfd_create("content", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(text.encode())
        while left:
            left = left[os.write(file, left) :]
        os.fchmod(file, 0o444)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        os.close(file)
        raise Refused(error.errno or EPERM, "opening what is given") from None
    return file
