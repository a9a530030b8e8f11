"""Mounts by FUSE programs: one is started, its mount made for it, and brought to its place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from errno import EINTR, EINVAL, EIO, ENOTBLK, ETIMEDOUT

import trio

from supervisor.engine import mount_makers
from supervisor.engine.fuse_server import Server
from supervisor.engine.fuse_servers import FuseServers
from supervisor.engine.helpers import Makers
from supervisor.engine.mount_call import Look, MountCall, MountError
from supervisor.kernel.mounts import attr_of
from supervisor.model import MountSettings
from supervisor.plans import Mount

_Ids = Sequence[tuple[int, int, int]] | None


class Programs:
    """The way of one program from its start to its mount; the servers are those of a session."""

    def __init__(self, servers: FuseServers, makers: Makers, uids: _Ids, gids: _Ids) -> None:
        self._servers = servers
        self._nodes = mount_makers.FuseNodes(makers, uids, gids)
        self._kept: list[tuple[Server, MountSettings]] = []

    @property
    def more(self) -> bool:
        """Whether there is a new mount that nobody has seen to since."""
        return bool(self._kept)

    async def do_more(self) -> None:
        """Watches over its program, and has the beginning of the next one made."""
        while self._kept:
            server, settings = self._kept.pop()
            self._servers.watch(server)
            if not settings.inside:
                await self._servers.spare.want(self._nodes)

    async def mount(
        self, call: MountCall, look: Look, plan: Mount, settings: MountSettings
    ) -> str:
        """Has it mounted, at the place that `look` has. The text is for the audit record."""
        if look.source < 0:
            raise MountError(ENOTBLK if plan.source else EINVAL)
        if b"\\" in (plan.data or b""):
            # to some programs it makes one option of two: the next word may be one of ours
            raise MountError(EINVAL, "fuse: a backslash in the options")
        try:
            server = await self._servers.start(plan, settings, look, call, self._nodes)
        except (OSError, ValueError) as error:
            errno = EIO if isinstance(error, ValueError) else error.errno or EIO
            raise MountError(errno, f"fuse: {error}") from error
        try:
            try:
                await self._begun(call, server)
            finally:
                self._nodes.forget(server.node)
            await self._adopt(call, look, plan, settings, server)
        except BaseException as error:
            words = await self._servers.end(server)
            if isinstance(error, MountError) and words and error.errno != EINTR:
                raise MountError(error.errno, f"{error.how}: {words}") from error
            raise
        self._servers.keep(server)
        self._kept.append((server, settings))
        return f"fuse, pid {server.pid}"

    async def _begun(self, call: MountCall, server: Server) -> None:
        """Until it asks for its mount, or will. The rest of its start is nobody's to wait for."""
        began = trio.current_time()
        try:
            while not server.begun():
                if call.soon(server.starting):
                    continue
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
            error = await call.adopt(look, server, self._servers.watches(), attrs, plan)
            if error == EIO and await self._servers.ended(server):
                _runs(server)
                # the usual reason is an image that is not what the caller says: EINVAL, as of
                # mount(2)
                errno = EIO if os.WIFSIGNALED(server.status) else EINVAL
                raise MountError(errno, f"fuse: the program ended ({server.ending()})")
        except MountError as failed:
            if failed.how == "path: deadline":
                late = "did not mount" if _runs(server) else "was not started"
                raise MountError(ETIMEDOUT, f"fuse: the program {late} in time") from failed
            raise
        finally:
            server.deaf()  # one more mount(2) of the program's would never be answered
        if error:
            raise MountError(error, "fuse: not attached")


def _runs(server: Server) -> bool:
    """Whether it was executed; False: a container's program may take for ever to be read."""
    try:
        return server.started()
    except OSError as error:
        raise MountError(error.errno or EIO, f"fuse: {error}") from error
