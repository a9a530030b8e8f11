"""A set-user-id program takes the place of a caller that waits: nothing is done in its name.

While the leader of a process is in a call, another of its threads calls execve. The leader is
ended, its call dropped, and behind the same /proc/TID there is a program with other rights.
Who asks the kernel first whether the call still waits, and reads the caller's identity then, acts
with root's rights for somebody who has none.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import Started
from tests.support.racing import lengths
from tests.support.scratch import a_place, compile_c, scratch

UID = 1000
DROP = f"setpriv --reuid {UID} --regid {UID} --clear-groups --"
BIND = """
version: 1
syscalls:
  mknod:
    - {devices: ["null"], do: {emulate: {realise: bind}}}
"""
MOUNT = """
version: 1
syscalls:
  mount:
    - {fstype: ext4, do: {emulate: {via: fuse}}}
"""
EVERY_LENGTH = lengths(3, 60, timeout=600)


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        compile_c("exec_race", folder, "-pthread")
        yield folder

place = a_place(0o777, "/var/tmp")


def race(person: Person, script: str, *options: str, seconds: int) -> tuple[int, int, int, int]:
    """(tries, granted, refused, cut) of the race that `script` ends with."""
    started = Started(person, ["run", *options, "--", "sh", "-ec", script])
    try:
        done = started.finish(timeout=seconds * 2 + 60)
        assert done.returncode == 0, done.stderr
        assert started.wait_gone() == []
    finally:
        started.kill()
    word, *numbers = done.stdout.splitlines()[-1].split()
    assert word == "done"
    tries, granted, refused, cut = map(int, numbers)
    assert tries > seconds * 20, "not enough tries to say anything"
    assert cut > tries // 50, "execve hardly ever came in between"
    assert refused > 0, "execve always came in between"
    return tries, granted, refused, cut


@EVERY_LENGTH
def test_no_node_without_a_namespace(
    root: Person, programs: Path, place: Path, seconds: int
) -> None:
    """The set-user-id program is the machine's own root."""
    folder, program = place / "roots", place / "program"
    folder.mkdir(mode=0o755)
    program.write_bytes((programs / "exec_race").read_bytes())
    program.chmod(0o4755)
    script = f"{DROP} {programs}/exec_race {program} {seconds} 4 mknod {folder}"
    _, granted, _, _ = race(
        root, script, "--map", "none", "--policy", "build", seconds=seconds
    )
    assert (os.listdir(folder), granted) == ([], 0)


@EVERY_LENGTH
def test_no_node_in_a_container(
    person: Person, programs: Path, place: Path, seconds: int
) -> None:
    script = (
        f"cd {place}; mkdir -m 755 roots; cp {programs}/exec_race program; chmod 4755 program; "
        f"{DROP} {programs}/exec_race $PWD/program {seconds} 4 mknod $PWD/roots"
    )
    _, granted, _, _ = race(person, script, "--policy", "build", seconds=seconds)
    assert (os.listdir(place / "roots"), granted) == ([], 0)


@EVERY_LENGTH
def test_no_exchange_in_a_closed_directory(
    person: Person, programs: Path, place: Path, seconds: int
) -> None:
    """A rename that is done for the caller's sake, since one of its names is a bind mount."""
    policy = place / "bind.yaml"
    policy.write_text(BIND)
    script = (
        f"cd {place}; cp {programs}/exec_race program; chmod 4755 program; "
        "mkdir -m 700 closed; echo secret > closed/secret; mkdir open; mknod open/n c 1 3; "
        f"chown {UID}:{UID} open; "
        f"{DROP} {programs}/exec_race $PWD/program {seconds} 4 "
        "exchange $PWD/closed/secret $PWD/open/n; "
        "test -f closed/secret -a -c open/n || { ls -l closed open >&2; exit 9; }"
    )
    _, granted, _, _ = race(person, script, "--policy", str(policy), seconds=seconds)
    assert granted == 0
    assert (place / "closed" / "secret").read_text() == "secret\n"


@EVERY_LENGTH
def test_no_mount(person: Person, programs: Path, place: Path, seconds: int) -> None:
    """Whoever calls has no capability; who takes its place is the container's root."""
    policy, image = place / "mount.yaml", place / "image"
    policy.write_text(MOUNT)
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    image.chmod(0o666)
    script = (
        f"cd {place}; cp {programs}/exec_race program; chmod 4755 program; mkdir m; "
        f"{DROP} {programs}/exec_race $PWD/program {seconds} 4 mount {image} $PWD/m; "
        "! grep fuse /proc/self/mountinfo >&2"
    )
    _, granted, _, _ = race(person, script, "--policy", str(policy), seconds=seconds)
    assert granted == 0
