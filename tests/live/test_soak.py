"""A mixed load for a while, with callers and sessions that die: then all is as it was before."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counts import descriptors, ours, settled, used_kb
from tests.support.people import Person
from tests.support.program import Started
from tests.support.scratch import compile_c, mounts_below, scratch

SHORT, LONG = 5, 240
PROCESSES = 4
SOAK = [pytest.mark.soak, pytest.mark.timeout(1200)]
# What the processes of one name may have grown by: an allocator's fragments, not what calls leave.
NOISE_KB = 300
DEATHS_EVERY = 2.5  # fewer than what makes the front give up

# Each order is a number of seconds of load; 0 ends it. Mounts are counted: what comes and goes on
# the host meanwhile is kept out.
SCRIPT = """
mount --make-rprivate /
while read seconds && test $seconds != 0; do
    mkdir load; {soak} load $seconds {processes} {names}; rm -r load; wc -l < /proc/self/mountinfo
    sleep 0.5; mknod last c 1 3; rm last  # a quiet call: who was busy before it may rest after it
done
"""


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        compile_c("soak", folder)
        yield folder


class Load:
    """The container that the load is in."""

    def __init__(self, person: Person, program: Path, place: Path, names: str) -> None:
        load = SCRIPT.format(soak=program, processes=PROCESSES, names=names)
        script = f"cd {person.given(place)}; {load}"
        self.started = Started(
            person, ["run", "--policy", "build", "--", "sh", "-ec", script], stdin=subprocess.PIPE
        )
        self.front = self.started.process.pid
        self.mounts: list[int] = []
        self.names, self.deaths = names, 0

    def order(self, seconds: int) -> None:
        stdin = self.started.process.stdin
        assert stdin is not None
        stdin.write(b"%d\n" % seconds)
        stdin.flush()

    def told(self) -> None:
        """Waits for the end of the load; fails where it has seen anything wrong."""
        stdout = self.started.process.stdout
        assert stdout is not None
        line = stdout.readline().decode()
        word, calls, failed, killed, wrong = line.split()[:5]
        assert (word, wrong) == ("done", "0"), line
        # with names that nobody shares, only what a dying session left behind is refused
        assert self.names == "shared" or int(failed) <= self.deaths * PROCESSES, line
        assert int(calls) > 20, "nothing was loaded"
        assert int(killed) > 5
        if not (line := stdout.readline().decode()):
            raise AssertionError(self.started.finish().stderr)
        self.mounts.append(int(line))

    def kill_session(self) -> None:
        self.deaths += 1
        for pid, name in ours(self.front).items():
            if name.startswith("seccompd-sess"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def counts(self) -> tuple[list[str], dict[str, int], dict[str, int]]:
        """Processes by name, open descriptors, and memory in kB."""
        while True:
            pids = settled(self.front)
            held = descriptors(pids)
            time.sleep(0.7)  # a session closes what was a helper's when it looks for it next
            if descriptors(pids) != held:
                continue
            memory: dict[str, int] = {}
            # A resolver of the last burst may end while it is looked at: then once more.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for pid, used in used_kb(pids).items():
                    memory[pids[pid]] = memory.get(pids[pid], 0) + used
                return sorted(pids.values()), held, memory


@pytest.mark.parametrize(
    ("seconds", "names"),
    [
        (SHORT, "own"),
        pytest.param(LONG, "own", marks=SOAK),
        pytest.param(LONG, "shared", marks=SOAK),
    ],
)
def test_soak(person: Person, programs: Path, seconds: int, names: str) -> None:
    with scratch(0o777, "/var/tmp") as place:
        load = Load(person, programs / "soak", place, names)
        try:
            # The session that is counted is one that took over, at both times.
            load.order(2)
            load.kill_session()
            load.told()
            load.order(2)
            load.told()
            processes, open_before, memory = load.counts()
            load.order(seconds)
            end = time.monotonic() + seconds - DEATHS_EVERY / 2
            while time.monotonic() + DEATHS_EVERY < end:
                time.sleep(DEATHS_EVERY)
                load.kill_session()
            load.told()
            load.order(2)
            load.told()
            processes_after, open_after, memory_after = load.counts()
            assert processes_after == processes
            assert open_after == open_before
            grown = {name: memory_after[name] - used for name, used in memory.items()}
            assert max(grown.values()) <= NOISE_KB, (memory, memory_after)
            assert len(set(load.mounts)) == 1, load.mounts
            load.order(0)
            done = load.started.finish()
            assert done.returncode == 0, done.stderr
        finally:
            load.started.kill()
        assert load.started.wait_gone() == []
        assert mounts_below(place) == []
        assert list(place.iterdir()) == []
