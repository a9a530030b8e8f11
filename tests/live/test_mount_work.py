"""Work that people do in mounted images: a build with make and cc, a snap's programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.test_mount_fuse import gone
from tests.live.test_mount_programs import MOUNT, fuse
from tests.support.needs import need
from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import a_place

__all__ = ["fuse"]
pytestmark = pytest.mark.needs("fuse2fs")

MAKEFILE = """\
CFLAGS = -O1 -Wall
OBJECTS = main.o greet.o $(GENERATED)
GENERATED = $(foreach n,1 2 3 4 5 6 7 8,part$(n).o)
hello: libgreet.a main.o
	$(CC) -o $@ main.o -L. -lgreet
libgreet.a: greet.o $(GENERATED)
	$(AR) rcs $@ $^
part%.c: part.in
	sed s/NUMBER/$*/g $< >$@
install: hello
	install -D -m 755 hello $(DESTDIR)/usr/bin/hello
	ln -s hello $(DESTDIR)/usr/bin/hi
clean:
	rm -f *.o *.a part*.c hello
"""
SOURCES = {
    "Makefile": MAKEFILE,
    "part.in": "int part_NUMBER(void) { return NUMBER; }\n",
    "greet.c": "int part_7(void);\nint greet(void) { return part_7() * 6; }\n",
    "main.c": '#include <stdio.h>\nint greet(void);\nint main(void) { printf("%d\\n", greet()); '
    "return 0; }\n",
}

place = a_place()


@contextlib.contextmanager
def device(image: Path, *options: str) -> Iterator[str]:
    """A loop device on `image` that everybody may use, as an administrator could give it."""
    done = subprocess.run(
        ["losetup", "-f", "--show", *options, image], check=True, capture_output=True, text=True
    )
    loop = done.stdout.strip()
    mode = os.stat(loop).st_mode & 0o777
    os.chmod(loop, 0o666)
    try:
        yield loop
    finally:
        os.chmod(loop, mode)
        subprocess.run(["losetup", "-d", loop], check=True)


def policy(place: Path, kind: str, via: str) -> tuple[str, str]:
    """The option for a policy that mounts images and loop devices."""
    file = place / f"{kind}-{via}.yaml"
    file.write_text(
        "version: 1\nsyscalls:\n  mount:\n    otherwise: kernel\n    rules:\n"
        f'      - {{fstype: {kind}, source: ["{place}/**", "/dev/loop*"],\n'
        f'         options: {{allow: "*"}}, do: {{emulate: {{via: {via}, force: [nosuid]}}}}}}\n'
    )
    return ("--policy", str(file))


def ways(person: Person) -> list[str]:
    return ["kernel", "fuse"] if person.name is None else ["fuse"]


def test_a_build_in_an_image(person: Person, place: Path) -> None:
    """mkfs and all: made inside, mounted, worked in, unmounted, and clean on the host."""
    for via in ways(person):
        top = place / via
        top.mkdir()
        top.chmod(0o777)
        (top / "project").mkdir()
        for name, text in SOURCES.items():
            (top / "project" / name).write_text(text)
        script = (
            f"cd {top} && truncate -s 64M disk.img && mkfs.ext4 -q disk.img && "
            f'{python(person)} -c "$0" {top}/disk.img /mnt ext4 0 && cp -r project /mnt/ && '
            "cd /mnt/project && make -s -j2 && ./hello && make -s DESTDIR=/mnt/root install && "
            "touch -d 2030-01-01 part.in && make -s 2>/dev/null && ./hello && make -s clean && "
            "! ls | grep -q '[.]o$' && chown -R 7:8 /mnt/root/usr && cd / && umount /mnt"
        )
        done = run(
            person, "sh", "-euc", script, MOUNT, options=policy(place, "ext4", via), timeout=120
        )
        assert (done.returncode, done.stdout) == (0, "42\n42\n"), done.stdout + done.stderr
        image = top / "disk.img"
        subprocess.run(["e2fsck", "-fn", image], check=True, stdout=subprocess.DEVNULL)
        for request in (f"dump /root/usr/bin/hello {top}/hello", f"rdump /project {top}"):
            subprocess.run(["debugfs", "-R", request, image], check=True, capture_output=True)
        (top / "hello").chmod(0o755)
        done = subprocess.run([top / "hello"], capture_output=True, text=True, check=True)
        assert done.stdout == "42\n", "what was built there runs here"
        shown = subprocess.run(
            ["debugfs", "-R", "stat /root/usr/bin/hello", image],
            check=True, capture_output=True, text=True,
        ).stdout.split()  # fmt: skip
        assert shown[shown.index("User:") + 1] == "7"
        assert shown[shown.index("Group:") + 1] == "8"
    assert gone("fuse2fs -f")


@pytest.fixture
def snap(place: Path) -> Path:
    """As `snap pack` makes them."""
    need("mksquashfs", "busybox")
    tree = place / "tree"
    for name in ("meta/gui", "bin", "usr/share"):
        (tree / name).mkdir(parents=True)
    (tree / "meta" / "snap.yaml").write_text(
        "name: tool\nversion: '1.0'\nsummary: a tool\ndescription: a tool\nconfinement: strict\n"
        "apps:\n  tool:\n    command: bin/tool\n"
    )
    shutil.copy(str(shutil.which("busybox")), tree / "bin" / "busybox")
    (tree / "bin" / "sh").symlink_to("busybox")
    (tree / "bin" / "tool").write_text('#!/mnt/bin/sh\necho "tool of $(/mnt/bin/busybox id -u)"\n')
    (tree / "bin" / "tool").chmod(0o755)
    shutil.copytree("/usr/share/perl5", tree / "usr" / "share" / "perl5", symlinks=True)
    packed = place / "tool_1.0_amd64.snap"
    subprocess.run(
        ["mksquashfs", tree, packed, "-noappend", "-comp", "xz", "-no-fragments", "-no-xattrs",
         "-all-root", "-quiet", "-no-progress"],
        check=True, capture_output=True,
    )  # fmt: skip
    packed.chmod(0o644)
    return packed


USE_OF_A_SNAP = (
    "grep -q '^name: tool' /mnt/meta/snap.yaml && /mnt/bin/tool && "
    "diff -r --no-dereference TREE /mnt >&2 && stat -c %u:%g /mnt/meta && "
    "! touch /mnt/x 2>/dev/null && umount /mnt && ! ls /mnt/meta 2>/dev/null"
)


def test_a_snap_by_libc(person: Person, place: Path, snap: Path) -> None:
    for via in ways(person):
        script = f'{python(person)} -c "$0" {snap} /mnt squashfs 1 && ' + USE_OF_A_SNAP
        done = run(
            person, "sh", "-euc", script.replace("TREE", f"{place}/tree"), MOUNT,
            options=policy(place, "squashfs", via), timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "tool of 0\n0:0\n"), done.stdout + done.stderr


@pytest.mark.parametrize("program", ["mount", "busybox mount"])
def test_a_snap_by_mount_programs(person: Person, place: Path, snap: Path, program: str) -> None:
    for via in ways(person):
        with device(snap, "-r") as loop:
            script = f"{program} -t squashfs -o ro,nodev {loop} /mnt && " + USE_OF_A_SNAP
            done = run(
                person, "sh", "-euc", script.replace("TREE", f"{place}/tree"),
                options=policy(place, "squashfs", via), timeout=60,
            )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "tool of 0\n0:0\n"), done.stdout + done.stderr


@pytest.mark.parametrize("program", ["mount", "busybox mount"])
def test_ext4_by_mount_programs(person: Person, place: Path, program: str) -> None:
    image = place / "disk.img"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", image], check=True)
    for via in ways(person):
        with device(image) as loop:
            script = (
                f"{program} -t ext4 -o noatime {loop} /mnt && echo {via} >/mnt/{via} && "
                "chown 5:6 /mnt/* && stat -c %u:%g /mnt/* && umount /mnt && "
                f"{program} -t ext4 -o ro {loop} /mnt && cat /mnt/{via} && "
                "! touch /mnt/x 2>/dev/null && umount /mnt"
            )
            done = run(person, "sh", "-euc", script, options=policy(place, "ext4", via))
            found = [line for line in done.stdout.splitlines() if line != "0:0"]
            owners = [line for line in found if line != via]
            assert (done.returncode, found[-1]) == (0, via), done.stdout + done.stderr
            assert set(owners) == {"5:6"}
        subprocess.run(["e2fsck", "-fn", image], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("program", ["mount", "busybox mount"])
def test_a_regular_file_takes_a_loop_device_first(
    person: Person, place: Path, program: str
) -> None:
    """What docs/mounts.md says: these programs do not even call mount(2) before they have one."""
    image = place / "disk.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    image.chmod(0o666)
    records = place / "records.json"
    records.touch()
    records.chmod(0o666)
    done = run(
        person, "sh", "-c", f"{program} -t ext4 {image} /mnt",
        options=(*policy(place, "ext4", "fuse"), "--audit", str(records)),
    )  # fmt: skip
    assert done.returncode != 0
    assert '"mount"' not in records.read_text()
