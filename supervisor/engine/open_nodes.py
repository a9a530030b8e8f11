"""What opens are made by: nodes of the shim, and files of our own."""

from __future__ import annotations

import fcntl
import os
from errno import EPERM
from typing import Any, Final

from supervisor.engine.fitted import cgroups_of, text_of
from supervisor.engine.maker_calls import Refused
from supervisor.kernel.shim import ffi, lib
from supervisor.model import Inject

# How long what a cgroup has used may be believed.
_FIT_MS: Final = 1000
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def held(fd: int, kind: int) -> Any:
    """A node of the shim, of which the descriptor is now."""
    node = lib.sd_node_new(fd, kind)
    if node == ffi.NULL:
        raise MemoryError
    return ffi.gc(node, lib.sd_node_drop)


def is_still(node: Any, tid: int) -> bool:
    """Whether it is what thread `tid` is to get: a file that fits is for others, or for nobody any
    more; and of a device the host may have another node by now, of other rights."""
    if node.kind == lib.SD_NODE_FITTED:
        return bool(lib.sd_node_is_for(node, tid, os.O_RDONLY) != lib.SD_NODE_NO)
    return bool(node.kind != lib.SD_NODE_HOSTS) or bool(os.fstat(node.fd).st_nlink)


def file_of_ours(inject: Inject, tid: int, old: Any) -> Any:
    """A node of the content that a rule gives, or of what fits the cgroup of thread `tid`: that is
    the `old` one, if there is one, and new for all who have it."""
    if inject.fits is None:
        return held(_content(inject.content or ""), lib.SD_NODE_ITSELF)
    before = cgroups_of(tid)
    file = _content(text_of(inject.fits, tid))
    if old is None:
        old = held(file, lib.SD_NODE_FITTED)
    else:
        try:
            os.dup2(file, old.fd, inheritable=False)
        finally:
            os.close(file)
    # for nobody but this caller where it was moved meanwhile, or has gone
    lib.sd_node_fit(old, tid, _FIT_MS)
    if cgroups_of(tid) != before:
        lib.sd_node_fit(old, tid, 0)
    return old


def _content(text: str) -> int:
    """A file with this content, which nobody can change."""
    file = os.memfd_create("content", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(text.encode("utf-8", "surrogateescape"))
        while left:
            left = left[os.write(file, left) :]
        os.fchmod(file, 0o444)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        os.close(file)
        raise Refused(error.errno or EPERM, "opening what is given") from None
    return file
