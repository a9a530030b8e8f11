"""Closing what strangers have sent, which may take as long as they like.

The end of a descriptor can wait for whoever sent it: a FUSE server is asked to flush its file, a
socket lingers. So the daemon's own thread closes nothing of the kind, nor a connection in which it
may lie unread. Where nobody has to send descriptors the kernel refuses them (kernel/rights.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from typing import Final

import trio

# Threads that wait at a time. What there is beyond that stays open until one of them is done.
_MOST: Final = 64
_MOST_FDS: Final = 253  # SCM_MAX_FD


class Aside:
    """Has threads close what is given to it."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(_MOST)

    def close(self, fds: Iterable[int]) -> None:
        """Takes over `fds`, and does not wait."""
        for fd in fds:
            trio.lowlevel.spawn_system_task(self._close, fd)

    def close_connection(self, connection: socket.socket) -> None:
        """The same for a connection, with what nobody has read of it."""
        self.close([connection.detach()])

    async def _close(self, fd: int) -> None:
        # RuntimeError: there can be no more threads
        with contextlib.suppress(OSError, RuntimeError):
            await trio.to_thread.run_sync(
                os.close, fd, abandon_on_cancel=True, limiter=self._threads
            )

    def receive(self, connection: socket.socket, size: int) -> bytes:
        """What has come, without the descriptors that came along. OSError, as of a socket that does
        not block."""
        data, fds, _, _ = socket.recv_fds(connection, size, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        if fds:
            self.close(fds)
        return data
