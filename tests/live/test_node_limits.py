"""What a bind-mounted node cannot do, as SECURITY.md says it: a change here is a change there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch
from tests.support.shell import NO

POLICY = """\
version: 1
name: bind
syscalls:
  mknod:
    - {devices: ["null", zero], do: {emulate: {realise: bind}}}
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(below="/var/tmp") as folder:
        (folder / "policy.yaml").write_text(POLICY)
        (folder / "policy.yaml").chmod(0o644)
        yield folder


def inside(person: Person, place: Path, script: str) -> subprocess.CompletedProcess[str]:
    """A script in a directory of the container's own, which is removed after it."""
    start = f"{NO}cd {place}; d=$(mktemp -d -p .); cd $d; "
    options = ("--policy", str(place / "policy.yaml"))
    return run(person, "sh", "-euc", f"{start}{script}", options=options, timeout=60)


def shown(person: Person, place: Path, script: str) -> list[str]:
    done = inside(person, place, script)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_directory_says_regular_file(person: Person, place: Path) -> None:
    script = f"""
    mknod n c 1 3; find . -type f; find . -type c; stat -c %F n
    {python(person)} -c 'import os
for e in os.scandir("."): print(e.is_file(follow_symlinks=False), os.stat(e).st_rdev)'
    """
    assert shown(person, place, script) == ["./n", "character special file", "True 259"]


def test_two_nodes_of_a_device_are_one_file_for_an_ordinary_user(user: Person, place: Path) -> None:
    script = """
    mknod a c 1 3; mknod b c 1 3; test a -ef b
    cp -a a c; no cp -a a c 2>&1; no mv a b 2>&1; rm -f b; mv a b; test -c b
    """
    assert shown(user, place, script) == [
        "cp: 'a' and 'c' are the same file",
        "mv: 'a' and 'b' are the same file",
    ]


def test_two_nodes_of_a_device_are_two_files_for_root(root: Person, place: Path) -> None:
    script = "mknod a c 1 3; mknod b c 1 3; no test a -ef b; "
    script += "cp -a a c; cp -a a c; mv a b; test -c b"
    assert shown(root, place, script) == []


def test_a_node_stays_in_its_mount_namespace(person: Person, place: Path) -> None:
    script = """
    unshare -m sh -c 'mknod n c 1 3; test -c n'; stat -c '%F %s' n
    mknod m c 1 3; mkdir v; mount --bind . v; stat -c %F v/m; umount v
    mount --rbind . v; stat -c %F v/m
    """
    assert shown(person, place, script) == [
        "regular empty file 0", "regular empty file", "character special file",
    ]  # fmt: skip


def test_opening_with_creat_in_a_sticky_directory(user: Person, place: Path) -> None:
    """There the kernel wants the node to be the caller's, or the directory's owner's."""
    script = f"""
    mkdir t; chmod 1777 t; mknod t/n c 1 3; {python(user)} -c 'import os
os.close(os.open("t/n", os.O_WRONLY))
try: os.close(os.open("t/n", os.O_WRONLY | os.O_CREAT))
except OSError as e: print(e.strerror)'
    """
    assert shown(user, place, script) == ["Permission denied"]


def test_other_mounts_below_keep_a_file_system_mounted(person: Person, place: Path) -> None:
    script = """
    mkdir t; mount -t tmpfs t t; mkdir t/u; mount -t tmpfs u t/u; mknod t/n c 1 3
    no umount t 2>/dev/null; test -c t/n; umount -R t; test ! -e t/n
    mount -t tmpfs t t; mkdir t/u; mount -t tmpfs u t/u; mknod t/n c 1 3; umount -l t
    """
    assert shown(person, place, script) == []


def test_a_placeholder_is_left_behind(person: Person, place: Path) -> None:
    folder = place / "left"
    folder.mkdir()
    person.given(folder)
    again = f"cd {folder}; mknod n c 1 3"
    options = ("--policy", str(place / "policy.yaml"))
    assert run(person, "sh", "-c", again, options=options).returncode == 0
    assert ((folder / "n").is_file(), (folder / "n").stat().st_size) == (True, 0)
    done = run(person, "sh", "-c", again, options=options)
    assert (done.returncode, done.stderr) == (1, "mknod: n: File exists\n")
    assert run(person, "rm", str(folder / "n"), options=options).returncode == 0
