"""`seccompd run`: launches one command, and stands in for it towards the shell that started us.

The front stays in the command's process group. It forwards what signals it gets, stops when the
command stops, watches the session, and ends with the command's exit status. Everything here has to
be quick to import: what a session needs is loaded in the zygote, while the command starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from supervisor.daemon.events import Events
from supervisor.daemon.forks import Forks
from supervisor.daemon.keeper import Keeper
from supervisor.engine.limits import limits_of
from supervisor.errors import KernelError, SeccompdError
from supervisor.intake import refusals
from supervisor.intake.terminal import Terminal
from supervisor.kernel import features, idmap, privileges
from supervisor.kernel.idmap import IdMaps, Range
from supervisor.kernel.launch import (
    SI_KERNEL,
    Event,
    Init,
    Kind,
    Launch,
    Namespace,
    Signal,
    Signals,
    detach_stream,
    stop_self,
)
from supervisor.policy import store
from supervisor.policy.traits import Traits

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.engine.config import SessionConfig
    from supervisor.policy.families import FamilySpec

_DEFAULT_NAMESPACES = Namespace.USER | Namespace.MOUNT | Namespace.PID
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}


class Options(NamedTuple):
    """What `seccompd run` was asked for. `maps` is ("auto",), ("none",) or the SPECs.

    `attach` is the daemon's socket, whose policy it is then; None: a session of our own. `policy`
    None is the default: "default", or the first of the daemon's that is meant for us.
    """

    command: Sequence[str]
    policy: str | None = None
    attach: Path | None = None
    maps: Sequence[str] = ("auto",)
    unshare: Sequence[str] = ()
    audit: str | None = None
    trace: bool = False
    preserve_fds: int = 0


def warn(text: str) -> None:
    """One line on stderr, which may be closed."""
    with contextlib.suppress(OSError):
        os.write(2, f"seccompd: {text}\n".encode("utf-8", "surrogateescape"))


def run(options: Options) -> int:
    """Runs the command to its end and returns its exit status, 128 + n for a signal n.

    SeccompdError where it could not be started.
    """
    features.demand(namespaces=list(options.maps) != ["none"])
    maps = _maps(options)
    if options.attach is not None:
        return _attached(options, maps, options.attach)
    as_root = (
        os.geteuid() == 0
        and idmap.in_initial_namespace()
        and privileges.holds("mknod")
        and privileges.holds("sys_admin")
    )
    traits = Traits("none" if maps is None else "private" if as_root else "host")
    policy = store.keep(options.policy or "default", traits, families=_families)
    with contextlib.ExitStack() as stack:
        audit = None
        if options.audit is not None:
            audit = _open_audit(options.audit)
            stack.callback(os.close, audit)
        events = Events()
        stack.callback(events.close)
        # Before the launch: the modules of a session load meanwhile.
        limits = limits_of(policy.limits)
        name = f"run-{os.getpid()}"

        def config() -> SessionConfig:
            return _config(options, policy, traits, maps, name, audit, as_root=as_root)

        forks = Forks(events, config, limits, streams=() if audit is None else (audit,))
        stack.callback(forks.close)
        keeper = Keeper(
            events, forks, name=name, on_error=policy.on_error, lasting=False, limits=limits
        )
        stack.callback(keeper.close)
        return _supervise(stack, options, maps, policy.filter, _Own(events, keeper))


def _families() -> Mapping[str, FamilySpec]:
    from supervisor.handlers.registry import FAMILIES

    return FAMILIES


def _config(
    options: Options, policy: store.Kept, traits: Traits, maps: IdMaps | None, name: str,
    audit: int | None, *, as_root: bool,
) -> SessionConfig:
    """What the session is told; made in the zygote, which has all of the policy."""
    from supervisor.engine.config import SessionConfig

    return SessionConfig(
        name=name,
        policy=policy.policy(),
        traits=traits,
        uids=None if maps is None else _rows(maps.uids),
        gids=None if maps is None else _rows(maps.gids),
        as_root=as_root,
        trace_fd=2 if options.trace else None,
        audit_fd=audit,
        wait_killable=features.available("wait_killable"),
        sync_wake_up=features.available("sync_wake_up"),
        pidfd_info=audit is not None and features.available("pidfd_info"),
    )


def _attached(options: Options, maps: IdMaps | None, path: Path) -> int:
    from supervisor.intake.grant import Grant

    with contextlib.ExitStack() as stack:
        grant = Grant(path, options.policy)
        stack.callback(grant.close)
        return _supervise(stack, options, maps, grant.filter, grant)


def _supervise(
    stack: contextlib.ExitStack, options: Options, maps: IdMaps | None, code: bytes,
    supervisor: _Supervisor,
) -> int:
    """Launches the command below the filter `code`, and sees it to its end."""
    signals = Signals()
    stack.callback(signals.close)
    terminal = Terminal()
    stack.callback(terminal.close)
    init, userns = _launch(options, maps, code)
    stack.callback(init.close)
    privileges.set_dumpable(False)
    if os.geteuid() == 0:
        privileges.limit_capabilities({"kill"})
    return _Front(options, supervisor, signals, terminal, init, userns).run()


class _Supervisor(Protocol):
    """Who answers the command's calls, as far as the front has to do with it."""

    def fileno(self) -> int:
        """Readable when `dispatch` is to be called, which raises nothing but SeccompdError; it is
        called after `timeout` seconds anyhow."""
        ...

    def timeout(self) -> float | None: ...

    def dispatch(self) -> None: ...

    def hand_over(self, listener: int, init: Init, userns: int | None) -> None:
        """Takes over the listener and the command's user namespace. A command that is held may go
        on once it is served."""
        ...

    def finish(self) -> None:
        """Nobody of the command is left."""
        ...


class _Own:
    """A session of our own."""

    def __init__(self, events: Events, keeper: Keeper) -> None:
        self.fileno = events.fileno
        self.timeout = events.timeout
        self.dispatch = events.dispatch
        self._keeper = keeper

    def hand_over(self, listener: int, init: Init, userns: int | None) -> None:
        """Has the session started."""
        self._keeper.userns, self._keeper.network = userns, init.network
        self._keeper.add(listener)
        self._keeper.start()

    def finish(self) -> None:
        """It ends by itself; the end of the zygote is waited for."""


def _maps(options: Options) -> IdMaps | None:
    """The id maps of the command's user namespace, None where it gets none."""
    if list(options.maps) == ["none"]:
        return None
    if list(options.maps) == ["auto"]:
        maps, missing = idmap.automatic()
        if missing:
            warn(f"only one id is mapped: {missing}")
        return maps
    return idmap.parse(options.maps)


def _rows(ranges: Sequence[Range]) -> list[tuple[int, int, int]]:
    return [(r.inside, r.outside, r.length) for r in ranges]


def _open_audit(path: str) -> int:
    """A descriptor to append to. O_NONBLOCK: a fifo that nobody reads must not hang the start."""
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise refusals.audit_file(path, error) from error


def _launch(options: Options, maps: IdMaps | None, code: bytes) -> tuple[Init, int | None]:
    """Makes init and lets it go. Where newuidmap will not do it, once more with a single id."""
    namespaces = Namespace(0) if maps is None else _DEFAULT_NAMESPACES
    for name in options.unshare:
        namespaces |= Namespace[name.upper()]
    init = _begin(
        Launch(
            command=options.command,
            filter=code,
            namespaces=namespaces,
            identity=None if maps is None else maps.identity,
            drop_groups=maps is not None and _drops_groups(maps),
            preserve_fds=options.preserve_fds,
            held=options.attach is not None,
        )
    )
    try:
        userns = None
        init.network = os.stat(f"/proc/{init.pid}/ns/net").st_ino
        if maps is not None:
            # Now: once init is not dumpable, its /proc files are root's.
            userns = os.open(f"/proc/{init.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            try:
                idmap.write(init.pid, maps)
            except BaseException:
                os.close(userns)
                raise
        init.go()
        return init, userns
    except KernelError as error:
        init.close()
        if maps is None or not maps.helpers or list(options.maps) != ["auto"]:
            raise
        warn(f"only one id is mapped: {error.what}")
        return _launch(options, idmap.single(os.geteuid(), os.getegid()), code)
    except BaseException:
        init.close()
        raise


def _drops_groups(maps: IdMaps) -> bool:
    """Root's own groups open files of the host, and are never the command's."""
    if os.geteuid() == 0:
        return idmap.may_set_groups()
    return maps.outside_gid() != os.getegid()


def _begin(launch: Launch) -> Init:
    try:
        return Init(launch)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM):
            raise  # a limit of this process, which has nothing to do with namespaces
        raise refusals.namespaces(error) from error


class _Front:
    """The loop of the front, from the launch to the end of the command's last process."""

    def __init__(
        self, options: Options, supervisor: _Supervisor, signals: Signals,
        terminal: Terminal, init: Init, userns: int | None,
    ) -> None:
        self._options = options
        self._supervisor = supervisor
        self._signals = signals
        self._terminal = terminal
        self._init = init
        self._userns = userns
        self._ended = False  # init and all below it
        self._status: int | None = None
        self._killed_by: int | None = None
        self._stop: int | None = None

    def run(self) -> int:
        """The command's exit status."""
        try:
            while not self._ended:
                self._turn()
            self._supervisor.finish()
        finally:
            if self._userns is not None:
                os.close(self._userns)
        if self._killed_by is not None:
            return 128 + self._killed_by
        if self._status is None:
            error = SeccompdError("the command's init was killed", hint="out of memory, perhaps")
            error.status = 128 + signal.SIGKILL
            raise error
        return self._status

    def _turn(self) -> None:
        poller = select.poll()
        for fd in (self._init.sock, self._signals.fd, self._supervisor.fileno()):
            poller.register(fd, select.POLLIN)
        wait = self._supervisor.timeout()
        found = poller.poll(None if wait is None else wait * 1000 + 1)
        if not found:
            self._supervisor.dispatch()
        for fd, _ in found:
            if fd == self._init.sock:
                self._drain_events()
            elif fd == self._signals.fd:
                for one in self._pending_signals():
                    self._forward(one)
            else:
                self._supervisor.dispatch()
        if self._stop is not None and not self._ended:
            number, self._stop = self._stop, None
            stop_self(number)

    # -- signals

    def _pending_signals(self) -> Iterator[Signal]:
        while (found := self._signals.next()) is not None:
            yield found

    def _forward(self, found: Signal) -> None:
        if found.sender == os.getpid() and found.code != SI_KERNEL:
            return  # our own SIGPIPE, or the stop we have just come back from
        if self._status is not None and found.number in _ENDING:
            # The command has ended; what it left behind is the session, and ends with it.
            self._killed_by = found.number
            self._ended = True
            return
        self._init.kill(found)

    # -- init

    def _drain_events(self) -> None:
        while not self._ended and (event := self._init.next()) is not None:
            self._on_event(event)

    def _on_event(self, event: Event) -> None:
        if event.kind is Kind.ENDED:
            self._ended = True
        elif event.kind is Kind.LISTENER:
            self._start(event.listener)
        elif event.kind is Kind.NOTE:
            self._note(event)
        elif event.kind is Kind.FAILED:
            raise self._failure(event)
        elif event.kind is Kind.STOPPED:
            self._stop = event.value
        elif event.kind is Kind.CONTINUED:
            self._stop = None
        elif event.kind is Kind.EXITED:
            self._status = event.value
            # Not only at our end: until then the keyboard is to reach what still runs, and us.
            self._terminal.give_back(self._init.pid)

    def _start(self, listener: int) -> None:
        userns, self._userns = self._userns, None
        self._supervisor.hand_over(listener, self._init, userns)
        # A pipe that the command closes must not stay open because of us.
        for fd in (0, 1):
            with contextlib.suppress(OSError):
                detach_stream(fd)

    def _note(self, event: Event) -> None:
        if text := refusals.note(event):
            warn(text)

    def _failure(self, event: Event) -> SeccompdError:
        mapped = tuple(self._options.maps) != ("none",)
        return refusals.launch(event, self._options.command[0], mapped=mapped)
