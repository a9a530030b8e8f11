"""control.sock: what serves whom, how much, and why; and the order to load policies again.

A request is one line, a JSON object whose `do` says what is wanted; so is each answer.
docs/control.md has them. Who asks is what SO_PEERCRED says: root and the daemon's own user see
everything and may give orders, others see the containers that they have handed over themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from supervisor.daemon.aside import Aside
from supervisor.daemon.config import Config
from supervisor.daemon.container import Container, Looking
from supervisor.daemon.containers import Containers
from supervisor.daemon.devices import Devices
from supervisor.daemon.rates import Rates
from supervisor.daemon.sockets import RuntimeDirectory, accepting, admitted, credentials
from supervisor.errors import SeccompdError
from supervisor.kernel.rights import refuse_descriptors
from supervisor.observe.complaint import complain

NAME: Final = "control.sock"
_LINE_MAX: Final = 65536
_REQUEST_TIME: Final = 10.0
_ANSWER_TIME: Final = 10.0
_BATCH: Final = 64  # records of a trace before others get their turn
_RECORD_MAX: Final = 1 << 17

Reload = Callable[[], Awaitable[str]]


class Wrong(Exception):
    """A request that cannot be met; the text says why."""


class _Stream:
    """A connection: what trio's would be, but for descriptors that come along."""

    def __init__(self, connection: socket.socket, aside: Aside) -> None:
        self._connection = connection
        self._aside = aside

    async def receive_some(self, size: int) -> bytes:
        """The next piece; b"" at its end."""
        while True:
            await trio.lowlevel.wait_readable(self._connection)
            with contextlib.suppress(BlockingIOError):
                return self._aside.receive(self._connection, size)

    async def send_all(self, data: bytes) -> None:
        """Returns when all of it is on its way."""
        rest = memoryview(data)
        while rest:
            await trio.lowlevel.wait_writable(self._connection)
            with contextlib.suppress(BlockingIOError):
                rest = rest[self._connection.send(rest) :]


class Control:
    """The socket and its connections."""

    def __init__(
        self, place: RuntimeDirectory, containers: Containers, config: Config, reload: Reload,
        devices: Devices,
    ) -> None:
        """`reload` loads the policies again and says what came of it, or raises SeccompdError."""
        self._containers = containers
        self._config = config
        self._reload = reload
        self._devices = devices
        self._began = time.monotonic()
        self._connections: Counter[int] = Counter()
        self._rates = Rates(config.connects, config.connects_at_once)
        # For everybody: whoever has nothing here sees nothing.
        mode = 0o666 if os.geteuid() == 0 else 0o600
        self._socket = place.listen(NAME, mode, descriptors=False)
        self._aside = Aside()

    async def serve(self) -> None:
        """Accepts, and never reads itself."""
        async with trio.open_nursery() as nursery:
            async for connection in accepting(self._socket, "control"):
                if not admitted(connection, self._rates):
                    self._aside.close_connection(connection)
                    continue
                uid = credentials(connection)[1]
                most = self._config.connections
                if self._connections[uid] >= most or self._connections.total() >= 2 * most:
                    self._aside.close_connection(connection)
                    continue
                nursery.start_soon(self._connection, connection, uid)

    async def _connection(self, connection: socket.socket, uid: int) -> None:
        self._connections[uid] += 1
        stream = _Stream(connection, self._aside)
        try:
            await self._talk(stream, uid)
        except OSError:
            pass  # the client has gone
        except Exception as error:  # a defect of ours costs this connection, and no other
            complain(f"control: a request failed: {type(error).__name__}: {error}")
        finally:
            self._aside.close_connection(connection)
            self._connections[uid] -= 1
            if not self._connections[uid]:
                del self._connections[uid]

    async def _talk(self, stream: _Stream, uid: int) -> None:
        data = b""
        while True:
            with trio.move_on_after(_REQUEST_TIME) as waiting:
                while b"\n" not in data and len(data) <= _LINE_MAX:
                    piece = await stream.receive_some(4096)
                    if not piece:
                        return
                    data += piece
            line, _, data = data.partition(b"\n")
            try:
                if waiting.cancelled_caught or len(line) > _LINE_MAX:
                    raise Wrong("no request came, or one that is too long")
                request = _request(line)
                if request["do"] == "trace":
                    await self._trace(stream, uid, request)
                    return
                answer = await self._answer(uid, request)
            except (Wrong, SeccompdError) as error:
                await _say(stream, {"error": str(error)})
                return
            await _say(stream, answer)

    async def _answer(self, uid: int, request: Mapping[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "ps":
                return {"containers": [_row(one) for one in self._seen_by(uid)]}
            case "stats":
                return self._stats(uid)
            case "devices":
                return await self._devices.show(self._seen_by(uid), request)
            case "reload" | "add_device" | "remove_device" as order:
                if not _may_do_all(uid):
                    raise Wrong("only root and the daemon's own user may do that")
                if order == "add_device":
                    return await self._devices.add(uid, request)
                if order == "remove_device":
                    return await self._devices.remove(request)
                return {"done": await self._reload()}
            case other:
                raise Wrong(
                    f"unknown: {other}; there are ps, stats, trace, reload, devices, add_device "
                    "and remove_device"
                )

    def _seen_by(self, uid: int) -> list[Container]:
        return [
            one for one in self._containers.all()
            if _may_do_all(uid) or one.subject.peer_uid == uid
        ]  # fmt: skip

    def _stats(self, uid: int) -> dict[str, Any]:
        seen = self._seen_by(uid)
        counts = [one.keeper.counts() for one in seen]
        found: dict[str, Any] = {
            "containers": len(seen),
            "listeners": sum(one.keeper.listeners for one in seen),
            "sessions": sum(one.keeper.session_pid is not None for one in seen),
            "calls": sum(calls for calls, _ in counts),
            "denials": sum(denials for _, denials in counts),
        }
        if _may_do_all(uid):
            found |= {
                "taken": self._containers.taken,
                "policies": len(self._containers.policies.entries),
                "uptime": round(time.monotonic() - self._began, 3),
                "pid": os.getpid(),
            }
        return found

    # -- trace

    async def _trace(
        self, stream: _Stream, uid: int, request: Mapping[str, Any]
    ) -> None:
        """Records until the client goes. One that reads slowly loses some, and is told how many."""
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        refuse_descriptors(ours)
        with ours, theirs:
            number = self._containers.look_on(
                Looking(
                    theirs.fileno(),
                    None if _may_do_all(uid) else uid,
                    _text(request, "container"),
                    _texts(request, "syscalls"),
                    _texts(request, "verdicts"),
                )
            )
            try:
                await stream.send_all(b'{"tracing":true}\n')
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_gone, stream, nursery.cancel_scope)
                    with contextlib.suppress(OSError):  # the client has gone
                        await _pass_on(ours, stream)
                    nursery.cancel_scope.cancel()
            finally:
                self._containers.look_away(number)


async def _pass_on(ours: socket.socket, stream: _Stream) -> None:
    while True:
        await trio.lowlevel.wait_readable(ours)
        lines: list[bytes] = []
        while len(lines) < _BATCH:
            try:
                line = ours.recv(_RECORD_MAX)
            except BlockingIOError:
                break
            # Written by a session, which a container may have taken over: one line it has to be.
            if line.count(b"\n") == 1 and line.endswith(b"\n") and line.startswith(b"{"):
                lines.append(line)
        await stream.send_all(b"".join(lines))
        await trio.lowlevel.checkpoint()


async def _until_gone(stream: _Stream, scope: trio.CancelScope) -> None:
    with contextlib.suppress(OSError):
        while await stream.receive_some(4096):
            pass
    scope.cancel()


async def _say(stream: _Stream, answer: Mapping[str, Any]) -> None:
    with trio.move_on_after(_ANSWER_TIME):
        await stream.send_all(json.dumps(answer).encode() + b"\n")


def _may_do_all(uid: int) -> bool:
    return uid in (0, os.geteuid())


def _request(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        # half of a surrogate pair that stands for no byte is no text that anything can be called by
        os.fsencode(json.dumps(request, ensure_ascii=False))
    except (ValueError, RecursionError):
        raise Wrong("not JSON, or no text") from None
    if not isinstance(request, dict) or not isinstance(request.get("do"), str):
        raise Wrong('a request is an object with "do"')
    return request


def _text(request: Mapping[str, Any], name: str) -> str | None:
    value = request.get(name)
    if value is not None and not isinstance(value, str):
        raise Wrong(f"{name} is a text")
    return value


def _texts(request: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    value = request.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Wrong(f"{name} is a list of texts")
    return tuple(value)


def _row(container: Container) -> dict[str, Any]:
    """What `ps` shows of one container."""
    keeper, subject = container.keeper, container.subject
    calls, denials = keeper.counts()
    return {
        "container": subject.container,
        "door": subject.door,
        "runtime": subject.runtime,
        "uid": subject.peer_uid,
        "policy": container.entry.name if container.entry is not None else None,
        "pid": container.target.pid if container.target is not None else None,
        "session": keeper.session_pid,
        "sessions": keeper.sessions,
        "listeners": keeper.listeners,
        "calls": calls,
        "denials": denials,
        "age": round(time.monotonic() - container.born, 3),
        "refuses_all": keeper.failed,
        "unnotified": container.unnotified,
    }
