"""attach.sock: commands of this host's users, each under the policy that the admin chose for it.

Everybody may come: what counts is who the kernel says that the peer is. It hands over a listener,
and a pidfd of a process in the user namespace that it has made for its command. The grant is the
connection's: when that ends, so does the session. docs/daemon.md has the messages.
"""

from __future__ import annotations

import base64
import json
import re
import socket
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

import trio

from supervisor.daemon.config import Config
from supervisor.daemon.container import Container, HandOver
from supervisor.daemon.containers import Containers
from supervisor.daemon.policies import Entry
from supervisor.daemon.rates import Rates
from supervisor.daemon.sockets import RuntimeDirectory
from supervisor.errors import SeccompdError
from supervisor.intake.handover import Malformed
from supervisor.intake.identity import Peer, cgroups_of
from supervisor.intake.reception import Reception, receive
from supervisor.kernel import target as targets
from supervisor.kernel.listeners import is_listener
from supervisor.observe.complaint import complain
from supervisor.policy.applies import Subject

NAME: Final = "attach"
VERSION: Final = 1
_NAME: Final = re.compile(r"[\w.@+-]{1,100}")
_DO: Final = ("filter", "attach")
_FDS: Final = ("seccompFd", "pidFd")
_MOST_QUESTIONS: Final = 8
# Who ends together with its command: the listener says so, a moment later than the connection.
_GRACE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """A message of a peer: `do` is one of "filter" and "attach", `policy` the name of the only one
    it wants, `fds` the names of what came along."""

    do: str
    policy: str | None
    fds: tuple[str, ...]


def parse_request(message: bytes) -> Request:
    """The request in a message. Raises Malformed."""
    try:
        data = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Malformed("not a JSON object")
    if unknown := sorted(data.keys() - {"version", "do", "policy", "fds"}):
        raise Malformed(f"unknown field {unknown[0][:80]!r}")
    version, do, policy = data.get("version"), data.get("do"), data.get("policy")
    if version != VERSION or isinstance(version, bool):
        raise Malformed(f"version is not {VERSION}, the only one there is")
    if do not in _DO:
        raise Malformed(f"do is none of {', '.join(_DO)}")
    if policy is not None and not (isinstance(policy, str) and _NAME.fullmatch(policy)):
        raise Malformed("policy is not a name")
    names = data.get("fds", [])
    wanted = list(_FDS) if do == "attach" else []
    if not isinstance(names, list) or names not in (wanted, wanted[::-1]):
        raise Malformed(f"fds is not {json.dumps(wanted)}")
    return Request(do, policy, tuple(names))


class AttachDoor:
    """The door and its connections."""

    def __init__(self, place: RuntimeDirectory, containers: Containers, config: Config) -> None:
        if not containers.as_root:
            raise SeccompdError(
                "door attach is root's: only root's daemon has something to give",
                hint="`seccompd run` does without a daemon what this one could do",
            )
        self._containers = containers
        self._most = config.attached
        self._hand_over = config.hand_over
        self._numbers = count(1)
        self._commands: Counter[int] = Counter()
        # For everybody: which policy is for whom is what `match` says.
        sock = place.listen(f"{NAME}.sock", 0o666, socket.SOCK_SEQPACKET)
        rates = Rates(config.connects, config.connects_at_once)
        self._reception = Reception(NAME, sock, config, self._connection, rates)

    async def serve(self) -> None:
        """Takes in what comes."""
        await self._reception.serve()

    async def _connection(self, connection: socket.socket, peer: Peer, fds: list[int]) -> None:
        try:
            container = await self._handed_over(connection, peer, fds)
        except Malformed as error:
            _send(connection, error=error.text if isinstance(error, Refused) else str(error))
            raise
        self._reception.let_go(fds)
        if container is not None:
            self._commands[peer.uid] += 1
            try:
                await self._keep(connection, container, fds)
            finally:
                self._commands[peer.uid] -= 1
                self._commands += Counter()  # forgets whom nothing is left of

    async def _handed_over(
        self, connection: socket.socket, peer: Peer, fds: list[int]
    ) -> Container | None:
        """The container of the peer's command; None where the peer has gone before."""
        with self._reception.waiting(peer) as scope:
            for _ in range(_MOST_QUESTIONS):
                message = await receive(connection, fds)
                if not message:
                    return None
                if scope.deadline == float("inf"):
                    scope.deadline = trio.current_time() + self._hand_over
                request = parse_request(message)
                if len(fds) != len(request.fds):
                    raise Malformed(f"{len(request.fds)} descriptors are named, {len(fds)} came")
                if request.do == "attach":
                    return self._attach(connection, peer, request, fds)
                policy = self._choose(self._subject(peer, request, cgroups_of(peer)))
                code = base64.b64encode(policy.policy.filter).decode()
                _send(connection, policy=policy.name, filter=code)
        raise Malformed("too many questions")

    def _subject(self, peer: Peer, request: Request, cgroups: tuple[str, ...]) -> Subject:
        # Nothing that a peer says of itself is in here: whatever `match` looks at is the kernel's
        # word, but for the name of its program.
        return Subject(
            door=NAME,
            peer_uid=peer.uid,
            peer_gid=peer.gid,
            runtime=peer.program,
            cgroups=cgroups,
            policy=request.policy,
        )

    def _choose(self, subject: Subject) -> Entry:
        """Refuses here, not in the session: a peer hears of it, and starts nothing."""
        choice = self._containers.policies.choose(subject)
        if choice.entry is None:
            raise Refused(
                "no policy is meant for you" if subject.policy is None
                else f"policy {subject.policy} is not meant for you, or there is none",
                f"of uid {subject.peer_uid}: no policy applies ({choice.text()})",
            )  # fmt: skip
        return choice.entry

    def _attach(
        self, connection: socket.socket, peer: Peer, request: Request, fds: list[int]
    ) -> Container:
        by_name = dict(zip(request.fds, fds, strict=True))
        listener, pidfd = (by_name[name] for name in _FDS)
        if not is_listener(listener):
            raise Malformed(f"{_FDS[0]} is no listener")
        if self._commands[peer.uid] >= self._most:
            raise Malformed(f"{self._most} commands of yours are served already")
        try:
            target = targets.of_process_of(pidfd, peer.uid)
        except OSError as error:
            raise Malformed(f"{_FDS[1]}: {error.strerror}") from None
        try:
            subject = self._subject(peer, request, target.cgroups)
            self._choose(subject)
        except BaseException:
            target.close()
            raise
        name = f"{peer.uid}-{next(self._numbers)}"
        fds.remove(listener)
        container = self._containers.take(
            HandOver(replace(subject, container=name), listener, target, real_nodes=False)
        )
        if container is None:
            raise Malformed("no more containers can be served now")
        _send(connection, attached=name)
        return container

    async def _keep(
        self, connection: socket.socket, container: Container, fds: list[int]
    ) -> None:
        """Until the command has ended, or the peer has gone: then the grant ends with it. What
        comes meanwhile, in `fds` as well, is nobody's."""
        ended = trio.Event()
        container.on_end = ended.set

        async def watch_peer() -> None:
            try:
                await receive(connection, fds, unwanted=True)
            except (OSError, Malformed):
                pass  # whatever it is: nothing may follow
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_peer)
            await ended.wait()
            nursery.cancel_scope.cancel()
        if not ended.is_set():
            with trio.move_on_after(_GRACE):
                await ended.wait()
        if container.keeper.listeners:
            complain(f"{container.keeper.name}: who asked for it has gone: it ends here")
            self._containers.end(container)
        _send(connection, ended=True)


class Refused(Malformed):
    """`text` is for the peer; what is logged may name other people's policies."""

    def __init__(self, text: str, log: str) -> None:
        super().__init__(log)
        self.text = text


def _send(connection: socket.socket, **message: Any) -> None:
    """One message; a peer that does not take it has gone, or will not be waited for."""
    try:
        connection.send(json.dumps(message).encode())
    except OSError:
        pass
