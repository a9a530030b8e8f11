"""Descriptors that nobody has asked for."""

from __future__ import annotations

import socket

from supervisor.kernel import features
from supervisor.kernel.shim import lib


def refuse_descriptors(sock: socket.socket) -> None:
    """From now on nobody can send any to `sock`, or to what it accepts, where the kernel knows how.

    To close one, or to leave it unread, can take as long as whoever sent it likes.
    """
    if features.available("pass_rights"):
        lib.sd_refuse_descriptors(sock.fileno())
