"""The process that sessions are forked from: small, single-threaded, no trio loop runs in it.

It has imported what a session needs and nothing else, holds what a session that serves must not
have (the privileges that makers are made with), and reads nothing of any target.

Its orders are JSON objects, one a message, with descriptors: `policy` (a memfd with a compiled
policy) and `forget`, each with a `key`, `session`, and `makers` (for a session that runs, under
another policy), and `giver` (daemon/devices.py). The last three say in `fds` which of their
descriptors is what; they are answered by their `id`, with a pidfd, with sockets, or with both, or
with an `error`.
The zygote of a daemon has a second one beside it (daemon/second.py).
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
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NoReturn

from supervisor.daemon.makers import (
    MAKERS,
    NoMakersError,
    ceiling_of,
    fork_makers,
    hear_of_makers,
    own_makers,
    text_of,
)
from supervisor.daemon.second import spared
from supervisor.engine.config import SessionConfig
from supervisor.engine.limits import Limits
from supervisor.kernel import privileges
from supervisor.kernel.shim import check, lib, realise, receive_fds, send_fds
from supervisor.kernel.spawn import Ceiling
from supervisor.observe.complaint import complain
from supervisor.policy.compiled import CompiledPolicy

# Makers under an earlier policy: how many seconds they have beyond what a mount may take.
_LAST_WORK = 5.0
_ORDER_MAX = 65536
_WARM = 16

# What a session of root without a user namespace keeps, for the resolvers that it forks: to read
# callers, to become them in their root directory and mount namespace, and to kill them.
WITHOUT_NAMESPACE = (
    "sys_ptrace", "setuid", "setgid", "setpcap", "sys_admin", "sys_chroot", "dac_override",
    "dac_read_search", "fowner", "fsetid", "chown", "kill",
)  # fmt: skip


# What a zygote keeps: for those, and for the makers.
KEPT = (*WITHOUT_NAMESPACE, "mknod")


def child(
    sock: socket.socket, config: Callable[[], SessionConfig] | None, limits: Limits,
    streams: Collection[int],
) -> NoReturn:
    """The whole life of the zygote, from its fork to its end.

    `config` gives that of all its sessions, whose orders then have none; `streams` are the
    descriptors that sessions have by that.
    """
    status = 1
    try:
        privileges.set_parent_death_signal(signal.SIGKILL)
        _settle()
        lib.sd_forget_callers()  # or it would close by their numbers what is ours by then
        _close_all_but({sock.fileno(), *streams})
        from supervisor.engine import serve as _loaded  # noqa: F401  (the expensive import)

        if config is None:
            _warm_up()
            sock = spared(sock)
        Zygote(sock, config() if config else None, limits).serve()
        status = 0
    except BaseException as error:
        reason = f"the zygote failed: {type(error).__name__}: {error}"
        try:
            sock.send(json.dumps({"failed": reason[:2000]}).encode())
        except OSError:
            complain(reason)
    finally:
        os._exit(status)


def _warm_up() -> None:
    """Runs trio for a moment, and has cffi make what it makes of declarations. What is written to
    when that is done for the first times (the interpreter adapts code to what it sees) is shared by
    all sessions then, and not written by each."""
    import trio

    realise()

    async def turn() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            with trio.move_on_after(0.0001):
                await trio.sleep_forever()

    for _ in range(_WARM):
        trio.run(turn)


def _settle() -> None:
    """A process group out of the terminal's reach, and nothing of CMD's streams but stderr."""
    privileges.set_dumpable(False)  # an ordinary user's container may see the host's /proc
    privileges.set_name("seccompd-zygote")
    if os.geteuid() == 0:
        privileges.limit_capabilities(KEPT)
    privileges.set_no_new_privileges()
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
    first = 3
    for fd in sorted(fd for fd in kept if fd is not None and fd >= first):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 1 << 30)


@contextlib.contextmanager
def _no_child_lost() -> Iterator[None]:
    """As long as this lasts the number of a child that has ended is nobody else's."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended just now
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _as_json(answer: Mapping[str, Any]) -> bytes:
    """Numbers alone, as those of a new session, without json.dumps: of all memory that we write to
    after a fork, be it to count a reference, the child has the only copy of what was there before.
    """
    if all(type(value) is int for value in answer.values()):
        return ", ".join(f'"{name}": {value}' for name, value in answer.items()).join("{}").encode()
    return json.dumps(answer).encode()


class Zygote:
    """Forks sessions when it is told to."""

    def __init__(self, sock: socket.socket, config: SessionConfig | None, limits: Limits) -> None:
        self._sock = sock
        self._config = config
        self._limits = limits
        self._policies: dict[str, CompiledPolicy] = {}
        # Sessions and makers that have not ended, to be ended with us: one may hang in the kernel.
        self._children: set[int] = set()
        self._makers_of: dict[int, list[int]] = {}  # of each keeper, under its newest policy
        self._leaving: list[tuple[float, int]] = []
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)

    def serve(self) -> None:
        """Until the other side closes its end."""
        self._freeze()
        while True:
            for fd, _ in self._poller.poll(self._timeout()):
                if fd in self._children:
                    self._ended(fd)
                elif not self._hear():
                    self._goodbye()
                    return

    def _timeout(self) -> float | None:
        """Ends makers whose time is over; milliseconds until the next are to be ended."""
        now = time.monotonic()
        while self._leaving and self._leaving[0][0] <= now:
            _, pidfd = self._leaving.pop(0)
            if pidfd in self._children:
                _kill(pidfd)
        return (self._leaving[0][0] - now) * 1000 + 1 if self._leaving else None

    def _ended(self, pidfd: int) -> None:
        self._poller.unregister(pidfd)
        self._children.remove(pidfd)
        self._leaving = [one for one in self._leaving if one[1] != pidfd]
        for number, makers in list(self._makers_of.items()):
            if pidfd in makers:
                makers.remove(pidfd)
                if not makers:
                    del self._makers_of[number]
        os.close(pidfd)

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
            case "session" | "makers" | "giver" as what:
                works = {"session": self._fork, "makers": self._other_makers, "giver": self._giver}
                self._answer(order, fds, works[what])
            case "policy":
                with open(fds[0], "rb", closefd=False) as file:
                    file.seek(0)
                    self._policies[order["key"]] = CompiledPolicy.from_json(json.load(file))
                self._freeze()
            case "begin":  # said to a second one, which it wakes
                pass
            case "forget":
                self._policies.pop(order["key"], None)
            case other:
                raise RuntimeError(f"an order that nobody knows: {other!r}")

    def _answer(
        self, order: Mapping[str, Any], fds: list[int],
        obey: Callable[[Mapping[str, Any], Mapping[str, int]], tuple[dict[str, Any], list[int]]],
    ) -> None:
        try:
            answer, found = obey(order, dict(zip(order["fds"], fds, strict=True)))
        except OSError as error:
            answer, found = {"error": text_of(error)}, []
        self._reply({"id": order["id"], **answer}, found)
        for fd in found:
            if fd not in self._children:
                os.close(fd)

    def _watch(self, pidfd: int) -> None:
        self._children.add(pidfd)
        self._poller.register(pidfd, select.POLLIN)

    def _reply(self, answer: Mapping[str, Any], fds: list[int]) -> None:
        send_fds(self._sock.fileno(), _as_json(answer), fds)

    @staticmethod
    def _freeze() -> None:
        """Sessions share what is there now: no collection of theirs shall touch it."""
        gc.collect()
        gc.freeze()

    def _goodbye(self) -> None:
        """Sessions end by themselves once nobody is left to serve; who does not, is ended."""
        for pidfd in self._children:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(self._limits.goodbye * 500):
                _kill(pidfd)

    # -- one session

    def _fork(
        self, order: Mapping[str, Any], fds: Mapping[str, int]
    ) -> tuple[dict[str, Any], list[int]]:
        config, limits = self._config, self._limits
        if config is None:
            limits = Limits(**order["config"]["limits"])
            config = self._told(order, fds)
        ceiling = ceiling_of(config, fds.get("userns"))
        try:
            return self._fork_below(ceiling, config, limits, order, fds)
        finally:
            if ceiling is not None:
                ceiling.release()

    def _fork_below(
        self, ceiling: Ceiling | None, config: SessionConfig, limits: Limits,
        order: Mapping[str, Any], fds: Mapping[str, int],
    ) -> tuple[dict[str, Any], list[int]]:
        zygote = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs, _no_child_lost():
                pid = os.fork()
                if pid == 0:
                    self._session(
                        zygote, config, limits, fds, ceiling, theirs, resumed=order["resumed"]
                    )
                pidfd = os.pidfd_open(pid)
            self._watch(pidfd)
            try:
                self._know(order["of"], hear_of_makers(ours, 0 if ceiling is None else MAKERS))
            except OSError as error:
                _kill(pidfd)
                if not isinstance(error, TimeoutError):
                    raise
                complain(f"{config.name}: {error}; it is ended")  # as one that hangs later
        return {"pid": pid}, [pidfd]

    def _know(self, keeper: int, makers: list[int]) -> None:
        """Pidfds of those that it has now."""
        if makers:  # or nothing would ever take that away again
            self._makers_of[keeper] = makers
        for pidfd in makers:
            self._watch(pidfd)

    def _told(self, order: Mapping[str, Any], fds: Mapping[str, int]) -> SessionConfig:
        told = order["config"]
        policy = self._policies[told["policy"]]
        return SessionConfig.from_json(told, policy, audit_fd=fds.get("audit"))

    def _other_makers(
        self, order: Mapping[str, Any], fds: Mapping[str, int]
    ) -> tuple[dict[str, Any], list[int]]:
        """Those of a session under another policy. The earlier ones would make what that had."""
        config = self._told(order, fds)
        until = time.monotonic() + order["config"]["limits"]["mount"] + _LAST_WORK
        self._leaving += [(until, pidfd) for pidfd in self._makers_of.pop(order["of"], ())]
        self._leaving.sort()  # others have other limits
        makers = fork_makers(ceiling_of(config, fds.get("userns")), sibling=False)
        self._know(order["of"], [maker.pidfd for maker in makers])
        return {}, [maker.sock for maker in makers]

    def _giver(
        self, _order: Mapping[str, Any], _fds: Mapping[str, int]
    ) -> tuple[dict[str, Any], list[int]]:
        from supervisor.kernel.spawn import spawn_giver

        giver = spawn_giver()
        self._watch(giver.pidfd)
        return {}, [giver.pidfd, giver.sock]

    def _session(
        self, zygote: int, config: SessionConfig, limits: Limits, fds: Mapping[str, int],
        ceiling: Ceiling | None, told: socket.socket, *, resumed: bool,
    ) -> NoReturn:
        status = 1
        try:
            privileges.end_with(zygote)
            privileges.set_name("seccompd-session")
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if config.foreign:
                os.setsid()  # where the kernel shares processors by sessions, one for a container
            _close_all_but({*fds.values(), told.fileno(), config.audit_fd, config.trace_fd})
            userns = fds.get("userns")
            makers = own_makers(ceiling, told)
            if userns is not None:
                if config.as_root:
                    os.setgroups(config.groups)  # inside it may be too late: root's would stay
                check(
                    lib.sd_join_user_namespace(userns, *config.inner_root()),
                    "joining the user namespace",
                )
                os.close(userns)
                privileges.end_with(zygote)
            elif config.as_root:
                # Its callers may be anybody, and there is no user namespace to be confined to.
                privileges.limit_capabilities(WITHOUT_NAMESPACE)
                privileges.end_with(zygote)
            privileges.set_dumpable(False)
            privileges.set_no_new_privileges()
            privileges.take_more_descriptors()
            from supervisor.engine.serve import serve
            from supervisor.kernel.spawn import spawn_resolver

            # Now: whatever is written to before it is forked is there twice.
            resolver = spawn_resolver()
            serve(
                config, fds["channel"], fds["watch"], fds["timer"], makers, limits,
                resumed=resumed, resolver=resolver,
            )
            status = 0
        except NoMakersError:
            pass  # the zygote says why
        except BaseException as error:
            complain(f"{config.name}: the session failed: {type(error).__name__}: {error}")
            if os.environ.get("SECCOMPD_TEST_TRACEBACK"):
                sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
