"""A session from its start to its end: puts the parts together and runs the loops.

It serves one container: a listener for what was started with it, and one for each program that was
executed in it later. They come through the channel, as JSON objects with a descriptor:
`{"listener": SLOT, "runtime": [PID, START] or null}`; a second descriptor is the connection by
which its calls come (LXC's proxy). Where the other side has closed the channel,
the session ends with its last caller.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import trio

from supervisor.engine.act import Actor
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
from supervisor.kernel.watch import Watches
from supervisor.observe.audit import AuditLog
from supervisor.observe.complaint import complain
from supervisor.observe.trace import Tracer


def serve(
    config: SessionConfig,
    channel: int,
    watch_fd: int,
    timer: int,
    makers: list[int],
    limits: Limits,
    *,
    resumed: bool,
) -> None:
    """Serves until no caller is left. `resumed`: another session did so before."""
    container = _Container(config, channel, Watches(watch_fd), timer, makers, limits, resumed)
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


class _Container:
    """The loops of one container, and what they share."""

    def __init__(
        self, config: SessionConfig, channel: int, watches: Watches, timer: int,
        makers: list[int], limits: Limits, resumed: bool,
    ) -> None:
        policy = config.policy
        self._config = config
        self._channel: int | None = channel
        self._watches = watches
        self._timer = timer
        self._limits = limits
        self._crew = Crew(limits.linger_us)
        self._receivers: dict[int, Receiver] = {}
        self._totals = Totals()
        self._audit = None
        if config.audit_fd is not None:
            self._audit = AuditLog(
                config.audit_fd, policy=policy.name, session=config.name,
                by_pidfd=config.pidfd_info,
            )
        self._tracer = Tracer(config.trace_fd) if config.trace_fd is not None else None
        self._missed = None if config.wait_killable else MissedAnswers()
        in_own_userns = config.uids is not None
        self._callers = Callers(policy.wants, config.uids, config.gids)
        self._actor = Actor(
            userns=in_own_userns,
            traits=config.traits,
            policy=policy,
            maker_socks=makers,
            limits=limits,
            resumed=resumed,
            uids=config.uids,
            gids=config.gids,
            report=None if self._audit is None else self._audit.event,
            real_nodes=config.real_nodes,
        )
        self._judge = Judge(
            policy, kernel_refuses=in_own_userns, foreign=config.foreign, limits=limits
        )

    async def run(self, message: bytes, fds: list[int]) -> None:
        """Begins with the channel's first message."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._told(message, fds)
            nursery.start_soon(self._hear)

    # -- the channel

    async def _hear(self) -> None:
        while self._channel is not None:
            await trio.lowlevel.wait_readable(self._channel)
            message, fds = _next(self._channel)
            if message:
                self._told(message, fds)
            else:
                os.close(self._channel)
                self._channel = None
                self._look_at_each_other()

    def _told(self, message: bytes, fds: list[int]) -> None:
        order = json.loads(message)
        if "listener" not in order:
            raise RuntimeError(f"an order that nobody knows: {order!r}")
        listener, proxy = (*fds, -1)[:2]
        self._nursery.start_soon(self._serve, listener, proxy, order)

    def _release(self, slot: int) -> None:
        if self._channel is not None:
            try:
                send_fds(self._channel, json.dumps({"released": slot}).encode(), ())
            except OSError:
                pass  # who would hear it has gone: its end of the channel says so

    # -- the loops

    async def _serve(self, listener: int, proxy: int, order: Mapping[str, Any]) -> None:
        slot = order["listener"]
        if self._config.sync_wake_up:
            check(lib.sd_set_sync_wake_up(listener), "NOTIF_SET_FLAGS")
        policy = self._config.policy
        receiver = Receiver(
            listener, self._timer, self._watches[slot], policy.calls, self._limits, proxy
        )
        session = Session(
            receiver,
            self._judge,
            self._actor,
            on_error=policy.on_error,
            audit=self._audit,
            tracer=self._tracer,
            missed=self._missed,
            limits=self._limits,
            callers=self._callers,
            crew=self._crew,
            latch=Latch(*order["runtime"]) if order["runtime"] else None,
            totals=self._totals,
        )
        self._receivers[slot] = receiver
        self._look_at_each_other()
        try:
            await session.run()
        finally:
            del self._receivers[slot]
            self._look_at_each_other()
            os.close(listener)
            if proxy >= 0:
                os.close(proxy)
            self._release(slot)

    def _look_at_each_other(self) -> None:
        """A loop that lingers in the kernel looks at the others' listeners, too."""
        channel = [self._channel] if self._channel is not None else []
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
        if self._tracer is not None:
            self._tracer.close()
