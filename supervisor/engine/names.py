"""Which names may be nodes of ours: what lets most calls pass without any path work."""

from __future__ import annotations

import re
from typing import Final

from supervisor.kernel.procfs import file_name
from supervisor.plans import ChangeNode, LinkNode, MakeNode, Plan, RemoveNode, RenameNode

_PLACES: Final = 1 << 18
_AT_SYMLINK_FOLLOW: Final = 0x400
_OWN_FD: Final = re.compile(rb"/(?:proc/(?:thread-)?self/fd|dev/fd)/([0-9]{1,9})")


def last_component(path: bytes | None) -> bytes:
    """The name that a path ends in, slashes behind it left out."""
    return (path or b"").rstrip(b"/").rpartition(b"/")[2]


def _places(path: bytes | None) -> tuple[int, int]:
    """Two places in the filter. Python's hash of bytes is keyed: nobody outside can aim at it."""
    value = hash(last_component(path))
    return value % _PLACES, (value >> 24) % _PLACES


class LiveNodes:
    """Whether there may be bind mounts of ours, and which last components they may have.

    The names are kept as a Bloom filter of a fixed size: it may take a name for one of ours, which
    costs some path work, but never overlooks one. For the same reason nothing is ever taken out:
    callers that rename and remove the same names at once leave nobody who knows for certain what
    went. `known` False says that there may be nodes which somebody else has made.
    """

    def __init__(self, *, known: bool = True) -> None:
        self._known = known
        self._names = bytearray(_PLACES // 8)
        self._any = False

    @property
    def any(self) -> bool:
        """Whether there may be one."""
        return self._any or not self._known

    def _foreign(self, path: bytes | None) -> bool:
        if not self._known:
            return False
        return not all(self._names[bit >> 3] & 1 << (bit & 7) for bit in _places(path))

    def surely_foreign(self, plan: Plan, task: int) -> bool:
        """Whether nothing of ours can be concerned. Names change through rename alone, which is
        ours to carry out; only a symlink can lead from another name to a node.

        `task` is an O_PATH descriptor of the caller's /proc/TID.
        """
        if not self.any:
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

    def expect(self, plan: Plan) -> None:
        """A plan is about to be carried out: from now on its new name may be one of ours.

        Before and not after it, since others may use the name as soon as it is there.
        """
        if isinstance(plan, MakeNode):
            self._add(plan.place.path)
        elif isinstance(plan, LinkNode):
            self._add(plan.new.path)
        elif isinstance(plan, RenameNode):
            self._add(plan.new.path)
            self._add(plan.old.path)  # of an exchange

    def bound(self) -> None:
        """A node has been made that is a bind mount; a real one is nothing to us."""
        self._any = True

    def _add(self, path: bytes | None) -> None:
        for bit in _places(path):
            self._names[bit >> 3] |= 1 << (bit & 7)
