"""The containers that the daemon serves: each with a keeper, a policy, and who it is."""

from __future__ import annotations

import os
from dataclasses import replace
from errno import EPERM
from itertools import count
from typing import Final

from supervisor.daemon.changes import Change
from supervisor.daemon.config import Config
from supervisor.daemon.container import Container, HandOver, Key, Looking
from supervisor.daemon.events import Events
from supervisor.daemon.forks import Forks
from supervisor.daemon.giving import Farewell
from supervisor.daemon.keeper import Keeper
from supervisor.daemon.kept import Store
from supervisor.daemon.policies import Choice, PolicySet
from supervisor.daemon.slots import Slots
from supervisor.engine.config import SessionConfig
from supervisor.engine.limits import Pace, limits_of
from supervisor.kernel import features
from supervisor.kernel.target import Target, of_first_caller
from supervisor.observe.complaint import complain
from supervisor.observe.text import printable
from supervisor.policy.applies import Subject
from supervisor.policy.traits import Traits

# By the daemon itself, of all containers in a second: it is not to be busy with those.
_REFUSALS: Final = 1000


class Containers:
    """Takes listeners in, and has their containers served until the last caller is gone."""

    def __init__(
        self, events: Events, forks: Forks, config: Config, policies: PolicySet, *,
        traits: Traits, as_root: bool, audit: int | None, store: Store,
    ) -> None:
        self._events = events
        self._forks = forks
        self._config = config
        self.policies = policies
        self._traits = traits
        self.as_root = as_root
        self._audit = audit
        self._store = store
        self._told: set[str] = set()
        self._looking: dict[int, Looking] = {}
        self._pace = Pace(_REFUSALS)
        self._numbers = count(1)
        self.taken = 0  # listeners since the daemon's start
        self._ticking = False
        self._containers: dict[Key, list[Container]] = {}
        self.count = 0

    def all(self) -> list[Container]:
        """Every container that is served now."""
        return [one for those in self._containers.values() for one in those]

    def take(self, hand_over: HandOver) -> Container | None:
        """Serves a listener: as one more of a container that is known, or as a new container's.

        Takes everything over. Never raises for what a client sent: what cannot be served is let go
        of (None), or refused, and the log says why.
        """
        self.taken += 1
        try:
            return self._take(hand_over)
        except OSError as error:  # out of descriptors, or of memory
            complain(f"{_name(hand_over.subject)}: let go: {error.strerror}")
            hand_over.close()
            return None

    def _take(self, hand_over: HandOver) -> Container | None:
        subject = hand_over.subject
        key = _key(subject)
        watches = hand_over.watches
        container = self._known(key, hand_over) if watches is None else None
        if container is None:
            if self.count >= self._config.containers:
                complain(f"{_name(subject)}: let go: {self.count} containers are served already")
                hand_over.close()
                return None
            container = self._new(key, subject, None if watches is None else Slots(watches))
            hand_over.watches = None
            container.real_nodes, container.kept = hand_over.real_nodes, hand_over.kept
        target, hand_over.target = hand_over.target, None
        if target is not None and container.target is None:
            self._decide(container, target)
        elif target is not None:
            target.close()
        try:
            container.keeper.add(
                hand_over.listener, hand_over.runtime,
                proxy=hand_over.proxy, first=hand_over.first, slot=None if watches is None else 0,
            )  # fmt: skip
        except OSError as error:
            _complain(container, f"a listener is let go of: {error.strerror}")
            os.close(hand_over.listener)
            if hand_over.proxy is not None:
                os.close(hand_over.proxy)
            if not container.keeper.listeners:
                self._ended(key, container)
            return None
        if watches is not None and container.keeper.slots.used(0):
            container.keeper.sessions = 1  # at least
            self._refuse_what_was_left(container)
        self._store.save(container)
        return container

    @staticmethod
    def _refuse_what_was_left(container: Container) -> None:
        keeper = container.keeper
        refused = keeper.slots.refuse_pending(keeper.on_error)
        _complain(container, f"taken back; {refused} calls refused")

    def take_back(self) -> None:
        """Serves what an earlier daemon has left, as if it had not gone. The calls that its
        sessions were carrying out get their policy's errno."""
        for left in self._store.take_back():
            key = _key(left.subject)
            container = self._new(key, left.subject, Slots(left.watch))
            container.real_nodes, container.kept, container.born = left.real_nodes, True, left.born
            container.hosts = True  # nobody knows what policies it has had
            keeper = container.keeper
            keeper.sessions = left.sessions
            if left.target is not None:
                self._decide(container, left.target)
            container.notified = left.notified
            container.given = {one.wish.path: one for one in left.given}
            for slot, (listener, runtime) in left.listeners.items():
                keeper.add(listener, runtime, slot=slot)
            self._refuse_what_was_left(container)
            self._store.adopt(container, left)
            if not left.listeners:
                self._ended(key, container)

    def save(self, container: Container) -> None:
        """For the next daemon, after a change from elsewhere."""
        if container in self._containers.get(_key(container.subject), []):
            self._store.save(container)

    def end(self, container: Container) -> None:
        """Ends a container's session at once, whoever still calls: calls in flight get their
        policy's errno, later ones ENOSYS."""
        subject = container.subject
        those = self._containers.get(_key(subject), [])
        if container in those:
            container.keeper.close(refuse=True)
            self._forget(_key(subject), container)

    def close(self) -> None:
        """Ends all sessions; calls in flight get their policy's errno, later ones ENOSYS."""
        for container in self.all():
            container.keeper.close(refuse=True)
        self._containers.clear()
        self.count = 0

    def _known(self, key: Key, hand_over: HandOver) -> Container | None:
        """The container that the listener is one more of: of the same name, in the same user
        namespace, and under the policy that would be chosen for it now. A runtime that has gone
        before it could be looked at is the one that it was."""
        for container in reversed(self._containers.get(key, [])):
            own, theirs = container.target, hand_over.target
            if own is None:
                return container
            if theirs is None or theirs.same_namespace(own):
                subject = replace(
                    hand_over.subject,
                    user_namespace=_kind(own),
                    runtime=hand_over.subject.runtime or container.subject.runtime,
                )
                if self.policies.choose(subject).entry is container.entry:
                    return container
        return None

    def _new(self, key: Key, subject: Subject, slots: Slots | None = None) -> Container:
        keeper = Keeper(
            self._events,
            self._forks,
            name=_name(subject),
            on_error=EPERM,
            limits=self._config.session,
            audit=self._audit,
            pace=self._pace,
            slots=slots,
        )
        container = Container(subject, keeper)
        keeper.on_end = lambda: self._ended(key, container)
        keeper.on_start = lambda: self._started(container)
        keeper.on_first = lambda slot: self._look_at_first(container, slot)
        self._containers.setdefault(key, []).append(container)
        self.count += 1
        return container

    def _decide(self, container: Container, target: Target) -> None:
        """Now it is known whose calls these are: a session can be ordered."""
        keeper = container.keeper
        keeper.on_first = None
        keeper.userns, container.target = target.userns, target
        keeper.network = target.network
        container.subject = replace(container.subject, user_namespace=_kind(target))
        choice = self.policies.choose(container.subject)
        if choice.entry is not None:
            container.notified = choice.entry.notified
        self._go_by(container, choice)

    def _go_by(self, container: Container, choice: Choice) -> None:
        """From now on that policy is the container's, or none is."""
        keeper, before = container.keeper, container.entry
        target, entry = container.target, choice.entry
        assert target is not None
        container.entry = entry
        if entry is None:
            keeper.on_error = EPERM
            keeper.give_up(f"no policy applies ({printable(choice.text().encode())})")
            return
        _complain(container, f"policy {entry.name}")
        keeper.on_error = entry.policy.on_error
        if entry.key not in self._told:
            self._told.add(entry.key)
            self._forks.policy(entry.key, entry.policy.to_json())
        container.hosts = container.hosts or entry.policy.hosts
        config = SessionConfig(
            name=keeper.name,
            policy=entry.policy,
            traits=self._traits,
            uids=target.uids,
            gids=target.gids,
            as_root=self.as_root,
            trace_fd=None,
            audit_fd=None,
            wait_killable=False,  # the filter is the runtime's, and nobody can ask it
            sync_wake_up=features.available("sync_wake_up"),
            pidfd_info=self._audit is not None and features.available("pidfd_info"),
            foreign=True,
            real_nodes=container.real_nodes,
            groups=target.groups,
            hosts=container.hosts,
            heard=sorted(container.notified.calls) if container.notified is not None else (),
        )
        limits = limits_of(entry.policy.limits, self._config.session)
        keeper.limits = limits
        keeper.details = {"config": {**config.to_json(entry.key), "limits": limits._asdict()}}
        keeper.take_up()
        if before is not None:
            Change(keeper, entry.policy).begin(self._forks, before.policy)

    def adopt(self, policies: PolicySet) -> int:
        """Other policies from now on; of how many containers the policy is another one now."""
        self.policies = policies
        changed = 0
        for container in self.all():
            if container.target is None:
                continue
            choice = policies.choose(container.subject)
            if choice.entry is not container.entry:
                self._go_by(container, choice)
                changed += 1
        used = {entry.key for entry in policies.entries}
        for key in self._told - used:
            self._forks.forget(key)
        self._told &= used
        return changed

    # -- who looks on

    def look_on(self, looking: Looking) -> int:
        """From now on; the number to end it by. The descriptor stays whose it is."""
        number = next(self._numbers)
        self._looking[number] = looking
        for container in self.all():
            self._show(container, number, looking)
        return number

    def look_away(self, number: int) -> None:
        """No more."""
        looking = self._looking.pop(number)
        for container in self.all():
            if looking.concerns(container):
                container.keeper.tell({"forget": number})

    @staticmethod
    def _show(container: Container, number: int, looking: Looking) -> None:
        if looking.concerns(container):
            order = {
                "look_on": number, "syscalls": looking.syscalls, "verdicts": looking.verdicts
            }  # fmt: skip
            container.keeper.tell(order, [looking.fd])

    def _started(self, container: Container) -> None:
        self._store.save(container)
        for number, looking in self._looking.items():
            self._show(container, number, looking)
        if not self._ticking:
            self._ticking = True
            self._events.later(self._config.session.hang, self._tick)

    def _tick(self) -> None:
        """As long as there are sessions, or will be: none may leave a call unreceived for so long.
        """
        self._ticking = False
        sessions = [one for one in self.all() if one.keeper.busy]
        for container in sessions:
            container.keeper.look()
        if sessions:
            self._ticking = True
            self._events.later(self._config.session.hang, self._tick)

    # -- before it is known who calls

    def _look_at_first(self, container: Container, slot: int) -> None:
        """Somebody calls, and it is not known yet who that is."""
        keeper = container.keeper
        try:
            target = of_first_caller(*keeper.first(slot), keeper.on_error)
        except OSError:
            return  # that nobody is left is an event of its own
        if target is not None:
            self._decide(container, target)
            self._store.save(container)
            keeper.start()

    def _ended(self, key: Key, container: Container) -> None:
        if container not in self._containers.get(key, []):
            return
        if container.keeper.refused_here:
            _complain(container, f"ended; {container.keeper.refused_here} calls were refused")
        container.keeper.close()
        self._forget(key, container)

    def _forget(self, key: Key, container: Container) -> None:
        those = self._containers[key]
        those.remove(container)
        if not those:
            del self._containers[key]
        self.count -= 1
        self._store.forget(container)
        for given in container.given.values():
            assert container.target is not None
            self._forks.order(Farewell(given, container.target))
        container.given.clear()
        if container.on_end is not None:
            container.on_end()


def _key(subject: Subject) -> Key:
    return subject.door, subject.peer_uid, subject.container or ""


def _complain(container: Container, text: str) -> None:
    complain(f"{container.keeper.name}: {text}")


def _kind(target: Target) -> str:
    return "host" if target.userns is None else "own"


def _name(subject: Subject) -> str:
    return f"{subject.door}:{printable((subject.container or '?').encode()[:200])}"
