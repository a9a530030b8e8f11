"""Which names may be nodes of ours: what lets most calls pass without any path work."""

from __future__ import annotations

import re
from typing import Final

from supervisor.kernel.procfs import file_name
from supervisor.model import (
    ChangeNode,
    LinkNode,
    MakeNode,
    Plan,
    RemoveNode,
    RenameNode,
)

_MOST: Final = 100_000
_AT_SYMLINK_FOLLOW: Final = 0x400
_OWN_FD: Final = re.compile(rb"/(?:proc/(?:thread-)?self/fd|dev/fd)/([0-9]{1,9})")


def last_component(path: bytes | None) -> bytes:
    """The name that a path ends in, slashes behind it left out."""
    return (path or b"").rstrip(b"/").rpartition(b"/")[2]


class LiveNodes:
    """The last components under which bind mounts of ours were made, and how many there are.

    A name is never taken out again: another node may have it. `known` False says that there may be
    nodes which somebody else has made, so nothing is sure.
    """

    def __init__(self, *, known: bool = True) -> None:
        self._names: set[bytes] | None = set() if known else None
        self._count = 0

    @property
    def count(self) -> int:
        """How many there may be."""
        return max(self._count, 1) if self._names is None else self._count

    def _foreign(self, path: bytes | None) -> bool:
        return self._names is not None and last_component(path) not in self._names

    def surely_foreign(self, plan: Plan, task: int) -> bool:
        """Whether nothing of ours can be concerned. Names change through rename alone, which is
        ours to carry out; only a symlink can lead from another name to a node.

        `task` is an O_PATH descriptor of the caller's /proc/TID.
        """
        if not self.count:
            return True
        if isinstance(plan, RemoveNode):
            return self._foreign(plan.place.path)
        if isinstance(plan, RenameNode):
            return self._foreign(plan.old.path) and self._foreign(plan.new.path)
        if isinstance(plan, LinkNode):
            return not plan.flags & _AT_SYMLINK_FOLLOW and self._foreign(plan.old.path)
        if isinstance(plan, ChangeNode):
            return self._change_is_foreign(plan, task)
        return False

    def _change_is_foreign(self, plan: ChangeNode, task: int) -> bool:
        path = plan.place.path
        if path is None:
            fd = plan.place.dirfd
        elif not plan.follow:
            return self._foreign(path)
        elif own := _OWN_FD.fullmatch(path):
            # The C library's way to an fchmodat() that does not follow. Where /proc is not what it
            # seems, the kernel refuses what it would have refused anyway.
            fd = int(own[1])
        else:
            return False
        name = file_name(task, fd)
        return name is not None and self._foreign(name)

    def record(self, plan: Plan, *, made: bool, gone: bool) -> None:
        """What a work that succeeded has changed."""
        self._count += made
        self._count = max(0, self._count - gone)
        if isinstance(plan, MakeNode):
            if made:
                self._add(plan.place.path)
        elif isinstance(plan, RenameNode):
            self._add(plan.new.path)
            self._add(plan.old.path)  # of an exchange
        elif isinstance(plan, LinkNode):
            self._add(plan.new.path)

    def _add(self, path: bytes | None) -> None:
        if self._names is None:
            return
        self._names.add(last_component(path))
        if len(self._names) > _MOST:
            self._names = None
