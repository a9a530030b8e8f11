"""One listener of a container, as its watchdog sees it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from supervisor.daemon.events import GONE, IN
from supervisor.kernel.shim import ffi, lib

_State = Callable[[int], int]
_Refuse = Callable[[int, Any, int], int]
_BY_LISTENER: Final[tuple[_State, _Refuse, _Refuse]] = (
    lib.sd_listener_state, lib.sd_refuse_next, lib.sd_refuse_pending,
)  # fmt: skip
_BY_PROXY: Final[tuple[_State, _Refuse, _Refuse]] = (
    lib.sd_proxy_state, lib.sd_proxy_refuse_next, lib.sd_proxy_refuse_pending,
)  # fmt: skip


class Served:
    """`listener`, and where its calls come by a connection of LXC's monitor that, as `proxy`.

    `runtime`: whose calls go on until it executes its first program. `stalls`: how often the
    reading of a caller's memory has hung. `fd` is what becomes readable. `turns`: how far its
    session was when a call was last seen to wait.
    """

    __slots__ = ("_proxied", "_refuse_next", "_refuse_pending", "_state", "fd", "fds", "runtime",
                 "stalls", "turns")  # fmt: skip

    def __init__(
        self, listener: int, runtime: tuple[int, int] | None, proxy: int | None = None
    ) -> None:
        self._proxied = proxy is not None
        self.fds: Sequence[int] = [listener] if proxy is None else [listener, proxy]
        self.fd = self.fds[-1]
        self.runtime = runtime
        self.stalls = 0
        self.turns: int | None = None
        self._state, self._refuse_next, self._refuse_pending = (
            _BY_PROXY if self._proxied else _BY_LISTENER
        )

    def is_call(self, events: int) -> bool:
        """Whether events of `fd` say that a call waits; otherwise no caller is left."""
        return bool(events & IN) and not (self._proxied and events & GONE)

    def state(self) -> int:
        """1: a call waits; 0: none; -ENOTCONN: no caller is left."""
        return self._state(self.fd)

    def holds(self, watch: Any) -> bool:
        """Whether the last call that the kernel gave out has no answer: who received it may have
        stopped before it wrote down so much."""
        last = int.from_bytes(ffi.buffer(watch.received, 8), sys.byteorder)
        return last != 0 and lib.sd_id_valid(self.fds[0], last) == 0

    def refuse_next(self, watch: Any, errno: int) -> int:
        """As `state`, once the call that waits has been refused."""
        return self._refuse_next(self.fd, watch, -errno)

    def refuse_pending(self, watch: Any, errno: int) -> int:
        """Refuses what a session had received; how many calls that were."""
        return self._refuse_pending(self.fd, watch, -errno)

    def stalled(self, watch: Any) -> None:
        """The memory of the caller that is being read does not come: it is not to be read again."""
        if self.stalls < lib.SD_STALLS:
            tgid, start = ffi.new("uint32_t *"), ffi.new("uint64_t *")
            if lib.sd_task_start(watch.reading_tid, tgid, start) == 0:
                watch.stalled[self.stalls].tgid = tgid[0]
                watch.stalled[self.stalls].start_time = start[0]
            self.stalls += 1
        watch.stalls = self.stalls

    def close(self) -> None:
        """Lets go of it."""
        for fd in self.fds:
            os.close(fd)
