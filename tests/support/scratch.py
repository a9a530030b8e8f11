"""Folders that several users share, and that are gone afterwards, whatever was left in them."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest


def mounts_below(folder: Path) -> list[str]:
    """The mount points at or below `folder` in our own mount namespace."""
    with open("/proc/self/mounts", encoding="utf-8") as lines:
        points = [line.split()[1] for line in lines]
    return [point for point in points if point == str(folder) or point.startswith(f"{folder}/")]


def but_of_other_tests(file: str, folder: Path | None = None) -> list[str]:
    """The lines of a list of mounts, but those in folders that other tests have now."""
    with open(file, encoding="utf-8") as lines:
        return [line for line in lines
                if "/sd-test-" not in line or (folder and str(folder) in line)]  # fmt: skip


_turns = itertools.cycle(range(3))


def _new_folder(below: str) -> Path:
    """Its name comes back some tests later: a compiled policy is kept for the path of its file, and
    to make one takes longer than most of these tests. Never at once, when what is left of the last
    one may be on its way out."""
    first = next(_turns)
    for number in itertools.chain((first, (first + 1) % 3, (first + 2) % 3), itertools.count(3)):
        folder = Path(below) / f"sd-test-{os.getpid()}-{number}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
            return folder
    raise AssertionError("numbers do not end")


@contextlib.contextmanager
def scratch(mode: int = 0o777, below: str = "/tmp") -> Iterator[Path]:
    """A new folder with `mode`. Mounts that a failed test left there are detached at the end."""
    folder = _new_folder(below)
    folder.chmod(mode)
    try:
        yield folder
    finally:
        for point in reversed(mounts_below(folder)):
            subprocess.run(["umount", "-l", point], check=False)
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False)


def a_place(
    mode: int = 0o777, below: str = "/tmp", scope: Literal["function", "module"] = "function"
) -> Callable[[], Iterator[Path]]:
    """A fixture: a folder of scratch() for each test, or for all of a module."""

    @pytest.fixture(scope=scope)
    def place() -> Iterator[Path]:
        with scratch(mode, below) as folder:
            yield folder

    return place


def public(path: Path) -> Path:
    """`path` of pytest's own: it and what is above it are closed to others, and are opened."""
    for parent in (path, *path.parents):
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)
    return path


def apt_mirror() -> str:
    """The Debian mirror that this machine uses."""
    for file in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
        with contextlib.suppress(OSError):
            for line in Path(file).read_text().splitlines():
                words = line.split()
                if words[:1] == ["URIs:"]:
                    return words[1]
                if words[:1] == ["deb"]:
                    return next(word for word in words[1:] if "://" in word)
    return "http://deb.debian.org/debian"


def compile_c(source: str, folder: Path, *flags: str) -> Path:
    """The program tests/programs/SOURCE.c, compiled into `folder` for everybody to run."""
    program = folder / source
    here = Path(__file__).resolve().parent.parent / "programs" / f"{source}.c"
    command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(here), *flags]
    subprocess.run(command, check=True)
    os.chmod(program, 0o755)
    return program
