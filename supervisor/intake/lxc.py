"""lxc.sock: calls that LXC's monitor passes on: `lxc.seccomp.notify.proxy` (csrc/proxy.c).

A monitor connects when its container starts, and says who it is with its first call. From then on
the connection is the session's: here the first request alone is read. A container without a proxy
has itself announced by a hook (`seccompd lxc-hook`), and its listener is fetched: from its init, as
soon as that has made it, for LXC's own calls below the filter may have to be answered before LXC
hands it over; or later from its monitor (lxc_commands.py).
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, replace
from errno import EALREADY
from functools import partial
from typing import Final

import trio

from supervisor.daemon.config import Config
from supervisor.daemon.container import HandOver
from supervisor.daemon.containers import Containers
from supervisor.daemon.sockets import RuntimeDirectory
from supervisor.intake.handover import Malformed
from supervisor.intake.identity import Peer
from supervisor.intake.lxc_commands import Announced, init_and_listener, parse_announcement
from supervisor.intake.lxc_kept import Kept
from supervisor.intake.reception import Reception, receive
from supervisor.kernel import target as targets
from supervisor.kernel.listeners import first_listener, is_listener, listener_of
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.task import ancestors, program_of
from supervisor.observe.complaint import complain
from supervisor.observe.text import printable
from supervisor.policy.applies import Subject

NAME: Final = "lxc"
_SIZE: Final[int] = lib.SD_PROXY_SIZE
_FDS: Final = (2, 3)  # without and with the listener
_PATIENCE: Final = 30.0
# How long mounts and the like may take before the filter is loaded.
_START: Final = 120.0
# How often it is looked whether an init has its listener: its calls wait that long.
_LOOK: Final = 0.01
_CGROUP: Final = re.compile(r"/lxc(?:\.payload\.|/)([^/]+)(?:/|$)")


@dataclass(frozen=True, slots=True)
class Request:
    """The first request of a monitor: the pid of the container's init, the cookie of its
    configuration (None: it has none), and the id of the call."""

    init: int
    cookie: str | None
    id: int


def parse_request(data: bytes) -> Request:
    """The request in a message. Raises Malformed."""
    found = ffi.new("struct sd_proxy_request *")
    if lib.sd_proxy_parse(data, len(data), found) < 0:
        raise Malformed("no request of LXC's notify proxy")
    cookie = data[_SIZE:].decode("utf-8", "replace") or None
    return Request(found.init, cookie, found.id)


def name_of(cgroups: tuple[str, ...]) -> str | None:
    """The container's name, by the cgroup that LXC puts it in."""
    for path in cgroups:
        if found := _CGROUP.search(path):
            return found[1]
    return None


class _Start:
    """A container that starts, by its monitor: one of those above process `hook`."""

    def __init__(self, hook: int) -> None:
        self._before = ancestors(hook)

    async def init_and_listener(self) -> tuple[int, int, int]:
        """The pids of its monitor and of its init, and its listener: as soon as init has that."""
        while True:
            for monitor, began in self._before:
                init = targets.of_children(monitor, began)
                listener = None if init is None else first_listener(*init)
                if init is not None and listener is not None:
                    return monitor, init[0], listener
            await trio.sleep(_LOOK)


class LxcDoor:
    """The door and its connections."""

    def __init__(self, place: RuntimeDirectory, containers: Containers, config: Config) -> None:
        self._containers = containers
        self._kept = Kept(place.path)
        self._announced: list[Announced] = []
        self._inits: dict[int, int | None] = {}  # whose listeners we have, with their starts
        sock = place.listen(f"{NAME}.sock", 0o600, socket.SOCK_SEQPACKET)
        self._reception = Reception(NAME, sock, config, self._connection)
        self._nursery: trio.Nursery | None = None

    async def serve(self) -> None:
        """Takes in what comes, and what an earlier daemon served."""
        async with trio.open_nursery() as self._nursery:
            for announced in self._kept.announced():
                self._announced.append(announced)
                self._nursery.start_soon(self._fetch, announced, None)
            await self._reception.serve()

    async def _connection(self, connection: socket.socket, peer: Peer, fds: list[int]) -> None:
        with self._reception.waiting(peer):
            message = await receive(connection, fds)
        if not message:
            return  # a container that never called
        if message.startswith(b"{"):
            self._announce(parse_announcement(message), peer)
            connection.send(b'{"announced": true}')
            return
        request = parse_request(message)
        if len(fds) not in _FDS:
            raise Malformed(f"{len(fds)} descriptors came, not 2 or 3")
        if not peer.shares_pids:
            raise Malformed("the monitor is in another pid namespace, or has gone")
        if len(fds) < _FDS[-1]:
            try:
                fds.append(listener_of(peer.pid, request.id))
            except OSError as error:
                raise Malformed(f"no listener came, nor can one be had: {error.strerror}") from None
        if not is_listener(fds[-1]):
            raise Malformed("the third descriptor is no listener")
        try:
            target = targets.of_process(request.init)
        except OSError as error:
            raise Malformed(f"process {request.init}: {error.strerror}") from None
        subject = Subject(
            door=NAME,
            peer_uid=peer.uid,
            peer_gid=peer.gid,
            runtime=peer.program,
            container=name_of(target.cgroups) or f"init-{request.init}",
            cookie=request.cookie,
            cgroups=target.cgroups,
        )
        self._containers.take(
            HandOver(
                subject, fds.pop(), target, target.runtime,
                proxy=connection.detach(), first=message[:_SIZE],
            )
        )  # fmt: skip

    # -- containers without a proxy

    def _announce(self, announced: Announced, peer: Peer) -> None:
        if self._nursery is None:
            return
        start = None
        if announced.early:
            if not peer.shares_pids:
                raise Malformed("the hook is in another pid namespace, or has gone")
            start = _Start(peer.pid)
            announced = replace(announced, early=False)  # the next daemon asks the monitor
        self._announced.append(announced)
        self._kept.remember(self._announced)
        self._nursery.start_soon(self._fetch, announced, start)

    async def _fetch(self, announced: Announced, start: _Start | None) -> None:
        """Has the listener of a container: of its init while it starts, or else of its monitor,
        which answers once it has started."""
        name = printable(announced.container.encode())
        try:
            with trio.fail_after(_PATIENCE if start is None else _START):
                if start is None:
                    monitor, init, listener = await init_and_listener(announced)
                else:
                    monitor, init, listener = await start.init_and_listener()
            try:
                if init in self._inits:  # a listener has one reader
                    raise OSError(EALREADY, "it is served already")
                target = targets.of_process(init)
            except BaseException:
                os.close(listener)
                raise
        except (OSError, trio.TooSlowError) as error:
            why = getattr(error, "strerror", None) or "it does not answer"
            complain(f"{NAME}: the listener of {name} cannot be had: {why}")
            self._forget(announced)
            return
        subject = Subject(
            door=NAME,
            peer_uid=os.geteuid(),
            peer_gid=os.getegid(),
            runtime=program_of(monitor),
            container=announced.container,
            cookie=announced.cookie,
            cgroups=target.cgroups,
        )
        began = target.began  # what is handed over is not ours any more
        watches = self._kept.watches(init, began)
        container = self._containers.take(
            HandOver(subject, listener, target, target.runtime, watches=watches)
        )
        if container is None:
            self._kept.forget(init, began)
            self._forget(announced)
        else:
            self._inits[init] = began
            container.on_end = partial(self._forget, announced, init)

    def _forget(self, announced: Announced, init: int | None = None) -> None:
        self._announced.remove(announced)
        if init is not None:
            self._kept.forget(init, self._inits.pop(init))
        self._kept.remember(self._announced)
