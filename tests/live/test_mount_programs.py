"""Real programs that mount, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.kernel import idmap
from tests.support.devices import for_everybody
from tests.support.people import Person, python, tree
from tests.support.program import run
from tests.support.scratch import a_place

pytestmark = pytest.mark.needs("fuse2fs")

MOUNT = (
    "import ctypes, os, sys; l = ctypes.CDLL(None, use_errno=True); a = sys.argv[1:]; "
    "r = l.mount(*[w.encode() for w in a[:3]], ctypes.c_ulong(int(a[3], 0)), "
    "(a[4:] or [''])[0].encode()); sys.exit(ctypes.get_errno() if r else 0)"
)


@pytest.fixture(autouse=True)
def fuse() -> Iterator[None]:
    with for_everybody():
        yield


place = a_place()


def image(place: Path, kind: str = "ext4") -> Path:
    """An image with an empty filesystem that everybody may change."""
    file = place / f"{kind}.img"
    with file.open("wb") as opened:
        opened.truncate(32 << 20)
    owner = "root_owner=0:0"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", owner, file], check=True)
    file.chmod(0o666)
    return file


def inner_root() -> int:
    ranges = idmap.subordinate("/etc/subuid", 0)
    return ranges[0][0] if ranges else idmap.DEFAULT_START


@pytest.mark.slow
def test_the_example_edits_an_image(person: Person) -> None:
    done = subprocess.run(
        person.argv([python(person), str(tree(person) / "examples" / "edit-image.py")]),
        env=person.environ(), cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The image is clean" in done.stdout
    assert "emulated: loop-images.yaml:" in done.stderr


def test_a_build_in_an_image_and_a_clean_fsck(person: Person, place: Path) -> None:
    file = image(place)
    script = (
        f'{python(person)} -c "$0" {file} /mnt ext4 0 && cd /mnt && '
        "tar -cf - -C /usr/share/perl5 . | tar -xf - && chown -R 0:0 . && "
        "find . -type f | head -50 | xargs cat | wc -c >size && "
        "mkdir d && mv size d/ && rm -rf Debian* && cd / && "
        "umount /mnt && ! umount /mnt 2>/dev/null"
    )
    done = run(person, "sh", "-euc", script, MOUNT, options=("--policy", "loop-images"), timeout=60)
    assert done.returncode == 0, done.stderr
    subprocess.run(["e2fsck", "-fn", file], check=True, stdout=subprocess.DEVNULL)
    listed = subprocess.run(
        ["debugfs", "-R", "ls /d", file], check=True, capture_output=True, text=True
    )
    assert "size" in listed.stdout


@pytest.mark.needs("mksquashfs", "squashfuse")
def test_a_squashfs_like_a_snap(person: Person, place: Path) -> None:
    (place / "tree" / "meta").mkdir(parents=True)
    (place / "tree" / "meta" / "snap.yaml").write_text("name: x\n")
    file = place / "x.snap"
    subprocess.run(
        ["mksquashfs", place / "tree", file, "-quiet", "-noappend", "-all-root"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    file.chmod(0o644)
    script = (
        f'{python(person)} -c "$0" {file} /mnt squashfs 1 && cat /mnt/meta/snap.yaml && '
        "! touch /mnt/x 2>/dev/null && ! mount -o remount,bind,rw,suid,dev /mnt 2>/dev/null && "
        "umount /mnt"
    )
    done = run(person, "sh", "-euc", script, MOUNT, options=("--policy", "loop-images"))
    assert (done.returncode, done.stdout) == (0, "name: x\n"), done.stderr


def test_a_broken_image_is_the_callers_errno_and_in_the_record(person: Person, place: Path) -> None:
    file = place / "broken.img"
    file.write_bytes(b"no filesystem" * 100000)
    file.chmod(0o666)
    records = place / "audit.json"
    records.touch()
    records.chmod(0o666)
    done = run(
        person, python(person), "-c", MOUNT, str(file), "/mnt", "ext4", "6",
        options=("--policy", "loop-images", "--audit", str(records)),
    )  # fmt: skip
    assert done.returncode == 22, done.stderr
    (record,) = [r for r in map(json.loads, records.read_text().splitlines()) if "syscall" in r]
    assert record["errno"] == "EINVAL"
    assert record["how"].startswith("fuse: the program ended")
    assert "magic" in record["how"], "what the program said"
    assert record["args"]["flags"] == ["nosuid", "nodev"]
    assert record["args"]["filesystemtype"] == "ext4"


def test_tmpfs_and_overlay_are_the_containers_own(person: Person) -> None:
    script = (
        "mount -t tmpfs -o size=1m,mode=750 t /mnt && mkdir /mnt/l /mnt/u /mnt/w /mnt/m && "
        "mount -t overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w o /mnt/m && "
        "touch /mnt/m/x && test -f /mnt/u/x && umount /mnt/m && mount --bind /mnt/u /mnt/m && "
        "umount /mnt/m && umount /mnt && ! mount -t ext4 /dev/nosuch /mnt 2>/dev/null"
    )
    done = run(person, "sh", "-euc", script, options=("--policy", "loop-images"))
    assert done.returncode == 0, done.stderr


def test_one_policy_has_both_ways(root: Person, place: Path) -> None:
    """What is done depends on what the source is, and that is known at the second look."""
    file = image(place)
    policy = place / "policy.yaml"
    policy.write_text(
        "version: 1\nsyscalls:\n  mount:\n    otherwise: kernel\n    rules:\n"
        f'      - {{fstype: ext4, source: "{place}/k/*", do: emulate}}\n'
        f'      - {{fstype: ext4, source: "{place}/*", do: {{emulate: {{via: fuse}}}}}}\n'
    )
    (place / "k").mkdir()
    (place / "k").chmod(0o755)
    shutil.copy(file, place / "k" / "disk")
    (place / "k" / "disk").chmod(0o666)
    for source, kind in ((file, "fuse.ext4"), (place / "k" / "disk", "ext4")):
        script = (
            f'{python(root)} -c "$0" {source} /mnt ext4 0 && '
            "sed -n 's,.* /mnt .* - \\([^ ]*\\) .*,\\1,p' /proc/self/mountinfo && umount /mnt"
        )
        done = run(root, "sh", "-euc", script, MOUNT, options=("--policy", str(policy)))
        assert (done.returncode, done.stdout.strip()) == (0, kind), done.stdout + done.stderr


@pytest.mark.parametrize("program", ["mount", "busybox mount"])
def test_mount_programs_with_a_block_device(root: Person, place: Path, program: str) -> None:
    file = image(place)
    done = subprocess.run(
        ["losetup", "-f", "--show", file], check=True, capture_output=True, text=True
    )
    loop = done.stdout.strip()
    try:
        os.mknod(place / "disk", 0o060666, os.stat(loop).st_rdev)
        os.chown(place / "disk", inner_root(), inner_root())
        policy = place / "policy.yaml"
        policy.write_text(
            "version: 1\nsyscalls:\n  mount:\n    otherwise: kernel\n    rules:\n"
            f'      - {{fstype: ext4, source: "{loop}", options: {{allow: "*"}}, '
            "do: {emulate: {force: [nosuid]}}}\n"
        )
        script = (
            f"{program} -t ext4 {place}/disk /mnt && touch /mnt/x && stat -c %u:%g /mnt/x && "
            "grep -c ' /mnt .*nosuid.*nodev.* ext4 ' /proc/self/mountinfo && "
            f"{program} -o remount,ro /mnt && ! touch /mnt/y 2>/dev/null && "
            "! mount -o remount,bind,suid /mnt 2>/dev/null && "
            f"umount /mnt && {program} -t ext4 -o ro,noatime {place}/disk /mnt && umount /mnt"
        )
        done = run(root, "sh", "-euc", script, options=("--policy", str(policy)))
        assert (done.returncode, done.stdout) == (0, "0:0\n1\n"), done.stdout + done.stderr
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
