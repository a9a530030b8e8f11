"""oci.sock: the listeners of runc, crun, podman, containerd, CRI-O, youki.

A runtime connects, sends a container's state as JSON with the listener beside it, and then closes
at once, or much later, or never. One connection is one listener. Whoever is silent or slow waits
for nobody but itself.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from dataclasses import replace

import trio

from supervisor.daemon.config import Config
from supervisor.daemon.containers import Containers, HandOver
from supervisor.daemon.sockets import RuntimeDirectory, accepting
from supervisor.intake.handover import Malformed, Reading, State, parse_state
from supervisor.intake.identity import Peer, is_listener, kubernetes, peer_of
from supervisor.kernel import target as targets
from supervisor.observe.complaint import complain
from supervisor.policy.applies import Subject

NAME = "oci"
_PIECE = 65536
# SCM_MAX_FD: no message has more, so that none is ever lost.
_FDS_MAX = 253
_FD_NAME = "seccompFd"
# How long a connection may send spaces after its message. To close earlier would be an error to a
# runtime that has not yet written its last newline.
_LINGER = 1.0


class OciDoor:
    """The door and its connections."""

    def __init__(self, place: RuntimeDirectory, containers: Containers, config: Config) -> None:
        self._containers = containers
        self._config = config
        self._socket = place.listen(f"{NAME}.sock", 0o600)
        # Those of a user that have not handed over, the oldest first.
        self._waiting: dict[int, dict[trio.CancelScope, None]] = {}

    async def serve(self) -> None:
        """Accepts, and never reads itself."""
        async with trio.open_nursery() as nursery:
            async for connection in accepting(self._socket, NAME):
                # At once: a runtime may go on and end before it has handed anything over.
                nursery.start_soon(self._connection, connection, peer_of(connection))

    async def _connection(self, connection: socket.socket, peer: Peer) -> None:
        with connection:
            fds: list[int] = []
            try:
                message = await self._first(connection, peer, fds)
                if message is None:
                    return
                self._take(parse_state(message), peer, fds)
            except Malformed as error:
                complain(f"{NAME}: a hand-over of pid {peer.pid} is refused: {error}")
                return
            except OSError as error:
                complain(f"{NAME}: a hand-over of pid {peer.pid} ended: {error.strerror or error}")
                return
            except Exception as error:  # a defect of ours costs this connection, and no other
                complain(f"{NAME}: a hand-over failed: {type(error).__name__}: {error}")
                return
            finally:
                for fd in fds:
                    os.close(fd)
            with contextlib.suppress(OSError), trio.move_on_after(_LINGER):
                while await _read(connection, None):
                    pass

    async def _first(
        self, connection: socket.socket, peer: Peer, fds: list[int]
    ) -> bytes | None:
        """The message, and in `fds` what came with its first piece; None where nothing came.

        Until the first byte there is no deadline: crun connects when a container is created, and
        hands over when it is started.
        """
        reading = Reading(self._config.message)
        waiting = self._waiting.setdefault(peer.uid, {})
        if len(waiting) >= self._config.connections:
            next(iter(waiting)).cancel()
        scope = trio.CancelScope()
        waiting[scope] = None
        try:
            with scope:
                data = await _read(connection, fds)
                scope.deadline = trio.current_time() + self._config.hand_over
                if not data and not fds:
                    return None  # a runtime that failed after it had connected
                while data:
                    message = reading.feed(data)
                    if message is not None:
                        return message
                    data = await _read(connection, None)
                raise Malformed("it ends in the middle")
            raise Malformed("it does not come to its end in time, or too many others wait")
        finally:
            del waiting[scope]
            if not waiting:
                self._waiting.pop(peer.uid, None)

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
            subject = replace(subject, cgroups=target.cgroups)
        fds.remove(listener)
        self._containers.take(HandOver(subject, listener, target, runtime))


def _target(
    state: State, peer: Peer
) -> tuple[targets.Target | None, tuple[int, int] | None]:
    """Whose calls come, and which process is still the runtime's; as far as it can be known now."""
    if not peer.shares_pids:
        return None, None  # its numbers of processes are not ours
    if not state.pid:
        return None, targets.of_children(peer.pid, peer.start)
    try:
        target = targets.of_process(state.pid)
    except OSError:
        return None, None
    return target, target.runtime


async def _read(connection: socket.socket, fds: list[int] | None) -> bytes:
    """The next piece; b"" at its end. Descriptors go to `fds`, or where that is None to nobody."""
    while True:
        await trio.lowlevel.wait_readable(connection)
        try:
            size = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize)
            data, control, _, _ = connection.recvmsg(_PIECE, size, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            continue
        came = array.array("i")
        for level, kind, value in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                came.frombytes(value[: len(value) - len(value) % came.itemsize])
        if fds is not None:
            fds.extend(came)
        elif came:
            for fd in came:
                os.close(fd)
            raise Malformed("descriptors after the first piece")
        return data
