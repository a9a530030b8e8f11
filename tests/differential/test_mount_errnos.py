"""The same mounts as real root and under seccompd: the kernel's answer is ours, row by row."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.kernel import idmap
from tests.support import people
from tests.support.devices import for_everybody
from tests.support.people import Person
from tests.support.program import run

TABLE = Path(__file__).resolve().parent.parent / "programs" / "mount_table.py"
POLICY = """\
version: 1
name: mounts
syscalls:
  mount:
    otherwise: kernel
    rules:
      - {fstype: [ext4, squashfs], source: "**", options: {allow: "*"},
         do: {emulate: {via: kernel, force: FORCE, devices: true}}}
"""
FUSE = """\
version: 1
name: programs
syscalls:
  mount:
    otherwise: kernel
    rules:
      - {fstype: ext4, source: "**", options: {allow: "*"},
         do: {emulate: {via: fuse, devices: true}}}
      - {fstype: squashfs, source: "**", options: {allow: "*"},
         do: {emulate: {via: fuse, devices: true}}}
"""
# What comes out otherwise by a FUSE program, and why.
BY_PROGRAMS = {
    # an option is the program's to understand: fuse2fs knows no noload, and serves nothing then
    "ext4 option": "EINVAL",
    "data of 4095 bytes": "EINVAL",
    "data that ends with its page": "EINVAL; EINVAL",
    # a read-only device is opened before its program finds no ext4 on it
    "ext4, squashfs on it": "EINVAL",
    # one program for an image or a device: a second one would write to the same blocks
    "the same again elsewhere": "ok EBUSY EINVAL ok",
}
# FUSE's own superblock takes any option, so a remount with one that is none succeeds.
OTHER_STEPS = {"remounts"}
Rows = dict[str, str]
SQUASHFS = shutil.which("mksquashfs") is not None

pytestmark = pytest.mark.skipif(
    not os.path.exists("/dev/loop-control"), reason="there are no loop devices here"
)


def inner_root() -> int:
    """The host's id of root in root's containers."""
    ranges = idmap.subordinate("/etc/subuid", 0)
    return ranges[0][0] if ranges else idmap.DEFAULT_START


@contextmanager
def scene(place: Path, name: str, owner: int) -> Iterator[Path]:
    """A directory with two images, and with nodes of loop devices for them."""
    top = place / name
    top.mkdir()
    with (top / "image").open("wb") as image:
        image.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", top / "image"], check=True)
    (top / "tree").mkdir()
    shutil.copy(TABLE, top / "tree")
    if SQUASHFS:
        made = ["mksquashfs", str(top / "tree"), str(top / "squash"), "-quiet", "-noappend"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    else:
        shutil.copy(top / "image", top / "squash")
    loops = []
    try:
        for image_name, node, options in (
            ("image", "device", []), ("squash", "squash_device", ["-r"]),
        ):  # fmt: skip
            done = subprocess.run(
                ["losetup", "-f", "--show", *options, top / image_name],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            loops.append(done.stdout.strip())
            number = os.stat(loops[-1]).st_rdev
            os.mknod(top / node, 0o060666, number)
        for entry in (top, *top.iterdir()):
            os.chown(entry, owner, owner, follow_symlinks=False)
        yield top
    finally:
        for loop in loops:
            subprocess.run(["losetup", "-d", loop], check=False)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    top = Path(tempfile.mkdtemp(prefix="seccompd-mounts-", dir="/var/tmp"))
    top.chmod(0o755)
    shutil.copy(TABLE, top / "table.py")
    (top / "policy.yaml").write_text(POLICY.replace("FORCE", "[]"))
    (top / "fuse.yaml").write_text(FUSE)
    (top / "forced.yaml").write_text(POLICY.replace("FORCE", "[nosuid]"))
    yield top
    shutil.rmtree(top)


def rows(text: str) -> Rows:
    found: Rows = dict(json.loads(line) for line in text.splitlines())
    assert len(found) > 100
    if not SQUASHFS:
        found = {name: result for name, result in found.items() if "squashfs" not in name}
    assert not [name for name, result in found.items() if "failed" in result]
    return found


@pytest.fixture(scope="module")
def real(root: Person, place: Path) -> Rows:
    assert root.name is None
    with scene(place, "real", 0) as top:
        done = subprocess.run(
            [sys.executable, place / "table.py", top], capture_output=True, text=True, check=True
        )
    return rows(done.stdout)


def ours(person: Person, place: Path, policy: str, *options: str) -> Rows:
    owner = inner_root() if person.name is None else person.uid
    with scene(place, f"ours-{policy}-{person.name}", owner) as top:
        done = run(
            person, people.python(person), str(place / "table.py"), str(top),
            options=("--policy", str(place / policy), *options), timeout=120,
        )  # fmt: skip
        left = subprocess.run(["losetup", "-j", top / "image"], capture_output=True, check=True)
        assert len(left.stdout.splitlines()) == 1, "no loop device of ours is left"
    assert done.returncode == 0, done.stderr
    return rows(done.stdout)


def test_root(root: Person, place: Path, real: Rows) -> None:
    found = ours(root, place, "policy.yaml")
    differ = {name: (real[name], found[name]) for name in real if found[name] != real[name]}
    assert differ == {}


def test_what_is_forced_is_there_and_all_else_is_as_it_was(
    root: Person, place: Path, real: Rows
) -> None:
    found = ours(root, place, "forced.yaml")
    for name in ("ext4", "ext4 ro", "ext4 magic", "squashfs"):
        if name in real:
            expected = real[name].replace("relatime", "nosuid,relatime")
            assert found[name] == expected, name
    assert "nosuid" in found["remounts"].split("; ")[5]


def plain(result: str) -> str:
    """`result` without what tells a FUSE program from a driver: its name, and flags that libfuse
    sets on all its mounts; its superblock is writable where the mount alone is not, and cannot have
    mandatory locks, which no kernel since 5.15 has (fuse_fill_super_common).
    """
    words = result.replace("fuse.ext4", "ext4").replace("fuse.squashfuse", "squashfs").split(" ")
    for at, word in enumerate(words):
        if word in ("ext4", "squashfs"):
            flags = set(words[at + 1].split(",")) - {"nosuid", "nodev"}
            words[at + 1] = ",".join(sorted(flags))
            whole = set(words[at + 2].split(",")) - {"mand"}
            if "ro" in flags:
                whole = whole - {"rw"} | {"ro"}
            words[at + 2] = ",".join(sorted(whole))
    return " ".join(words)


@pytest.mark.needs("fuse2fs", "squashfuse")
def test_by_programs(person: Person, place: Path, real: Rows) -> None:
    """For an ordinary user, too, a mount's errors are those that real root gets."""
    with for_everybody():
        found = ours(person, place, "fuse.yaml")
    wanted = {**real, **BY_PROGRAMS}
    differ = {
        name: (wanted[name], found[name])
        for name in wanted.keys() & found.keys() - OTHER_STEPS
        if plain(found[name]) != plain(wanted[name])
    }
    assert differ == {}
    assert all("EPERM" not in found[name] for name in ("ext4", "squashfs") if name in found)
