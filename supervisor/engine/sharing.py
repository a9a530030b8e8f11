"""One call that is shared out to backends: made with one after the other until one takes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from errno import (
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTDOWN,
    EHOSTUNREACH,
    EINPROGRESS,
    EINTR,
    ENETDOWN,
    ENETUNREACH,
    ETIMEDOUT,
)
from typing import Final

from supervisor.engine.balance import Backends
from supervisor.engine.socket_jobs import NobodyThere, SocketJob
from supervisor.kernel.address_text import written
from supervisor.kernel.shim import lib
from supervisor.model import Outcome

# What the kernel says of a backend that does not take connections, or cannot be reached.
_FAILED: Final = frozenset(
    -errno for errno in (
        ECONNREFUSED, ECONNRESET, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ETIMEDOUT,
    )
)  # fmt: skip
# Of the caller's socket, and not of the backend: another backend may be of another family.
_OF_THE_SOCKET: Final = frozenset((lib.SD_SOCKET_KIND, lib.SD_SOCKET_CARRY))


async def share_out(
    backends: Backends,
    order: list[int],
    job_for: Callable[[int], SocketJob],
    carry_out: Callable[[SocketJob], Awaitable[Outcome]],
) -> Outcome:
    """Makes the call with the backends of `order` until one takes it; of the last one comes what
    the caller is told. Raises what `carry_out` does."""
    passed: list[SocketJob] = []
    for index in order:
        job = job_for(index)
        connects = job.call.op == lib.SD_SOCKET_CONNECT
        if connects:
            job.watched(backends.watch, backends.mark(index), backends.balance.wait)
        last = len(passed) == len(order) - 1
        try:
            outcome = await carry_out(job)
        except NobodyThere:
            backends.failed(index)
            if last:
                raise
            passed.append(job)
            continue
        goes_on = _judge(backends, index, job, connects=connects)
        if last or not goes_on:
            break
        passed.append(job)
    after = ", ".join(written(one.target) for one in passed)
    return outcome._replace(how=f"{outcome.how}, after {after}") if passed else outcome


def _judge(backends: Backends, index: int, job: SocketJob, *, connects: bool) -> bool:
    """Learns from what came of it; whether another backend is to be tried."""
    result, why = int(job.call.result), int(job.call.why)
    if why:
        return why in _OF_THE_SOCKET
    if result in _FAILED:
        backends.failed(index)
    elif connects and result == 0:
        backends.connected(int(job.call.mark))
        backends.well(index)
    elif connects and result in (-EINPROGRESS, -EINTR):
        backends.begun(int(job.call.mark), int(job.call.cookie))
    return result in _FAILED or (result == -EAGAIN and connects)
