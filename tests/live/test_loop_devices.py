"""Loop devices that are given: losetup and mount -o loop in a container, and whose they are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.loops import FIRST, GIVEN, LAST, attached, none_is_left, removed
from tests.support.people import Person, python
from tests.support.program import Started, run
from tests.support.scratch import scratch

pytestmark = pytest.mark.needs("losetup", "mkfs.ext4", "busybox")

RULES = f"""
version: 1
name: loops
{GIVEN}"""
HEAD = f"""
import ctypes, errno, fcntl, os, struct, sys
FIRST = {FIRST}
SET_FD, CLR_FD, SET_STATUS, GET_STATUS, CHANGE_FD, SET_CAPACITY, SET_BLOCK_SIZE = (
    0x4C00, 0x4C01, 0x4C04, 0x4C05, 0x4C06, 0x4C07, 0x4C09)
CONFIGURE, ADD, REMOVE, GET_FREE = 0x4C0A, 0x4C80, 0x4C81, 0x4C82
def tried(call, *args):
    try:
        return call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
def ioctl(fd, op, value=0):
    result = tried(fcntl.ioctl, fd, op, value)
    return result if op == GET_STATUS or not isinstance(result, bytes) else 0
def opened(number, flags=os.O_RDWR):
    return tried(os.open, f"/dev/loop{{number}}", flags)
def config(fd, flags=0, encrypted=0):
    info = struct.pack("5Q4I64s64s32s16s", *[0] * 5, 0, encrypted, 0, flags, b"", b"", b"", b"")
    return struct.pack("II", fd & 0xFFFFFFFF, 0) + info + bytes(64)
"""


@pytest.fixture(scope="module")
def place(root: Person) -> Iterator[Path]:
    with scratch(0o777, "/var/tmp") as folder:
        (folder / "rules.yaml").write_text(RULES)
        with removed():
            yield folder


@pytest.fixture
def image(place: Path, root: Person) -> Iterator[Path]:
    """An ext4 image that belongs to the container's root."""
    path = place / "image"
    with path.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", str(path)], check=True)
    os.chown(path, root.inner_root, root.inner_root)
    yield path
    path.unlink()


def options(place: Path) -> tuple[str, str]:
    return "--policy", str(place / "rules.yaml")


def shell(person: Person, place: Path, script: str, *more: str) -> list[str]:
    done = run(person, "sh", "-euc", script, options=(*options(place), *more))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def says(person: Person, place: Path, code: str) -> list[str]:
    done = run(person, python(person), "-c", HEAD + code, options=options(place))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_losetup(root: Person, place: Path, image: Path) -> None:
    log = place / "audit"
    script = f"""
    losetup -f
    losetup -f --show {image}
    losetup -n -O NAME,BACK-FILE /dev/loop{FIRST}
    printf changed | dd of=/dev/loop{FIRST} bs=1 conv=notrunc,fsync 2>/dev/null
    losetup -f
    losetup -c /dev/loop{FIRST}
    losetup -d /dev/loop{FIRST}
    losetup -f
    """
    name = f"/dev/loop{FIRST}"
    assert shell(root, place, script, "--audit", str(log)) == [
        name, name, name, str(image), f"/dev/loop{FIRST + 1}", name,
    ]  # fmt: skip
    assert image.read_bytes()[:7] == b"changed"
    none_is_left()
    records = [json.loads(line) for line in log.read_text().splitlines()]
    how = [record.get("how") for record in records if record.get("syscall") == "ioctl"]
    assert f"attached: loop{FIRST}" in how
    assert f"detached: loop{FIRST}" in how


@pytest.mark.parametrize("busybox", ["", "busybox "])
def test_mount_of_an_image(root: Person, place: Path, image: Path, busybox: str) -> None:
    script = f"""
    mkdir {place}/there
    {busybox}mount -o loop -t ext4 {image} {place}/there
    grep -c "^/dev/loop.* {place}/there ext4 rw,nodev" /proc/mounts
    echo written >{place}/there/file
    {busybox}umount {place}/there
    {busybox}mount -o loop,ro -t ext4 {image} {place}/there
    cat {place}/there/file
    {busybox}umount {place}/there
    rmdir {place}/there
    """
    assert shell(root, place, script) == ["1", "written"]
    none_is_left()


def test_in_a_dev_of_its_own(root: Person, place: Path, image: Path) -> None:
    """As containers have one. The nodes need not open; mount does not go by them."""
    nodes = " ".join(map(str, range(FIRST, LAST + 1)))
    script = f"""
    cd {place}; mkdir own there; mount -t tmpfs none own; mkdir own/dev
    for node in null zero; do : >own/dev/$node; mount --bind /dev/$node own/dev/$node; done
    mknod own/dev/loop-control c 10 237
    for number in {nodes}; do mknod own/dev/loop$number b 7 $number; done
    mount --rbind own/dev /dev
    loop=$(losetup -f --show image)
    mount -t ext4 $loop there
    echo $loop $(ls there)
    losetup -d $loop
    echo kept >there/kept
    umount there
    mount -o loop -t ext4 image there; cat there/kept; umount there
    rmdir there; umount -l /dev own; rmdir own
    """
    assert shell(root, place, script) == [f"/dev/loop{FIRST}", "lost+found", "kept"]
    none_is_left()


def test_it_ends_with_the_session(root: Person, place: Path, image: Path) -> None:
    assert shell(root, place, f"losetup -f --show {image}") == [f"/dev/loop{FIRST}"]
    none_is_left()


def test_what_the_host_has_attached(root: Person, place: Path, image: Path) -> None:
    """In the range as well, by chance: it is not seen, not detached, not read, and not mounted."""
    hosts = place / "hosts"
    hosts.write_bytes(b"secret".ljust(1 << 20, b"\0"))
    subprocess.run(["losetup", f"/dev/loop{FIRST}", str(hosts)], check=True)
    try:
        code = f"""
os.chdir({str(place)!r})
control = os.open("/dev/loop-control", os.O_RDWR)
print(ioctl(control, GET_FREE) - FIRST, ioctl(control, ADD, FIRST), ioctl(control, REMOVE, FIRST))
fd, mine = opened(FIRST), os.open("image", os.O_RDWR)
print(os.read(fd, 6), ioctl(fd, GET_STATUS, bytes(232)), ioctl(fd, CLR_FD))
print(ioctl(fd, CONFIGURE, config(mine)), ioctl(fd, SET_FD, mine), ioctl(fd, CHANGE_FD, mine))
os.mkdir("there")
libc = ctypes.CDLL(None, use_errno=True)
path = f"/dev/loop{FIRST}".encode()
print(libc.mount(path, b"there", b"ext4", 0, None), errno.errorcode[ctypes.get_errno()])
os.rmdir("there")
"""
        assert says(root, place, code) == [
            "1", "EEXIST", "EPERM", "b''", "ENXIO", "ENXIO", "EBUSY", "EBUSY", "ENXIO",
            "-1", "ENXIO",
        ]  # fmt: skip
        assert attached() == [FIRST]
    finally:
        subprocess.run(["losetup", "-d", f"/dev/loop{FIRST}"], check=True)


def test_what_another_container_has_attached(root: Person, place: Path, image: Path) -> None:
    words = ["run", *options(place), "--", "sh", "-euc", f"losetup -f --show {image}; read line"]
    other = Started(root, words, stdin=subprocess.PIPE)
    try:
        assert other.process.stdout is not None
        assert other.process.stdout.readline() == b"/dev/loop%d\n" % FIRST
        code = f"""
os.chdir({str(place)!r})
print(ioctl(os.open("/dev/loop-control", os.O_RDWR), GET_FREE) - FIRST)
fd = opened(FIRST)
print(os.read(fd, 6), ioctl(fd, GET_STATUS, bytes(232)), ioctl(fd, CLR_FD))
print(ioctl(fd, CONFIGURE, config(os.open("image", os.O_RDWR))))
"""
        assert says(root, place, code) == ["1", "b''", "ENXIO", "ENXIO", "EBUSY"]
        assert attached() == [FIRST]
    finally:
        other.finish()
    none_is_left()


def test_it_stays_what_it_is_while_it_is_open(root: Person, place: Path, image: Path) -> None:
    """After it was detached nobody else can attach it until its last descriptor is closed: or that
    would lead to somebody else's image.
    """
    code = f"""
mine = os.open({str(image)!r}, os.O_RDWR)
fd = opened(FIRST)
print(ioctl(fd, CONFIGURE, config(mine)), ioctl(fd, CLR_FD), ioctl(fd, CLR_FD))
os.pwrite(fd, b"own", 0)
os.fsync(fd)
again = opened(FIRST)
print(os.pread(again, 3, 0), ioctl(again, SET_FD, mine), flush=True)
sys.stdin.readline()
print(os.pread(fd, 3, 0), flush=True)
os.close(again), os.close(fd)
sys.stdin.readline()
fd = opened(FIRST)
print(os.read(fd, 3), ioctl(fd, GET_STATUS, bytes(232)))
"""
    hosts = place / "hosts"
    hosts.write_bytes(b"secret".ljust(1 << 20, b"\0"))
    attach = ["losetup", f"/dev/loop{FIRST}", str(hosts)]
    words = ["run", *options(place), "--", python(root), "-c", HEAD + code]
    started = Started(root, words, stdin=subprocess.PIPE)
    try:
        out, into = started.process.stdout, started.process.stdin
        assert out is not None
        assert into is not None
        assert out.readline().split() == [b"0", b"0", b"0"]
        assert out.readline().split() == [b"b'own'", b"EBUSY"]
        assert subprocess.run(attach, check=False, capture_output=True).returncode
        into.write(b"\n")
        into.flush()
        assert out.readline().split() == [b"b'own'"]
        none_is_left()
        subprocess.run(attach, check=True)
        into.write(b"\n")
        into.flush()
        assert out.readline().split() == [b"b''", b"ENXIO"]
        assert started.finish().returncode == 0
    finally:
        started.kill()
        subprocess.run(["losetup", "-d", f"/dev/loop{FIRST}"], check=False)
    none_is_left()


def test_what_can_be_attached(root: Person, place: Path, image: Path) -> None:
    """A regular file that the caller may open, where nobody serves it; as far as it has it open."""
    (place / "secret").write_text("host's")
    (place / "secret").chmod(0o604)
    code = f"""
os.chdir({str(place)!r})
fd = opened(FIRST)
for mine in (999, -1, os.open(".", 0), os.open("/dev/null", os.O_RDWR), os.pipe()[0],
             os.open("image", os.O_PATH)):
    print(ioctl(fd, SET_FD, mine), end=" ")
print(ioctl(fd, 0x4C77), ioctl(0, CLR_FD), ioctl(998, CLR_FD))
os.mkdir("on"), os.mkdir("on/up"), os.mkdir("on/work"), os.mkdir("on/over")
libc = ctypes.CDLL(None, use_errno=True)
libc.mount(b"none", b"on", b"tmpfs", 0, None)
for name in ("up", "work", "over", "low"):
    os.mkdir("on/" + name)
layers = b"lowerdir=on/low,upperdir=on/up,workdir=on/work"
print(libc.mount(b"over", b"on/over", b"overlay", 0, layers))
served = os.open("on/over/file", os.O_RDWR | os.O_CREAT)
os.truncate(served, 1 << 20)
print(ioctl(fd, SET_FD, served))
print(libc.syscall(16, fd, CONFIGURE, ctypes.c_void_p(8)), errno.errorcode[ctypes.get_errno()])
mine = os.open("image", os.O_RDWR)
print(ioctl(fd, CONFIGURE, config(mine, flags=8)), ioctl(fd, CONFIGURE, config(mine, encrypted=1)))
reads = os.open("image", os.O_RDONLY)
print(ioctl(fd, SET_FD, reads), tried(os.write, fd, bytes(512)), os.get_inheritable(fd))
print(ioctl(fd, SET_CAPACITY), ioctl(fd, SET_BLOCK_SIZE, 4096), opened(3), opened("x"))
"""
    assert says(root, place, code) == [
        *["EBADF", "EBADF", "EINVAL", "EINVAL", "EINVAL", "EBADF", "ENXIO", "ENOTTY", "EBADF"],
        "0", "EPERM", "-1", "EFAULT", "EINVAL", "EINVAL", "0", "EPERM", "False",
        "0", "EINVAL", "ENXIO", "ENXIO",
    ]  # fmt: skip
    none_is_left()


def test_status(root: Person, place: Path, image: Path) -> None:
    """As it was set, offset and limit; what the host knows it by is not shown."""
    code = f"""
fd = opened(FIRST)
print(ioctl(fd, SET_FD, os.open({str(image)!r}, os.O_RDWR)))
set = struct.pack("5Q4I64s64s32s16s", 0, 0, 0, 4096, 8192, 0, 0, 0, 0, b"a name", b"", b"", b"")
print(ioctl(fd, SET_STATUS, set))
found = struct.unpack("5Q4I64s64s32s16s", ioctl(fd, GET_STATUS, bytes(232)))
print(found[1] == os.stat({str(image)!r}).st_ino, found[3:5], found[5] - FIRST, found[8])
print(found[9].rstrip(bytes(1)).decode(), os.lseek(fd, 0, os.SEEK_END))
"""
    expected = "0 0 True (4096, 8192) 0 0 a name 8192"
    assert " ".join(says(root, place, code)) == expected
    none_is_left()


def test_status_with_flags_that_are_not_set_later(root: Person, place: Path, image: Path) -> None:
    """As programs hand back what they were told; the kernel passes over them."""
    code = f"""
fd, mine = opened(FIRST, os.O_RDONLY), os.open({str(image)!r}, os.O_RDONLY)
def status(flags):
    info = struct.pack("5Q4I64s64s32s16s", *[0] * 8, flags, b"", b"", b"", b"")
    done, found = ioctl(fd, SET_STATUS, info), ioctl(fd, GET_STATUS, bytes(232))
    return done, struct.unpack_from("5Q4I", found)[8]
print(ioctl(fd, SET_FD, mine), status(1 | 4), status(16 | 1 << 20), status(8))
"""
    assert " ".join(says(root, place, code)) == "0 (0, 5) (0, 1) ('EINVAL', 1)"
    none_is_left()


def test_its_locks_go_with_its_descriptor(root: Person, place: Path, image: Path) -> None:
    code = f"""
fd, mine = opened(FIRST), os.open({str(image)!r}, os.O_RDWR)
print(ioctl(fd, SET_FD, mine), tried(fcntl.flock, fd, fcntl.LOCK_EX))
os.close(fd)
fd = opened(FIRST)
print(tried(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB), ioctl(fd, CLR_FD))
"""
    assert says(root, place, code) == ["0", "None", "None", "0"]
    none_is_left()


def test_no_device_is_an_image(root: Person, place: Path) -> None:
    """The empty file that stands for one is none, either."""
    code = """
fd, other = opened(FIRST), opened(FIRST + 1)
control = os.open("/dev/loop-control", os.O_RDWR)
print(ioctl(fd, SET_FD, fd), ioctl(fd, SET_FD, other), ioctl(fd, CONFIGURE, config(control)))
"""
    assert says(root, place, code) == ["EBADF", "EINVAL", "EINVAL"]
    none_is_left()


def test_an_ordinary_user_has_none(user: Person, place: Path) -> None:
    done = run(user, "sh", "-c", ": <>/dev/loop-control", options=options(place))
    assert "Operation not permitted" in done.stderr
