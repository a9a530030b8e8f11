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

_PLACES: Final = 1 << 16
_FULL: Final = 255
_AT_SYMLINK_FOLLOW: Final = 0x400
_RENAME_EXCHANGE: Final = 2
_OWN_FD: Final = re.compile(rb"/(?:proc/(?:thread-)?self/fd|dev/fd)/([0-9]{1,9})")


def last_component(path: bytes | None) -> bytes:
    """The name that a path ends in, slashes behind it left out."""
    return (path or b"").rstrip(b"/").rpartition(b"/")[2]


def _places(path: bytes | None) -> tuple[int, int]:
    """Two places in the filter. Python's hash of bytes is keyed: nobody outside can aim at it."""
    value = hash(last_component(path))
    return value % _PLACES, (value >> 24) % _PLACES


class LiveNodes:
    """How many bind mounts of ours there are, and which last components they may have.

    The names are kept as a counting Bloom filter of a fixed size: it may take a name for one of
    ours, which costs some path work, but never overlooks one, and it does not grow. `known` False
    says that there may be nodes which somebody else has made, so nothing is sure.
    """

    def __init__(self, *, known: bool = True) -> None:
        self._known = known
        self._names = bytearray(_PLACES)
        self._count = 0

    @property
    def count(self) -> int:
        """How many there may be."""
        return self._count if self._known else max(self._count, 1)

    def _foreign(self, path: bytes | None) -> bool:
        if not self._known:
            return False
        return any(not self._names[place] for place in _places(path))

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

    def record(self, plan: Plan, *, made: bool, gone: int, moved: bool) -> None:
        """What a work that succeeded has changed: one node more, one less, one under a new name."""
        self._count += made
        self._count = max(0, self._count - gone)
        if isinstance(plan, MakeNode):
            if made:
                self._add(plan.place.path)
        elif isinstance(plan, LinkNode):
            if made:
                self._add(plan.new.path)
        elif isinstance(plan, RemoveNode):
            if gone:
                self._drop(plan.place.path)
        elif isinstance(plan, RenameNode):
            if plan.flags & _RENAME_EXCHANGE:  # whichever of them it was
                self._add(plan.new.path)
                self._add(plan.old.path)
                return
            if gone:
                self._drop(plan.new.path)
            if moved:
                self._drop(plan.old.path)
                self._add(plan.new.path)

    def _add(self, path: bytes | None) -> None:
        for place in _places(path):
            if self._names[place] < _FULL:
                self._names[place] += 1

    def _drop(self, path: bytes | None) -> None:
        for place in _places(path):
            if 0 < self._names[place] < _FULL:  # a full one no longer knows how many there are
                self._names[place] -= 1
