"""A call that is being carried out, and its work: the C structure that does the path work."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, Final

from supervisor.engine.helpers import Maker, Makers, Resolvers
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.spawn import Helper
from supervisor.model import Decision, Facts, Snapshot
from supervisor.plans import ChangeNode, LinkNode, Place, Plan, RemoveNode, RenameNode, Unmount

NOT_BEGUN: Final = -1
_CAPABILITIES: Final = {"chown": 0, "fowner": 3}  # of capability.h
_AT_SYMLINK_NOFOLLOW: Final = 0x100


class Job:
    """One call on its way; when it has come to its end, another one.

    `wanted`: what SD_WORK_* flags say of a decision that is to be taken again. `result`: how far
    the work is, enum sd_work_result. `made`: what a record says of it, where that is known before.
    """

    __slots__ = (
        "decision", "lack", "made", "maker", "plan", "probe_only", "redecide", "result", "valid",
        "wanted", "work",
    )  # fmt: skip

    plan: Plan
    valid: Callable[[], bool]

    def __init__(self) -> None:
        self.work: Any = ffi.new("struct sd_work *")

    def begin(self, plan: Plan, snapshot: Snapshot) -> None:
        """A new call."""
        self.plan = plan
        self.redecide: Callable[[Facts], Decision] | None = None
        self.maker: Maker | None = None
        self.decision: Decision | None = None
        self.probe_only = False
        self.lack = ""  # why nothing can be made
        self.made = ""
        self.wanted = 0
        self.result = NOT_BEGUN
        # Whoever reads the caller asks the listener afterwards whether this call still waits.
        work = self.work
        work.listener, work.id, work.tid = snapshot.listener, snapshot.id, snapshot.tid

    def ask(
        self, valid: Callable[[], bool], redecide: Callable[[Facts], Decision] | None
    ) -> None:
        """Who is asked on the way. With `redecide` the path is wanted, from the next step on."""
        self.valid, self.redecide = valid, redecide
        if redecide is not None and not self.wanted:
            self.wanted = lib.SD_WORK_WANT_PATH
            self.work.flags |= self.wanted


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


def fill(work: Any, plan: RemoveNode | RenameNode | LinkNode | ChangeNode | Unmount) -> None:
    """All that a plan says, but that of a new node, which sd_work_make is told."""
    work.length[1] = -1
    work.call_flags = work.flags = 0
    work.host_node[0] = b"\0"
    if isinstance(plan, RemoveNode):
        work.op = lib.SD_WORK_REMOVE
        put(work, 0, plan.place)
    elif isinstance(plan, ChangeNode):
        work.op = lib.SD_WORK_CHANGE
        work.capability = _CAPABILITIES[plan.capability]
        work.call_flags = 0 if plan.follow else _AT_SYMLINK_NOFOLLOW
        put(work, 0, plan.place)
    elif isinstance(plan, Unmount):
        work.op = lib.SD_WORK_UMOUNT
        work.call_flags = plan.flags
        put(work, 0, plan.place)
    else:
        work.op = lib.SD_WORK_RENAME if isinstance(plan, RenameNode) else lib.SD_WORK_LINK
        work.call_flags = plan.flags
        put(work, 0, plan.old)
        put(work, 1, plan.new)


def lend(work: Any, maker: Maker | None) -> None:
    """The maker that a work may ask."""
    if maker is None:
        work.maker = -1
        work.maker_busy = ffi.NULL
    else:
        work.maker = maker.sock
        work.maker_busy = maker.busy


def tell_makers(makers: Makers, work: Any) -> int:
    """Tells those who make nodes that one of them has a name more or less. Where the caller can see
    how many it has, a descriptor that is readable (its end) once they all know; else -1.
    """
    ended = until = -1
    if work.outcome & lib.SD_WAS_COUNTED and makers.all:
        ended, until = os.pipe()
    for maker in makers.all:
        lib.sd_maker_tell(maker.sock, work.outcome, work.node_dev, work.node_ino, until)
    if until >= 0:
        os.close(until)
    return ended


def let_go(
    job: Job, resolver: Helper | None, result: int, resolvers: Resolvers, makers: Makers
) -> None:
    """Gives the helpers back, or up: who still owes an answer is of no use to anybody else."""
    owed = -1
    if result != lib.SD_WORK_DONE and job.result != lib.SD_WORK_LONG:
        # it went to sleep, failed, or was cancelled
        owed = lib.sd_work_owed(job.work)
        lib.sd_work_close(job.work)
        if job.maker is not None and owed == job.maker.sock:
            makers.lose(job.maker)
    makers.done()  # also where the work goes on: it may have used one until now
    if resolver is None:
        return
    if result == lib.SD_WORK_RETIRE or owed == resolver.sock:
        resolvers.abandon(resolver)
    else:
        resolvers.give(resolver)


def path_of(work: Any) -> bytes | None:
    """What its path was resolved to."""
    length = work.resolved_length
    return ffi.buffer(work.resolved, length)[:] if length > 0 else None


def gone_of(work: Any) -> list[tuple[int, int]]:
    """Device and inode of each node that an umount took with it."""
    return list(struct.iter_unpack("QQ", path_of(work) or b""))
