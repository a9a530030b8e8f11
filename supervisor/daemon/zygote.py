"""The process that sessions are forked from: small, single-threaded, no trio loop runs in it.

It has imported what a session needs and nothing else, holds what a session must not have (the
privileges that makers are made with), and reads nothing of any target.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from typing import NoReturn

from supervisor.engine.config import SessionConfig
from supervisor.engine.limits import Limits
from supervisor.kernel import privileges
from supervisor.kernel.shim import check, lib, receive_fds, send_fds
from supervisor.observe.complaint import complain

MAKERS = 2

# What a session of root without a user namespace keeps, for the resolvers that it forks: to read
# callers, to become them in their root directory and mount namespace, and to kill them.
WITHOUT_NAMESPACE = (
    "sys_ptrace", "setuid", "setgid", "setpcap", "sys_admin", "sys_chroot", "dac_override",
    "dac_read_search", "fowner", "fsetid", "chown", "kill",
)  # fmt: skip


def child(
    sock: socket.socket, config: SessionConfig, watch_fd: int, timer: int, limits: Limits
) -> NoReturn:
    """The whole life of the zygote, from its fork to its end."""
    status = 1
    try:
        _settle()
        _close_all_but({sock.fileno(), watch_fd, timer, config.audit_fd})
        Zygote(sock, config, watch_fd, timer, limits).serve()
        status = 0
    except BaseException as error:
        reason = f"the zygote failed: {type(error).__name__}: {error}"
        try:
            sock.send(reason.encode("utf-8", "replace")[:2000])
        except OSError:
            complain(reason)
    finally:
        os._exit(status)


def _settle() -> None:
    """A process group out of the terminal's reach, and nothing of CMD's streams but stderr."""
    privileges.set_dumpable(False)  # an ordinary user's container may see the host's /proc
    privileges.set_parent_death_signal(signal.SIGKILL)
    privileges.set_name("seccompd-zygote")
    os.setpgid(0, 0)
    for number in (signal.SIGTTOU, signal.SIGTTIN, signal.SIGTSTP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are watched by pidfd, reaped by nobody
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _close_all_but(kept: set[int | None]) -> None:
    """What the front's caller had open is none of our business, nor of a session's."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(fd)


class Zygote:
    """Forks sessions when it is told to."""

    def __init__(
        self, sock: socket.socket, config: SessionConfig, watch_fd: int, timer: int, limits: Limits
    ) -> None:
        self._sock = sock
        self._config = config
        self._watch_fd = watch_fd
        self._timer = timer
        self._limits = limits
        self._sessions: list[int] = []
        self._resumed = False

    def serve(self) -> None:
        """Until the front closes its end."""
        from supervisor.engine import serve as _loaded  # noqa: F401  (the expensive import)

        gc.collect()
        gc.freeze()
        while True:
            message, fds = receive_fds(self._sock.fileno())
            if not message:
                self._goodbye()
                return
            if message != b"session" or not fds:
                raise RuntimeError(f"an order that nobody knows: {message!r}")
            pidfd = self._fork(fds[0], fds[1] if len(fds) > 1 else None)
            send_fds(self._sock.fileno(), b"session", [pidfd])
            self._forget_ended()
            self._sessions.append(pidfd)
            self._resumed = True
            for fd in fds:
                os.close(fd)

    def _forget_ended(self) -> None:
        """Sessions that have ended; one that hangs in the kernel is kept, to be ended with us."""
        left = []
        for pidfd in self._sessions:
            if select.select([pidfd], [], [], 0)[0]:
                os.close(pidfd)
            else:
                left.append(pidfd)
        self._sessions = left

    def _goodbye(self) -> None:
        """Sessions end by themselves once nobody is left to serve; who does not, is ended."""
        for pidfd in self._sessions:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(self._limits.goodbye * 500):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _fork(self, listener: int, userns: int | None) -> int:
        makers = self._makers(userns)
        pid = os.fork()
        if pid == 0:
            self._session(listener, userns, makers)
        for maker in makers:
            os.close(maker)
        return os.pidfd_open(pid)

    def _session(self, listener: int, userns: int | None, makers: list[int]) -> NoReturn:
        status = 1
        try:
            privileges.set_parent_death_signal(signal.SIGKILL)
            privileges.set_name("seccompd-session")
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._sock.close()
            for pidfd in self._sessions:
                os.close(pidfd)
            if userns is not None:
                uid, gid = self._inner_root()
                check(lib.sd_join_user_namespace(userns, uid, gid), "joining the user namespace")
                os.close(userns)
                # a change of credentials clears it
                privileges.set_parent_death_signal(signal.SIGKILL)
            elif self._config.as_root:
                # Its callers may be anybody, and there is no user namespace to be confined to.
                privileges.limit_capabilities(WITHOUT_NAMESPACE)
                privileges.set_parent_death_signal(signal.SIGKILL)
            privileges.set_dumpable(False)
            privileges.set_no_new_privileges()
            from supervisor.engine.serve import serve

            serve(
                self._config, listener, self._watch_fd, self._timer, makers, self._limits,
                resumed=self._resumed,
            )
            status = 0
        except BaseException as error:
            complain(f"{self._config.name}: the session failed: {type(error).__name__}: {error}")
            if os.environ.get("SECCOMPD_TEST_TRACEBACK"):
                sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _inner_root(self) -> tuple[int, int]:
        """The ids to take inside the target's user namespace: 0 where it has one."""
        one = ((0, 0, 1),)
        uids, gids = self._config.uids or one, self._config.gids or one
        return min(uids)[0], min(gids)[0]

    def _makers(self, userns: int | None) -> list[int]:
        """Sockets of fresh makers; none where we have no privileges to make nodes with."""
        if not self._config.as_root:
            return []
        from supervisor.engine.helpers import spawn_maker

        config = self._config
        policy = config.policy
        devices = policy.ceiling
        if policy.fuse:  # what a FUSE program has to open
            devices = (*devices, ("c", 10, 10, 229, 229, False))
        return [
            spawn_maker(devices, config.uids, config.gids, policy.mounts, userns)
            for _ in range(MAKERS)
        ]


