"""`realise: closed`: nodes that the container's root sees, changes and removes, and cannot open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch
from tests.support.shell import NO

PROGRAM = Path(__file__).resolve().parent.parent / "programs" / "open_closed.py"
POLICY = """
version: 1
syscalls:
  mknod:
    - {devices: [%s], do: {emulate: {realise: %s}}}
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(below="/var/tmp") as folder:
        shutil.copy(PROGRAM, folder / "program.py")
        (folder / "program.py").chmod(0o644)
        yield folder


def tries(person: Person, place: Path, where: str, kind: str, how: str) -> list[str]:
    """What each way of opening a node comes to; `kind`: "c 1 5" or the like."""
    letter, major, minor = kind.split()
    device = f"{'char' if letter == 'c' else 'block'} {major}:{minor}"
    (place / "policy.yaml").write_text(POLICY % (f'"{device}"', how))
    folder = place / "folder"
    folder.mkdir()
    person.given(folder)
    start = "cd /mnt" if where == "tmpfs" else f"cd {folder}"
    script = f"""
    mount -t tmpfs -o mode=755 t /mnt; {start}; mknod n {kind}
    {python(person)} {place}/program.py n {major}:{minor}
    """
    options = ("--policy", str(place / "policy.yaml"))
    done = run(person, "sh", "-euc", script, options=options, timeout=60)
    assert done.returncode == 0, done.stderr
    left = [file for file in folder.rglob("*") if not file.is_file() or file.stat().st_size]
    assert left == [] or how != "closed", "no more than placeholders stays"
    return done.stdout.splitlines()


@pytest.mark.parametrize("where", ["disk", "tmpfs"])
@pytest.mark.parametrize("kind", ["c 1 5", "b 7 0"])
def test_there_is_no_way(root: Person, place: Path, where: str, kind: str) -> None:
    found = tries(root, place, where, kind, "closed")
    assert len(found) > 20
    assert [line for line in found if not line.startswith("refused ")] == []


def test_the_ways_are_ways(root: Person, place: Path) -> None:
    """Of a node that is not closed nearly all of them open it."""
    found = tries(root, place, "tmpfs", "c 1 5", "bind")
    assert len([line for line in found if line.startswith("OPENED ")]) > 15


def test_an_ordinary_users_is_the_hosts(user: Person, place: Path) -> None:
    """It has the owner and the mode that it has there, and the container's root is nobody to it."""
    (place / "policy.yaml").write_text(POLICY % ('zero, console, "block 7:0"', "closed"))
    script = f"""{NO}
    cd {place}; mkdir t; mount -t tmpfs t t; cd t; mknod z c 1 5; mknod l b 7 0; mknod c c 5 1
    reads() {{ true 3<$1; }}; writes() {{ true 3>$1; }}
    chmod 666 l c; chown 0:0 l c; for n in l c; do no reads $n; no writes $n; done
    test "$(head -c 2 z | od -An -tx1)" = " 00 00"
    """
    options = ("--policy", str(place / "policy.yaml"))
    done = run(user, "sh", "-euc", script, options=options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("Permission denied") == 4
