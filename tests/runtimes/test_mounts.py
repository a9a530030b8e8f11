"""Mounts of containers of runc, crun, podman and containerd: the kernel's and a FUSE program's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.test_mount_kernel import make_image
from tests.support.bundles import FIRST_ID, Bundle, bundle
from tests.support.containerd import containerd
from tests.support.daemon import Daemon, serving
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.podman import Podman, options_for
from tests.support.scratch import a_place, compile_c

pytestmark = pytest.mark.needs("fuse2fs")

POLICY = """
version: 1
match: {door: oci}
syscalls:
  mount:
    otherwise: kernel
    rules:
      - {fstype: ext4, source: "/by-fuse", options: {allow: ["*"]}, do: {emulate: {via: fuse}}}
      - {fstype: ext4, source: "/by-kernel", options: {allow: ["*"]}, do: {emulate: {via: kernel}}}
"""
# The kernel's own, too: they are the container's to mount, and must not suffer.
SCRIPT = """
for how in fuse kernel; do
  mkdir /tmp/$how && plain_mount /by-$how /tmp/$how ext4 && cat /tmp/$how/file && echo " by $how"
  stat -c %u /tmp/$how/file; echo new >/tmp/$how/new; cat /tmp/$how/null; umount /tmp/$how
done
plain_mount /neither /tmp/fuse ext4
mount -t tmpfs none /tmp/fuse && umount /tmp/fuse && echo tmpfs
"""
SAID = ["text by fuse", "0", "text by kernel", "0", "tmpfs"]

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"mounts": POLICY}) as found:
        yield found


@pytest.fixture(scope="module")
def image(place: Path) -> Path:
    return make_image(place)


def give(image: Path, root: Path) -> None:
    for name in ("by-fuse", "by-kernel", "neither"):
        shutil.copy(image, root / name)
        os.chown(root / name, FIRST_ID, FIRST_ID)
    shutil.copy(compile_c("plain_mount", image.parent, "-static"), root / "bin")


def check(root: Path, out: str, said: str, daemon: Daemon, before: int) -> None:
    assert out.split("\n")[:-1] == SAID, (said, daemon.records()[before:], daemon.log())
    assert said.count("/null': Permission denied") == 2, "nodev is forced"
    assert "/neither" in said
    for how in ("fuse", "kernel"):
        image = root / f"by-{how}"
        shown = subprocess.run(["debugfs", "-R", "cat new", image], capture_output=True, check=True)
        assert shown.stdout == b"new\n", "it was written to the image"
        assert subprocess.run(["e2fsck", "-fn", image], capture_output=True).returncode == 0

    def made() -> list[str]:
        """How mounts were made; a record is written after its call was answered."""
        return [one["how"].partition(",")[0] for one in daemon.records()[before:]
                if one.get("verdict") == "emulate" and one["syscall"] == "mount"]  # fmt: skip

    assert wait_for(made, lambda found: len(found) >= 2) == ["fuse", "kernel"]


@pytest.fixture(params=["runc", "crun"])
def box(
    request: pytest.FixtureRequest, daemon: Daemon, place: Path, image: Path
) -> Iterator[Bundle]:
    with bundle(place, daemon.profile("mounts"), runtime=request.param) as found:
        give(image, found.root)
        yield found


def test_of_runc_and_crun(daemon: Daemon, box: Bundle) -> None:
    before = len(daemon.all_records())
    done = box.run(SCRIPT)
    check(box.root, done.stdout, done.stderr, daemon, before)
    wait_for(lambda: daemon.ours("session"), lambda found: not found)


def test_by_an_exec(daemon: Daemon, box: Bundle) -> None:
    """One program's mount is another one's to use and to end; and ends with the container."""
    name = box.start()
    mounted = box.exec(name, "mkdir /tmp/m && plain_mount /by-fuse /tmp/m ext4 && cat /tmp/m/file")
    assert mounted.stdout == "text", mounted.stderr
    assert box.exec(name, "cat /tmp/m/file && umount /tmp/m").stdout == "text"
    assert box.exec(name, "plain_mount /by-kernel /tmp/m ext4 && cat /tmp/m/file").stdout == "text"
    assert box.exec(name, "plain_mount /by-fuse /tmp/m ext4 && cat /tmp/m/file").stdout == "text"
    assert len(daemon.ours("session")) == 1
    box.delete(name)
    wait_for(lambda: daemon.ours("session"), lambda found: not found)
    wait_for(lambda: _loops(box.root), lambda found: not found)


def _loops(root: Path) -> list[str]:
    return [file for file in _backing_files() if str(root) in file]


def _backing_files() -> list[str]:
    return [file.read_text() for file in Path("/sys/block").glob("loop*/loop/backing_file")]


def test_of_podman(root: Person, daemon: Daemon, place: Path, image: Path) -> None:
    before = len(daemon.all_records())
    box = Podman(root, place, daemon.profile("mounts"), FIRST_ID)
    give(image, box.root)
    done = box.run(SCRIPT, *options_for("SYS_ADMIN", mapped=True))
    check(box.root, done.stdout, done.stderr, daemon, before)


@pytest.mark.needs("containerd")
def test_of_containerd(root: Person, daemon: Daemon, place: Path, image: Path) -> None:
    with (
        containerd(root, place) as manager,
        bundle(place, daemon.profile("mounts")) as box,
        manager.started(box, "of-a-test"),
    ):
        give(image, box.root)
        before = len(daemon.all_records())
        done = manager.exec("of-a-test", SCRIPT)
        check(box.root, done.stdout, done.stderr, daemon, before)
