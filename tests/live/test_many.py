"""Ten thousand nodes by four processes at once: all there, all right, and nothing left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counts import anonymous_kb, descriptors, settled
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
