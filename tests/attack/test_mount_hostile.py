"""More of what a hostile container does to mounts.

Devices that are swapped, images that are not what they seem, servers that stop, callers that die at
each step, flags that are to be had back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from errno import EINVAL, EIO, EPERM, ETIMEDOUT
from pathlib import Path

import pytest

from supervisor.kernel.fuse_programs import PROGRAMS
from supervisor.kernel.mounts import MS, attr_of
from tests.attack.test_mount_attacks import flipping
from tests.live.test_mount_from_container import programs
from tests.live.test_mount_fuse import gone
from tests.live.test_mount_kernel import CEILING, FORCE, make_image
from tests.support.mounting import (
    START,
    Actor,
    Target,
    loops,
    may_be_cut_short,
    mounting,
    no_loops,
)
from tests.support.needs import need
from tests.support.people import Person
from tests.support.scratch import but_of_other_tests, scratch

FUSE2FS = {"via": "fuse", "program": PROGRAMS["fuse2fs"]}
# Exchanges two files, as fast as that goes (renameat2 with RENAME_EXCHANGE).
EXCHANGE = """
import ctypes, sys
libc = ctypes.CDLL(None)
one, other = (word.encode() for word in sys.argv[1:])
while True:
    libc.syscall(316, -100, one, -100, other, 2)
"""
# All ways that the kernel has to change the flags of a mount, tried on those FORCED of MOUNT, by
# their bits of MOUNT_ATTR_*; "GOT" where one works.
REGAIN = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
at, forced = sys.argv[1].encode(), int(sys.argv[2])
bits = [bit for bit in (1, 2, 4, 8) if forced & bit]
REMOUNT, BIND, REC, MOVE = 32, 4096, 16384, 8192
def attr(bits_set, clear, propagation=0):
    return (ctypes.c_uint64 * 4)(bits_set, clear, propagation, 0)
def tried(what, got):
    if got >= 0:
        print("GOT", what)
os.makedirs("/tmp/regain", exist_ok=True)
def ways(where):
    tried("remount", libc.mount(None, where, None, ctypes.c_ulong(REMOUNT), None))
    tried("remount,bind", libc.mount(None, where, None, ctypes.c_ulong(REMOUNT | BIND), None))
    for clear in (*bits, forced):
        tried(f"setattr {clear}", libc.syscall(442, -100, where, 0, attr(0, clear), 32))
        tried(f"rec {clear}", libc.syscall(442, -100, where, 0x8000, attr(0, clear), 32))
    for flags in (1, 1 | 0x8000):
        tree = libc.syscall(428, -100, where, flags)
        if tree >= 0:
            for clear in (*bits, forced):
                got = libc.syscall(442, tree, b"", 0x1000, attr(0, clear), 32)
                tried(f"open_tree {clear}", got)
            os.close(tree)
    picked = libc.syscall(433, -100, where, 0)
    if picked >= 0:
        for word in (b"dev", b"suid", b"exec", b"rw"):  # may work, and gives nothing
            if libc.syscall(431, picked, 0, word, None, 0) == 0:
                libc.syscall(431, picked, 7, None, None, 0)
ways(at)
if libc.mount(at, b"/tmp/regain", None, ctypes.c_ulong(BIND | REC), None) == 0:
    ways(b"/tmp/regain")
    libc.umount2(b"/tmp/regain", 2)
for flags in (0x20000, 0x10000000 | 0x20000, 0x10000000 | 0x20000):  # deeper and deeper
    if libc.unshare(flags):
        break
    ways(at)
try:
    os.open(at + b"/null", os.O_RDONLY)
    print("GOT a device")
except OSError:
    pass
# as the kernel shows them: ro, nosuid, nodev and noexec are the same bits there
print("GOT rid of", forced & ~os.statvfs(at).f_flag) if forced & ~os.statvfs(at).f_flag else 0
print("done")
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
    loop_devices = {"fstype": "ext4", "force": FORCE, "devices": [[7, 7, 0, 1023]], "images": False}
    with mounting(ceiling=[*CEILING, loop_devices], deadline=3) as found:
        yield found
    no_loops(place)
    assert gone("fuse2fs -f")


def mount(actor: Actor, place: Path, **more: object) -> tuple[int, str]:
    words: dict[str, object] = {"source": str(place / "image"), "target": str(place / "mp")}
    return actor.mount(**{**words, "force": FORCE, **more})


@contextlib.contextmanager
def devices(place: Path) -> Iterator[list[tuple[str, Path]]]:
    """Two block devices, each with a node and with its name in a file on it."""
    found = []
    try:
        for name in ("granted", "forbidden"):
            (place / "source" / "file").write_text(name)
            image = make_image(place, f"image-{name}")
            done = subprocess.run(
                ["losetup", "-f", "--show", image], check=True, capture_output=True, text=True
            )
            loop = done.stdout.strip()
            node = place / f"node-{name}"
            os.mknod(node, 0o060666, os.stat(loop).st_rdev)
            os.chown(node, START, START)
            found.append((loop, node))
        yield found
    finally:
        for loop, _ in found:
            subprocess.run(["losetup", "-d", loop], check=True)


@contextlib.contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    process = subprocess.Popen(["python3", "-c", EXCHANGE, one, other])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", ["link", "exchange"])
@pytest.mark.parametrize("via", ["kernel", "fuse"])
def test_a_device_that_is_swapped_for_another(
    both: tuple[Target, Actor], place: Path, how: str, via: str
) -> None:
    """What was checked is what is used, by number and by descriptor, never by name again."""
    target, actor = both
    more = FUSE2FS if via == "fuse" else {}
    seen = {0: 0, EPERM: 0}
    with devices(place) as ((granted, one), (_, other)):
        swapped = flipping(place / "link", one, other) if how == "link" else exchanging(one, other)
        source = place / "link" if how == "link" else one
        with swapped:
            for turn in range(400):
                if turn >= (40 if via == "kernel" else 15) and min(seen.values()) > 0:
                    break
                errno, said = mount(actor, place, source=str(source), granted=[granted], **more)
                assert errno in seen, said
                seen[errno] += 1
                if errno == 0:
                    found = target.run(f"cat {place}/mp/file; umount {place}/mp")
                    assert found == (0, "granted")
                    assert via == "kernel" or gone("fuse2fs -f")
    assert min(seen.values()) > 0, "both were met"


def test_a_target_that_is_swapped_under_a_program(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    (place / "other").mkdir()
    seen = set()
    with flipping(place / "link", place / "mp", place / "other"):
        for _ in range(20):
            errno, how = mount(actor, place, target=str(place / "link"), **FUSE2FS)
            assert errno == 0, how
            where = actor.last["target"]
            seen.add(where)
            _, text = target.run(f"cut -d' ' -f5 /proc/self/mountinfo | grep '^{place}/'")
            assert text.split() == [where]
            assert target.run(f"umount {where}")[0] == 0
    assert len(seen) == 2


@pytest.mark.parametrize("via", ["kernel", "fuse"])
@pytest.mark.parametrize("names", [("nosuid", "nodev"), ("ro", "nosuid", "nodev", "noexec")])
def test_flags_are_not_to_be_had_back(
    both: tuple[Target, Actor], place: Path, via: str, names: tuple[str, ...]
) -> None:
    target, actor = both
    force = sum(MS[name] for name in names)
    more = FUSE2FS if via == "fuse" else {}
    errno, how = mount(actor, place, force=force, **more)
    assert errno == 0, how
    (place / "regain.py").write_text(REGAIN)
    said = target.run(f"python3 {place}/regain.py {place}/mp {attr_of(force)}")[1]
    assert said == "done"
    if "ro" in names:
        assert target.run(f"touch {place}/mp/new")[0] != 0
    assert target.run(f"umount {place}/mp")[0] == 0


def test_the_ways_to_get_flags_back_do_work(both: tuple[Target, Actor], place: Path) -> None:
    """On a mount whose flags nobody locked: else the test above could not fail."""
    target, _ = both
    (place / "regain.py").write_text(REGAIN)
    target.run(f"mount -t tmpfs -o nosuid,nodev none {place}/mp")
    said = target.run(f"python3 {place}/regain.py {place}/mp 6; umount {place}/mp")[1]
    for way in ("remount,bind", "setattr 6", "rec 6", "open_tree 6", "rid of 6"):
        assert f"GOT {way}" in said.splitlines(), said


def test_a_server_that_stops(both: tuple[Target, Actor], place: Path) -> None:
    """Whoever asks it waits. Others do not, and it can be got rid of."""
    target, actor = both
    errno, how = mount(actor, place, **FUSE2FS)
    assert errno == 0
    pid = int(how.rpartition(" ")[2])
    os.kill(pid, 19)
    target.run(f"(timeout -s KILL 60 ls -l {place}/mp; true) >/dev/null 2>&1 &")
    time.sleep(0.2)
    # below it, and beside it
    errno, how = mount(actor, place, target=f"{place}/mp/lost+found")
    assert (errno, how) == (EPERM, "path: deadline")
    (place / "other").mkdir()
    other = make_image(place, "image-other")
    assert mount(actor, place, source=str(other), target=str(place / "other"))[0] == 0
    assert target.run(f"umount {place}/other")[0] == 0
    assert target.run(f"umount -l {place}/mp")[0] == 0
    os.kill(pid, 9)
    target.run("wait")
    assert gone("fuse2fs -f")
    assert mount(actor, place)[0] == 0
    assert target.run(f"umount {place}/mp")[0] == 0


def test_a_server_that_has_stopped_ends_with_the_session(place: Path) -> None:
    with mounting(ceiling=[], deadline=3) as (_, actor):
        errno, how = mount(actor, place, **FUSE2FS)
        assert errno == 0
        os.kill(int(how.rpartition(" ")[2]), 19)
    assert gone("fuse2fs -f")


@pytest.mark.parametrize("way", ["kernel", "host", "container"])
def test_a_caller_that_dies_at_each_step(both: tuple[Target, Actor], place: Path, way: str) -> None:
    """It leaves no loop device, no mount, no process and no descriptor."""
    target, actor = both
    more: dict[str, object] = {} if way == "kernel" else {**FUSE2FS, "inside": way == "container"}
    for _ in range(3):  # the first one takes longer than those that come after it
        start = time.monotonic()
        assert mount(actor, place, **more)[0] == 0
        longest = time.monotonic() - start
        assert target.run(f"umount {place}/mp")[0] == 0
    held = len(os.listdir(f"/proc/{actor.process.pid}/fd"))
    steps = 30
    for step in range(steps):
        target.run(f"sleep 60 & echo $! > {place}/pid")
        pid = int((place / "pid").read_text())
        actor.send(
            source=str(place / "image"), target=str(place / "mp"), force=FORCE, tid=pid, **more
        )
        time.sleep(1.2 * longest * step / steps)
        os.kill(pid, 9)
        errno, how = actor.hear()
        assert may_be_cut_short(errno, how), (errno, how)
        status, _ = target.run(f"wait; umount {place}/mp")
        assert status == 0 or errno != 0, "what was granted was there"
        assert target.run(f"grep -c {place}/mp /proc/self/mountinfo")[1] == "0"
    end = time.monotonic() + 20
    while (programs(actor) or loops(place)) and time.monotonic() < end:
        time.sleep(0.05)
    assert (programs(actor), loops(place)) == ([], [])
    assert mount(actor, place, **more)[0] == 0
    assert target.run(f"umount {place}/mp")[0] == 0
    assert gone("fuse2fs -f")
    assert len(os.listdir(f"/proc/{actor.process.pid}/fd")) <= held + 2, "resolvers come and go"


# -- fuzzing

KINDS = {
    "ext4": ("fuse2fs", ["mkfs.ext4", "-q", "-d"], 1024),
    "squashfs": ("squashfuse", ["mksquashfs"], 0),
    "ntfs": ("ntfs-3g", ["mkntfs", "-F", "-Q", "-q"], 0),
    "exfat": ("exfat-fuse", ["mkfs.exfat"], 0),
}


def healthy(place: Path) -> tuple[str, ...]:
    """What of the host must stay as it is: the kernel, what is mounted, and the files beside."""
    kernel = Path("/proc/sys/kernel/tainted").read_text()
    mounts = "".join(but_of_other_tests("/proc/self/mountinfo", place))
    beside = [file for file in sorted((place / "source").iterdir()) if file.is_file()]
    return kernel, mounts, *(hashlib.sha256(file.read_bytes()).hexdigest() for file in beside)


def whole_image(place: Path, kind: str) -> tuple[Path, bytes]:
    program, make, _ = KINDS[kind]
    need(make[0], PROGRAMS[program][0])
    image = place / "image"
    if kind == "squashfs":
        shutil.copytree("/usr/share/perl5", place / "source" / "tree")
        command = ["mksquashfs", str(place / "source"), str(image), "-quiet", "-noappend"]
    else:
        with image.open("wb") as file:
            file.truncate(8 << 20)
        command = [*make, str(place / "source"), str(image)] if kind == "ext4" else [
            *make, str(image)
        ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    os.chown(image, START, START)
    return image, image.read_bytes()


def fuzz(target: Target, actor: Actor, place: Path, kind: str, rounds: int, seed: int) -> None:
    """Mounts broken images, and uses what comes of it. All of it is harmless, and ends."""
    program, _, first = KINDS[kind]
    image, whole = whole_image(place, kind)
    before = healthy(place)
    dice = random.Random(seed)
    used = [at for at in range(0, len(whole), 512) if any(whole[at : at + 512])]
    mounted = 0
    for _ in range(rounds):
        content = bytearray(whole)
        for _ in range(dice.choice((1, 8, 64, 512))):
            at = max(first, dice.choice(used) + dice.randrange(512))
            if at < len(content):
                content[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        if dice.random() < 0.2:
            del content[dice.randrange(1, len(content)) :]
        image.write_bytes(content)
        errno, how = actor.mount(
            source=str(image), target=str(place / "mp"), force=FORCE, fstype=kind,
            via="fuse", program=PROGRAMS[program], flags=dice.choice((0, MS["ro"])),
        )  # fmt: skip
        assert errno in (0, EINVAL, EIO, ETIMEDOUT), how
        if errno == 0:
            mounted += 1
            target.run(
                # a broken directory cannot be entered, and nothing is to be removed elsewhere
                f"cd {place}/mp && {{ timeout -s KILL 3 find . -ls | head -c 20000 | tail -1;"
                f"timeout -s KILL 3 sh -c 'cat */* * | head -c 1000000 | wc -c; echo x > new;"
                f" mkdir dir; rm -rf *'; }}; cd /; umount {place}/mp || umount -l {place}/mp"
            )
            if not gone(PROGRAMS[program][0], 3):
                for pid in programs(actor):
                    os.kill(pid, 9)
                assert gone(PROGRAMS[program][0])
        assert target.run(f"grep -c {place}/mp /proc/self/mountinfo")[1] == "0"
    assert mounted > 0, "nothing but refusals tries nothing"
    assert healthy(place) == before
    image.write_bytes(whole)
    errno, how = actor.mount(
        source=str(image), target=str(place / "mp"), force=FORCE, fstype=kind,
        via="fuse", program=PROGRAMS[program],
    )  # fmt: skip
    assert errno == 0, how
    assert target.run(f"umount {place}/mp")[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_some_broken_images(both: tuple[Target, Actor], place: Path, kind: str) -> None:
    fuzz(*both, place, kind, 12, 1)


@pytest.mark.attack
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [2, 3])
def test_many_broken_images(both: tuple[Target, Actor], place: Path, kind: str, seed: int) -> None:
    fuzz(*both, place, kind, 150, seed)
