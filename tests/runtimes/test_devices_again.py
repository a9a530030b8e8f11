"""Devices that are given: what holds one, and what is said of it, where the container does not make
that easy."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtimes.test_devices import BACKGROUND, POLICY, STILL_HELD, Box, new_box
from tests.support.bundles import CAPABILITIES, Bundle, bundle
from tests.support.daemon import Daemon, serving
from tests.support.inside import wait_for
from tests.support.loops import FIRST, removed
from tests.support.people import Person
from tests.support.scratch import a_place

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"nodes": POLICY}) as found:
        yield found


@pytest.fixture(scope="module")
def box(daemon: Daemon, place: Path) -> Iterator[Box]:
    yield from new_box(daemon, place)


@pytest.fixture
def rootful(daemon: Daemon, place: Path) -> Iterator[Bundle]:
    """One whose root is the host's, and may chroot(2)."""
    with bundle(
        place, daemon.profile("nodes"), userns=False,
        capabilities=(*CAPABILITIES, "CAP_SYS_CHROOT"),
    ) as found:  # fmt: skip
        yield found


@pytest.mark.parametrize("name", ["a\rb", "a\vb", "a\f/o", "a b\t\n\\040", "\x1b[1m#"])
def test_names(box: Box, name: str) -> None:
    """The kernel's list of mounts says some white space as it is."""
    box.add(f"/o/{name}")
    assert box.states() == {f"/o/{name}": "there"}
    assert box.remove(f"/o/{name}") == {
        "removed": f"/o/{name}", "hidden": 0, "complete": True, "holders": [],
    }  # fmt: skip
    box.sh("rm -r /o")


def test_a_root_directory_hides_no_mount(daemon: Daemon, rootful: Bundle) -> None:
    """The list of mounts that a process has is of those below its root directory alone."""
    box = Box(daemon, rootful)
    box.add("/z")
    script = (
        "touch /copy; mount -o bind /z /copy; mkdir -p /empty/bin; cp /bin/busybox /empty/bin; "
        "sleep 1000 & exec busybox chroot /empty /bin/busybox sh -c "
        '"/bin/busybox touch /in; exec /bin/busybox sleep 1000"'
    )
    box.sh(f"busybox unshare -m sh -c '{script}' {BACKGROUND}\n"
           "while ! test -e /empty/in; do sleep 0.1; done")  # fmt: skip
    found = box.remove("/z", STILL_HELD)
    assert {(one["how"], one["path"]) for one in found["holders"]} == {("mounted", "/copy")}


def test_a_filesystem_that_was_made_read_only(daemon: Daemon, rootful: Bundle) -> None:
    """By root of the container, who is the host's."""
    box = Box(daemon, rootful)
    box.add("/z")
    box.sh("mount -o remount,ro /z; ! chmod 600 /z")
    assert box.remove("/z")["holders"] == []
    box.sh("test ! -e /z")


@pytest.mark.needs("losetup", "mkfs.ext4")
def test_a_filesystem_on_it_holds_it(daemon: Daemon, rootful: Bundle, place: Path) -> None:
    image = place / "image"
    image.write_bytes(bytes(4 << 20))
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    rootful.config["linux"]["resources"]["devices"].append(
        {"allow": True, "type": "b", "major": 7, "minor": FIRST, "access": "rwm"}
    )
    with removed():
        subprocess.run(["losetup", f"/dev/loop{FIRST}", str(image)], check=True)
        box = Box(daemon, rootful)
        box.add("/dev/disk", device=f"block 7:{FIRST}")
        box.sh("mkdir /on; mount -t ext4 /dev/disk /on; mount -o bind /on/lost+found /tmp")
        (one,) = box.remove("/dev/disk", STILL_HELD)["holders"]
        assert (one["how"], one["path"]) == ("mounted", "/on")
        box.sh("umount /tmp /on")
        box.add("/dev/disk", device=f"block 7:{FIRST}")
        assert box.remove("/dev/disk")["holders"] == []
        subprocess.run(["losetup", "-d", f"/dev/loop{FIRST}"], check=True)


def test_when_its_first_process_has_ended(daemon: Daemon, rootful: Bundle) -> None:
    """Nobody can say then where a device is mounted: not that it is not."""
    spaces = rootful.config["linux"]["namespaces"]
    rootful.config["linux"]["namespaces"] = [one for one in spaces if one["type"] != "pid"]
    box = Box(daemon, rootful)
    box.add("/z")
    rootful.detached("exec", "-d", box.name, "/bin/sleep", "1001")
    os.kill(rootful.pid(box.name), signal.SIGKILL)
    wait_for(box.states, lambda found: found == {"/z": "unknown"})
    (one,) = box.remove("/z", STILL_HELD)["holders"]
    os.kill(one["pid"], signal.SIGKILL)
    assert (one["how"], one["path"]) == ("mounted", "/z")


def test_it_can_be_given_again_to_the_next_start(daemon: Daemon, place: Path) -> None:
    """The file that it was mounted on is there still."""
    with bundle(place, daemon.profile("nodes")) as found:
        for start in range(2):
            box = Box(daemon, found)
            assert Path(box.seen("/z")).exists() == bool(start)
            box.add("/z")
            assert box.sh("head -c 3 /z | wc -c") == "3\n"
            if start:
                box.remove("/z")
                box.sh("test ! -e /z")
            found.delete(box.name)


def test_no_other_file_is_taken_for_such_a_one(box: Box) -> None:
    box.sh("cd /tmp; : >open; echo x >full; : >other; : >two; busybox ln two three; mkfifo pipe; "
           "chmod 0 full other two pipe; chown 5 other")  # fmt: skip
    for name in ("open", "full", "other", "two", "pipe"):
        done = box.device("add", "/dev/zero", f"/tmp/{name}")
        assert (done.returncode, "File exists" in done.stderr) == (1, True), name
    box.sh("cd /tmp; rm open full other two three pipe")
