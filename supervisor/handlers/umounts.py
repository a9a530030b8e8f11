"""The companion of umount: what must go with a file system.

Nodes of ours that are bind mounts would keep it busy, where real ones go with it. And a FUSE
program of ours still writes to its image when the kernel has done its part: the caller is to wait
for that. What the kernel's drivers mounted is umounted by the kernel; but MNT_FORCE, which does
nothing there, takes a capability that nobody in a container has. No policy names this family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from supervisor.handlers.base import (
    CallSpec,
    Condition,
    Family,
    Kind,
    Match,
    Named,
    Needs,
    Traits,
    call,
    may_bind,
    number,
    place,
)
from supervisor.kernel.mounts import MNT_DETACH, MNT_EXPIRE, MNT_FORCE, UMOUNT_NOFOLLOW
from supervisor.model import Decision, Snapshot
from supervisor.plans import Plan, Unmount

_KNOWN: Final = MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW
_TARGET: Final = ("target", Kind.PATH)


class Umounts(Family):
    """The companion family "umounts"."""

    name: ClassVar[str] = "umounts"
    doc: ClassVar[str] = "umount of what nodes or programs of ours belong to"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call("umounts", "umount2", _TARGET, ("flags", Kind.FLAGS)),
        call("umounts", "umount", _TARGET),
    )

    def serves(self, traits: Traits, needs: Needs) -> tuple[CallSpec, ...]:
        """Both, where there can be nodes that are bind mounts, or mounts of ours."""
        wanted = may_bind(traits, needs.realises) or (needs.mounts and traits.nodes != "none")
        return self.calls if wanted else ()

    def always(self, spec: CallSpec, rules: object) -> Sequence[Match]:  # noqa: ARG002
        """But not the umount of what expires: any look at it takes away the kernel's mark, and what
        has a mount of ours on it is in use.
        """
        return ((Condition(1, MNT_EXPIRE, 0),),) if spec.name == "umount2" else ((),)

    def plan(self, snapshot: Snapshot, decision: Decision) -> Plan | None:  # noqa: ARG002
        """What is to be done if the call concerns us. Flags that are none are the kernel's."""
        args = Named(_CALLS[snapshot.name], snapshot.args)
        flags = number(args, "flags") if "flags" in args else 0
        if flags & ~_KNOWN:
            return None
        return Unmount(place(args, "target", "dirfd"), flags)


_CALLS: Final = {spec.name: spec for spec in Umounts.calls}
