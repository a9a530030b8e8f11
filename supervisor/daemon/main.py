"""`seccompd serve`: the daemon of all containers of a host.

It takes listeners in at its doors, chooses their policies, and watches their sessions. It never
reads a target's memory or paths. Doors are given to it, for they lie above this room.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import trio

from supervisor.daemon import config as configuration
from supervisor.daemon.beginning import Beginning
from supervisor.daemon.config import Config
from supervisor.daemon.containers import Containers
from supervisor.daemon.control import Control
from supervisor.daemon.devices import Devices
from supervisor.daemon.events import Events
from supervisor.daemon.forks import Forks
from supervisor.daemon.kept import Store
from supervisor.daemon.policies import PolicySet
from supervisor.daemon.sockets import RuntimeDirectory
from supervisor.daemon.systemd import Notifier
from supervisor.errors import SeccompdError
from supervisor.kernel import idmap, privileges
from supervisor.observe.complaint import complain
from supervisor.policy.families import FamilySpec
from supervisor.policy.traits import Traits


class Door(Protocol):
    """A way in. `serve` takes in what comes, for as long as it is not cancelled."""

    async def serve(self) -> None:
        """Raises nothing for what a client does."""
        ...


# What the daemon keeps of root's capabilities, once its zygotes have theirs: it looks which user
# namespace a container's processes are in, which those that are not dumpable show to
# CAP_SYS_PTRACE alone, and it ends sessions, which are users of their containers.
KEPT: Final = ("kill", "sys_ptrace")
_HEARD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Makes a door; its sockets listen from then on.
DoorMaker = Callable[[RuntimeDirectory, Containers, Config], Door]


def traits() -> tuple[Traits, bool]:
    """What the sessions of this user's daemon can do, and whether that is root's."""
    as_root = (
        os.geteuid() == 0
        and idmap.in_initial_namespace()
        and privileges.holds("mknod")
        and privileges.holds("sys_admin")
    )
    return Traits("private" if as_root else "host"), as_root


def check(
    file: Path | None, doors: Mapping[str, DoorMaker], families: Mapping[str, FamilySpec]
) -> tuple[Config, PolicySet]:
    """The configuration and all policies. PolicyError has every error in them."""
    return _load(file, doors, families, traits()[0])


def _load(
    file: Path | None, doors: Mapping[str, DoorMaker], families: Mapping[str, FamilySpec],
    found: Traits,
) -> tuple[Config, PolicySet]:
    config = configuration.load(file, tuple(doors))
    return config, PolicySet.load(config.policies, found, families)


def serve(
    file: Path | None, doors: Mapping[str, DoorMaker], families: Mapping[str, FamilySpec],
    beginning: Beginning,
) -> int:
    """Runs until SIGTERM or SIGINT; the exit status. SeccompdError where it cannot start."""
    events, forks, notifier = beginning.events, beginning.forks, beginning.notifier
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # waits until it is heard
    with contextlib.ExitStack() as stack:
        store = Store(events, notifier, beginning.given.kept)
        stack.callback(store.close)
        found, as_root = traits()
        if os.geteuid() == 0:
            privileges.limit_capabilities(KEPT)
        privileges.set_no_new_privileges()
        config, policies = _load(file, doors, families, found)
        _more_descriptors(config.descriptors)
        place = RuntimeDirectory(config.runtime_directory, beginning.given.sockets)
        stack.callback(place.close)
        audit = None
        if config.audit is not None:
            audit = _open_audit(config.audit)
            stack.callback(os.close, audit)
        containers = Containers(
            events, forks, config, policies, traits=found, as_root=as_root, audit=audit,
            store=store,
        )
        stack.callback(containers.close)
        opened = {name: doors[name](place, containers, config) for name in config.doors}
        loader = Loader(containers, config, found, families, notifier)
        devices = Devices(forks, containers, config.session.mount)
        control = Control(place, containers, config, loader.load, devices)
        place.nobody_serves_the_rest()
        complain(f"serving {', '.join(opened)} in {config.runtime_directory}")
        containers.take_back()
        stack.callback(notifier.stopping)
        return trio.run(_run, events, forks, [*opened.values(), control], loader, notifier)


class Loader:
    """Loads the policies again: all of them, or none."""

    def __init__(
        self, containers: Containers, config: Config, found: Traits,
        families: Mapping[str, FamilySpec], notifier: Notifier,
    ) -> None:
        self._containers = containers
        self._config = config
        self._traits = found
        self._families = families
        self._notifier = notifier
        self._lock = trio.Lock()

    async def load(self) -> str:
        """What came of it. SeccompdError where a policy is wrong: then nothing has changed."""
        async with self._lock:
            self._notifier.reloading()
            try:
                return await self._load()
            finally:
                self.say_ready()

    def say_ready(self) -> None:
        """To the service manager: with how many policies."""
        count = len(self._containers.policies.entries)
        self._notifier.ready(f"{', '.join(self._config.doors)}; {count} policies")

    async def _load(self) -> str:
        before = self._containers.policies
        # In a thread: to compile a policy takes long, and sessions have deadlines.
        policies = await trio.to_thread.run_sync(
            PolicySet.load, self._config.policies, self._traits, self._families, before
        )
        changed = self._containers.adopt(policies)
        new = len(set(policies.entries) - set(before.entries))
        text = (
            f"{len(policies.entries)} policies, {new} of them new or other than before; "
            f"{changed} containers have another one now"
        )
        complain(f"loaded again: {text}")
        return text


async def _run(
    events: Events, forks: Forks, doors: Sequence[Door], loader: Loader, notifier: Notifier
) -> int:
    failed: list[str] = []
    async with trio.open_nursery() as nursery:

        def fail(why: str) -> None:
            failed.append(why)
            nursery.cancel_scope.cancel()

        forks.on_failure = fail
        if forks.failed is not None:
            fail(forks.failed)
        for door in doors:
            nursery.start_soon(door.serve)
        nursery.start_soon(_watch, events)
        nursery.start_soon(notifier.keep_alive)
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        for one in _HEARD:
            # Behind the receiver, which passes on what it has not told: the daemon ends already,
            # and that takes a moment.
            signal.signal(one, lambda *_: None)
        with trio.open_signal_receiver(*_HEARD) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
            loader.say_ready()  # whoever hears that may send one
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                nursery.start_soon(_load_again, loader)
        nursery.cancel_scope.cancel()
    if failed:
        # All sessions have ended with it, and nobody else could fork others.
        raise SeccompdError(failed[0], hint="start seccompd again; a service manager does that")
    return 0


async def _load_again(loader: Loader) -> None:
    try:
        await loader.load()
    except SeccompdError as error:
        complain(f"nothing is loaded again: {error}")
    except Exception as error:
        _defect(error)


async def _watch(events: Events) -> None:
    scope = trio.CancelScope()

    def sooner() -> None:
        scope.cancel()

    events.on_later = sooner
    events.on_exception = _defect
    while True:
        timeout = events.timeout()
        scope = trio.CancelScope()
        if timeout is not None:
            scope.deadline = trio.current_time() + timeout
        with scope:
            await trio.lowlevel.wait_readable(events.fileno())
        events.dispatch()


def _defect(error: Exception) -> None:
    complain(f"a defect of the daemon: {type(error).__name__}: {error}")
    if os.environ.get("SECCOMPD_TEST_TRACEBACK"):
        import traceback

        traceback.print_exception(error)


def _more_descriptors(most: int | None) -> None:
    """As many as we may have, where nobody says how many: each container takes a few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most is None or (hard != resource.RLIM_INFINITY and most > hard):
        most = hard
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _open_audit(path: Path) -> int:
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise SeccompdError(f"cannot be written: {error.strerror}", where=str(path)) from error
