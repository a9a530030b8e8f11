"""The makers of a session as its mounts use them: one at a time, and always the same one."""

from __future__ import annotations

import os
from errno import EPIPE
from typing import Any

import trio

from supervisor.engine.helpers import Maker, Makers
from supervisor.engine.mount_call import PATH_DEADLINE, Look, MountCall, MountError
from supervisor.kernel.shim import ffi, lib

_BEAT = 0.1


async def _borrow(makers: Makers, call: MountCall) -> Maker:
    """The last maker: all mounts of a session are one's, so that it knows them again."""
    while makers.all and not makers.all[-1].idle():
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


async def mounted(makers: Makers, call: MountCall, look: Look, new: Any) -> tuple[Any, int]:
    """A maker's answer to `new` (struct sd_new_mount); 0, or the errno of bringing it to its place.
    Of SD_NEW_AGAIN the maker alone changes what is at the target.
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
            error = await call.attached()
        if not await call.readable(maker.sock, call.deadline):
            raise call.failed("maker: deadline")
        if lib.sd_mount_made(maker.sock, answer) < 0:
            raise call.failed("maker: lost")
        answered, maker.tidying = True, not again
    finally:
        _give_back(makers, maker, answered=answered)
    return answer, error


async def fuse_node(makers: Makers, call: MountCall, uid: int, gid: int) -> int:
    """A detached mount of a node for /dev/fuse that the target's `uid` may open."""
    tree = ffi.new("int *", -1)
    answered = False
    maker = await _borrow(makers, call)
    try:
        there = lib.sd_mount_fuse_node(maker.sock, uid, gid)
        while there == 0:
            if not await call.readable(maker.sock, PATH_DEADLINE):
                raise call.failed("maker: deadline")
            there = lib.sd_mount_fuse_made(maker.sock, tree)
        if there == -EPIPE:
            raise call.failed("maker: lost")
        answered = True
    finally:
        _give_back(makers, maker, answered=answered)
    if there < 0:
        raise MountError(-there, "fuse: no node for /dev/fuse")
    return int(tree[0])


def forget_node(makers: Makers, node: int) -> None:
    """Its name is not needed once it is mounted; only its own maker knows it."""
    found = os.fstat(node)
    os.close(node)
    for maker in makers.all:
        lib.sd_maker_tell(maker.sock, lib.SD_WAS_UNBOUND, found.st_dev, found.st_ino)
