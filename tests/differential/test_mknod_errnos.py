"""The same calls as real root and under seccompd: the kernel's answer is ours, row by row."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import people
from tests.support.people import Person
from tests.support.program import run
from tests.support.tables import Rows, a_scene, rows

TABLE = Path(__file__).resolve().parent.parent / "programs" / "mknod_table.py"
POLICY = """\
version: 1
name: everything
syscalls:
  mknod:
    - {devices: ["char *:*", "block *:*"], do: emulate}
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that everybody reaches, on the disk of the machine, with policy and program."""
    top = Path(tempfile.mkdtemp(prefix="seccompd-table-", dir="/var/tmp"))
    top.chmod(0o755)
    shutil.copy(TABLE, top / "table.py")
    (top / "policy.yaml").write_text(POLICY)
    for file in top.iterdir():
        file.chmod(0o644)
    yield top
    shutil.rmtree(top)


@pytest.fixture(scope="module")
def real(root: Person, place: Path) -> Rows:
    assert root.name is None
    done = subprocess.run(
        [sys.executable, str(place / "table.py"), a_scene(place, "real", 0)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = rows(done.stdout)
    assert len(found) > 100
    assert not [name for name, result in found.items() if "failed" in result]
    return found


def ours(person: Person, place: Path, script: str, *options: str) -> Rows:
    done = run(
        person, "sh", "-euc", script.replace("TABLE", f"{people.python(person)} {place}/table.py"),
        options=("--policy", str(place / "policy.yaml"), *options),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return rows(done.stdout)


def test_root_on_the_disk(root: Person, place: Path, real: Rows) -> None:
    where = a_scene(place, "disk", root.inner_root)
    assert ours(root, place, f"TABLE {where}") == real


def test_root_on_a_tmpfs_of_the_container(root: Person, place: Path, real: Rows) -> None:
    """Real nodes would not open there: these are bind mounts, and look the same."""
    script = "mount -t tmpfs t /mnt; mkdir -p /mnt/a/scene; TABLE /mnt/a/scene"
    assert ours(root, place, script) == real


def test_root_without_namespaces(root: Person, place: Path, real: Rows) -> None:
    where = a_scene(place, "none", 0)
    assert ours(root, place, f"TABLE {where}", "--map", "none") == real


def test_ordinary_user(user: Person, place: Path, real: Rows) -> None:
    """Errnos are the same; owner and mode are those of the host's nodes."""
    where = a_scene(place, "user", user.uid)
    found = ours(user, place, f"TABLE {where}")
    # the host has no such device
    assert found.pop("large numbers") == "EPERM"
    expected = {name: seen(result) for name, result in real.items() if name in found}
    assert {name: seen(result) for name, result in found.items()} == expected


def seen(result: str) -> str:
    """What of a row does not depend on owner and mode."""
    return re.sub(r"ok ([26])[0-7]{4} (\d+:\d+) \d+:\d+", r"ok \1 \2", result)
