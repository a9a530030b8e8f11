"""The ready-made FUSE programs and templates, each with an image of its kind, written and read."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from errno import EROFS
from pathlib import Path

import pytest

from supervisor.kernel.fuse_programs import PROGRAMS
from supervisor.kernel.mounts import MS
from tests.live.test_mount_fuse import FORCE, gone
from tests.support.devices import for_everybody
from tests.support.mounting import START, Actor, Target, mounting
from tests.support.needs import need
from tests.support.people import Person
from tests.support.scratch import scratch

# How an image is made, and looked at on the host when all is done.
MAKE = {
    "fuse2fs": ("mkfs.ext4", "-q", "-E", "root_owner=0:0"),
    "ntfs-3g": ("mkntfs", "-F", "-Q", "-q", "-s", "512", "-p", "0", "-H", "16", "-S", "63"),
    "exfat-fuse": ("mkfs.exfat",),
}
CHECK: dict[str, Sequence[str]] = {
    "fuse2fs": ("e2fsck", "-fn"),
    "ntfs-3g": ("ntfsfix", "-n"),
    "exfat-fuse": ("fsck.exfat", "-n"),
}
TYPE = {"fuse2fs": "ext4", "ntfs-3g": "ntfs", "exfat-fuse": "exfat"}


@pytest.fixture
def place(root: Person) -> Iterator[Path]:
    assert root.name is None
    with scratch(0o755) as folder:
        os.chown(folder, START, START)
        (folder / "mp").mkdir()
        yield folder


@pytest.fixture(params=["maker", "no maker"])
def both(request: pytest.FixtureRequest, place: Path) -> Iterator[tuple[Target, Actor]]:
    assert place
    with contextlib.ExitStack() as stack:
        if request.param == "no maker":
            stack.enter_context(for_everybody())
        with mounting(ceiling=[] if request.param == "maker" else None, deadline=5) as found:
            yield found


def made(place: Path, program: str) -> Path:
    """An empty image that the container's root owns."""
    need(MAKE[program][0], PROGRAMS[program][0])
    image = place / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run([*MAKE[program], image], check=True, capture_output=True)
    os.chown(image, START, START)
    image.chmod(0o600)
    return image


def mount(actor: Actor, place: Path, program: str | Sequence[str], **more: object) -> int:
    argv = PROGRAMS[program] if isinstance(program, str) else program
    words: dict[str, object] = {
        "source": str(place / "image"), "target": str(place / "mp"), "via": "fuse",
        "program": argv, "force": FORCE,
    }  # fmt: skip
    errno, how = actor.mount(**{**words, **more})
    assert errno == 0 or more, how
    return errno


@pytest.mark.parametrize("program", MAKE)
def test_written_and_read(both: tuple[Target, Actor], place: Path, program: str) -> None:
    target, actor = both
    image = made(place, program)
    mount(actor, place, program, fstype=TYPE[program])
    _, shown = target.run(f"grep ' {place}/mp ' /proc/self/mountinfo")
    assert shown.split(" - ")[1].startswith("fuse"), "not a driver of the kernel's"
    assert "nosuid,nodev" in shown
    assert "allow_other" in shown
    # more than the page cache of one file, in directories, with names that are not ASCII
    status, said = target.run(
        f"cd {place}/mp && mkdir -p a/b && head -c 3000000 /dev/urandom > a/b/big && "
        "cp a/b/big ../big && echo text > 'a/näme' && mv 'a/näme' a/c && rm -f a/none && "
        "cd / && sync"
    )
    assert status == 0, said
    assert target.run(f"umount {place}/mp") == (0, "")
    assert gone(PROGRAMS[program][0])
    # it is on the image, and not in anybody's memory
    mount(actor, place, program, fstype=TYPE[program], flags=MS["ro"])
    status, said = target.run(
        f"cmp {place}/mp/a/b/big {place}/big && cat {place}/mp/a/c && ! touch {place}/mp/x"
    )
    assert (status, said.splitlines()[0]) == (0, "text"), said
    assert target.run(f"umount {place}/mp") == (0, "")
    assert gone(PROGRAMS[program][0])
    done = subprocess.run([*CHECK[program], image], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("program", ["squashfuse", "squashfuse_ll"])
def test_a_squashfs_is_read(both: tuple[Target, Actor], place: Path, program: str) -> None:
    target, actor = both
    need(program, "mksquashfs")
    path = shutil.which(program)
    assert path
    shutil.copytree("/usr/share/perl5", place / "tree", symlinks=True)
    subprocess.run(
        ["mksquashfs", place / "tree", place / "image", "-quiet", "-all-root"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    os.chown(place / "image", START, START)
    # ready-made, and as a template
    words = PROGRAMS.get(program, (path, *PROGRAMS["squashfuse"][1:]))
    mount(actor, place, words, fstype="squashfs", flags=MS["ro"])
    status, said = target.run(
        f"diff -r --no-dereference {place}/tree {place}/mp && "
        f"stat -c %u:%g {place}/mp && touch {place}/mp/x"
    )
    assert said.splitlines()[0] == "0:0", said
    assert "Read-only file system" in said
    assert status != 0
    assert target.run(f"umount {place}/mp") == (0, "")
    assert gone(path)


def test_ntfs_on_a_block_device(both: tuple[Target, Actor], place: Path) -> None:
    """ntfs-3g wants a fuseblk there, which the kernel gives to real root alone."""
    target, actor = both
    image = made(place, "ntfs-3g")
    loop = subprocess.run(
        ["losetup", "-f", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        os.mknod(place / "disk", 0o060600, os.stat(loop).st_rdev)
        os.chown(place / "disk", START, START)
        mount(actor, place, "ntfs-3g", fstype="ntfs", source=str(place / "disk"))
        assert target.run(f"echo text > {place}/mp/file && umount {place}/mp") == (0, "")
        assert gone("ntfs-3g")
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
    mount(actor, place, "ntfs-3g", fstype="ntfs")
    assert target.run(f"cat {place}/mp/file; umount {place}/mp") == (0, "text")


def test_what_is_opened_for_reading_is_not_opened_for_more(
    both: tuple[Target, Actor], place: Path
) -> None:
    _, actor = both
    made(place, "fuse2fs")
    script = (
        "for file in {source} /proc/self/fd/*; do "
        "dd if=/dev/urandom of=$file count=1 conv=notrunc; done; exit 9"
    )
    before = (place / "image").read_bytes()
    errno, how = actor.mount(
        source=str(place / "image"), target=str(place / "mp"), via="fuse", flags=MS["ro"],
        program=["/bin/sh", "-c", script], force=FORCE,
    )  # fmt: skip
    assert how.count(os.strerror(EROFS)) == 1, how
    assert (place / "image").read_bytes() == before, how
    assert errno != 0


def test_a_program_of_the_hosts_in_a_directory_of_its_own(
    both: tuple[Target, Actor], place: Path
) -> None:
    target, actor = both
    made(place, "fuse2fs")
    program = place / "bin" / "mine"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nexec /usr/bin/fuse2fs "$@"\n')
    program.chmod(0o755)
    # the container's file of that name is another one
    target.run(f"mount -t tmpfs none {program.parent}")
    mount(actor, place, [str(program), *PROGRAMS["fuse2fs"][1:]])
    assert target.run(f"umount {place}/mp {program.parent}") == (0, "")


def test_an_image_that_has_no_place_any_more(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    made(place, "fuse2fs")
    target.run(
        f"mkdir {place}/gone && mount -t tmpfs none {place}/gone && "
        f"cp {place}/image {place}/gone && "
        f"cd {place}/gone && {{ sleep 60 & }} && echo $! > {place}/pid && cd / && "
        f"umount -l {place}/gone"
    )
    pid = int((place / "pid").read_text())
    mount(actor, place, "fuse2fs", source="image", tid=pid)
    assert target.run(f"touch {place}/mp/x; umount {place}/mp") == (0, "")
    os.kill(pid, 9)
    target.run("wait")
