"""The birth of a session's makers.

The session forks them itself, before it gives up what that takes, as the zygote's children: so all
who work for a container are one session of the kernel's (setsid(2)), which has one share of the
processors where it goes by that (autogroup, sched(7)). Those for another policy come later, when
the session could not fork them any more, and are the zygote's work.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import Final

from supervisor.engine.config import SessionConfig
from supervisor.kernel.shim import receive_fds, send_fds
from supervisor.kernel.spawn import Ceiling, Helper, maker_ceiling, spawn_maker

MAKERS: Final = 2
# For all of them, of which spawn_maker waits five seconds for each.
_PATIENCE_MS: Final = 15_000
_BORN: Final = b"born"


class NoMakersError(Exception):
    """A session can have none, and its zygote has been told why."""


def ceiling_of(config: SessionConfig, userns: int | None) -> Ceiling | None:
    """What a session's makers may ever do; None: we have no privileges to make nodes with."""
    if not config.as_root:
        return None
    policy = config.policy
    devices = policy.ceiling
    if policy.fuse:  # what a FUSE program has to open
        devices = (*devices, ("c", 10, 10, 229, 229, False))
    return maker_ceiling(
        devices, config.uids or (), config.gids or (), policy.mounts, userns,
        lent=policy.lent, xattrs=policy.xattrs, real_nodes=config.real_nodes,
        mark=f"seccompd {os.urandom(16).hex()}",
    )  # fmt: skip


def fork_makers(ceiling: Ceiling | None, *, sibling: bool) -> list[Helper]:
    """Fresh makers, and the ceiling is released. Raises OSError."""
    makers: list[Helper] = []
    if ceiling is None:
        return makers
    try:
        while len(makers) < MAKERS:
            makers.append(spawn_maker(ceiling, sibling=sibling))
    except OSError:
        for maker in makers:
            os.close(maker.sock)
            os.close(maker.pidfd)
        raise
    finally:
        ceiling.release()
    return makers


def own_makers(ceiling: Ceiling | None, told: socket.socket) -> list[int]:
    """In a session: sockets of its makers, of whom the zygote is told. Raises NoMakersError."""
    try:
        makers = fork_makers(ceiling, sibling=True)
    except OSError as error:
        send_fds(told.fileno(), text_of(error).encode(), [])
        raise NoMakersError from None
    send_fds(told.fileno(), _BORN, [maker.pidfd for maker in makers])
    for maker in makers:
        os.close(maker.pidfd)
    told.close()
    return [maker.sock for maker in makers]


def hear_of_makers(session: socket.socket, count: int) -> list[int]:
    """In the zygote: pidfds of a session's makers, so many; none where it has died, which whoever
    ordered it sees. Raises OSError: it can have none, or we cannot have them all, and could not end
    who hangs. Raises TimeoutError: it says nothing, and hangs."""
    poller = select.poll()
    poller.register(session, select.POLLIN)
    if not poller.poll(_PATIENCE_MS):
        raise TimeoutError(f"the session has no makers after {_PATIENCE_MS // 1000} seconds")
    message, fds = receive_fds(session.fileno())
    if message not in (_BORN, b""):
        raise OSError(message.decode())
    if message and len(fds) < count:  # the kernel drops what we have no numbers left for
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "the pidfds of makers")
    return fds


def text_of(error: OSError) -> str:
    """What went wrong, and with what; that is the fork of a session where nothing is named."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename or 'fork'}: {error.strerror}"
