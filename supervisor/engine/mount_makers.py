"""The makers of a session as its mounts use them: one at a time, and always the same one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from errno import EBUSY, EPIPE
from typing import Any

import trio

from supervisor.engine.helpers import Maker, Makers
from supervisor.engine.limits import DEFAULT
from supervisor.engine.mount_call import Look, MountCall, MountError
from supervisor.kernel.shim import ffi, lib

_BEAT = 0.1


async def _borrow(makers: Makers, call: MountCall) -> Maker:
    """The last maker: all mounts of a session are one's, so that it knows them again."""
    if makers.all and not makers.all[-1].idle():
        await _until_idle(makers, call)
    if not makers.all:
        raise call.failed("mount: no maker, for seccompd is not root")
    maker = makers.all[-1]
    maker.busy[0] = 1
    return maker


async def _until_idle(makers: Makers, call: MountCall) -> None:
    until = trio.current_time() + call.deadline
    while makers.all and not makers.all[-1].idle():
        call.on_wait()
        call.check()
        if trio.current_time() > until:
            raise call.failed("maker: deadline")
        with trio.move_on_after(_BEAT):
            await makers.wait()


def _give_back(makers: Makers, maker: Maker, *, answered: bool) -> None:
    """One that still owes an answer is lost."""
    if not answered:
        makers.lose(maker)
    elif not maker.tidying:
        maker.busy[0] = 0
        makers.done()


def fill(field: Any, text: bytes, size: int, errno: int) -> None:
    """Writes a text into a field of struct sd_new_mount. What does not fit is an error."""
    if len(text) >= size or b"\0" in text:
        raise MountError(errno, f"mount: more than {size - 1} bytes")
    ffi.memmove(field, text, len(text))


def why(mounted: Any) -> str:
    """What a maker's answer says beside its errno."""
    for flag, text in (
        (lib.SD_MOUNTED_CEILING, "beyond what the policy's rules can grant"),
        (lib.SD_MOUNTED_NO_SHIFT, "the filesystem cannot be idmapped, and shift is true"),
        (lib.SD_MOUNTED_JOURNAL, "another device is its journal, which no rule allows by number"),
        (lib.SD_MOUNTED_LOOP, "no loop device"),
        (lib.SD_MOUNTED_LOCK, "its flags could not be locked"),
    ):
        if mounted.flags & flag:
            return f"mount: {text}"
    return ""


async def mounted(makers: Makers, call: MountCall, look: Look, new: Any) -> tuple[Any, int]:
    """A maker's answer to `new` (struct sd_new_mount); 0, or the errno of bringing it to its place.
    Of SD_NEW_AGAIN the maker alone changes what is at the target. Of SD_NEW_COPY, where `look` has
    let go of the target, the mount takes the place of the one that was marked. Of all but AGAIN
    `look` is closed, once the helpers have what they need of it.
    """
    again = new.kind == lib.SD_NEW_AGAIN
    answer = ffi.new("struct sd_mounted *")
    error, answered = 0, False
    maker = await _borrow(makers, call)
    try:
        if again:
            if lib.sd_mount_again(maker.sock, new, look.target) < 0:
                raise call.failed("maker: lost")
        else:
            call.begin(maker, look, new)
            look.close()
            error = await call.attached()
        sock = maker.sock
        # what is in its place was answered before the resolver had it
        there = not (again or error) or call.soon(sock)
        if not there and not await call.later(sock, call.deadline):
            raise call.failed("maker: deadline")
        if lib.sd_mount_made(sock, answer) < 0:
            raise call.failed("maker: lost")
        answered, maker.tidying = True, not again
    finally:
        _give_back(makers, maker, answered=answered)
    return answer, error


async def _made(
    makers: Makers, maker: Maker, ids: tuple[int, int], answered: Callable[[], Awaitable[None]]
) -> int:
    """What the maker makes of that: a descriptor or -errno; -EPIPE: it is lost."""
    tree = ffi.new("int *", -1)
    complete = False
    try:
        there = lib.sd_mount_fuse_node(maker.sock, *ids)
        while there == 0:
            await answered()
            there = lib.sd_mount_fuse_made(maker.sock, tree)
        complete = there != -EPIPE
    finally:
        _give_back(makers, maker, answered=complete)
    return there if there < 0 else int(tree[0])


class FuseNodes:
    """Nodes for /dev/fuse, as detached mounts, for who is root in a target's user namespace with
    these maps; -1 where it can open the host's, or nobody can make one.
    """

    def __init__(
        self,
        makers: Makers,
        uids: Sequence[tuple[int, int, int]] | None,
        gids: Sequence[tuple[int, int, int]] | None,
    ) -> None:
        self._makers = makers
        self._ids = min(uids or ((0, 0, 1),))[0], min(gids or ((0, 0, 1),))[0]

    def _needed(self) -> bool:
        return bool(self._makers.all) and not os.access("/dev/fuse", os.R_OK | os.W_OK)

    async def get(self, call: MountCall) -> int:
        """One for a call that waits."""
        if not self._needed():
            return -1
        maker = await _borrow(self._makers, call)

        async def answered() -> None:
            if not await call.readable(maker.sock, call.path_deadline):
                raise call.failed("maker: deadline")

        tree = await _made(self._makers, maker, self._ids, answered)
        if tree == -EPIPE:
            raise call.failed("maker: lost")
        if tree < 0:
            raise MountError(-tree, "fuse: no node for /dev/fuse")
        return tree

    async def ahead(self) -> int:
        """One for nobody yet; OSError where there is none, or the maker is not idle."""
        if not self._needed():
            return -1
        maker = self._makers.all[-1]
        if not maker.idle():
            raise OSError(EBUSY, "maker")
        maker.busy[0] = 1

        async def answered() -> None:
            with trio.move_on_after(DEFAULT.path):
                await trio.lowlevel.wait_readable(maker.sock)
                return
            raise OSError(EPIPE, "maker")

        tree = await _made(self._makers, maker, self._ids, answered)
        if tree < 0:
            raise OSError(-tree, "no node for /dev/fuse")
        return tree

    def forget(self, node: int) -> None:
        """Closes it. Its name is not needed once it is mounted; only its own maker knows it."""
        if node < 0:
            return
        found = os.fstat(node)
        os.close(node)
        for maker in self._makers.all:
            lib.sd_maker_tell(maker.sock, lib.SD_WAS_UNBOUND, found.st_dev, found.st_ino, -1)
