"""A session from its start to its end: puts the parts together and runs the loops.

It serves one container: a listener for what was started with it, and one for each program that was
executed in it later. They come through the channel, as all orders: JSON objects with descriptors.

- `{"listener": SLOT, "runtime": [PID, START] or null, "network": the inode of the container's
  network namespace or 0}`, with the listener; a second descriptor is
  the connection by which its calls come (LXC's proxy).
- `{"policy": ..., "limits": {...}, "makers": bool}`: another policy (CompiledPolicy.to_json) in a
  memfd, with its Limits, and, where `makers` says so, the sockets of makers with its ceiling.
- `{"look_on": NUMBER, "syscalls": [...] or null, "verdicts": [...] or null}`, with a socket for
  the records of such calls, from now on; `{"forget": NUMBER}` ends that.
- `{"turn": SLOT}`: whether it lives; its watch shows that (`turns`).

It says `{"released": SLOT}` of a listener whose callers have gone. Where the other side has closed
the channel, the session ends with its last caller.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
from collections.abc import Mapping
from typing import Any

import trio

from supervisor.engine.act import Actor
from supervisor.engine.actors import Actors
from supervisor.engine.callers import Callers
from supervisor.engine.config import SessionConfig
from supervisor.engine.crew import Crew, Totals
from supervisor.engine.decide import Judge
from supervisor.engine.latch import Latch
from supervisor.engine.limits import Limits
from supervisor.engine.recent import MissedAnswers
from supervisor.engine.session import Session
from supervisor.engine.snapshot import Receiver
from supervisor.kernel.shim import check, lib, receive_fds, send_fds
from supervisor.kernel.spawn import Helper
from supervisor.kernel.watch import Watches
from supervisor.observe.audit import AuditLog
from supervisor.observe.complaint import complain
from supervisor.observe.records import Onlooker, Records
from supervisor.observe.trace import Tracer
from supervisor.policy.compiled import CompiledPolicy


def serve(
    config: SessionConfig,
    channel: int,
    watch_fd: int,
    timer: int,
    makers: list[int],
    limits: Limits,
    *,
    resumed: bool,
    resolver: Helper | None = None,
) -> None:
    """Serves until no caller is left. `resumed`: another session did so before. `resolver`: the
    first one, where it is there already."""
    watches = Watches(watch_fd)
    watches.keep_memory()  # the watchdog looks at a file that we could have cut away
    container = _Container(config, channel, watches, timer, makers, limits, resumed, resolver)
    try:
        # The first listener is there already: it must not wait for trio's own start.
        message, fds = _next(channel)
        if message:
            trio.run(container.run, message, fds)
    finally:
        container.close()


def _next(channel: int) -> tuple[bytes, list[int]]:
    """The next message; b"" where the other side has gone, even before it heard all of us."""
    try:
        return receive_fds(channel)
    except ConnectionResetError:
        return b"", []


def _is_readable(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))


class _Container:
    """The loops of one container, and what they share."""

    def __init__(
        self, config: SessionConfig, channel: int, watches: Watches, timer: int,
        makers: list[int], limits: Limits, resumed: bool, resolver: Helper | None,
    ) -> None:
        policy = config.policy
        self._config = config
        self._channel: int | None = channel
        self._watches = watches
        self._timer = timer
        self._limits = limits
        self._policy = policy
        self._crew = Crew(limits)
        self._crew.hear = self._hear_all
        self._receivers: dict[int, Receiver] = {}
        self._loops: set[Session] = set()
        self._totals = Totals()
        self._audit = None
        if config.audit_fd is not None:
            self._audit = AuditLog(
                config.audit_fd, policy=policy.name, session=config.name,
                by_pidfd=config.pidfd_info,
            )
        tracer = Tracer(config.trace_fd) if config.trace_fd is not None else None
        self._records = Records(self._audit, tracer)
        self._missed = None if config.wait_killable else MissedAnswers()
        in_own_userns = config.uids is not None
        self._callers = Callers(policy.wants, config.uids, config.gids)
        paths = Actor(
            userns=in_own_userns,
            traits=config.traits,
            policy=policy,
            maker_socks=makers,
            resolver=resolver,
            limits=limits,
            resumed=resumed,
            uids=config.uids,
            gids=config.gids,
            report=None if self._audit is None else self._audit.event,
            real_nodes=config.real_nodes,
        )
        self._actor = Actors(paths, policy, limits, config.name, hosts=config.hosts)
        self._judge = Judge(
            policy, kernel_refuses=in_own_userns, foreign=config.foreign, limits=limits,
            heard=config.heard,
        )

    async def run(self, message: bytes, fds: list[int]) -> None:
        """Begins with the channel's first message."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._told(message, fds)
            nursery.start_soon(self._hear)

    # -- the channel

    async def _hear(self) -> None:
        """A busy loop lets us have our turn now and then, an idle one looks at the channel."""
        with contextlib.suppress(trio.ClosedResourceError):
            while self._channel is not None:
                await trio.lowlevel.wait_readable(self._channel)
                self._hear_all()

    def _hear_all(self) -> None:
        """What has been said until now."""
        while self._channel is not None and _is_readable(self._channel):
            message, fds = _next(self._channel)
            if message:
                self._told(message, fds)
            else:
                channel, self._channel = self._channel, None
                trio.lowlevel.notify_closing(channel)
                os.close(channel)
                self._look_at_each_other()

    def _told(self, message: bytes, fds: list[int]) -> None:
        order = json.loads(message)
        if "listener" in order:
            listener, proxy = (*fds, -1)[:2]
            self._nursery.start_soon(self._serve, listener, proxy, order)
        elif "policy" in order:
            self._take(fds, Limits(**order["limits"]), makers=order["makers"])
        elif "look_on" in order:
            self._look_on(order, fds)
        elif "forget" in order:
            self._records.forget(order["forget"])
        elif "turn" in order:
            self._watches[order["turn"]].turns += 1
        else:
            raise RuntimeError(f"an order that nobody knows: {order!r}")

    def _take(self, fds: list[int], limits: Limits, *, makers: bool) -> None:
        """Another policy: the next call is the first that it is about."""
        with open(fds[0], "rb") as file:
            file.seek(0)
            policy = CompiledPolicy.from_json(json.load(file))
        self._actor.take(policy, fds[1:] if makers else None, limits)
        self._judge.take(policy)
        self._callers.wants = policy.wants
        for loop in self._loops:
            loop.take(policy, limits)
        self._policy, self._limits = policy, limits
        if self._audit is not None:
            self._audit.take(policy.name)

    def _look_on(self, order: Mapping[str, Any], fds: list[int]) -> None:
        try:
            onlooker = Onlooker(
                fds[0], policy=self._policy.name, session=self._config.name,
                syscalls=order["syscalls"], verdicts=order["verdicts"],
            )
        finally:
            os.close(fds[0])
        self._records.look_on(order["look_on"], onlooker)
        for receiver in self._receivers.values():
            receiver.settle_no_more()  # what it answers by itself has no record

    def _release(self, slot: int) -> None:
        if self._channel is not None:
            try:
                send_fds(self._channel, json.dumps({"released": slot}).encode(), ())
            except OSError:
                pass  # who would hear it has gone: its end of the channel says so

    # -- the loops

    async def _serve(self, listener: int, proxy: int, order: Mapping[str, Any]) -> None:
        slot = order["listener"]
        self._actor.of_network(order["network"])
        if self._config.sync_wake_up:
            check(lib.sd_set_sync_wake_up(listener), "NOTIF_SET_FLAGS")
        policy = self._policy
        receiver = Receiver(
            listener, self._timer, self._watches[slot], policy.calls, self._limits, proxy
        )
        session = Session(
            receiver,
            self._judge,
            self._actor,
            on_error=policy.on_error,
            records=self._records,
            missed=self._missed,
            limits=self._limits,
            callers=self._callers,
            crew=self._crew,
            latch=Latch(*order["runtime"]) if order["runtime"] else None,
            totals=self._totals,
        )
        self._receivers[slot] = receiver
        self._loops.add(session)
        self._look_at_each_other()
        try:
            await session.run()
        finally:
            del self._receivers[slot]
            self._loops.remove(session)
            self._look_at_each_other()
            os.close(listener)
            if proxy >= 0:
                os.close(proxy)
            self._release(slot)

    def _look_at_each_other(self) -> None:
        """A loop that lingers in the kernel looks at the others' listeners, too."""
        channel = [self._channel] if self._channel is not None else []
        self._crew.beside(bool(channel))
        crowd = len(channel) + len(self._receivers) - 1
        self._crew.linger_us = self._limits.linger_us if crowd <= lib.SD_ALSO else 0
        for receiver in self._receivers.values():
            others = [other.fd for other in self._receivers.values() if other is not receiver]
            receiver.watch_also([*channel, *others][: lib.SD_ALSO])

    def close(self) -> None:
        """Ends the helpers and the records."""
        self._actor.close()
        totals = self._totals
        if self._audit is not None:
            self._audit.close(
                calls=totals.calls,
                refused=totals.refused,
                undelivered=totals.undelivered,
                errors=totals.errors,
            )
            if self._audit.lost:
                complain(
                    f"{self._config.name}: {self._audit.lost} audit records could not be written"
                )
        self._records.close()
