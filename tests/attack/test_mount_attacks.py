"""Mounts against a container that swaps, stalls, kills and lies."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from errno import EBUSY, EPERM
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel.fuse_programs import PROGRAMS
from supervisor.kernel.mounts import MS
from tests.live.test_mount_fuse import gone
from tests.live.test_mount_kernel import CEILING, FORCE, make_image
from tests.support.mounting import START, Actor, Target, may_be_cut_short, mounting, no_loops
from tests.support.people import Person
from tests.support.scratch import scratch

ROUNDS = 60
# Answers INIT and nothing else, so that whoever asks it hangs.
HUNG = """
import ctypes, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fd
assert ctypes.CDLL(None).mount(b"hung", sys.argv[2].encode(), b"fuse", 0, options) == 0
os.write(1, b"ready")
while True:
    request = os.read(fd, 1 << 20)
    size, opcode, unique = struct.unpack("IIQ", request[:16])
    if opcode == 26:
        out = struct.pack("IIIIHHII", 7, 31, 65536, 0, 16, 12, 4096, 1).ljust(64, b"\\0")
        os.write(fd, struct.pack("IiQ", 16 + len(out), 0, unique) + out)
"""


@pytest.fixture
def place(root: Person) -> Iterator[Path]:
    assert root.name is None
    with scratch(0o755) as folder:
        os.chown(folder, START, START)
        (folder / "mp").mkdir()
        make_image(folder)
        yield folder


@pytest.fixture
def both(place: Path) -> Iterator[tuple[Target, Actor]]:
    assert place
    with mounting(ceiling=CEILING) as found:
        yield found
    no_loops(place)
    assert gone("fuse2fs")


@contextlib.contextmanager
def flipping(link: Path, one: Path, other: Path) -> Iterator[None]:
    """`link` leads to one and to the other, as fast as that goes."""
    script = (
        "import os, sys\n"
        "link, one, other = sys.argv[1:]\n"
        "while True:\n"
        "    for way in (one, other):\n"
        "        os.symlink(way, link + '.new')\n"
        "        os.rename(link + '.new', link)\n"
    )
    link.symlink_to(one)
    process = subprocess.Popen(["python3", "-c", script, link, one, other])
    try:
        yield
    finally:
        process.kill()
        process.wait()
        for path in (link, link.with_name(link.name + ".new")):
            path.unlink(missing_ok=True)


def rounds(seen: Counter[Any]) -> Iterator[int]:
    """ROUNDS, and more until both sides were seen: on a busy machine who flips may have to wait for
    longer than many rounds take.
    """
    end = time.monotonic() + 120
    for number in itertools.count():
        if number >= ROUNDS and len(seen) == 2:
            return
        assert time.monotonic() < end, f"one side always won: {seen}"
        yield number


@contextlib.contextmanager
def hung(target: Target, place: Path) -> Iterator[Path]:
    """A directory in the target whose lookups are never answered."""
    where = place / "hung"
    where.mkdir()
    os.mknod(place / "fuse", 0o020666, os.makedev(10, 229))
    os.chmod(place / "fuse", 0o666)
    (place / "hung.py").write_text(HUNG)
    target.run(
        f"python3 {place}/hung.py {place}/fuse {where} > {place}/ready & echo $! > {place}/pid;"
        f"while ! [ -s {place}/ready ]; do sleep 0.05; done"
    )
    pid = int((place / "pid").read_text())
    try:
        yield where
    finally:
        os.kill(pid, 9)
        target.run(f"wait; umount -l {where}")


def kernel(actor: Actor, place: Path, **more: object) -> tuple[int, str]:
    words: dict[str, object] = {"source": str(place / "image"), "target": str(place / "mp")}
    return actor.mount(**{**words, "force": FORCE, **more})


def by_fuse(actor: Actor, place: Path, **more: object) -> tuple[int, str]:
    return kernel(actor, place, via="fuse", program=PROGRAMS["fuse2fs"], **more)


def released(mount: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """`mount`, and again while the program of an earlier one still writes: no session hears of the
    umounts here, so that a mount waits two seconds for the program, which on a busy machine may
    take longer.
    """
    end = time.monotonic() + 60
    while (found := mount()) == (EBUSY, "mount: a FUSE program serves this image"):
        assert time.monotonic() < end
    return found


def test_a_source_that_is_swapped(both: tuple[Target, Actor], place: Path) -> None:
    """What is mounted is what was granted, whatever the name has become."""
    target, actor = both
    (place / "source" / "file").write_text("forbidden")
    other = make_image(place, "image-forbidden")
    outcomes: Counter[int] = Counter()
    with flipping(place / "link", place / "image", other):
        for number in rounds(outcomes):
            way = by_fuse if number % 6 == 0 else kernel
            words = {"source": str(place / "link"), "granted": [str(place / "image")]}
            errno, how = released(functools.partial(way, actor, place, **words))
            assert errno in (0, EPERM), how
            outcomes[errno] += 1
            if errno == 0:
                assert target.run(f"cat {place}/mp/file; umount {place}/mp") == (0, "text")


def test_a_target_that_is_swapped(both: tuple[Target, Actor], place: Path) -> None:
    """The mount is where the record says that it is, and nowhere else."""
    target, actor = both
    (place / "other").mkdir()
    seen: Counter[str] = Counter()
    with flipping(place / "link", place / "mp", place / "other"):
        for _ in rounds(seen):
            errno, _ = kernel(actor, place, target=str(place / "link"))
            assert errno == 0
            where = actor.last["target"]
            seen[where] += 1
            _, text = target.run(f"grep -o '{place}/[a-z]* ' /proc/self/mountinfo")
            assert text.split() == [where]
            assert target.run(f"umount {where}")[0] == 0


def test_a_source_that_is_replaced_by_a_device(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    target.run(f"touch {place}/device; mount --bind /dev/loop0 {place}/device")
    with flipping(place / "link", place / "image", place / "device"):
        for _ in range(ROUNDS):
            granted = [str(place / "image")]
            errno, how = kernel(actor, place, source=str(place / "link"), granted=granted)
            assert errno in (0, EPERM), how
            if errno == 0:
                assert target.run(f"cat {place}/mp/file; umount {place}/mp") == (0, "text")
    target.run(f"umount {place}/device")


@pytest.mark.parametrize("way", [kernel, by_fuse])
def test_what_is_no_such_image(both: tuple[Target, Actor], place: Path, way: object) -> None:
    target, actor = both
    mount = kernel if way is kernel else by_fuse
    image = place / "image"
    whole = image.read_bytes()
    for content in (b"", b"x", bytes(4096), os.urandom(1 << 20), whole[:1500], whole[:4096]):
        image.write_bytes(content)
        errno, how = mount(actor, place)
        assert errno != 0, how
        assert target.run(f"grep -c {place}/mp /proc/self/mountinfo")[1] == "0"
    image.write_bytes(whole)
    assert mount(actor, place)[0] == 0
    target.run(f"umount {place}/mp")


def test_fuzzed_images_by_fuse(both: tuple[Target, Actor], place: Path) -> None:
    """The host is unharmed, whatever the program makes of them, and so is the session."""
    target, actor = both
    dice = random.Random(7)
    image = place / "image"
    whole = image.read_bytes()
    for _ in range(30):
        content = bytearray(whole)
        for _ in range(dice.choice((4, 40, 400))):
            content[dice.randrange(1024, 64 << 10)] = dice.randrange(256)
        image.write_bytes(content)
        errno, _ = by_fuse(actor, place)
        if errno == 0:
            target.run(f"timeout 5 find {place}/mp | head -50; timeout 5 cat {place}/mp/file")
            assert target.run(f"umount {place}/mp")[0] == 0
            assert gone("fuse2fs")
    image.write_bytes(whole)
    assert by_fuse(actor, place)[0] == 0
    target.run(f"umount {place}/mp")


@pytest.mark.parametrize("which", ["source", "target"])
def test_a_path_that_hangs(both: tuple[Target, Actor], place: Path, which: str) -> None:
    target, actor = both
    with hung(target, place) as where:
        start = time.monotonic()
        actor.send(
            **{"source": str(place / "image"), "target": str(place / "mp"), which: f"{where}/x"},
            force=FORCE,
        )
        time.sleep(0.2)
        # the others are served meanwhile: answers come as they are ready
        actor.send(source=str(place / "image"), target=str(place / "mp"), force=FORCE)
        assert actor.hear()[0] == 0
        errno, how = actor.hear()
        assert (errno, how) == (EPERM, "path: deadline")
        assert time.monotonic() - start < 15, "not that of a mount"
        target.run(f"umount {place}/mp")


def test_an_image_on_fuse_is_not_for_the_kernel(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    (place / "outer").mkdir()
    (place / "source" / "image").write_bytes((place / "image").read_bytes())
    with (place / "big").open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", place / "source", place / "big"], check=True)
    os.chown(place / "big", START, START)
    outer = {"source": str(place / "big"), "target": str(place / "outer")}
    assert by_fuse(actor, place, **outer)[0] == 0
    errno, how = kernel(actor, place, source=f"{place}/outer/image", flags=MS["ro"])
    assert (errno, "somebody may not answer" in how) == (EPERM, True)
    target.run(f"umount {place}/outer")


def test_callers_that_are_killed_at_any_step(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    dice = random.Random(3)
    for number in range(ROUNDS):
        target.run(f"sleep 60 & echo $! > {place}/pid")
        pid = int((place / "pid").read_text())
        words: dict[str, object] = {"via": "fuse", "program": PROGRAMS["fuse2fs"]}
        actor.send(
            source=str(place / "image"), target=str(place / "mp"), force=FORCE, tid=pid,
            **(words if number % 2 else {}),
        )  # fmt: skip
        time.sleep(dice.random() * 0.012)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
        errno, how = actor.hear()
        target.run(f"wait; umount {place}/mp")
        assert may_be_cut_short(errno, how), (errno, how)
    assert released(functools.partial(kernel, actor, place))[0] == 0
    target.run(f"umount {place}/mp")


def test_many_at_once(both: tuple[Target, Actor], place: Path) -> None:
    """All get an answer, and what was mounted is where it belongs."""
    target, actor = both
    (place / "source" / "file").unlink()
    for number in range(8):
        make_image(place, f"image{number}")
        (place / f"mp{number}").mkdir()
    for number in range(8):
        more = {"via": "fuse", "program": PROGRAMS["fuse2fs"]} if number % 2 else {}
        actor.send(
            source=f"{place}/image{number}", target=f"{place}/mp{number}", force=FORCE, **more
        )
    assert [actor.hear()[0] for _ in range(8)] == [0] * 8
    assert target.run(f"grep -c {place}/mp /proc/self/mountinfo")[1] == "8"
    assert target.run(f"umount {place}/mp?")[0] == 0
