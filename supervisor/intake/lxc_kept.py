"""What a daemon leaves of LXC's containers without a proxy to the daemon that comes next.

Their monitors keep the listeners, so the next daemon can fetch them again. What it has to know for
that is `lxc.containers` in the runtime directory: a line of JSON for each container, as it was
announced. What the dead one's sessions had received, and not answered, is in a file of watches for
each of them, in `lxc.watches`: the kernel hands no call out twice, and its caller waits for ever
where nobody knows its id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from supervisor.daemon.kept import FORMAT
from supervisor.intake.handover import Malformed
from supervisor.intake.lxc_commands import Announced, announcement, parse_announcement
from supervisor.kernel.task import start_time
from supervisor.kernel.watch import Watches
from supervisor.observe.complaint import complain


class Kept:
    """Files in a runtime directory, which is the daemon's alone. A container is known by its init:
    the process, and its start in ticks since boot."""

    def __init__(self, place: Path) -> None:
        self._list = place / "lxc.containers"
        self._watches = place / "lxc.watches"
        with contextlib.suppress(OSError):
            for file in self._watches.iterdir():
                if not _lives(file.name):
                    file.unlink()

    def announced(self) -> list[Announced]:
        """The containers that an earlier daemon served."""
        try:
            lines = self._list.read_bytes().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(Malformed):
                found.append(parse_announcement(line))
        return found

    def remember(self, announced: Iterable[Announced]) -> None:
        """These are the containers that are served now."""
        try:
            new = self._list.with_suffix(".new")
            new.write_bytes(b"".join(announcement(one) + b"\n" for one in set(announced)))
            new.rename(self._list)
        except OSError as error:
            complain(f"{self._list}: {error.strerror}")

    def watches(self, init: int, began: int | None) -> int | None:
        """A descriptor of a container's watches; None where they cannot be had: then nobody knows
        of its calls after us."""
        path = self._watches / _name(init, began)
        try:
            self._watches.mkdir(mode=0o700, exist_ok=True)
            return Watches.file(path)
        except OSError as error:
            complain(f"{path}: {error.strerror}")
            return None

    def forget(self, init: int, began: int | None) -> None:
        """A container has ended."""
        with contextlib.suppress(OSError):
            (self._watches / _name(init, began)).unlink()


def _name(init: int, began: int | None) -> str:
    return f"{FORMAT}-{init}-{began}"


def _lives(name: str) -> bool:
    """Whether a file of that name is one of ours, and its container has not ended."""
    with contextlib.suppress(ValueError):
        layout, init, began = map(int, name.split("-"))
        return layout == FORMAT and start_time(init) == began
    return False
