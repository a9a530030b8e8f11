"""mkdir and mkdirat in every way: what the kernel answers and makes is what we do, row by row."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch
from tests.support.tables import Rows, a_scene, rows

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
RULES = {
    "emulated": "[{do: emulate}]",
    "decided by path": "[{path: /nowhere/at/all, do: refuse}, {path: '/**', do: emulate}]",
}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that everybody reaches, on the disk, with policies and the program."""
    with scratch(0o755, "/var/tmp") as top:
        for name in ("mknod_table.py", "mkdir_table.py"):
            shutil.copy(PROGRAMS / name, top)
            (top / name).chmod(0o644)
        for name, rules in RULES.items():
            (top / f"{name}.yaml").write_text(f"version: 1\nsyscalls: {{mkdir: {rules}}}\n")
        yield top


@pytest.fixture(scope="module")
def real(root: Person, place: Path) -> Rows:
    assert root.name is None
    table = [sys.executable, str(place / "mkdir_table.py"), a_scene(place, "real", 0)]
    found = rows(subprocess.run(table, capture_output=True, text=True, check=True).stdout)
    assert len(found) > 110
    assert not [name for name, result in found.items() if "failed" in result]
    return found


def ours(person: Person, place: Path, rules: str, scene: str, *options: str) -> Rows:
    done = run(
        person, python(person), f"{place}/mkdir_table.py", scene,
        options=("--policy", f"{place}/{rules}.yaml", *options),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return rows(done.stdout)


def test_in_a_container(person: Person, place: Path, real: Rows) -> None:
    """Root's, and an ordinary user's."""
    rules = "decided by path" if person.uid == 0 else "emulated"
    scene = a_scene(place, f"{person.uid} {rules}", person.inner_root)
    assert ours(person, place, rules, scene) == wanted(real, rules)


def test_without_namespaces(root: Person, place: Path, real: Rows) -> None:
    """A record says where a directory is, and changes nothing."""
    scene, log = a_scene(place, "none", 0), place / "log"
    found = ours(root, place, "emulated", scene, "--map", "none", "--audit", str(log))
    assert found == real
    made = [json.loads(line) for line in log.read_text().splitlines()]
    assert f"{scene}/d/n" in {one.get("resolved") for one in made}


def wanted(real: Rows, rules: str) -> Rows:
    """What is outside of the caller's root has no path that a rule could have."""
    if rules == "emulated":
        return real
    name = "chroot, cwd outside"
    *_, inside = real[name].partition("ok 40755 0:0 0:0 ok 40755 0:0 0:0 ")
    return {**real, name: f"EACCES EACCES {inside}"}
