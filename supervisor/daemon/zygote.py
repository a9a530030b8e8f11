"""The process that sessions are forked from: small, single-threaded, no trio loop runs in it.

It has imported what a session needs and nothing else, holds what a session must not have (the
privileges that makers are made with), and reads nothing of any target.

Its orders are JSON objects, one a message, with descriptors: `policy` (a memfd with a compiled
policy) and `forget`, each with a `key`, and `session`. A session's order says in `fds` which of its
descriptors is what; it is answered by its `id`, with a pidfd or with an `error`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from supervisor.engine.config import SessionConfig
from supervisor.engine.limits import Limits
from supervisor.kernel import privileges
from supervisor.kernel.shim import check, lib, receive_fds, send_fds
from supervisor.observe.complaint import complain
from supervisor.policy.compiled import CompiledPolicy

MAKERS = 2
_ORDER_MAX = 65536

# What a session of root without a user namespace keeps, for the resolvers that it forks: to read
# callers, to become them in their root directory and mount namespace, and to kill them.
WITHOUT_NAMESPACE = (
    "sys_ptrace", "setuid", "setgid", "setpcap", "sys_admin", "sys_chroot", "dac_override",
    "dac_read_search", "fowner", "fsetid", "chown", "kill",
)  # fmt: skip


def child(sock: socket.socket, config: SessionConfig | None, limits: Limits) -> NoReturn:
    """The whole life of the zygote, from its fork to its end.

    `config` is that of all its sessions, whose orders then have none.
    """
    status = 1
    try:
        _settle()
        lib.sd_forget_callers()  # or it would close by their numbers what is ours by then
        _close_all_but({sock.fileno(), config.audit_fd if config else None})
        Zygote(sock, config, limits).serve()
        status = 0
    except BaseException as error:
        reason = f"the zygote failed: {type(error).__name__}: {error}"
        try:
            sock.send(json.dumps({"failed": reason[:2000]}).encode())
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
    """What whoever forked us had open is none of our business."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(fd)


class Zygote:
    """Forks sessions when it is told to."""

    def __init__(self, sock: socket.socket, config: SessionConfig | None, limits: Limits) -> None:
        self._sock = sock
        self._config = config
        self._limits = limits
        self._policies: dict[str, CompiledPolicy] = {}
        # Sessions that have not ended, to be ended with us: one may hang in the kernel.
        self._sessions: set[int] = set()
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)

    def serve(self) -> None:
        """Until the other side closes its end."""
        from supervisor.engine import serve as _loaded  # noqa: F401  (the expensive import)

        self._freeze()
        while True:
            for fd, _ in self._poller.poll():
                if fd in self._sessions:
                    self._poller.unregister(fd)
                    self._sessions.remove(fd)
                    os.close(fd)
                elif not self._hear():
                    self._goodbye()
                    return

    def _hear(self) -> bool:
        """One order; False where the other side has gone."""
        message, fds = receive_fds(self._sock.fileno(), size=_ORDER_MAX)
        try:
            if message:
                self._obey(json.loads(message), fds)
        finally:
            for fd in fds:
                os.close(fd)
        return bool(message)

    def _obey(self, order: Mapping[str, Any], fds: list[int]) -> None:
        match order["do"]:
            case "session":
                try:
                    pidfd = self._fork(order, dict(zip(order["fds"], fds, strict=True)))
                except OSError as error:
                    text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
                    self._reply({"id": order["id"], "error": text}, [])
                    return
                self._sessions.add(pidfd)
                self._poller.register(pidfd, select.POLLIN)
                self._reply({"id": order["id"]}, [pidfd])
            case "policy":
                with open(fds[0], "rb", closefd=False) as file:
                    file.seek(0)
                    self._policies[order["key"]] = CompiledPolicy.from_json(json.load(file))
                self._freeze()
            case "forget":
                self._policies.pop(order["key"], None)
            case other:
                raise RuntimeError(f"an order that nobody knows: {other!r}")

    def _reply(self, answer: Mapping[str, Any], fds: list[int]) -> None:
        send_fds(self._sock.fileno(), json.dumps(answer).encode(), fds)

    @staticmethod
    def _freeze() -> None:
        """Sessions share what is there now: no collection of theirs shall touch it."""
        gc.collect()
        gc.freeze()

    def _goodbye(self) -> None:
        """Sessions end by themselves once nobody is left to serve; who does not, is ended."""
        for pidfd in self._sessions:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(self._limits.goodbye * 500):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    # -- one session

    def _fork(self, order: Mapping[str, Any], fds: Mapping[str, int]) -> int:
        config, limits = self._config, self._limits
        if config is None:
            told = order["config"]
            limits = Limits(**told["limits"])
            policy = self._policies[told["policy"]]
            config = SessionConfig.from_json(told, policy, audit_fd=fds.get("audit"))
        makers = self._makers(config, fds.get("userns"))
        try:
            pid = os.fork()
            if pid == 0:
                self._session(config, limits, fds, makers, resumed=order["resumed"])
        finally:
            for maker in makers:
                os.close(maker)
        return os.pidfd_open(pid)

    def _session(
        self, config: SessionConfig, limits: Limits, fds: Mapping[str, int], makers: list[int],
        *, resumed: bool,
    ) -> NoReturn:
        status = 1
        try:
            privileges.set_parent_death_signal(signal.SIGKILL)
            privileges.set_name("seccompd-session")
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _close_all_but({*fds.values(), *makers, config.audit_fd, config.trace_fd})
            userns = fds.get("userns")
            if userns is not None:
                if config.as_root:
                    os.setgroups(config.groups)  # inside it may be too late: root's would stay
                check(
                    lib.sd_join_user_namespace(userns, *config.inner_root()),
                    "joining the user namespace",
                )
                os.close(userns)
                # a change of credentials clears it
                privileges.set_parent_death_signal(signal.SIGKILL)
            elif config.as_root:
                # Its callers may be anybody, and there is no user namespace to be confined to.
                privileges.limit_capabilities(WITHOUT_NAMESPACE)
                privileges.set_parent_death_signal(signal.SIGKILL)
            privileges.set_dumpable(False)
            privileges.set_no_new_privileges()
            from supervisor.engine.serve import serve

            serve(
                config, fds["channel"], fds["watch"], fds["timer"], makers, limits,
                resumed=resumed,
            )
            status = 0
        except BaseException as error:
            complain(f"{config.name}: the session failed: {type(error).__name__}: {error}")
            if os.environ.get("SECCOMPD_TEST_TRACEBACK"):
                sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _makers(self, config: SessionConfig, userns: int | None) -> list[int]:
        """Sockets of fresh makers; none where we have no privileges to make nodes with."""
        if not config.as_root:
            return []
        from supervisor.engine.helpers import spawn_maker

        policy = config.policy
        devices = policy.ceiling
        if policy.fuse:  # what a FUSE program has to open
            devices = (*devices, ("c", 10, 10, 229, 229, False))
        makers: list[int] = []
        try:
            while len(makers) < MAKERS:
                makers.append(
                    spawn_maker(
                        devices, config.uids, config.gids, policy.mounts, userns,
                        real_nodes=config.real_nodes,
                    )
                )
        except BaseException:
            for maker in makers:
                os.close(maker)
            raise
        return makers
