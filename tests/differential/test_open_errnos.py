"""An open of what is given comes to what the kernel says of a file that is there: every combination
of flags, by every call, held against an ordinary user's opens of a plain file, and against those of
real root of what is given itself.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.needs import need
from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch

PROGRAM = Path(__file__).resolve().parent.parent / "programs" / "open_table.py"
RULES = """
version: 1
syscalls:
  open:
    - {path: /given/file, do: {inject: {file: PLACE/file}}}
    - {path: /given/both, do: {inject: {file: PLACE/both, access: read-write}}}
    - {path: /given/roots, do: {inject: {file: PLACE/roots, access: read-write}}}
    - {path: /given/text, do: {inject: {content: "xyz"}}}
    - {path: /given/zero, do: {inject: {device: zero}}}
    - {path: /given/tun, do: {inject: {device: tun}}}
    - {path: /given/disk, do: {inject: {device: "block 7:NUMBER"}}}
    - {path: /given/directory, do: {inject: {directory: PLACE/directory}}}
    - {path: /given/open, do: {inject: {directory: PLACE/directory, access: read-write}}}
"""
# What is no directory is not given with O_DIRECTORY: then it is the kernel's to say what is there.
NO_DIRECTORY = "O_DIRECTORY"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    need("losetup")
    with scratch(0o755, "/var/tmp") as folder:
        shutil.copy(PROGRAM, folder / "table.py")
        for name, mode in (("file", 0o444), ("text", 0o444), ("both", 0o666), ("roots", 0o600)):
            (folder / name).write_text("xyz")
            (folder / name).chmod(mode)
        (folder / "directory").mkdir(mode=0o755)
        (folder / "image").write_bytes(b"disk" + bytes(1 << 20))
        words = ["losetup", "-f", "--show", str(folder / "image")]
        disk = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        try:
            (folder / "disk").symlink_to(disk)
            rules = RULES.replace("PLACE", str(folder))
            (folder / "rules.yaml").write_text(
                rules.replace("NUMBER", disk.removeprefix("/dev/loop"))
            )
            yield folder
        finally:
            subprocess.run(["losetup", "-d", disk], check=True)


def truth(person: Person, place: Path, path: str, *words: str) -> list[str]:
    """What the kernel says to somebody outside."""
    command = person.argv([python(person), str(place / "table.py"), path, *words])
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines()


def others(place: Path, path: str, left_out: str = NO_DIRECTORY, hidden: str = "") -> list[str]:
    """The same, to somebody to whom the file does not belong."""
    return truth(Person("nobody"), place, path, left_out, hidden)


def given(
    person: Person, place: Path, path: str, left_out: str = NO_DIRECTORY, hidden: str = "",
    options: tuple[str, ...] = (),
) -> list[str]:  # fmt: skip
    command = [python(person), str(place / "table.py"), path, left_out, hidden]
    options = ("--policy", str(place / "rules.yaml"), "--unshare", "net", *options)
    done = run(person, *command, options=options, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def fresh(place: Path, name: str) -> None:
    """As it was: O_TRUNC has emptied it."""
    (place / name).write_text("xyz")


@pytest.mark.parametrize("name", ["file", "both"])
def test_a_file(root: Person, place: Path, name: str) -> None:
    fresh(place, name)
    expected = others(place, f"{place}/{name}")
    fresh(place, name)
    assert given(root, place, f"/given/{name}") == expected
    assert len(expected) > 300


@pytest.mark.parametrize("name", ["directory", "open"])
def test_a_directory(root: Person, place: Path, name: str) -> None:
    """Beside O_TMPFILE, which is the kernel's."""
    left_out = "half of O_TMPFILE"
    for slash in ("", "/"):
        expected = others(place, f"{place}/directory{slash}", left_out)
        assert given(root, place, f"/given/{name}{slash}", left_out) == expected
    assert len(expected) > 300


def test_content(person: Person, place: Path) -> None:
    """It is in memory, where O_DIRECT reads as all do. It has no name, and so no O_NOFOLLOW."""
    left_out = f"{NO_DIRECTORY},O_DIRECT"
    expected = others(place, f"{place}/text", left_out, "O_NOFOLLOW")
    assert given(person, place, "/given/text", left_out, "O_NOFOLLOW") == expected


def test_a_device(person: Person, place: Path) -> None:
    """O_NOATIME is for who owns a node; here that is nobody. A user's is the host's own, and is
    opened by no name."""
    hidden = "O_NOFOLLOW" if person.uid else ""
    expected = others(place, "/dev/zero", hidden=hidden)
    assert given(person, place, "/given/zero", hidden=hidden) == expected


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", ["roots", "zero", "tun", "disk"])
def test_what_is_roots(root: Person, place: Path, name: str, recorded: bool) -> None:
    """As real root has it; also where each open takes the long way."""
    own = {"zero": "/dev/zero", "tun": "/dev/net/tun"}.get(name, f"{(place / name).resolve()}")
    left_out = f"{NO_DIRECTORY},O_NOATIME"
    fresh(place, "roots")
    expected = truth(root, place, own, left_out, "")
    fresh(place, "roots")
    options = ("--audit", str(place / "audit.log")) if recorded else ()
    assert given(root, place, f"/given/{name}", left_out, options=options) == expected
    assert len(expected) > 250
