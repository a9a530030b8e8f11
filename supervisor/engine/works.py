"""Filling in and reading a work, the C structure that one plan is carried out with."""

from __future__ import annotations

import struct
from typing import Any

from supervisor.engine.helpers import Maker
from supervisor.kernel.shim import ffi, lib
from supervisor.model import Place


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
