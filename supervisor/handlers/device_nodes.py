"""mknod and mknodat of character and block devices.

Whiteouts (character device 0:0), fifos, sockets and regular files are the kernel's own business;
the filter never notifies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from supervisor.handlers.base import (
    AT_FDCWD,
    CALLER_KEYS,
    CallSpec,
    Family,
    KeyMatch,
    Kind,
    NodeMatch,
    PathMatch,
    UnreadableArgument,
    call,
)
from supervisor.kernel.device_numbers import split_device
from supervisor.model import Decision, Settings, Snapshot
from supervisor.plans import MakeNode, Place


class DeviceNodes(Family):
    """The family "mknod" of a policy."""

    name: ClassVar[str] = "mknod"
    doc: ClassVar[str] = "mknod and mknodat of character and block devices"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call("mknod", "mknod", ("pathname", Kind.PATH), ("mode", Kind.MODE), ("dev", Kind.DEV)),
        call(
            "mknod",
            "mknodat",
            ("dirfd", Kind.FD),
            ("pathname", Kind.PATH),
            ("mode", Kind.MODE),
            ("dev", Kind.DEV),
        ),
    )
    keys: ClassVar[Mapping[str, KeyMatch] | None] = {
        "devices": NodeMatch(
            'well-known names such as "null", or numbers: "char 10:229", "block 7:0-7", "char 5:*"',
            mode="mode",
            dev="dev",
        ),
        "path": PathMatch(
            "where the node is to be, as a glob below the caller's root directory", path="pathname"
        ),
        **CALLER_KEYS,
    }

    def plan(self, snapshot: Snapshot, decision: Decision) -> MakeNode:
        """The node to make, with the mode as the caller gave it (before its umask)."""
        if not isinstance(decision.settings, Settings):
            raise TypeError("a node with the settings of something else")
        *dirfd, path, mode, dev = snapshot.args
        at = dirfd[0] if dirfd else AT_FDCWD
        if isinstance(path, int):
            raise UnreadableArgument(-path)
        if isinstance(at, bytes) or isinstance(mode, bytes) or isinstance(dev, bytes):
            raise TypeError("pathname alone is a string")
        return MakeNode(Place(at, path), mode, split_device(dev), decision.settings)
