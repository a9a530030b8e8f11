"""What callers asked for whose sockets were led elsewhere, for those who ask getpeername(2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from supervisor.engine.porters import PorterError
from supervisor.engine.socket_jobs import SocketError, SocketJob
from supervisor.model import Outcome

_MOST: Final = 4096


class PeerNames:
    """By sockets, which are known by SO_COOKIE: no two ever have the same. A session that starts
    anew knows of none, and of too many the oldest are forgotten: the kernel names those.
    """

    def __init__(self) -> None:
        self._asked: dict[int, bytes] = {}

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._asked)

    def note(self, cookie: int, asked: bytes) -> None:
        """A socket is connected, or about to be: with `asked` to something else than that, a struct
        sockaddr; with b"" to what the kernel says itself."""
        self._asked.pop(cookie, None)
        if not asked or not cookie:
            return
        if len(self._asked) >= _MOST:
            del self._asked[next(iter(self._asked))]
        self._asked[cookie] = asked

    def find(self, cookie: int) -> bytes | None:
        """What was asked for; None: the kernel knows."""
        return self._asked.get(cookie)

    async def tell(self, job: SocketJob, look: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """What the socket of `job` is connected to, as its caller asked for it, once a porter has
        had a `look` at it. All that is not known here is the kernel's to say."""
        try:
            outcome = await look()
        except (SocketError, PorterError):
            return Outcome(0, left_alone=True)
        asked = self.find(int(job.call.cookie))
        if outcome.errno or asked is None:
            return Outcome(0, left_alone=True)
        return Outcome(0, "as it was asked for", named=(*job.plan.shown_at, asked))
