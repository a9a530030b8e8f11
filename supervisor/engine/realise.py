"""How a node is to be made: as a real one, or as a bind mount of a maker's or of the host's."""

from __future__ import annotations

from typing import Final

from supervisor.engine.works import Job
from supervisor.kernel.procfs import host_node
from supervisor.kernel.shim import ffi, lib
from supervisor.model import Settings
from supervisor.plans import MakeNode

PROBE: Final[int] = lib.SD_WORK_PROBE
_FLAGS: Final[dict[str, int]] = {
    "auto": 0,
    "node": lib.SD_WORK_NODE,
    "bind": lib.SD_WORK_BIND,
    "closed": lib.SD_WORK_BIND | lib.SD_WORK_CLOSED,
}


class Realiser:
    """What a session can do. `may_bind`: bind mounts, `host`: of the host's own nodes. Without
    `real_nodes`: nothing but bind mounts."""

    def __init__(self, *, may_bind: bool, host: bool, real_nodes: bool = True) -> None:
        self.host = host
        self._may_bind = may_bind
        self._real_nodes = real_nodes
        self._found: dict[tuple[str, int, int], bytes] = {}

    def flags(self, job: Job, plan: MakeNode, settings: Settings, *, makers: bool) -> int:
        """The flags of how the node is to be made; one that cannot be made is only tried, and the
        call gets the kernel's own answer. `makers`: there are some to make one.
        """
        how = settings.realise if self._may_bind else "node"
        if not self._real_nodes and how == "auto":
            how = "bind"
        flags: int = _FLAGS[how]
        if job.probe_only:
            return flags | PROBE
        if not self._real_nodes and how == "node":
            job.lack = "no real node is made for a command whose grant ends"
            return flags | PROBE
        if not makers:
            path = self._path(plan) if self.host and how != "node" else b""
            ffi.memmove(job.work.host_node, path + b"\0", len(path) + 1)
            if not path:
                flags |= PROBE
                job.lack = "the host has no node of this device"
        return flags

    def _path(self, plan: MakeNode) -> bytes:
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
