"""Writes lines to a descriptor without ever making a caller wait: what does not fit is counted."""

from __future__ import annotations

import os
import select
import socket
import stat

from supervisor.observe.text import reopen_for_writing

_PIECE = select.PIPE_BUF


class LineWriter:
    """Whole lines, in order. `lost` counts those that the reader was too slow for."""

    def __init__(self, fd: int) -> None:
        # A regular file never makes us wait, and its offset has to stay the one that CMD shares.
        own = None if stat.S_ISREG(os.fstat(fd).st_mode) else reopen_for_writing(fd)
        self._fd = os.dup(fd) if own is None else own
        self._may_block = own is None
        self._socket: socket.socket | None = None
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=self._fd)
        self._regular = stat.S_ISREG(mode)
        self._rest = b""
        self.lost = 0

    def line(self, text: str) -> None:
        """Queues nothing: the line is written now, or lost."""
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        if self._rest and not self._push(b""):
            self.lost += 1
            return
        if not self._push(data):
            self.lost += 1

    def _push(self, data: bytes) -> bool:
        """Writes what an earlier line left over, then `data`. A line once begun is always ended."""
        pending = self._rest + data
        try:
            written = self._write(pending)
        except BlockingIOError:
            written = 0
        except OSError:  # the reader has gone: nothing will ever arrive
            self._rest = b""
            return False
        if written >= len(self._rest) + (1 if data else 0) or written == len(pending):
            self._rest = pending[written:]
            return True
        self._rest = self._rest[written:]
        return not data

    def _write(self, data: bytes) -> int:
        if not data:
            return 0
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._may_block and not self._regular:
            if not select.select([], [self._fd], [], 0)[1]:
                raise BlockingIOError
            data = data[:_PIECE]
        return os.write(self._fd, data)

    def close(self) -> None:
        """Closes our own descriptor; the one we were given stays open."""
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._fd)
