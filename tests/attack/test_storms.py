"""Signals and deaths at any moment: what completes was carried out once, and nothing is left."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counts import inodes, settled
from tests.support.people import Person
from tests.support.program import Started, patient
from tests.support.scratch import a_place, compile_c, scratch

FEATURES = {"newest": "", "before-5.19": "wait_killable,sync_wake_up"}


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with scratch(0o755) as folder:
        compile_c("storm", folder)
        compile_c("make_remove", folder)
        yield folder

place = a_place()


def storm(
    person: Person, programs: Path, place: Path, *words: str, hide: str = ""
) -> tuple[dict[str, int], int, int]:
    """(what the callers saw, nodes that are there, emulations that succeeded)."""
    nodes = place / "nodes"
    nodes.mkdir()
    person.given(nodes)
    audit = place / "audit.json"
    started = Started(
        person,
        ["run", "--policy", patient(place), "--audit", str(audit), "--",
         str(programs / "storm"), str(nodes), *words],
        env={"SECCOMPD_TEST_HIDE": hide} if hide else {},
    )  # fmt: skip
    done = started.finish(timeout=200)
    assert done.returncode == 0, done.stderr
    assert started.wait_gone() == []
    names = ("completed", "exists", "interrupted", "other", "killed")
    saw = dict(zip(names, map(int, done.stdout.split()[1:]), strict=True))
    records = [json.loads(line) for line in audit.read_text().splitlines()]
    made = sum(1 for record in records if record.get("result") == 0)
    assert records[-1]["lost_records"] == 0
    return saw, len(list(nodes.iterdir())), made


@pytest.mark.parametrize("features", sorted(FEATURES))
@pytest.mark.parametrize("restart", ["restart", "norestart"])
def test_signals(
    person: Person, programs: Path, place: Path, restart: str, features: str
) -> None:
    """Rule 4: emulations equal completed calls.

    Before 5.19 nothing tells for certain that an answer has arrived: a caller may now and then see
    EEXIST for the node that its own interrupted call has made. It is never made twice.
    """
    saw, there, made = storm(
        person, programs, place, "200", "4", restart, "700", hide=FEATURES[features]
    )
    assert (saw["other"], saw["killed"]) == (0, 0), saw
    assert saw["completed"] + saw["exists"] == 800
    assert saw["exists"] <= (0 if features == "newest" else 8), saw
    assert there == 800
    if features == "newest":
        assert made == 800


def test_deaths(person: Person, programs: Path, place: Path) -> None:
    """Callers killed at any moment: at most that many emulations more than completed calls."""
    saw, there, made = storm(
        person, programs, place, "5000", "4", "restart", "700", "kill"
    )
    assert saw["killed"] > 20, saw
    assert (saw["exists"], saw["other"]) == (0, 0)
    assert saw["completed"] <= there <= saw["completed"] + saw["killed"]
    assert made == there
    assert saw["completed"] > 0


@pytest.mark.attack
def test_a_long_storm(person: Person, programs: Path, place: Path) -> None:
    saw, there, made = storm(person, programs, place, "5000", "4", "restart", "500")
    assert saw["completed"] == there == made == 20000


ONE_KIND = """
version: 1
syscalls:
  mknod:
    - {devices: ["null"], do: {emulate: {realise: %s}}}
"""
# Each line on standard input is a time for the program; "0" is one node made and removed.
TURNS = """
while read seconds; do
    if test $seconds = 0; then mknod name c 1 3; rm name; echo
    else %s/make_remove $seconds; rm -f name; mknod name c 1 3; rm name; fi
done
"""


@pytest.mark.parametrize("realise", ["bind", "closed"])
def test_one_name_made_and_removed(
    person: Person, programs: Path, place: Path, realise: str
) -> None:
    """A node that is removed while it is being made was made: nobody is told of the placeholder.

    unlink may come to EBUSY, rarely: the kernel does it, and finds the name mounted on meanwhile.
    """
    (place / "policy.yaml").write_text(ONE_KIND % realise)
    folder = place / "folder"
    folder.mkdir()
    person.given(folder)
    script = f"cd {folder}; {TURNS % programs}"
    command = ["run", "--policy", str(place / "policy.yaml"), "--", "sh", "-euc", script]
    started = Started(person, command, stdin=subprocess.PIPE)
    process = started.process
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        found, held = {}, []
        for seconds in ("0", "1.5"):
            process.stdin.write(f"{seconds}\n".encode())
            process.stdin.flush()
            words = process.stdout.readline().decode().split()
            found = {word.rpartition(":")[0]: int(word.rpartition(":")[2]) for word in words}
            held.append(inodes(settled(process.pid)).get("seccompd-make"))
        done = started.finish()
        assert done.returncode == 0, done.stderr
    finally:
        started.kill()
    assert set(found) <= {"mknod:ok", "mknod:EEXIST", "unlink:ok", "unlink:ENOENT", "unlink:EBUSY"}
    assert min(found["mknod:ok"], found["unlink:ok"]) > 50
    assert held[0] == held[1], "what was made for a name that had gone is gone as well"
    assert list(folder.iterdir()) == []
