"""Real programs make device nodes under seccompd, as root's container and as an ordinary user's.

Each is seen to fail in a plain user namespace first: what is shown here was not possible before.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from supervisor.kernel.procfs import host_node
from tests.support.people import Person
from tests.support.program import run
from tests.support.scratch import a_place, apt_mirror, mounts_below

BUILD = ("--policy", "build")
NULL_AND_ZERO = "1:3 1:5"

place = a_place()


def tar_of_a_root(where: Path) -> Path:
    """A root file system's archive: its nodes have owners, modes and times of their own."""
    file = where / "rootfs.tar"
    with tarfile.open(file, "w") as tar:
        for name in ("etc", "dev"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        text = tarfile.TarInfo("etc/hostname")
        text.size = 5
        tar.addfile(text, io.BytesIO(b"proof"))
        for name, minor, mode, gid in (("null", 3, 0o666, 0), ("zero", 5, 0o640, 7)):
            node = tarfile.TarInfo(f"dev/{name}")
            node.type, node.devmajor, node.devminor = tarfile.CHRTYPE, 1, minor
            node.mode, node.gid, node.mtime = mode, gid, 1_600_000_000
            tar.addfile(node)
        link = tarfile.TarInfo("dev/also-null")
        link.type, link.linkname = tarfile.LNKTYPE, "dev/null"
        tar.addfile(link)
    file.chmod(0o644)
    return file


def cpio_of_an_initramfs(where: Path) -> Path:
    """The newc format (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def entry(name: str, mode: int, rdev: tuple[int, int] = (0, 0)) -> bytes:
        data = name.encode() + b"\0"
        numbers = (1, mode, 0, 0, 1, 0, 0, 0, 0, *rdev, len(data), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers)
        return head + data + b"\0" * (-(len(head) + len(data)) % 4)

    file = where / "initramfs.cpio"
    file.write_bytes(
        entry("dev", 0o040755)
        + entry("dev/null", 0o020666, (1, 3))
        + entry("dev/zero", 0o020666, (1, 5))
        + entry("TRAILER!!!", 0)
    )
    file.chmod(0o644)
    return file


def refused_without(person: Person, script: str) -> None:
    """The same in a user namespace without seccompd."""
    done = subprocess.run(
        person.argv(["unshare", "-Ur", "sh", "-ec", script]),
        env=person.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done
    assert "Operation not permitted" in done.stderr + done.stdout, done


SHOW = "stat -c %t:%T dev/null dev/zero | xargs; echo gone >dev/null; head -c 3 dev/zero | wc -c"
SHOWN = f"{NULL_AND_ZERO}\n3\n"

PROGRAMS = {
    "tar": ("tar --numeric-owner -xpf rootfs.tar", SHOWN),
    "bsdtar": ("bsdtar -xpf rootfs.tar", SHOWN),
    "cpio": ("cpio -idm --quiet <initramfs.cpio", SHOWN),
    "rsync": ("mkdir dev; rsync -aD /dev/null /dev/zero dev/", SHOWN),
    "cp": ("mkdir dev; cp -a /dev/null /dev/zero dev/", SHOWN),
    "busybox": ("mkdir dev; for n in 3 5; do busybox mknod dev/n$n c 1 $n; done;"
                " mv dev/n3 dev/null; mv dev/n5 dev/zero", SHOWN),
    "busybox-tar": ("busybox tar -xf rootfs.tar", SHOWN),
    "perl": ("mkdir dev; perl -e '$!=0; for ([null,3],[zero,5]) {"
             " syscall(133, \"dev/$$_[0]\", 020666, 0x100 | $$_[1]) and die $! }'", SHOWN),
    "python": ("mkdir dev; /usr/bin/python3 -c 'import os\n"
               "for n, m in ((\"null\", 3), (\"zero\", 5)):"
               " os.mknod(\"dev/\" + n, 0o20666, os.makedev(1, m))'", SHOWN),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_program(person: Person, place: Path, name: str) -> None:
    script, shown = PROGRAMS[name]
    assert shutil.which(script.split()[0].rstrip(";")), f"{name} is not installed"
    tar_of_a_root(place)
    cpio_of_an_initramfs(place)
    without = place / "without"
    without.mkdir(mode=0o777)
    without.chmod(0o777)
    refused_without(
        person, f"cd {without}; ln -s ../*.tar ../*.cpio .; {script}"
    )
    person.given(place)
    done = run(person, "sh", "-ec", f"cd {place}; umask 022; {script}; {SHOW}", options=BUILD)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")
    assert mounts_below(place) == []


def test_owner_mode_and_time_are_kept(root: Person, place: Path) -> None:
    tar_of_a_root(place)
    script = f"cd {place}; tar --numeric-owner -xpf rootfs.tar; stat -c '%a %u %g %Y' dev/zero"
    done = run(root, "sh", "-ec", script, options=BUILD)
    assert (done.stdout, done.stderr) == ("640 0 7 1600000000\n", "")


def test_owner_mode_and_time_are_kept_on_a_file_system_of_the_container(
    root: Person, place: Path
) -> None:
    tar_of_a_root(place)
    script = (
        f"cd {place}; mkdir t; mount -t tmpfs t t; cd t; tar --numeric-owner -xpf ../rootfs.tar;"
        " stat -c '%a %u %g %Y' dev/zero; stat -c %t:%T dev/also-null; rm -rf dev; test ! -e dev"
    )
    done = run(root, "sh", "-ec", script, options=BUILD)
    assert (done.stdout, done.stderr) == ("640 0 7 1600000000\n1:3\n", "")


def test_a_tree_with_nodes_is_packed_again(person: Person, place: Path) -> None:
    tar_of_a_root(place)
    script = (
        f"cd {place}; tar -xpf rootfs.tar; tar -cf again.tar dev; rm -rf dev etc; test ! -e dev;"
        " tar -tvf again.tar | awk '/^c/ {print $1, $3, $NF}' | sort"
    )
    done = run(person, "sh", "-ec", script, options=BUILD)
    found = [line.split()[1:] for line in done.stdout.splitlines()]
    assert ["1,5", "dev/zero"] in found
    assert ["1,3", "dev/null"] in found or ["1,3", "dev/also-null"] in found
    assert (done.returncode, done.stderr) == (0, "")


BOOTSTRAPPED = (
    "echo gone >/dev/null; head -c 3 /dev/zero | wc -c; test -c /dev/null; test -c /dev/urandom;"
    " dpkg-query -W -f '${db:Status-Status}\\n' | sort -u"
)


@pytest.mark.slow
def test_debootstrap(person: Person, place: Path) -> None:
    """To its end; and what it made chroots and runs."""
    assert shutil.which("debootstrap"), "debootstrap is not installed"
    release = Path("/etc/os-release").read_text()
    suite = next(
        line.split("=")[1] for line in release.splitlines() if line.startswith("VERSION_CODENAME")
    )
    cache = Path("/var/tmp/sd-test-debootstrap")
    cache.mkdir(exist_ok=True)
    cache.chmod(0o777)
    tree = place / "tree"
    script = (
        f"debootstrap --variant=minbase --cache-dir={cache} {suite} {tree} {apt_mirror()} >&2;"
        f" chroot {tree} sh -ec {shlex.quote(BOOTSTRAPPED)}; rm -rf {tree}"
    )
    done = run(person, "sh", "-ec", script, options=BUILD, timeout=280)
    assert (done.returncode, done.stdout) == (0, "3\ninstalled\n"), done.stderr[-2000:]
    assert "Base system installed successfully" in done.stderr
    assert mounts_below(place) == []
    assert not tree.exists(), "its own root can remove all of it"


DEVICES = {
    "console": "5:1", "full": "1:7", "null": "1:3", "ptmx": "5:2", "random": "1:8", "tty": "5:0",
    "urandom": "1:9", "zero": "1:5",
}  # fmt: skip
# Of a directory's character and block devices: NAME MAJOR:MINOR, in hexadecimal.
LIST = "for n in *; do test -L $n || ! test -c $n -o -b $n || echo $n $(stat -c %t:%T $n); done"


@pytest.mark.slow
def test_mmdebstrap(person: Person, place: Path) -> None:
    """Its own way of making /dev, into a directory and into an archive; no package is asked for."""
    assert shutil.which("mmdebstrap"), "mmdebstrap is not installed"
    (place / "repo").mkdir()
    (place / "repo" / "Packages").touch()
    bootstrap = "mmdebstrap --mode=root --variant=custom --skip=check/empty --quiet"
    source = f"'deb [trusted=yes] copy:{place}/repo ./'"
    person.given(place)
    script = (
        f"cd {place}; {bootstrap} --format=directory '' tree {source} >&2; (cd tree/dev; {LIST});"
        f" {bootstrap} '' out.tar {source} >&2; tar -tvf out.tar | awk '/^[cb]/ {{print $3, $NF}}';"
        " rm -rf tree"
    )
    done = run(person, "sh", "-ec", script, options=BUILD, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    nodes = [f"{name} {number}" for name, number in DEVICES.items()]
    packed = [f"{number.replace(':', ',')} ./dev/{name}" for name, number in DEVICES.items()]
    assert done.stdout.splitlines() == nodes + packed
    assert not (place / "tree").exists()


def makedev(*targets: str) -> dict[str, tuple[str, str, str]]:
    """What `MAKEDEV TARGETS` says that it makes: name -> type, numbers, owner and mode."""
    done = subprocess.run(
        ["/sbin/MAKEDEV", "-n", *targets], cwd="/", capture_output=True, text=True, check=True
    )
    words = (line.split() for line in done.stdout.splitlines() if "->" not in line)
    return {
        name: (kind, f"{major}:{minor}", f"{owner} {mode.lstrip('0')}")
        for _, name, kind, major, minor, owner, mode in words
    }


# What old versions of debootstrap call, and the package makedev when it is installed.
TARGETS = ("std", "ptmx", "fd", "consoleonly", "tty1", "audio", "agpgart")
OPEN = ("null", "zero", "full", "random", "urandom", "tty", "ptmx")


def test_makedev_as_root(root: Person, place: Path) -> None:
    """As with real root, but for what would be the host's: it is there, and does not open."""
    assert Path("/sbin/MAKEDEV").exists(), "makedev is not installed"
    wanted = makedev(*TARGETS)
    assert len(wanted) > 70
    closed = " ".join(name for name in wanted if name not in OPEN)
    script = f"""
    umask 022; mount -t tmpfs -o mode=755 t /mnt; cd /mnt
    for n in {' '.join(TARGETS)}; do /sbin/MAKEDEV $n; done
    for n in {' '.join(wanted)}; do stat -c '%n %F %Hr:%Lr %U:%G %a' $n; done
    for n in {closed}; do ! true 3<$n || echo $n opens; ! true 3>$n || echo $n opens; done
    tar -cf {place}/out.tar .; rm -r *
    test -z "$(ls -A)"; cd /; umount /mnt
    """
    done = run(root, "sh", "-euc", script, options=BUILD, timeout=120)
    kinds = {"c": "character special file", "b": "block special file"}
    assert done.stdout.splitlines() == [
        f"{name} {kinds[kind]} {number} {owner}" for name, (kind, number, owner) in wanted.items()
    ]
    assert done.returncode == 0, done.stderr
    said = {line.partition(": cannot ")[2] for line in done.stderr.splitlines()}
    ways = ("open", "create")
    assert said == {f"{way} {name}: Permission denied" for name in closed.split() for way in ways}
    with tarfile.open(place / "out.tar") as archive:
        packed = {
            member.name.removeprefix("./"): ("c" if member.ischr() else "b",
                                             f"{member.devmajor}:{member.devminor}")
            for member in archive if member.isdev() and not member.isfifo()
        }  # fmt: skip
    assert packed == {name: found[:2] for name, found in wanted.items()}


def test_makedev_as_a_user(user: Person, place: Path) -> None:
    """Each node is the host's; what the host has no node of is refused, and MAKEDEV goes on."""
    wanted = makedev("std", "ptmx", "fd", "consoleonly")
    refused = [
        name for name, (kind, number, _) in wanted.items()
        if host_node(kind, *map(int, number.split(":"))) is None
    ]  # fmt: skip
    there = [name for name in wanted if name not in refused]
    assert {*OPEN, "tty0", "console"} <= set(there)
    script = f"""
    cd {user.given(place)}
    for n in std ptmx fd consoleonly; do /sbin/MAKEDEV $n; done
    for n in {' '.join(there)}; do stat -c '%n %Hr:%Lr' $n; done; echo hello >null; rm -r *
    """
    done = run(user, "sh", "-euc", script, options=BUILD, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    told = [line.split()[1].rstrip(":") for line in lines if line.startswith("makedev ")]
    assert told == refused
    shown = [line for line in lines if not line.startswith("makedev ")]
    assert shown == [f"{name} {wanted[name][1]}" for name in there]
    said = [f"mknod: {name}-: Operation not permitted" for name in refused]
    assert done.stderr.splitlines() == said


def test_the_hosts_nodes_are_as_they_were(person: Person, place: Path) -> None:
    def look() -> list[tuple[int, ...]]:
        names = ("null", "zero", "full", "random", "urandom", "tty")
        found = [os.stat(f"/dev/{name}") for name in names]
        return [(s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_ctime_ns) for s in found]

    before = look()
    person.given(place)
    script = (
        f"cd {place}; for n in 3 5 7 8 9; do mknod d$n c 1 $n; chmod 600 d$n; chown 7:7 d$n;"
        " touch -d 2001-01-01 d$n; done; setfacl -m u:7:rw d3 || :; rm -f d*; cp -a /dev/null ."
    )
    done = run(person, "sh", "-ec", script, options=BUILD)
    assert done.returncode == 0, done.stderr
    assert look() == before
