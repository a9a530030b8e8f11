"""An open of what is given comes to what the kernel says of a file that is there: every combination
of flags, by every call, held against an ordinary user's opens of a plain file.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch

PROGRAM = Path(__file__).resolve().parent.parent / "programs" / "open_table.py"
RULES = """
version: 1
syscalls:
  open:
    - {path: /given/file, do: {inject: {file: %s/file}}}
    - {path: /given/both, do: {inject: {file: %s/both, access: read-write}}}
    - {path: /given/text, do: {inject: {content: "xyz"}}}
    - {path: /given/zero, do: {inject: {device: zero}}}
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        shutil.copy(PROGRAM, folder / "table.py")
        for name, mode in (("file", 0o444), ("text", 0o444), ("both", 0o666)):
            (folder / name).write_text("xyz")
            (folder / name).chmod(mode)
        (folder / "rules.yaml").write_text(RULES % (folder, folder))
        yield folder


def truth(place: Path, path: str) -> list[str]:
    """What the kernel says to somebody to whom the file does not belong."""
    nobody = Person("nobody")
    command = nobody.argv([python(nobody), str(place / "table.py"), path])
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines()


def given(person: Person, place: Path, path: str) -> list[str]:
    command = [python(person), str(place / "table.py"), path]
    options = ("--policy", str(place / "rules.yaml"))
    done = run(person, *command, options=options, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def fresh(place: Path, name: str) -> None:
    """As it was: O_TRUNC has emptied it."""
    (place / name).write_text("xyz")


@pytest.mark.parametrize("name", ["file", "both"])
def test_a_file(root: Person, place: Path, name: str) -> None:
    fresh(place, name)
    expected = truth(place, f"{place}/{name}")
    fresh(place, name)
    assert given(root, place, f"/given/{name}") == expected
    assert len(expected) > 150


def test_content(person: Person, place: Path) -> None:
    assert given(person, place, "/given/text") == truth(place, f"{place}/text")


def test_a_device(person: Person, place: Path) -> None:
    """O_NOATIME is for who owns a node; here that is nobody."""
    expected = truth(place, "/dev/zero")
    assert given(person, place, "/given/zero") == expected
