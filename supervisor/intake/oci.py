"""oci.sock: the listeners of runc, crun, podman, containerd, CRI-O, youki.

A runtime connects, sends a container's state as JSON with the listener beside it, and then closes
at once, or much later, or never. One connection is one listener. Whoever is silent or slow waits
for nobody but itself.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from typing import Final

import trio

from supervisor.daemon.config import Config
from supervisor.daemon.container import HandOver
from supervisor.daemon.containers import Containers
from supervisor.daemon.sockets import RuntimeDirectory
from supervisor.intake.handover import Malformed, Reading, State, parse_state
from supervisor.intake.identity import Peer, kubernetes
from supervisor.intake.reception import Reception, receive
from supervisor.kernel import target as targets
from supervisor.kernel.listeners import is_listener
from supervisor.policy.applies import Subject

NAME = "oci"
_FD_NAME = "seccompFd"
# How long a connection may send spaces after its message. To close earlier would be an error to a
# runtime that has not yet written its last newline.
_LINGER: Final = 1.0


class OciDoor:
    """The door and its connections."""

    def __init__(self, place: RuntimeDirectory, containers: Containers, config: Config) -> None:
        self._containers = containers
        self._config = config
        sock = place.listen(f"{NAME}.sock", 0o600)
        self._reception = Reception(NAME, sock, config, self._connection)

    async def serve(self) -> None:
        """Takes in what comes."""
        await self._reception.serve()

    async def _connection(self, connection: socket.socket, peer: Peer, fds: list[int]) -> None:
        message = await self._first(connection, peer, fds)
        if message is None:
            return
        self._take(parse_state(message), peer, fds)
        # Before it may linger: what came beside the listener is nobody's.
        self._reception.let_go(fds)
        with contextlib.suppress(OSError), trio.move_on_after(_LINGER):
            while await receive(connection, fds, unwanted=True):
                pass

    async def _first(
        self, connection: socket.socket, peer: Peer, fds: list[int]
    ) -> bytes | None:
        """The message, and in `fds` what came with its first piece; None where nothing came.

        Until the first byte there is no deadline: crun connects when a container is created, and
        hands over when it is started.
        """
        reading = Reading(self._config.message)
        with self._reception.waiting(peer) as scope:
            data = await receive(connection, fds)
            scope.deadline = trio.current_time() + self._config.hand_over
            if not data and not fds:
                return None  # a runtime that failed after it had connected
            while data:
                message = reading.feed(data)
                if message is not None:
                    return message
                data = await receive(connection, fds, unwanted=True)
        raise Malformed("it ends in the middle")

    def _take(self, state: State, peer: Peer, fds: list[int]) -> None:
        if len(state.fds) != len(fds):
            raise Malformed(f"{len(state.fds)} descriptors are named, {len(fds)} came")
        if state.fds.count(_FD_NAME) != 1:
            raise Malformed(f"not one descriptor is named {_FD_NAME}")
        listener = fds[state.fds.index(_FD_NAME)]
        if not is_listener(listener):
            raise Malformed(f"{_FD_NAME} is no listener")
        subject = Subject(
            door=NAME,
            peer_uid=peer.uid,
            peer_gid=peer.gid,
            runtime=peer.program,
            container=state.container,
            metadata=state.metadata,
            annotations=state.annotations,
            kubernetes=kubernetes(state.annotations),
        )
        target, runtime = _target(state, peer)
        if target is not None:
            program = subject.runtime or _left_behind(target)
            subject = replace(subject, cgroups=target.cgroups, runtime=program)
        fds.remove(listener)
        self._containers.take(HandOver(subject, listener, target, runtime, kept=True))


def _target(
    state: State, peer: Peer
) -> tuple[targets.Target | None, tuple[int, int] | None]:
    """Whose calls come, and which process is still the runtime's; as far as it can be known now."""
    if peer.shares_pids is False:
        return None, None  # its numbers of processes are not ours
    if not state.pid:
        return None, targets.of_children(peer.pid, peer.start)
    try:
        target = targets.of_process(state.pid)
    except OSError:
        return None, None
    if peer.shares_pids is None and target.runtime is None:
        # A runtime that has ended before it could be looked at, as runc does after `create`. What
        # it named is a runtime's process, or the number was none of ours. (A wrong one gives
        # nothing but refusals: calls are held against its namespace, and the latch is for callers.)
        target.close()
        return None, None
    return target, target.runtime


def _left_behind(target: targets.Target) -> str | None:
    """What a runtime is called that has gone: the process that it has made for a container has its
    name from it until it executes a program. runc's is "runc:[2:INIT]".
    """
    return None if target.program is None else target.program.partition(":[")[0]
