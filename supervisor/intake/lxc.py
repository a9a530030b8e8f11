"""lxc.sock: calls that LXC's monitor passes on: `lxc.seccomp.notify.proxy` (csrc/proxy.c).

A monitor connects when its container starts, and says who it is with its first call. From then on
the connection is the session's: here the first request alone is read.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, replace
from typing import Final

from supervisor.daemon.config import Config
from supervisor.daemon.containers import Containers, HandOver
from supervisor.daemon.sockets import RuntimeDirectory
from supervisor.intake.handover import Malformed
from supervisor.intake.identity import Peer, is_listener
from supervisor.intake.reception import Reception, receive
from supervisor.kernel import target as targets
from supervisor.kernel.shim import ffi, lib
from supervisor.policy.applies import Subject

NAME: Final = "lxc"
_SIZE: Final[int] = lib.SD_PROXY_SIZE
_FDS: Final = (2, 3)  # without and with the listener
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


class LxcDoor:
    """The door and its connections."""

    def __init__(self, place: RuntimeDirectory, containers: Containers, config: Config) -> None:
        self._containers = containers
        sock = place.listen(f"{NAME}.sock", 0o600, socket.SOCK_SEQPACKET)
        self._reception = Reception(NAME, sock, config, self._connection)

    async def serve(self) -> None:
        """Takes in what comes."""
        await self._reception.serve()

    async def _connection(self, connection: socket.socket, peer: Peer, fds: list[int]) -> None:
        with self._reception.waiting(peer):
            message = await receive(connection, fds)
        if not message:
            return  # a container that never called
        request = parse_request(message)
        if len(fds) not in _FDS:
            raise Malformed(f"{len(fds)} descriptors came, not 2 or 3")
        if not peer.shares_pids:
            raise Malformed("the monitor is in another pid namespace, or has gone")
        if len(fds) < _FDS[-1]:
            try:
                fds.append(targets.listener_of(peer.pid, request.id))
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
        )
        self._containers.take(
            HandOver(
                replace(subject, cgroups=target.cgroups), fds.pop(), target, target.runtime,
                proxy=connection.detach(), first=message[:_SIZE],
            )
        )  # fmt: skip
