"""Mounts by FUSE programs: one is started, its mount made for it, and brought to its place."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from errno import EINTR, EINVAL, EIO, ENOTBLK, ETIMEDOUT

import trio

from supervisor.engine import mount_makers
from supervisor.engine.fuse_servers import FuseServers, Server
from supervisor.engine.helpers import Makers
from supervisor.engine.mount_call import Look, MountCall, MountError
from supervisor.kernel.mounts import attr_of
from supervisor.model import Mount, MountSettings

_Ids = Sequence[tuple[int, int, int]] | None


class Programs:
    """The way of one program from its start to its mount; the servers are those of a session."""

    def __init__(self, servers: FuseServers, makers: Makers, uids: _Ids, gids: _Ids) -> None:
        self._servers = servers
        self._makers = makers
        self._uids = uids
        self._gids = gids

    async def mount(
        self, call: MountCall, look: Look, plan: Mount, settings: MountSettings
    ) -> str:
        """Has it mounted, at the place that `look` has. The text is for the audit record."""
        if look.source < 0:
            raise MountError(ENOTBLK if plan.source else EINVAL)
        node = await self._fuse_node(call)
        try:
            server = self._servers.start(plan, settings, look, node)
        except (OSError, ValueError) as error:
            errno = EIO if isinstance(error, ValueError) else error.errno or EIO
            raise MountError(errno, f"fuse: {error}") from error
        finally:
            if node >= 0:
                mount_makers.forget_node(self._makers, node)
        try:
            await self._started(call, server)
            await self._adopt(call, look, plan, settings, server)
        except BaseException as error:
            words = await self._servers.end(server)
            if isinstance(error, MountError) and words and error.errno != EINTR:
                raise MountError(error.errno, f"{error.how}: {words}") from error
            raise
        self._servers.keep(server)
        return f"fuse, pid {server.pid}"

    async def _started(self, call: MountCall, server: Server) -> None:
        """Until it runs. A container's program may take for ever to be read."""
        began = trio.current_time()
        try:
            while not server.started():
                if not await call.readable(server.starting, call.deadline, long=True):
                    raise MountError(ETIMEDOUT, "fuse: the program was not started in time")
        except OSError as error:
            raise MountError(error.errno or EIO, f"fuse: {error}") from error
        call.deadline -= trio.current_time() - began

    async def _adopt(
        self, call: MountCall, look: Look, plan: Mount, settings: MountSettings, server: Server
    ) -> None:
        attrs = attr_of(settings.force), attr_of(plan.flags & ~settings.force)
        try:
            error = await call.adopt(look, server, self._servers.watches(), attrs, plan.flags)
        except MountError as failed:
            if failed.how == "path: deadline":
                raise MountError(ETIMEDOUT, "fuse: the program did not mount in time") from failed
            raise
        finally:
            server.deaf()  # one more mount(2) of the program's would never be answered
        if error == EIO and await self._servers.ended(server):
            # the usual reason is an image that is not what the caller says: EINVAL, as of mount(2)
            status = server.status
            raise MountError(
                EIO if os.WIFSIGNALED(status) else EINVAL,
                f"fuse: the program ended ({_status(status)})",
            )
        if error:
            raise MountError(error, "fuse: not attached")

    async def _fuse_node(self, call: MountCall) -> int:
        """A mount of a node for /dev/fuse, where the target cannot open the host's; or -1."""
        if os.access("/dev/fuse", os.R_OK | os.W_OK) or not self._makers.all:
            return -1
        uids, gids = self._uids or ((0, 0, 1),), self._gids or ((0, 0, 1),)
        return await mount_makers.fuse_node(self._makers, call, min(uids)[0], min(gids)[0])


def _status(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"status {os.WEXITSTATUS(status)}"
