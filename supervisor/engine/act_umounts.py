"""umount of what nodes or programs of ours belong to: what path work needs, and what follows."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import trio

from supervisor.engine.act_mounts import Mounter
from supervisor.engine.fuse_servers import FuseServers
from supervisor.engine.helpers import Makers
from supervisor.engine.works import gone_of, put
from supervisor.kernel.mounts import MNT_DETACH, MNT_FORCE
from supervisor.kernel.shim import lib
from supervisor.plans import Place, Unmount

_TIDYING: Final = 2.0


class Umounts:
    """The umounts of one session."""

    def __init__(self, mounter: Mounter, servers: FuseServers, makers: Makers) -> None:
        self._mounter = mounter
        self._servers = servers
        self._makers = makers

    @property
    def any(self) -> bool:
        """Whether something of ours is mounted, nodes aside."""
        return self._servers.any or self._mounter.any

    def concerned(self, plan: Unmount) -> bool:
        """Whether it may be about something of ours, nodes aside. From what the kernel mounted
        alone an umount with MNT_FORCE needs us, which the kernel grants nobody in a container.
        """
        return self._servers.any or bool(plan.flags & MNT_FORCE and self._mounter.any)

    async def prepare(self, on_wait: Callable[[], None]) -> None:
        """Waits for makers that still hold what they mounted: the caller got its answer without
        that, and its umount must not leave a device in use.
        """
        if any(not maker.tidied() for maker in self._makers.all):
            on_wait()
            with trio.move_on_after(_TIDYING):
                await self._makers.tidied()

    def fill(self, work: Any, plan: Unmount) -> None:
        """What else the resolver is told: the filesystems that it is to know."""
        listed = [(device, 1) for device in self._servers.devices()]
        if plan.flags & MNT_FORCE:
            listed += [(device, 0) for device in self._mounter.devices()]
        put(work, 1, Place(0, b"".join(struct.pack("QQ", *pair) for pair in listed)))

    def done(self, work: Any) -> None:
        """The nodes that went with a file system, or could not be put back on it."""
        pairs = gone_of(work)
        for maker in self._makers.all:
            for device, inode in pairs:
                lib.sd_maker_tell(maker.sock, lib.SD_WAS_UNBOUND, device, inode, -1)

    async def written(
        self, work: Any, plan: Unmount, valid: Callable[[], bool], on_wait: Callable[[], None]
    ) -> None:
        """After one that succeeded: waits for the program's last writes."""
        if work.fs_dev:
            hangs = bool(plan.flags & (MNT_FORCE | MNT_DETACH))  # is what these are for
            await self._servers.written(work.fs_dev, valid, on_wait, force=hangs)
