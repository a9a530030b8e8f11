"""Ten thousand nodes by four processes at once: all there, all right, and nothing left behind."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.counts import descriptors, inodes, keeps_growing, own_kb, settled, used_kb
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.program import Started, patient
from tests.support.scratch import compile_c, mounts_below, scratch

MANY, PROCESSES = 10_000, 4
# Then equal rounds, once all that has to be warm is. What grows in each is a leak: the least
# that malloc() gives, 32 bytes, makes 25 kB in a round.
ROUND, ROUNDS, STEADY_KB = 800, 5, 16

# Each order is how many nodes each of how many processes is to make.
SCRIPT = """
while read each processes; do
    mkdir nodes; %(storm)s nodes $each $processes norestart 900000 2>&1
    find nodes -name 'p*' -exec stat -c %%F:%%t:%%T {} + | sort | uniq -c
    rm -rf nodes; test ! -e nodes
    mknod last c 1 3; rm last  # a quiet call: who was busy before it may rest after it
    echo removed
done
"""


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with scratch(0o755) as folder:
        compile_c("storm", folder)
        yield folder


@dataclass
class Held:
    """What seccompd's processes hold while nobody calls; `lasting` are all but the resolvers, which
    come and go with the load.
    """

    pids: dict[int, str]
    descriptors: dict[str, int]
    inodes: dict[str, int]

    @property
    def lasting(self) -> list[int]:
        return [pid for pid, name in self.pids.items() if name != "seccompd-path"]

    def is_like(self, other: Held) -> bool:
        """As many processes of each kind, the same ones where they last, with as much open."""
        return (
            sorted(self.pids.values()) == sorted(other.pids.values())
            and self.lasting == other.lasting
            and self.descriptors == other.descriptors
            and self.inodes == other.inodes
        )


class Container:
    """A container in which nodes are made and removed."""

    def __init__(self, person: Person, storm: Path, place: Path, *, own_tmpfs: bool) -> None:
        mount = "mkdir t; mount -t tmpfs -o mode=755 t t; cd t;" if own_tmpfs else ""
        script = f"cd {person.given(place)}; {mount}" + SCRIPT % {"storm": storm}
        self.audit = place / "audit"
        log = ["--audit", str(self.audit)]
        command = ["run", "--policy", patient(place), *log, "--", "bash", "-ec", script]
        self.started = Started(person, command, stdin=subprocess.PIPE)
        self.front = self.started.process.pid

    def make(self, nodes: int, processes: int) -> None:
        """Lets `processes` make so many nodes and remove them, and looks at them in between."""
        process = self.started.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"%d %d\n" % (nodes // processes, processes))
        process.stdin.flush()
        lines: list[str] = []
        while not lines or lines[-1] not in ("removed", ""):
            lines.append(process.stdout.readline().decode().strip())
        if len(lines) != 3:  # who failed says so, too
            failed = [x for x in self.audit.read_text().splitlines() if '"errno"' in x]
            raise AssertionError((lines, failed[-5:]))
        done, *rest = lines
        completed, exists, _interrupted, other, killed = done.split()[1:]
        assert (completed, exists, other, killed) == (str(nodes), "0", "0", "0"), lines
        assert rest == [f"{nodes} character special file:1:3", "removed"]

    def held(self) -> Held:
        pids = settled(self.front)
        return Held(pids, descriptors(pids), inodes(pids))

    def rested(self, before: Held, *, same: bool = False) -> Held:
        """What is held once it is as before, helpers of a burst having ended; fails where that does
        not come. `same`: by the very same processes.
        """

        def look() -> Held | None:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that is ending
                return self.held()
            return None

        now = wait_for(look, lambda now: now is not None and now.is_like(before))
        assert now is not None
        assert not same or now.pids == before.pids
        return now


@pytest.mark.slow
@pytest.mark.parametrize("where", ["host", "tmpfs"])
def test_ten_thousand(person: Person, programs: Path, where: str) -> None:
    with scratch() as place:
        storm = programs / "storm"
        container = Container(person, storm, place, own_tmpfs=where == "tmpfs")
        try:
            container.make(ROUND, 1)
            before = container.held()
            # an ordinary user's nodes are bind mounts on either: once is enough
            again = person.name is not None and where == "tmpfs"
            container.make(ROUND if again else MANY, PROCESSES)
            container.rested(before)
            # of four at once: resolvers that are forked for a burst say nothing about leaks
            sizes = []
            for _ in range(ROUNDS):
                container.make(ROUND, PROCESSES)
                container.rested(before)
                sizes.append(used_kb(before.lasting))
            assert keeps_growing(sizes, STEADY_KB) == {}
            # of one alone, which needs the same processes all the time
            sizes = []
            container.make(ROUND, 1)
            before = container.rested(before)
            for _ in range(ROUNDS):
                container.make(ROUND, 1)
                container.rested(before, same=True)
                sizes.append(own_kb(before.pids))
            assert keeps_growing(sizes, STEADY_KB) == {}
            assert container.started.finish(timeout=30).returncode == 0
        finally:
            container.started.kill()
        assert container.started.wait_gone() == []
        assert mounts_below(place) == []
