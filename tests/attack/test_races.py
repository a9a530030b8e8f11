"""A path that changes its meaning while seccompd works with it leads nowhere it must not.

What is decided and what is done both come from one reading of the caller's memory and from one walk
of the path: whatever another thread does meanwhile, a node appears where a rule allows it and the
directory's owner belongs to the container, or it does not appear at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.racing import lengths, race_numbers
from tests.support.scratch import a_place, compile_c, scratch

EVERY_LENGTH = lengths(1.2, 40, timeout=400)
# A relative path is not known before it has been followed; "string" needs one that is.
RULES = """
version: 1
syscalls:
  mknod:
    - {devices: ["null"], path: "%s/allowed/*", do: emulate}
"""
ANYWHERE = """
version: 1
syscalls:
  mknod:
    - {devices: ["null"], do: {emulate: {realise: %s}}}
"""


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        compile_c("path_race", folder, "-pthread")
        yield folder

place = a_place(0o777, "/var/tmp")


def race(
    person: Person, programs: Path, place: Path, rules: str, how: str, seconds: float, make: str
) -> None:
    """A race between place/allowed and place/refused: nothing may appear in the latter."""
    names = f"{place}/allowed {place}/refused" if how == "string" else "allowed refused"
    script = f"{make}; {programs}/path_race {how} {seconds} {names}"
    made, refused, turns, appeared = race_numbers(person, place, rules, script, seconds)
    assert appeared == 0
    assert min(made, refused) > 5, "one side always won"
    assert turns > 50


@EVERY_LENGTH
@pytest.mark.parametrize("how", ["string", "symlink", "cwd", "dirfd"])
def test_the_rule_holds(
    person: Person, programs: Path, place: Path, how: str, seconds: float
) -> None:
    """Rule 12: between a directory that the policy allows, and one that it does not."""
    race(person, programs, place, RULES % place, how, seconds, "mkdir allowed refused")
    assert os.listdir(place / "refused") == []


@EVERY_LENGTH
@pytest.mark.parametrize(
    ("how", "realise"),
    [*((how, "auto") for how in ("string", "symlink", "cwd", "dirfd", "exchange")),
     ("symlink", "bind"), ("exchange", "bind")],
)  # fmt: skip
def test_a_directory_of_somebody_else(
    person: Person, programs: Path, place: Path, how: str, realise: str, seconds: float
) -> None:
    """Rule 21: between a directory of the container's root, and one of the machine's.

    Neither may be entered by its new name with what was found out about the old one.
    """
    hosts = place / "refused"
    hosts.mkdir(mode=0o755)
    race(person, programs, place, ANYWHERE % realise, how, seconds, "mkdir allowed")
    (left,) = (folder for folder in place.iterdir() if folder.is_dir() and not folder.is_symlink()
               and folder.stat().st_uid == 0 and not os.listdir(folder))  # fmt: skip
    assert left.stat().st_mode & 0o7777 == 0o755
