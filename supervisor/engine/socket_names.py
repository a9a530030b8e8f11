"""What sockets that were led elsewhere are called: for getsockname(2) and getpeername(2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from supervisor.engine.porters import PorterError
from supervisor.engine.socket_jobs import SocketError, SocketJob
from supervisor.kernel.addresses import AF_INET, AF_INET6, address_of, family_of, in_family
from supervisor.kernel.shim import ffi
from supervisor.model import Outcome

_MOST: Final = 4096
_ENDS: Final = 24  # of a struct sockaddr_in6: all but its scope, which sockets add


class Led(NamedTuple):
    """A connect for `asked` that was led to `target`, both struct sockaddr. `domain` is that of the
    caller's own socket, in whose place there may be another one; `shows`: getpeername(2) shows what
    was asked for."""

    domain: int
    asked: bytes
    target: bytes
    shows: bool


class SocketNames:
    """By sockets, which are known by SO_COOKIE: no two ever have the same. A session that starts
    anew knows of none, and of too many the oldest are forgotten: the kernel names those.
    """

    def __init__(self) -> None:
        self._led: dict[int, Led] = {}

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._led)

    def note(self, job: SocketJob) -> None:
        """The socket of a job is connected, or about to be."""
        cookie, plan = int(job.call.cookie), job.plan
        before = self._led.pop(cookie, None)
        domain = int(job.call.domain)
        named = domain if before is None else before.domain
        if not cookie or not plan.address:
            return
        if job.target:
            shows = bool(plan.settings.peername)
            found = Led(named, plan.address, job.target, shows)
        elif before is not None and named != domain:
            # another one since then, whatever it is connected to now
            found = before._replace(shows=False)
        else:
            return
        if len(self._led) >= _MOST:
            del self._led[next(iter(self._led))]
        self._led[cookie] = found

    async def tell(self, job: SocketJob, look: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """What the socket of `job` is called, once a porter has had a `look` at it. All that is not
        known here is the kernel's to say."""
        try:
            outcome = await look()
        except (SocketError, PorterError):
            return Outcome(0, left_alone=True)
        led = self._led.get(int(job.call.cookie))
        if outcome.errno or led is None:
            return Outcome(0, left_alone=True)
        if job.plan.operation == "name":
            shown, how = _own(job, led), "as of the caller's family"
        else:
            shown, how = led.asked if led.shows else None, "as it was asked for"
        if shown is None:
            return Outcome(0, left_alone=True)
        return Outcome(0, how, named=(*job.plan.shown_at, shown))


def _own(job: SocketJob, led: Led) -> bytes | None:
    call = job.call
    own = bytes(ffi.buffer(call.peer, call.peer_length))
    if family_of(own) != led.domain:
        return in_family(own, led.domain)
    # An IPv6 socket may ask for an IPv4 address, and be led to one of IPv6: by itself.
    peer = bytes(ffi.buffer(call.value, call.value_length))
    if (
        led.domain == AF_INET6
        and address_of(led.asked, "connect").family == "inet"
        and family_of(led.target) == AF_INET6
        and peer[:_ENDS] == led.target[:_ENDS]
    ):
        return in_family(in_family(own, AF_INET), AF_INET6)
    return None
