"""The same calls on sockets by real root and under seccompd: the kernel's answer is ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import people
from tests.support.people import Person
from tests.support.program import run
from tests.support.scratch import scratch
from tests.support.sockets import policy

TABLE = Path(__file__).resolve().parent.parent / "programs" / "socket_table.py"
ALL = ["do: emulate"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        shutil.copy(TABLE, folder / "table.py")
        (folder / "table.py").chmod(0o644)
        policy(folder / "policy.yaml", ALL, ALL)
        yield folder


@pytest.fixture(scope="module")
def real(root: Person, place: Path) -> list[str]:
    assert root.name is None
    (place / "real").mkdir()
    done = subprocess.run(
        [sys.executable, str(place / "table.py")], cwd=place / "real", capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    found = done.stdout.splitlines()
    assert len(found) > 100
    # what the rest of the table rests upon
    assert {"connect 127.0.0.1", "restarted 0", "interrupted EINTR", "umask 0o140700"} < set(found)
    return found


@pytest.mark.parametrize("map_", ["auto", "none"])
def test_root(root: Person, place: Path, real: list[str], map_: str) -> None:
    where = place / map_
    where.mkdir()
    where.chmod(0o777)
    assert ours(root, place, where, "--map", map_) == real


def test_an_ordinary_user(user: Person, place: Path, real: list[str]) -> None:
    where = place / "user"
    where.mkdir()
    where.chmod(0o777)
    assert ours(user, place, where) == real


def ours(person: Person, place: Path, where: Path, *more: str) -> list[str]:
    script = f"cd {where}; exec {people.python(person)} {place}/table.py"
    options = ("--policy", str(place / "policy.yaml"), *more)
    done = run(person, "sh", "-euc", script, options=options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
