"""Rule 21: no node in a directory whose owner is not mapped, whoever may write there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch
from tests.support.shell import NO

NOBODY = 65534
REALISE = ("auto", "node", "bind", "closed")
# By device, so that one run shows all ways: 1:3 auto, 1:5 node, 1:7 bind, 5:1 closed, and 1:8 by a
# path, which takes a way of its own.
POLICY = """
version: 1
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
    - {devices: [zero], do: {emulate: {realise: node}}}
    - {devices: [full], do: {emulate: {realise: bind}}}
    - {devices: [console], do: {emulate: {realise: closed}}}
    - {devices: [random], path: "/**", do: emulate}
"""
# Each device by each kind of path to a new name in FOLDER, and what other calls come to.
CODE = """
import errno, json, os, stat, sys
folder, found = sys.argv[1], {}
there = os.open(folder, os.O_PATH)
def told(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
def node(path, device, **more):
    return told(lambda: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*device), **more))
for device in ((1, 3), (1, 5), (1, 7), (5, 1), (1, 8)):
    name = "n%d.%d" % device
    os.chdir("/")
    found[name] = [
        node(f"{folder}/{name}", device), node(f"{folder}/../{sys.argv[2]}/{name}", device),
        node(name, device, dir_fd=there),
    ]
    os.chdir(folder)
    found[name].append(node(name, device))
    found[name] = sorted(set(found[name]))
found["first"] = [
    node(path, (1, 3)) for path in ("old", "no/x", "old/x", "x" * 256, "x/", ".", "")
]
found["refused"] = [node("n", (8, 0))]
found["fifo"] = [told(lambda: os.mkfifo("fifo"))]
found["listed"] = sorted(os.listdir("."))
print(json.dumps(found))
"""
NAMES = ("n1.3", "n1.5", "n1.7", "n5.1", "n1.8")
FIRST = ["EEXIST", "ENOENT", "ENOTDIR", "ENAMETOOLONG", "ENOENT", "EEXIST", "ENOENT"]


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        (folder / "policy.yaml").write_text(POLICY)
        yield folder


def found_in(person: Person, place: Path, folder: Path, *options: str) -> dict[str, list[str]]:
    (folder / "old").touch()
    done = run(
        person, python(person), "-c", CODE, str(folder), folder.name,
        options=("--policy", str(place / "policy.yaml"), *options),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def made(place: Path, mode: int, uid: int, gid: int, name: str = "folder") -> Path:
    folder = place / name
    folder.mkdir()
    os.chown(folder, uid, gid)
    folder.chmod(mode)
    return folder


@pytest.mark.parametrize("mode", [0o777, 0o1777])
@pytest.mark.parametrize("owner", [0, 4242, NOBODY])
def test_a_directory_that_belongs_to_nobody(
    person: Person, place: Path, mode: int, owner: int
) -> None:
    """The host's root's, and two others', of whom one shows as an id that is mapped."""
    folder = made(place, mode, owner, person.given(made(place, 0o755, 0, 0, "x")).stat().st_gid)
    found = found_in(person, place, folder)
    assert [found[name] for name in NAMES] == [["EACCES"]] * len(NAMES)
    assert found["first"] == FIRST, "what comes before EACCES"
    assert found["refused"] == ["EPERM"]
    assert found["fifo"] == ["ok"], "the kernel's own business, with the caller's own rights"
    assert found["listed"] == ["fifo", "old"]


def test_on_file_systems_of_their_own(person: Person, place: Path) -> None:
    """Where a node would be a bind mount (nodev), and where nothing new can be (read-only)."""
    for options, answer in (("nodev", "EACCES"), ("dev", "EACCES"), ("ro", "EROFS")):
        folder = made(place, 0o777, 0, 0, options)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "t", folder], check=True)
        (folder / "old").touch()
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
        if options == "ro":
            script = f"{NO}cd {folder}; no mknod n c 1 3; no mknod old c 1 3; no mknod n c 1 8"
            done = run(person, "sh", "-euc", script,
                       options=("--policy", str(place / "policy.yaml")))  # fmt: skip
            assert done.stderr.splitlines() == [
                "mknod: n: Read-only file system", "mknod: old: File exists",
                "mknod: n: Read-only file system",
            ]  # fmt: skip
        else:
            found = found_in(person, place, folder)
            assert [found[name] for name in NAMES] == [[answer]] * len(NAMES)
            assert found["first"] == FIRST


def test_a_directory_of_the_containers_nobody(person: Person, place: Path) -> None:
    """65534 inside is somebody who is mapped, and shows as those who are not."""
    done = run(person, "cat", "/proc/self/uid_map")
    maps = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    (uid,) = (
        outside + NOBODY - inside for inside, outside, count in maps
        if inside <= NOBODY < inside + count
    )  # fmt: skip
    for number, mode in enumerate((0o755, 0o733, 0o1777, 0o333)):
        folder = made(place, mode, uid, uid, f"folder{number}")
        found = found_in(person, place, folder)
        ways = {name: found[name] for name in NAMES}
        expected = {name: ["EEXIST", "ok"] for name in NAMES}
        if person.name is not None:
            expected["n1.5"] = ["EPERM"]  # an ordinary user has no real nodes
        assert ways == expected


def test_a_group_that_is_not_mapped_is_no_matter(person: Person, place: Path) -> None:
    folder = made(place, 0o755, person.inner_root, 0)
    found = found_in(person, place, folder)
    assert found["n1.3"] == ["EEXIST", "ok"]


def test_without_a_namespace_everybody_is_somebody(root: Person, place: Path) -> None:
    for owner in (0, NOBODY):
        folder = made(place, 0o1777, owner, 0, f"folder{owner}")
        found = found_in(root, place, folder, "--map", "none")
        assert found["n1.3"] == ["EEXIST", "ok"]


def test_without_cap_mknod_it_is_eperm_as_ever(person: Person, place: Path) -> None:
    folder = made(place, 0o777, 0, 0)
    script = f"cd {folder}; exec setpriv --bounding-set -mknod --inh-caps -mknod mknod n c 1 3"
    done = run(person, "sh", "-euc", script, options=("--policy", str(place / "policy.yaml")))
    assert done.stderr == "mknod: n: Operation not permitted\n"
