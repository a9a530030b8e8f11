"""The containers that the daemon serves: each with a keeper, a policy, and who it is."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from errno import EPERM

from supervisor.daemon.config import Config
from supervisor.daemon.events import Events
from supervisor.daemon.forks import Forks
from supervisor.daemon.keeper import PACE, Keeper
from supervisor.daemon.policies import Entry, PolicySet
from supervisor.engine.config import SessionConfig
from supervisor.kernel import features
from supervisor.kernel.target import Target, of_first_caller
from supervisor.observe.complaint import complain
from supervisor.observe.text import printable
from supervisor.policy.applies import Subject
from supervisor.policy.families import Traits


@dataclass(slots=True)
class HandOver:
    """A listener as a door got it. `target` None: who the callers are will be seen by the first.

    `runtime`: the process that calls for the runtime first (its id, its start). What is in here
    belongs to whoever takes it.
    """

    subject: Subject
    listener: int
    target: Target | None = None
    runtime: tuple[int, int] | None = None

    def close(self) -> None:
        """Lets go of everything: the kernel answers the callers with ENOSYS then."""
        os.close(self.listener)
        if self.target is not None:
            self.target.close()


@dataclass(slots=True, eq=False)
class Container:
    """One container under one policy. `entry` None: no policy applies, all is refused."""

    subject: Subject
    entry: Entry | None
    keeper: Keeper
    target: Target | None


class Containers:
    """Takes listeners in, and has their containers served until the last caller is gone."""

    def __init__(
        self, events: Events, forks: Forks, config: Config, policies: PolicySet, *,
        traits: Traits, as_root: bool, audit: int | None,
    ) -> None:
        self._events = events
        self._forks = forks
        self._config = config
        self.policies = policies
        self._traits = traits
        self._as_root = as_root
        self._audit = audit
        self._told: set[str] = set()
        self._containers: dict[tuple[str, int, str], list[Container]] = {}
        self.count = 0

    def all(self) -> list[Container]:
        """Every container that is served now."""
        return [one for those in self._containers.values() for one in those]

    def take(self, hand_over: HandOver) -> None:
        """Serves a listener: as one more of a container that is known, or as a new container's.

        Takes everything over. Never raises for what a client sent: what cannot be served is let go
        of, or refused, and the log says why.
        """
        subject = hand_over.subject
        key = (subject.door, subject.peer_uid, subject.container or "")
        known = self._containers.get(key, [])
        if hand_over.target is not None:
            subject = replace(subject, user_namespace=_kind(hand_over.target))
        elif known:
            subject = replace(subject, user_namespace=known[-1].subject.user_namespace)
        choice = self.policies.choose(subject)
        container = self._same(known, choice.entry, hand_over.target)
        if container is None:
            if self.count >= self._config.containers:
                complain(f"{_name(subject)}: let go: {self.count} containers are served already")
                hand_over.close()
                return
            container = self._new(key, subject, choice.entry, hand_over)
            if choice.entry is None:
                container.keeper.give_up(f"no policy applies ({printable(choice.text().encode())})")
        elif container.target is None and hand_over.target is not None:
            self._set_target(container, hand_over.target)
        elif hand_over.target is not None:
            hand_over.target.close()
        try:
            container.keeper.add(hand_over.listener, hand_over.runtime)
        except OSError as error:
            container.keeper.complain(f"a listener is let go of: {error.strerror}")
            os.close(hand_over.listener)
            if not container.keeper.listeners:
                self._ended(key, container)

    def close(self) -> None:
        """Ends all sessions; calls in flight get their policy's errno, later ones ENOSYS."""
        for container in self.all():
            container.keeper.close(refuse=True)
        self._containers.clear()
        self.count = 0

    def _same(
        self, known: list[Container], entry: Entry | None, target: Target | None
    ) -> Container | None:
        for container in reversed(known):
            if container.entry is entry and (
                target is None
                or container.target is None
                or target.same_namespace(container.target)
            ):
                return container
        return None

    def _new(
        self, key: tuple[str, int, str], subject: Subject, entry: Entry | None,
        hand_over: HandOver,
    ) -> Container:
        keeper = Keeper(
            self._events,
            self._forks,
            name=_name(subject),
            on_error=entry.policy.on_error if entry else EPERM,
            limits=self._config.session,
            audit=self._audit,
            pace=PACE,
        )
        container = Container(subject, entry, keeper, None)
        keeper.on_end = lambda: self._ended(key, container)
        if hand_over.target is not None:
            self._set_target(container, hand_over.target)
        else:
            keeper.on_first = lambda slot: self._look_at_first(container, slot)
        self._containers.setdefault(key, []).append(container)
        self.count += 1
        if entry is not None:
            complain(f"{keeper.name}: policy {entry.name}")
        return container

    def _set_target(self, container: Container, target: Target) -> None:
        """Now it is known whose calls these are: a session can be ordered."""
        keeper, entry = container.keeper, container.entry
        keeper.on_first = None
        keeper.userns, container.target = target.userns, target
        if entry is None:
            return
        if entry.key not in self._told:
            self._told.add(entry.key)
            self._forks.policy(entry.key, entry.policy.to_json())
        config = SessionConfig(
            name=keeper.name,
            policy=entry.policy,
            traits=self._traits,
            uids=target.uids,
            gids=target.gids,
            as_root=self._as_root,
            trace_fd=None,
            audit_fd=None,
            wait_killable=False,  # the filter is the runtime's, and nobody can ask it
            sync_wake_up=features.available("sync_wake_up"),
            foreign=True,
        )
        keeper.details = {
            "config": {**config.to_json(entry.key), "limits": asdict(self._config.session)}
        }

    def _look_at_first(self, container: Container, slot: int) -> None:
        """Somebody calls, and it is not known yet who that is."""
        keeper, entry = container.keeper, container.entry
        assert entry is not None
        listener, watch = keeper.listener(slot), keeper.watches[slot]
        try:
            target = of_first_caller(listener, watch, entry.policy.on_error)
        except OSError:
            return  # that nobody is left is an event of its own
        if target is None:
            return
        kind = _kind(target)
        container.subject = replace(container.subject, user_namespace=kind)
        assert entry.policy.match is not None
        why = entry.policy.match.why_not(container.subject)
        self._set_target(container, target)
        if why is not None:
            keeper.give_up(f"policy {entry.name} does not apply after all: {why}")
        else:
            keeper.start()

    def _ended(self, key: tuple[str, int, str], container: Container) -> None:
        those = self._containers.get(key, [])
        if container not in those:
            return
        those.remove(container)
        if not those:
            del self._containers[key]
        self.count -= 1
        if container.keeper.refused_here:
            container.keeper.complain(f"ended; {container.keeper.refused_here} calls were refused")
        container.keeper.close()


def _kind(target: Target) -> str:
    return "host" if target.userns is None else "own"


def _name(subject: Subject) -> str:
    return f"{subject.door}:{printable((subject.container or '?').encode()[:200])}"
