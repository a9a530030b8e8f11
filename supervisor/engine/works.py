"""Filling in and reading a work, the C structure that one plan is carried out with."""

from __future__ import annotations

import struct
from typing import Any

from supervisor.engine.helpers import Maker
from supervisor.kernel.procfs import host_node
from supervisor.kernel.shim import ffi, lib
from supervisor.model import MakeNode, Place


class HostNodes:
    """Where the host's own nodes are; what was found is remembered."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, int], bytes] = {}

    def path(self, plan: MakeNode) -> bytes:
        """The host's node of this device; empty where there is none that a work has room for."""
        kind = "c" if plan.mode & 0o170000 == 0o020000 else "b"
        key = (kind, *plan.device)
        path = self._found.get(key)
        if path is None:
            path = (host_node(*key) or "").encode()
            if len(path) >= lib.SD_HOST_NODE_MAX:
                path = b""
            if path:  # a device that is not there yet may come
                self._found[key] = path
        return path


def put(work: Any, which: int, place: Place) -> None:
    """The `which`th place of a work."""
    work.dirfd[which] = place.dirfd
    path = place.path
    if path is None:
        work.length[which] = -1
        return
    length = len(path)
    work.length[which] = length
    if length < lib.SD_PATH_MAX:
        ffi.memmove(work.path[which], path, length)


def lend(work: Any, maker: Maker | None) -> None:
    """The maker that a work may ask."""
    if maker is None:
        work.maker = -1
        work.maker_busy = ffi.NULL
    else:
        work.maker = maker.sock
        work.maker_busy = maker.busy


def path_of(work: Any) -> bytes | None:
    """What its path was resolved to."""
    length = work.resolved_length
    return ffi.buffer(work.resolved, length)[:] if length > 0 else None


def gone_of(work: Any) -> list[tuple[int, int]]:
    """Device and inode of each node that an umount took with it."""
    return list(struct.iter_unpack("QQ", path_of(work) or b""))
