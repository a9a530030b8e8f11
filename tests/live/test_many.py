"""Ten thousand nodes by four processes at once: all there, all right, and nothing left behind."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import Started
from tests.support.scratch import compile_c, mounts_below, scratch

EACH, PROCESSES = 2500, 4
# Helpers forked in between share other pages. A leak of 60 bytes a call would be more than this.
NOISE_KB = 1200


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with scratch(0o755) as folder:
        compile_c("storm", folder)
        yield folder


def ours(front: int) -> dict[int, str]:
    """The processes below the front that are seccompd's own, by pid, with their names."""
    found = {front: "front"}
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listing.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    queue = [front]
    while queue:
        for pid in children.get(queue.pop(), []):
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
            if name.startswith("seccompd"):
                found[pid] = name
                if name != "seccompd-init":
                    queue.append(pid)
    return found


def descriptors(pids: dict[int, str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for pid, name in pids.items():
        counts[name] = counts.get(name, 0) + len(os.listdir(f"/proc/{pid}/fd"))
    return counts


def anonymous_kb(pids: dict[int, str]) -> dict[str, int]:
    """Memory of our own, pages that our processes share counted once in all; by name."""
    found: dict[str, int] = {}
    for pid, name in pids.items():
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        (own,) = re.findall(r"Pss_Anon:\s+(\d+) kB", text)
        found[name] = found.get(name, 0) + int(own)
    return found


def settled(front: int) -> dict[int, str]:
    """Our processes, once helpers that were let go have ended."""
    before = ours(front)
    for _ in range(20):
        time.sleep(0.3)
        now = ours(front)
        if now == before:
            return now
        before = now
    return before


SCRIPT = """
round() { mkdir $1; %(storm)s $1 $2 %(processes)d norestart 900000 >&2; }
round warm 1500; rm -rf warm; echo warm; read answer
round nodes %(each)d
ls -f nodes | grep -c p; find nodes -name 'p*' -exec stat -c %%F:%%t:%%T {} + | sort | uniq -c
rm -rf nodes; test ! -e nodes; echo removed; read answer
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["host", "tmpfs"])
def test_ten_thousand(person: Person, programs: Path, where: str) -> None:
    with scratch() as place:
        mount = "mkdir t; mount -t tmpfs -o mode=755 t t; cd t;" if where == "tmpfs" else ""
        script = f"cd {place}; {mount}" + SCRIPT % {
            "storm": programs / "storm", "processes": PROCESSES, "each": EACH
        }  # fmt: skip
        started = Started(
            person, ["run", "--policy", "build", "--", "bash", "-ec", script], stdin=subprocess.PIPE
        )
        process = started.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"warm\n"
            pids = settled(process.pid)
            open_before, memory_before = descriptors(pids), anonymous_kb(pids)
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert int(process.stdout.readline()) == EACH * PROCESSES
            kinds = process.stdout.readline().decode().split(maxsplit=1)
            assert kinds == [str(EACH * PROCESSES), "character special file:1:3\n"]
            assert process.stdout.readline() == b"removed\n"
            pids_after = settled(process.pid)
            assert sorted(pids_after.values()) == sorted(pids.values())
            assert descriptors(pids_after) == open_before
            memory_after = anonymous_kb(pids_after)
            assert sum(memory_after.values()) - sum(memory_before.values()) <= NOISE_KB, (
                memory_before, memory_after,
            )  # fmt: skip
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert started.finish(timeout=30).returncode == 0
        finally:
            started.kill()
        assert started.wait_gone() == []
        assert mounts_below(place) == []
