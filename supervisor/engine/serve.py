"""A session from its start to its end: puts the parts together and runs the loop."""

from __future__ import annotations

import mmap
from typing import Any

import trio

from supervisor.engine.act import Actor
from supervisor.engine.config import SessionConfig
from supervisor.engine.decide import Judge
from supervisor.engine.limits import Limits
from supervisor.engine.recent import MissedAnswers
from supervisor.engine.session import Session
from supervisor.engine.snapshot import Receiver
from supervisor.kernel.shim import check, ffi, lib
from supervisor.observe.audit import AuditLog
from supervisor.observe.complaint import complain
from supervisor.observe.trace import Tracer


def serve(
    config: SessionConfig,
    listener: int,
    watch_fd: int,
    timer: int,
    makers: list[int],
    limits: Limits,
    *,
    resumed: bool,
) -> None:
    """Serves `listener` until no caller is left. `resumed`: another session did so before."""
    memory = mmap.mmap(watch_fd, mmap.PAGESIZE)
    watch: Any = ffi.from_buffer("struct sd_watch *", memory, True)
    policy = config.policy
    if config.sync_wake_up:
        check(lib.sd_set_sync_wake_up(listener), "NOTIF_SET_FLAGS")
    audit = None
    if config.audit_fd is not None:
        audit = AuditLog(
            config.audit_fd, policy=policy.name, session=config.name, by_pidfd=config.pidfd_info
        )
    tracer = Tracer(config.trace_fd) if config.trace_fd is not None else None
    in_own_userns = config.uids is not None
    actor = Actor(
        userns=in_own_userns,
        traits=config.traits,
        policy=policy,
        maker_socks=makers,
        listener=listener,
        resumed=resumed,
        uids=config.uids,
        gids=config.gids,
        report=None if audit is None else audit.event,
    )
    session = Session(
        Receiver(listener, timer, watch, policy.calls, limits),
        Judge(policy, kernel_refuses=in_own_userns, limits=limits),
        actor,
        on_error=policy.on_error,
        audit=audit,
        tracer=tracer,
        missed=None if config.wait_killable else MissedAnswers(),
        limits=limits,
    )
    try:
        trio.run(session.run)
    finally:
        actor.close()
        totals = session.totals
        if audit is not None:
            audit.close(
                calls=totals.calls,
                refused=totals.refused,
                undelivered=totals.undelivered,
                errors=totals.errors,
            )
            if audit.lost:
                complain(f"{config.name}: {audit.lost} audit records could not be written")
        if tracer is not None:
            tracer.close()
