"""mknod and mknodat of character and block devices.

Whiteouts (character device 0:0), fifos, sockets and regular files are the kernel's own business;
the filter never notifies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from supervisor.handlers.base import (
    CALLER_KEYS,
    CallSpec,
    Family,
    KeyMatch,
    Kind,
    Named,
    NodeMatch,
    PathMatch,
    call,
    number,
    place,
)
from supervisor.model import Decision, MakeNode, Settings, Snapshot, Verdict


def split_device(dev: int) -> tuple[int, int]:
    """(major, minor) of the 32-bit number that mknod(2) takes (new_decode_dev in the kernel)."""
    return (dev & 0xFFF00) >> 8, (dev & 0xFF) | ((dev >> 12) & 0xFFF00)


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
    verdicts: ClassVar[frozenset[Verdict]] = frozenset(
        {
            Verdict.EMULATE,
            Verdict.CONTINUE,
            Verdict.REFUSE,
            Verdict.KILL,
            Verdict.ERRNO,
            Verdict.RETURN,
        }
    )

    def plan(self, snapshot: Snapshot, decision: Decision) -> MakeNode:
        """The node to make, with the mode as the caller gave it (before its umask)."""
        if not isinstance(decision.settings, Settings):
            raise TypeError("a node with the settings of something else")
        args = Named(_CALLS[snapshot.name], snapshot.args)
        return MakeNode(
            place=place(args, "pathname", "dirfd"),
            mode=number(args, "mode"),
            device=split_device(number(args, "dev")),
            settings=decision.settings,
        )


_CALLS = {spec.name: spec for spec in DeviceNodes.calls}
