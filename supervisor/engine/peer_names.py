"""What callers asked for whose sockets were led elsewhere, for those who ask getpeername(2)."""

from __future__ import annotations

from typing import Final

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
