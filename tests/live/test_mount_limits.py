"""What is left of a mount when it has gone, what is known of those that are there, and how many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from errno import EBUSY, ENOSPC
from pathlib import Path

import pytest

from supervisor.kernel.fuse_programs import PROGRAMS
from supervisor.kernel.mounts import MS
from supervisor.kernel.shim import lib
from supervisor.policy.mounts import MAX_MOUNTS, MOST_MOUNTS
from tests.live.test_mount_fuse import gone
from tests.live.test_mount_kernel import FORCE, make_image
from tests.support.devices import for_everybody
from tests.support.mounting import START, Actor, Target, mounting, no_loops
from tests.support.needs import need
from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch

CEILING = [{"fstype": "ext4", "force": FORCE}, {"fstype": "ramfs", "text": True, "images": False}]
# Mounts SOURCE of TYPE at N places below a tmpfs of its own, and prints the errnos; each in a mount
# namespace of its own where that is asked for. Then one is unmounted, and another one mounted.
INSIDE = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
source, kind, count, apart = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
assert libc.mount(b"t", b"/mnt", b"tmpfs", ctypes.c_ulong(0), None) == 0
def mount(number):
    at = b"/mnt/%d" % number
    os.mkdir(at)
    words = (source.replace("NUMBER", str(number)).encode(), at, kind.encode())
    return ctypes.get_errno() if libc.mount(*words, ctypes.c_ulong(1), None) else 0
found, held = [], []
for number in range(count):
    if apart:
        here, there = os.pipe()
        pid = os.fork()
        if pid == 0:
            libc.unshare(0x20000)
            libc.mount(b"", b"/", None, ctypes.c_ulong(0x44000), None)
            os.write(there, bytes([mount(number)]))
            os.pause() if hasattr(os, "pause") else __import__("signal").pause()
        held.append(pid)
        found.append(os.read(here, 1)[0])
    else:
        found.append(mount(number))
if not apart:
    assert libc.umount2(b"/mnt/1", 0) == 0
    found.append(mount(count))
print(json.dumps(found))
for pid in held:
    os.kill(pid, 9)
"""


@pytest.fixture
def place(root: Person) -> Iterator[Path]:
    assert root.name is None
    with scratch(0o755) as folder:
        os.chown(folder, START, START)
        for name in ("mp", "other", "third"):
            (folder / name).mkdir()
        make_image(folder)
        yield folder


@pytest.fixture
def both(place: Path) -> Iterator[tuple[Target, Actor]]:
    assert place
    with mounting(ceiling=CEILING) as found:
        yield found
    no_loops(place)


def mount(actor: Actor, place: Path, **more: object) -> tuple[int, str]:
    words: dict[str, object] = {"source": str(place / "image"), "target": str(place / "mp")}
    return actor.mount(**{**words, "force": FORCE, **more})


def test_a_mount_is_known_however_many_came_after_it(
    both: tuple[Target, Actor], place: Path
) -> None:
    target, actor = both
    other = make_image(place, "image-other")
    assert mount(actor, place)[0] == 0
    for _ in range(70):
        assert mount(actor, place, source=str(other), target=str(place / "other"))[0] == 0
        assert target.run(f"umount {place}/other")[0] == 0
    for flags in (MS["ro"], 0):
        again = actor.mount(remount=True, target=str(place / "mp"), flags=FORCE | flags)
        assert again == (0, "remounted")
    # the same image is the same filesystem still: two would write to the same blocks
    assert mount(actor, place, target=str(place / "third"))[0] == 0
    assert target.run(f"touch {place}/mp/x && ls {place}/third/x")[0] == 0
    assert target.run(f"umount {place}/mp {place}/third")[0] == 0


def test_an_image_is_not_writable_beside_a_reader(both: tuple[Target, Actor], place: Path) -> None:
    """As with a device: read-only here and writable there is EBUSY."""
    target, actor = both
    assert mount(actor, place, flags=MS["ro"])[0] == 0
    assert mount(actor, place, target=str(place / "other"))[0] == EBUSY
    assert mount(actor, place, target=str(place / "other"), flags=MS["ro"])[0] == 0
    assert target.run(f"umount {place}/mp {place}/other")[0] == 0
    assert mount(actor, place)[0] == 0
    assert target.run(f"umount {place}/mp")[0] == 0


# Mounts filesystems at HEAP until one has this NUMBER: that one comes to PLACE, the others go.
HOSTS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
heap, place, number = sys.argv[1].encode(), sys.argv[2].encode(), int(sys.argv[3])
others = found = 0
while not found and others < 200:
    assert libc.mount(b"host", heap, b"tmpfs", 0, b"size=1m") == 0
    found = os.stat(heap).st_dev == number
    others += not found
if found:
    assert libc.mount(heap, place, None, 0x2000, None) == 0  # MS_MOVE
for _ in range(others):
    assert libc.umount2(heap, 0) == 0
sys.exit(not found)
"""


def device(target: Target, path: Path) -> str:
    return target.run(f"stat -c %d {path}")[1]


def test_a_filesystem_of_the_hosts_with_a_number_that_was_ours(
    both: tuple[Target, Actor], place: Path
) -> None:
    """Once ours has gone its device number is anybody's, and no leave to change that."""
    target, actor = both
    into = ["nsenter", "-t", str(target.pid), "-m"]
    hosts = [*into, sys.executable, "-c", HOSTS, str(place / "third"), str(place / "mp")]
    for _ in range(20):
        # The kernel gives the lowest number that is free. Others on the machine are to find lower
        # ones than ours, which we take as well, and all at once.
        lower = f"for n in 1 2 3 4 5 6 7 8; do %s {place}/third; done"
        assert target.run(lower % "mount -t tmpfs lower")[0] == 0
        words = {"fstype": "ramfs", "text": True, "force": 0, "source": "x"}
        assert mount(actor, place, **words)[0] == 0
        ours = device(target, place / "mp")
        assert target.run(f"umount {place}/mp")[0] == 0
        assert target.run(lower % "umount")[0] == 0
        if subprocess.run([*hosts, ours], check=False).returncode == 0:
            break
    assert device(target, place / "mp") == ours
    actor.mount(remount=True, target=str(place / "mp"), flags=MS["ro"], data="size=2m")
    assert actor.last["left_alone"]
    shown = subprocess.run(
        [*into, "findmnt", "-no", "OPTIONS", str(place / "mp")],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "rw" in shown.split(",")
    assert "size=1024k" in shown
    subprocess.run([*into, "umount", str(place / "mp")], check=True)


def test_both_sides_have_the_same_bound() -> None:
    assert lib.SD_MOST_MOUNTS == MOST_MOUNTS


def limited(
    person: Person, place: Path, rule: str, *words: str, limit: int | None = None
) -> list[int]:
    policy = place / "policy.yaml"
    said = "" if limit is None else f"    max_mounts: {limit}\n"
    policy.write_text(
        f"version: 1\nsyscalls:\n  mount:\n{said}    otherwise: kernel\n"
        f"    rules:\n      - {rule}\n"
    )
    done = run(
        person, python(person), "-c", INSIDE, *words, options=("--policy", str(policy)), timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_the_usual_limit(root: Person) -> None:
    with scratch() as place:
        found = limited(root, place, "{fstype: ramfs, do: emulate}", "x", "ramfs", "70", "0")
        assert found == [0] * MAX_MOUNTS + [ENOSPC] * (70 - MAX_MOUNTS) + [0]


@pytest.mark.parametrize("limit", [0, 1, 3, 100])
def test_a_limit_of_the_policys(root: Person, limit: int) -> None:
    with scratch() as place:
        count = max(limit, 2) + 3
        rule = "{fstype: ramfs, do: emulate}"
        found = limited(root, place, rule, "x", "ramfs", str(count), "1", limit=limit)
        # in a namespace of its own each, where no other sees it
        assert found == [0] * limit + [ENOSPC] * (count - limit)


def test_the_limit_counts_programs(person: Person) -> None:
    need("squashfuse")
    with scratch() as place:
        (place / "tree").mkdir()
        for number in range(6):
            (place / "tree" / "number").write_text(str(number))
            subprocess.run(
                ["mksquashfs", place / "tree", place / f"image{number}", "-quiet", "-noappend"],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            (place / f"image{number}").chmod(0o644)
        rule = "{fstype: squashfs, do: {emulate: {via: fuse}}}"
        with for_everybody():
            words = (f"{place}/imageNUMBER", "squashfs", "5", "0")
            found = limited(person, place, rule, *words, limit=3)
    assert found == [0, 0, 0, ENOSPC, ENOSPC, 0]
    assert gone(PROGRAMS["squashfuse"][0])


# Mounts at six places, each by a program that hangs; when all wait, one call that has nothing to do
# with them; then how many of them still wait.
HANGING = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
waiting = []
for number in range(6):
    pid = os.fork()
    if not pid:
        libc.mount(f"{sys.argv[1]}/image{number}".encode(), b"/mnt", b"ext4", 0, None)
        os._exit(0)
    waiting.append(pid)
for pid in waiting:
    while not open(f"/proc/{pid}/syscall").read().startswith("165 "):
        os.sched_yield()
try:
    os.mknod(f"{sys.argv[1]}/null", 0o20666, 0x103)
except OSError:
    pass
print(sum(os.waitpid(pid, os.WNOHANG) == (0, 0) for pid in waiting))
for pid in waiting:
    os.kill(pid, signal.SIGKILL)
"""


def test_programs_that_hang_keep_no_other_call_waiting(root: Person) -> None:
    with scratch() as place:
        for number in range(6):
            (place / f"image{number}").touch()
            (place / f"image{number}").chmod(0o666)
        policy = place / "policy.yaml"
        policy.write_text(
            "version: 1\nsyscalls:\n  mknod:\n    - {devices: [char 1:3], do: emulate}\n"
            "  mount:\n    - {fstype: ext4, options: {allow: '*'}, do: {emulate: {via: fuse,\n"
            "       program: [/bin/sh, -c, exec sleep 7177, '{source}', '{target}']}}}\n"
        )
        done = run(
            root, python(root), "-c", HANGING, str(place), options=("--policy", str(policy))
        )
        assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr
    assert gone("sleep 7177")
