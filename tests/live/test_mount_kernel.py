"""Mounts through the kernel's own drivers: who owns what, which flags stay, what is left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from errno import EACCES, EBUSY, EINVAL, ENOENT, ENOSPC, ENOTBLK, ENOTDIR, EPERM
from pathlib import Path

import pytest

from supervisor.kernel.mounts import MS
from tests.support.mounting import START, Actor, Target, mounting, no_loops
from tests.support.people import Person
from tests.support.scratch import scratch

FORCE = MS["nosuid"] | MS["nodev"]
CEILING = [{"fstype": "ext4", "force": FORCE}, {"fstype": "tmpfs", "text": True, "images": False}]


def make_image(place: Path, name: str = "image") -> Path:
    """An ext4 image with a device node and a file of root's in it, owned by the target's root."""
    source = place / "source"
    source.mkdir(exist_ok=True)
    if not (source / "null").exists():
        os.mknod(source / "null", 0o020666, os.makedev(1, 3))
        (source / "null").chmod(0o666)
        (source / "file").write_text("text")
    image = place / name
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", source, image], check=True)
    os.chown(image, START, START)
    return image


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


def mount(actor: Actor, place: Path, **more: object) -> tuple[int, str]:
    words: dict[str, object] = {"source": str(place / "image"), "target": str(place / "mp")}
    return actor.mount(**{**words, "force": FORCE, **more})


def test_the_images_root_is_the_containers(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    assert mount(actor, place) == (0, "kernel, idmapped")
    assert target.run(f"stat -c %u:%g {place}/mp/file; touch {place}/mp/new")[1] == "0:0"
    assert target.run(f"stat -c %u:%g {place}/mp/new")[1] == "0:0"
    # nothing of ours keeps it busy, and the loop device goes with it
    assert target.run(f"umount {place}/mp") == (0, "")
    no_loops(place)
    assert subprocess.run(["e2fsck", "-fn", place / "image"], check=False).returncode == 0


def test_what_is_mounted_read_only_is_attached_so(
    both: tuple[Target, Actor], place: Path
) -> None:
    target, actor = both
    for flags, shown in ((MS["ro"], "1"), (0, "0")):
        assert mount(actor, place, flags=flags)[0] == 0
        done = subprocess.run(
            ["losetup", "-n", "-O", "RO", "-j", place / "image"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == shown
        assert target.run(f"umount {place}/mp") == (0, "")


def test_device_nodes_open_where_the_rule_says_so(place: Path) -> None:
    with mounting(ceiling=[{"fstype": "ext4"}]) as (target, actor):
        for force, opens in ((0, True), (MS["nodev"], False)):
            assert mount(actor, place, force=force)[0] == 0
            assert (target.run(f": < {place}/mp/null")[0] == 0) == opens
            assert target.run(f"umount {place}/mp") == (0, "")


def test_without_shift_owners_stay_as_they_are(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    assert mount(actor, place, shift="false") == (0, "kernel")
    assert target.run(f"stat -c %u:%g {place}/mp/file")[1] == "65534:65534"
    target.run(f"umount {place}/mp")


def test_what_is_forced_stays(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    assert mount(actor, place)[0] == 0
    for command in (
        f"mount -o remount,bind,dev,suid {place}/mp",
        f"mount --bind {place}/mp /mnt && mount -o remount,bind,dev,suid /mnt",
        f"unshare -m mount -o remount,bind,dev,suid {place}/mp",
        f"unshare -Urm mount -o remount,bind,dev,suid {place}/mp",
    ):
        assert target.run(command)[0] != 0
    assert target.run(f"umount /mnt; : < {place}/mp/null")[0] != 0
    status, text = target.run(f"grep {place}/mp /proc/self/mountinfo")
    assert status == 0
    assert "nosuid,nodev" in text
    target.run(f"umount {place}/mp")


def test_what_was_only_asked_for_can_be_taken_back(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    flags = MS["noexec"] | MS["noatime"]
    assert mount(actor, place, flags=flags)[0] == 0
    grep = f"grep {place}/mp /proc/self/mountinfo"
    assert "noexec,noatime" in target.run(grep)[1]
    assert target.run(f"mount -o remount,bind,exec,nosuid,nodev,noatime {place}/mp")[0] == 0
    assert "noexec" not in target.run(grep)[1]
    target.run(f"umount {place}/mp")


def test_remount(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    assert mount(actor, place)[0] == 0
    again = {"remount": True, "target": str(place / "mp")}
    assert actor.mount(**again, flags=FORCE | MS["ro"]) == (0, "remounted")
    assert target.run(f"touch {place}/mp/x")[0] != 0
    assert actor.mount(**again, flags=FORCE) == (0, "remounted")
    assert target.run(f"touch {place}/mp/x")[0] == 0
    # what the container's root may not do by itself it may not do through us
    assert actor.mount(**again, flags=MS["nosuid"])[0] == EPERM
    assert actor.mount(**again, flags=FORCE, data="nonsense")[0] == EINVAL
    target.run(f"umount {place}/mp")
    actor.mount(remount=True, target="/", flags=MS["ro"])
    assert actor.last["left_alone"], "what is none of ours is the kernel's"


def test_a_remount_of_atime_beside_what_is_forced(
    both: tuple[Target, Actor], place: Path
) -> None:
    """The kernel has locked it with the others: another mount takes the place of the old one."""
    target, actor = both
    again = {"remount": True, "target": str(place / "mp")}
    grep = f"grep {place}/mp /proc/self/mountinfo"
    assert mount(actor, place, flags=MS["noexec"])[0] == 0
    for flags, shown in (
        (MS["noatime"], "rw,nosuid,nodev,noatime"),
        (MS["noatime"] | MS["nodiratime"] | MS["ro"], "ro,nosuid,nodev,noatime,nodiratime"),
        (MS["relatime"] | MS["noexec"], "rw,nosuid,nodev,noexec,relatime"),
        (MS["strictatime"], "rw,nosuid,nodev"),
    ):
        assert actor.mount(**again, flags=FORCE | flags) == (0, "remounted")
        status, text = target.run(grep)
        assert (status, text.count("\n")) == (0, 0), text
        assert text.split()[5].removesuffix(",idmapped") == shown, text
        # and all that was so before is so still
        assert target.run(f"stat -c %u {place}/mp/file")[1] == "0"
        assert target.run(f"mount -o remount,bind,dev,suid {place}/mp")[0] != 0
        assert target.run(f"touch {place}/mp/x")[0] == (1 if "ro" in shown else 0)
    # nothing happens under somebody's feet
    assert actor.mount(**again, flags=FORCE | MS["noatime"] | MS["noexec"])[0] == 0
    before = target.run(grep)[1]
    for use, leave in (
        (f"exec 5>{place}/mp/open", "exec 5>&-"),
        (f"cd {place}/mp", "cd /"),
        (f"mkdir {place}/mp/d; mount -t tmpfs t {place}/mp/d", f"umount {place}/mp/d"),
    ):
        assert target.run(use)[0] == 0
        errno, how = actor.mount(**again, flags=FORCE | MS["strictatime"] | MS["ro"])
        assert (errno, "in use" in how) == (EBUSY, True), how
        assert target.run(f"touch {place}/mp/y")[0] == 0
        assert target.run(leave)[0] == 0
        assert target.run(grep)[1] == before
    assert actor.mount(**again, flags=MS["nosuid"] | MS["relatime"])[0] == EPERM, "against force"
    assert target.run(f"umount {place}/mp") == (0, "")
    assert target.run(grep)[0] == 1, "there is one mount, not two"


@pytest.mark.parametrize(
    ("change", "errno"),
    [
        ({"target": "/nowhere"}, ENOENT),
        ({"target": ""}, ENOENT),
        ({"source": "/nowhere"}, ENOENT),
        ({"source": "/"}, ENOTBLK),
        ({"source": "/dev/null"}, ENOTBLK),
        ({"source": None}, EINVAL),
        ({"target": "/etc/passwd"}, ENOTDIR),
        ({"data": "nonsense=1"}, EINVAL),
        ({"fstype": "xfs"}, EPERM),  # beyond the ceiling
        ({"force": 0}, EPERM),  # as well
        ({"data": "x" * 4096}, EINVAL),  # never cut
        ({"shift": "true", "fstype": "tmpfs", "source": "x", "text": True, "force": 0}, 0),
    ],
)
def test_errors_are_those_of_mount(
    both: tuple[Target, Actor], place: Path, change: dict[str, object], errno: int
) -> None:
    target, actor = both
    assert mount(actor, place, **change)[0] == errno
    target.run(f"umount {place}/mp")


@pytest.mark.parametrize(
    ("said", "asked", "found"),
    [
        ("panic", None, "continue"),
        ("panic", "commit=7", "continue"),
        ("remount-ro", None, "remount-ro"),
        ("continue", None, "continue"),
        ("panic", "commit=7,errors=remount-ro", "remount-ro"),
    ],
)
def test_no_image_halts_the_host(
    both: tuple[Target, Actor], place: Path, said: str, asked: str | None, found: str
) -> None:
    """What is to happen upon an error stands in the image; the kernel shows what it has taken."""
    target, actor = both
    subprocess.run(["tune2fs", "-e", said, place / "image"], check=True, capture_output=True)
    assert mount(actor, place, data=asked)[0] == 0
    shown = target.run(f"grep {place}/mp /proc/self/mountinfo")[1].split()
    loop = shown[shown.index("-") + 2].rpartition("/")[2]
    options = Path(f"/proc/fs/ext4/{loop}/options").read_text().splitlines()
    target.run(f"umount {place}/mp")
    assert [option for option in options if option.startswith("errors=")] == [f"errors={found}"]
    assert ("commit=7" in options) == bool(asked)


def test_once_more_on_the_same_place(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    (place / "other").mkdir()
    assert mount(actor, place)[0] == 0
    assert mount(actor, place)[0] == EBUSY
    # one image is one filesystem, as often as it is mounted
    assert mount(actor, place, target=str(place / "other"))[0] == 0
    target.run(f"touch {place}/mp/seen")
    assert target.run(f"ls {place}/other/seen; umount {place}/mp {place}/other")[0] == 0


def test_an_image_that_the_caller_may_not_open(both: tuple[Target, Actor], place: Path) -> None:
    _, actor = both
    os.chown(place / "image", 0, 0)
    (place / "image").chmod(0o600)
    assert mount(actor, place)[0] == 13
    (place / "image").chmod(0o644)
    assert mount(actor, place)[0] == 13
    # `ro` is to be read alone
    assert mount(actor, place, flags=MS["ro"])[0] == 0


def test_the_most_mounts_of_a_session(place: Path) -> None:
    with mounting(ceiling=CEILING, most=3) as (target, actor):
        for number in range(3):
            make_image(place, f"image{number}")
            (place / f"mp{number}").mkdir()
            where = {"source": f"{place}/image{number}", "target": f"{place}/mp{number}"}
            assert mount(actor, place, **where)[0] == 0
        assert mount(actor, place)[0] == ENOSPC
        assert target.run(f"umount {place}/mp1")[0] == 0
        assert mount(actor, place)[0] == 0
    no_loops(place)


def test_a_block_device_by_the_kernels_name(place: Path) -> None:
    loop = subprocess.run(
        ["losetup", "-f", "--show", place / "image"], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        rules = [{"fstype": "ext4", "names": [loop], "images": False, "force": FORCE}]
        with mounting(ceiling=rules) as (target, actor):
            assert mount(actor, place)[0] == EPERM, "images are not granted"
            assert mount(actor, place, source=loop) == (0, "kernel, idmapped")
            _, text = target.run(f"grep {place}/mp /proc/self/mountinfo; umount {place}/mp")
            assert f"ext4 {loop} " in text
        with mounting(ceiling=[{"fstype": "ext4", "names": ["/dev/sd*"]}]) as (target, actor):
            # a name of the container's choice is none
            target.run("mkdir -p /tmp/x && mount -t tmpfs x /tmp/x && touch /tmp/x/sda")
            assert target.run(f"mount --bind {loop} /tmp/x/sda")[0] == 0
            assert mount(actor, place, source="/tmp/x/sda")[0] == EPERM
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


def test_a_source_is_found_as_its_caller_finds_it(place: Path) -> None:
    """Whether the session looks by itself, or has a resolver look."""
    loop = subprocess.run(
        ["losetup", "-f", "--show", place / "image"], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        for folder, mode in ((place, 0o755), (place / "closed", 0o700)):
            folder.mkdir(mode, exist_ok=True)
            os.mknod(folder / "node", 0o060666, os.stat(loop).st_rdev)
            os.chown(folder, START, START)
        (place / "link").symlink_to("node")
        rules = [{"fstype": "ext4", "names": [loop], "images": False, "force": FORCE}]
        with mounting(ceiling=rules) as (target, actor):
            for name, at in (
                ("node", "mp"), ("/node", "/mp"), ("./node", "./mp"), ("link", "mp/"),
                (f"../{place.name}/node", "mp/."), ("closed/node", "mp"),
            ):  # fmt: skip
                paths = {"source": f"{place}/{name}", "target": f"{place}/{at}"}
                assert mount(actor, place, **paths) == (0, "kernel, idmapped"), paths
                assert actor.last["target"] == f"{place}/mp"
                assert target.run(f"umount {place}/mp") == (0, "")
            for name, errno in (("image", EPERM), ("none", ENOENT), ("mp", ENOTBLK)):
                assert mount(actor, place, source=f"{place}/{name}")[0] == errno
            assert mount(actor, place, source=f"{place}/node", target=f"{place}/no")[0] == ENOENT

            nobody = "setpriv --reuid 7 --regid 7 --clear-groups"
            pid = target.start(f"{nobody} --inh-caps +sys_admin --ambient-caps +sys_admin sleep 60")
            assert mount(actor, place, source=f"{place}/closed/node", tid=pid)[0] == EACCES
            assert mount(actor, place, source=f"{place}/node", tid=pid)[0] == 0
            target.run(f"umount {place}/mp; kill {pid}; wait")

            (place / "image").chmod(0)
            assert mount(actor, place)[0] == EPERM
            less = "setpriv --bounding-set -dac_override --inh-caps -dac_override"
            pid = target.start(f"{less} sleep 60")
            assert mount(actor, place, tid=pid)[0] == EACCES
            target.run(f"kill {pid}; wait")

            target.run(f"mkdir {place}/root && mount --rbind / {place}/root")
            target.run(f"mount -t tmpfs x {place}/root/mnt && mkdir {place}/root/mnt/mp")
            pid = target.start(f"chroot {place}/root sleep 60")
            paths = {"source": f"{place}/node", "target": "/mnt/mp"}
            assert mount(actor, place, **paths, tid=pid)[0] == 0
            assert actor.last["target"] == "/mnt/mp"
            assert target.run(f"ls {place}/root/mnt/mp/file")[0] == 0
            target.run(f"umount {place}/root/mnt/mp; kill {pid}; wait")

            target.run(f"mkdir {place}/no && mount --bind {place} {place}/no")
            target.run(f"mount -o remount,bind,nodev {place}/no")
            assert mount(actor, place, source=f"{place}/no/node")[0] == EACCES
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


def test_propagation_goes_where_it_went(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    (place / "peer").mkdir()
    target.run(f"mount --bind {place} {place} && mount --make-shared {place}")
    target.run(f"mount --bind {place} {place}/peer")
    assert mount(actor, place)[0] == 0
    assert target.run(f"ls {place}/peer/mp/file")[0] == 0
    assert target.run(f"umount {place}/mp && umount {place}/peer && umount {place}")[0] == 0


def test_a_mount_in_a_namespace_of_the_callers_own(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    pid = target.start("unshare -m --propagation private sleep 60")
    assert mount(actor, place, tid=pid)[0] == 0
    assert target.run(f"grep {place}/mp /proc/self/mountinfo")[0] == 1
    assert str(place / "mp") in Path(f"/proc/{pid}/mountinfo").read_text()
    target.run(f"kill {pid}; wait")


def test_a_caller_without_the_capability(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    for command in ("setpriv --bounding-set -sys_admin --inh-caps -sys_admin", "unshare -U"):
        pid = target.start(f"{command} sleep 60")
        assert mount(actor, place, tid=pid)[0] == EPERM
        assert mount(actor, place, tid=pid, target="/nowhere")[0] == ENOENT
        target.run(f"kill {pid}; wait")


def test_an_image_on_the_hosts_overlay_and_on_the_containers(place: Path) -> None:
    """Whoever made an overlay knows what its layers are; a FUSE server may be below another's."""
    for name in ("lower", "host", "upper", "work"):
        (place / name).mkdir()
        os.chown(place / name, START, START)
    make_image(place, "lower/image")
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "o", place / "host"], check=True)
    try:
        with mounting(ceiling=CEILING) as (target, actor):
            assert mount(actor, place, source=f"{place}/host/image") == (0, "kernel, idmapped")
            assert target.run(f"umount {place}/mp")[0] == 0
            inner = (
                "mount -t tmpfs t /run; mkdir /run/u /run/w; mount -t overlay -o userxattr,"
                f"lowerdir={place}/lower,upperdir=/run/u,workdir=/run/w o /mnt"
            )
            assert target.run(inner) == (0, "")
            errno, how = mount(actor, place, source="/mnt/image")
            assert (errno, "somebody may not answer" in how) == (EPERM, True)
            target.run("umount /mnt; umount /run")
    finally:
        subprocess.run(["umount", place / "host"], check=True)
