"""`seccompd run --learn`: the same run passes under what was learned from it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import run, seccompd
from tests.support.scratch import scratch


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(0o777, "/var/tmp") as folder:
        below = folder / "work-1a2b3c"  # scratch's own name may look like a word
        below.mkdir()
        below.chmod(0o777)
        yield below


SCRIPT = r"""
mkdir -p tree/dev; cd tree
for n in 'null 1 3' 'zero 1 5' 'full 1 7' 'tty 5 0'; do set -- $n; mknod dev/$1 c $2 $3; done
ln -s dev link; mknod link/random c 1 8
T=$(mktemp -d); mknod $T/null c 1 3; mknod "$T/a\"b: *[x]" c 1 3
mknod sda b 8 0; mkdir m; mount -t tmpfs none m; chroot . /nothing; rm -r $T
"""


def test_the_same_run_passes(person: Person, place: Path) -> None:
    out, log = place / "out.yaml", place / "log"
    script = f"cd {place}; {SCRIPT}"
    first = run(person, "sh", "-c", script, options=["--learn", str(out)])
    assert first.stderr.count("Operation not permitted") == 1, first.stderr
    assert "1 refused" in first.stderr
    text = out.read_text()
    assert "block 8:0" not in text
    assert "the host's block devices: never learned" in text
    checked = subprocess.run(
        seccompd(person, "check", str(out)), env=person.environ(), capture_output=True, text=True
    )
    assert checked.returncode == 0
    assert checked.stderr == ""
    run(person, "rm", "-rf", str(place / "tree"))
    again = run(person, "sh", "-c", script, options=["--policy", str(out), "--audit", str(log)])
    assert again.returncode == first.returncode
    assert again.stderr.count("Operation not permitted") == 1, again.stderr
    records = [json.loads(line) for line in log.read_text().splitlines()]
    nodes = [one for one in records if one.get("syscall", "").startswith("mknod")]
    assert len([one for one in nodes if one.get("result") == 0]) == 7
    replayed = subprocess.run(
        seccompd(person, "replay", "--policy", "learn", str(log)),
        env=person.environ(), capture_output=True, text=True,
    )  # fmt: skip
    assert replayed.returncode == 0, replayed.stdout


def test_what_is_there_stays(person: Person, place: Path) -> None:
    out = place / "out.yaml"
    out.write_text("mine")
    done = run(person, "touch", str(place / "ran"), options=["--learn", str(out)])
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert out.read_text() == "mine"
    assert not (place / "ran").exists()


def test_a_policy_is_extended(person: Person, place: Path) -> None:
    old, out = place / "old.yaml", place / "out.yaml"
    rule = "- {devices: [zero], do: emulate}"
    old.write_text(f"# mine\nversion: 1\nsyscalls:\n  mknod:\n    {rule}\n")
    done = run(
        person, "sh", "-c", f"cd {person.given(place)}; mknod a c 1 5; mknod b c 1 3",
        options=["--learn", str(out), "--merge", str(old)],
    )  # fmt: skip
    assert done.returncode == 0
    # The command's own stdout is not ours to write to.
    assert done.stdout == ""
    added = [line for line in done.stderr.splitlines() if line.startswith("+ ")]
    (line,) = added
    assert line.startswith('+    - {devices: ["null"], path: "/var/tmp/')
    assert line.endswith('/work-*/b", do: emulate}')
    assert out.read_text().startswith("# mine\n")
