"""What a service manager keeps of containers for the daemon that comes after this one.

Of each container: its listeners, its watches (with the ids of the calls that were being carried
out), its user namespace, the devices that it was given, and a memfd, the card, that says whose all
this is. They are sent as sd_pid_notify_with_fds(3) has it (FDSTORE=1), and come back with the next
start. As long as they are kept, calls wait; what is not whole when it comes back is let go of, and
its calls are ENOSYS.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from errno import EAGAIN
from typing import Any, Final

from supervisor.daemon.container import Container
from supervisor.daemon.events import Events
from supervisor.daemon.given import Given
from supervisor.daemon.systemd import KEPT, Notifier
from supervisor.kernel.target import Target
from supervisor.kernel.watch import SLOTS, Watches
from supervisor.observe.complaint import complain
from supervisor.policy.applies import Subject
from supervisor.policy.notified import Notified

# The layout of a card, and of the watches (struct sd_watch in csrc/shim_receive.h).
FORMAT: Final = 1
_NAME: Final = re.compile(rf"{KEPT}(\d+)-(watch|card|userns|listener-(\d+)|device-\d+)")
_AGAIN: Final = 0.05
_CARD_MAX: Final = 1 << 24


@dataclass(slots=True)
class Left:
    """A container as an earlier daemon has left it; its descriptors are whose it is.

    `number` and `names` are those that it is kept by. `listeners` by slot, each with the runtime's
    process (HandOver). `sessions`: how many it had.
    """

    number: int
    names: tuple[str, ...]
    card: int
    watch: int
    subject: Subject
    target: Target | None
    listeners: dict[int, tuple[int, tuple[int, int] | None]]
    notified: Notified | None
    real_nodes: bool
    born: float
    sessions: int
    given: list[Given]


@dataclass(slots=True)
class _Kept:
    """What is kept of one container: what stands behind each name."""

    number: int
    card: int
    sent: dict[str, object] = field(default_factory=dict)


class Store:
    """The service manager's, as far as it is ours. Without one nothing is kept."""

    def __init__(
        self, events: Events, notifier: Notifier, given: Iterable[tuple[str, int]] = ()
    ) -> None:
        """`given`: descriptors that came back, by their names."""
        self._events = events
        self._notifier = notifier
        self._kept: dict[Container, _Kept] = {}
        self._queue: deque[tuple[str, int]] = deque()  # -1: without a descriptor
        self._waiting = False
        self._given = _by_container(given)
        self._next = max(self._given, default=0) + 1

    def take_back(self) -> list[Left]:
        """What an earlier daemon has left: to be adopted, each."""
        found = []
        for number, fds in self._given.items():
            try:
                found.append(_read(number, fds))
            except (OSError, ValueError, KeyError, TypeError) as error:
                complain(f"container {number} that was kept is let go of: {error!r}")
                for name, fd in fds.items():
                    self._forget(number, name)
                    os.close(fd)
        self._given.clear()
        return found

    def adopt(self, container: Container, left: Left) -> None:
        """It is kept already."""
        kept = self._kept[container] = _Kept(left.number, left.card)
        kept.sent = dict.fromkeys(left.names)
        wanted = _wanted(container, kept)
        kept.sent |= {name: wanted[name][0] for name in left.names if name in wanted}
        self.save(container)

    def save(self, container: Container) -> None:
        """Has everything kept that is new of a container."""
        if not container.kept or not self._notifier.heard:
            return
        kept = self._kept.get(container)
        if kept is None:
            kept = _Kept(self._next, os.memfd_create("seccompd-card", os.MFD_CLOEXEC))
            self._kept[container] = kept
            self._next += 1
        _write(kept.card, _card(container))
        wanted = _wanted(container, kept)
        for name, what in list(kept.sent.items()):
            if name not in wanted or wanted[name][0] is not what:
                del kept.sent[name]
                self._forget(kept.number, name)
        for name, (what, fd) in wanted.items():
            if name not in kept.sent:
                kept.sent[name] = what
                self._send(f"FDSTORE=1\nFDNAME={KEPT}{kept.number}-{name}", os.dup(fd))

    def forget(self, container: Container) -> None:
        """It has ended."""
        kept = self._kept.pop(container, None)
        if kept is not None:
            for name in kept.sent:
                self._forget(kept.number, name)
            os.close(kept.card)

    def close(self) -> None:
        """Lets go of our own descriptors; what is kept stays."""
        for kept in self._kept.values():
            os.close(kept.card)
        self._kept.clear()
        while self._queue:
            _close(self._queue.popleft()[1])

    def _forget(self, number: int, name: str) -> None:
        self._send(f"FDSTOREREMOVE=1\nFDNAME={KEPT}{number}-{name}")

    def _send(self, text: str, fd: int = -1) -> None:
        """One after the other, though not at once where the service manager is busy."""
        self._queue.append((text, fd))
        if not self._waiting:
            self._flush()

    def _flush(self) -> None:
        self._waiting = False
        while self._queue:
            text, fd = self._queue[0]
            try:
                self._notifier.send(text, [] if fd < 0 else [fd])
            except OSError as error:
                if error.errno == EAGAIN:
                    self._waiting = True
                    self._events.later(_AGAIN, self._flush)
                    return
                complain(f"the service manager does not hear us: {error.strerror}")
            _close(self._queue.popleft()[1])


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _by_container(given: Iterable[tuple[str, int]]) -> dict[int, dict[str, int]]:
    found: dict[int, dict[str, int]] = {}
    for told, fd in given:
        name = _NAME.fullmatch(told)
        if name is None or name[2] in found.setdefault(int(name[1]), {}):
            os.close(fd)
        else:
            found[int(name[1])][name[2]] = fd
    return found


def _wanted(container: Container, kept: _Kept) -> dict[str, tuple[object, int]]:
    """By its name what has to be kept, and its descriptor. Listeners last, for they are of no use
    without the rest."""
    slots, target = container.keeper.slots, container.target
    found: dict[str, tuple[object, int]] = {
        "card": (kept, kept.card), "watch": (slots, slots.fd)
    }  # fmt: skip
    if target is not None and target.userns is not None:
        found["userns"] = target, target.userns
    for given in container.given.values():
        found[_device(given.device)] = given, given.home
    return found | {f"listener-{slot}": (served, served.fd) for slot, served in slots}


def _device(number: int) -> str:
    """By the number of its tmpfs."""
    return f"device-{number}"


def _card(container: Container) -> dict[str, Any]:
    target, notified = container.target, container.notified
    return {
        "format": FORMAT,
        "subject": asdict(container.subject),
        "target": None if target is None else asdict(target),
        "listeners": {slot: served.runtime for slot, served in container.keeper.slots},
        "notified": None if notified is None else notified.to_json(),
        "real_nodes": container.real_nodes,
        "born": container.born,
        "sessions": container.keeper.begun,
        "given": [one.to_json() for one in container.given.values()],
    }


def _write(card: int, values: Mapping[str, Any]) -> None:
    """In one go, so that of a daemon that is killed meanwhile nothing, or all, is there."""
    text = json.dumps(values).encode() + b"\n"
    os.pwrite(card, text, 0)
    os.ftruncate(card, len(text))


def _read(number: int, fds: Mapping[str, int]) -> Left:
    """Raises OSError, ValueError, KeyError and TypeError where it is not whole."""
    said = json.loads(os.pread(fds["card"], _CARD_MAX, 0))
    if said["format"] != FORMAT or os.fstat(fds["watch"]).st_size != Watches.SIZE:
        raise ValueError("another version's")
    target = None
    taken = {"card", "watch"}
    if said["target"] is not None:
        target = Target(**_values(said["target"]))
        if target.userns is not None:
            target.userns = fds["userns"]
            taken.add("userns")
    listeners = {}
    for slot, runtime in said["listeners"].items():
        if (name := f"listener-{slot}") in fds:
            listeners[range(SLOTS).index(int(slot))] = fds[name], _frozen(runtime)
            taken.add(name)
    given = []
    for row in said.get("given", ()):
        if (name := _device(row["device"])) in fds:
            given.append(Given.from_json(row, fds[name]))
            taken.add(name)
    notified = said["notified"]
    left = Left(
        number, tuple(fds), fds["card"], fds["watch"], Subject(**_values(said["subject"])),
        target, listeners, None if notified is None else Notified.from_json(notified),
        said["real_nodes"], said["born"], said["sessions"], given,
    )  # fmt: skip
    for name in fds.keys() - taken:
        os.close(fds[name])
    return left


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _frozen(value) for name, value in row.items()}


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
