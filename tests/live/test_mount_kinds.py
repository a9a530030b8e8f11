"""Every kind of filesystem that this kernel has, by image and by device, with and without shift.

What is to be expected of an idmapped mount real root's own says, on the same image.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.kernel import idmap
from tests.support.devices import for_everybody
from tests.support.mounting import no_loops
from tests.support.needs import need
from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Kind:
    """How an image of it is made: TREE is a directory, of which there is to be a copy in it."""

    make: str
    size: int = 16
    check: str = ""
    read_only: bool = False
    owners: bool = True


KINDS = {
    "ext2": Kind("mkfs.ext2 -q -d TREE IMAGE", check="e2fsck -fn"),
    "ext3": Kind("mkfs.ext3 -q -d TREE IMAGE", check="e2fsck -fn"),
    "ext4": Kind("mkfs.ext4 -q -d TREE IMAGE", check="e2fsck -fn"),
    "xfs": Kind("mkfs.xfs -q IMAGE", 320, check="xfs_repair -n"),
    "btrfs": Kind("mkfs.btrfs -q -r TREE IMAGE", 128, check="btrfs check"),
    "squashfs": Kind("mksquashfs TREE IMAGE -quiet -noappend", 0, read_only=True),
    "erofs": Kind("mkfs.erofs --quiet IMAGE TREE", 0, check="fsck.erofs", read_only=True),
    "vfat": Kind("mkfs.vfat IMAGE", check="fsck.vfat -n", owners=False),
}
# Mounts SOURCE TYPE FLAGS DATA at /mnt, and says what is there as JSON.
INSIDE = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
source, kind, flags, data = sys.argv[1:]
if libc.mount(source.encode(), b"/mnt", kind.encode(), ctypes.c_ulong(int(flags)), data.encode()):
    print(json.dumps({"errno": ctypes.get_errno()}))
    sys.exit()
found = {"errno": 0, "root": os.stat("/mnt").st_uid, "files": sorted(os.listdir("/mnt"))}
for line in open("/proc/self/mountinfo"):
    if line.split()[4] == "/mnt":
        found["shown"] = line.split()
for step in (lambda: os.mkdir("/mnt/made"), lambda: open("/mnt/made/x", "w").write("text"),
             lambda: os.chown("/mnt/made/x", 5, 6)):
    try:
        step()
        at = os.stat("/mnt/made/x" if os.path.exists("/mnt/made/x") else "/mnt/made")
        found["made"] = [at.st_uid, at.st_gid]
    except OSError as error:
        found["error"] = error.errno
        break
if libc.umount2(b"/mnt", 0):
    found["umount"] = ctypes.get_errno()
print(json.dumps(found))
"""
# Whether real root can idmap a mount of SOURCE TYPE FLAGS, with the user namespace of PID.
IDMAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
source, kind, flags, pid = sys.argv[1:]
assert libc.unshare(0x20000) == 0 and libc.mount(b"", b"/", None, 0x44000, None) == 0
if libc.mount(source.encode(), b"/mnt", kind.encode(), ctypes.c_ulong(int(flags)), None):
    sys.exit("no mount")
tree = libc.syscall(428, -100, b"/mnt", 1)
userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
attr = (ctypes.c_uint64 * 4)(0x100000, 0, 0, userns)
print(libc.syscall(442, tree, b"", 0x1000, attr, 32) == 0)
"""


def there(kind: str) -> bool:
    """Whether the kernel has it (built in, or as a module that it can load)."""

    def listed() -> bool:
        return kind in Path("/proc/filesystems").read_text().split()

    if not listed() and shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", kind], check=False)
    return listed()


def make(kind: str, place: Path, name: str = "image") -> Path:
    """An image with a file "here" of root's in it, where its tool can do that."""
    how = KINDS[kind]
    if not there(kind):
        pytest.skip(f"this kernel has no {kind}")
    words = how.make.replace("TREE", str(place / "tree")).replace("IMAGE", str(place / name))
    tool = words.split()[0]
    need(tool)
    (place / "tree").mkdir(exist_ok=True)
    (place / "tree" / "here").write_text("text")
    if how.size:
        with (place / name).open("wb") as file:
            file.truncate(how.size << 20)
    subprocess.run(words.split(), check=True, capture_output=True)
    (place / name).chmod(0o666)
    return place / name


@contextmanager
def device(image: Path, *, read_only: bool = False) -> Iterator[str]:
    """A loop device."""
    done = subprocess.run(
        ["losetup", "-f", "--show", *(["-r"] if read_only else []), image],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    loop = done.stdout.strip()
    try:
        yield loop
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


def can_be_idmapped(image: Path, kind: str) -> bool:
    """Real root's own answer."""
    start = idmap.DEFAULT_START
    holder = subprocess.Popen(["unshare", "-U", "sleep", "60"])
    try:
        while os.readlink(f"/proc/{holder.pid}/ns/user") == os.readlink("/proc/self/ns/user"):
            pass
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text(f"0 {start} 65536")
        read_only = KINDS[kind].read_only
        with device(image, read_only=read_only) as loop:
            done = subprocess.run(
                [sys.executable, "-c", IDMAP, loop, kind, str(int(read_only)), str(holder.pid)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
        return done.stdout == "True\n"
    finally:
        holder.kill()
        holder.wait()


@pytest.fixture
def place(root: Person) -> Iterator[Path]:
    assert root.name is None
    with scratch() as folder:
        yield folder
        no_loops(folder)


class Ran:
    """What the program inside said, and what the record says."""

    def __init__(self, place: Path, rule: str, *words: str, otherwise: str = "refuse") -> None:
        policy, records = place / "policy.yaml", place / "records.json"
        policy.write_text(
            f"version: 1\nsyscalls:\n  mount:\n    otherwise: {otherwise}\n    rules:\n"
            f"      - {rule}\n"
        )
        records.unlink(missing_ok=True)
        person = Person()
        done = run(
            person, python(person), "-c", INSIDE, *words,
            options=("--policy", str(policy), "--audit", str(records)),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.found = json.loads(done.stdout)
        lines = [json.loads(line) for line in records.read_text().splitlines()]
        (self.record,) = [line for line in lines if line.get("syscall") == "mount"]

    @property
    def errno(self) -> str:
        return errno.errorcode.get(self.found["errno"], "ok")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", ["auto", "true", "false"])
def test_shift(place: Path, kind: str, shift: str) -> None:
    image = make(kind, place)
    how = KINDS[kind]
    idmapped = can_be_idmapped(image, kind)
    rule = f'{{fstype: {kind}, source: "{image}", do: {{emulate: {{shift: {shift}}}}}}}'
    ran = Ran(place, rule, str(image), kind, str(int(how.read_only)), "")
    if shift == "true" and not idmapped:
        assert ran.errno == "EINVAL"
        assert "cannot be idmapped" in ran.record["how"]
        return
    shifted = idmapped and shift != "false"
    assert ran.errno == "ok", ran.record
    assert ran.record["how"] == ("kernel, idmapped" if shifted else "kernel")
    assert ran.found["root"] == (0 if shifted else 65534)
    assert ran.found["shown"][ran.found["shown"].index("-") + 1] == kind
    assert ("here" in ran.found["files"]) == ("TREE" in how.make)
    assert "umount" not in ran.found, "nothing of ours kept it busy"
    if how.read_only:
        assert ran.found["error"] == errno.EROFS
    elif not shifted:
        assert ran.found["error"] == (errno.EACCES if how.owners else None)
    elif how.owners:
        assert ran.found["made"] == [5, 6]
        with device(image) as loop:
            shown = subprocess.run(
                ["unshare", "-m", "sh", "-c", f"mount {loop} /mnt && stat -c %u:%g /mnt/made/x"],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
        assert shown == "5:6\n", "on the image the container's ids are as they are inside"
    if how.check:
        words = [*how.check.split(), str(image)]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_filesystem_without_owners_can_be_told(place: Path) -> None:
    """vfat has owners by option alone, and they are shifted as all others."""
    image = make("vfat", place)
    rule = f'{{fstype: vfat, source: "{image}", options: {{allow: ["uid=*"]}}, do: emulate}}'
    ran = Ran(place, rule, str(image), "vfat", "0", "uid=7")
    assert ran.found["root"] == 7


@pytest.mark.parametrize("kind", ["ext4", "squashfs"])
def test_a_device_by_its_name_and_by_its_number(place: Path, kind: str) -> None:
    image = make(kind, place)
    with device(image) as loop:
        number = os.minor(os.stat(loop).st_rdev)
        flags = "1" if KINDS[kind].read_only else "0"
        ways = (
            (f'"{loop}"', True),
            ('"/dev/loop*"', True),
            ('"/dev/**"', True),
            (f'"block 7:{number}"', True),
            (f'"block 7:0-{number}"', True),
            ('"block 7:*"', True),
            (f'["/images/*", "block 1:1", "block 7:{number}"]', True),
            (f'"block 7:{number + 1}-{number + 9}"', False),
            (f'"block 8:{number}"', False),
            ('"/dev/sd*"', False),
            (f'"/dev/*/loop{number}"', False),
            (f'"{image}"', False),
        )
        # which device a rule means is the same for each type
        for source, granted in ways if kind == "ext4" else (ways[0], ways[3], ways[7]):
            rule = f"{{fstype: {kind}, source: {source}, do: emulate}}"
            ran = Ran(place, rule, loop, kind, flags, "")
            assert ran.errno == ("ok" if granted else "EPERM"), source
            if granted:
                shown = ran.found["shown"]
                assert shown[shown.index("-") + 2] == loop, "by the kernel's name"


def test_a_node_of_the_containers_own_naming(place: Path) -> None:
    """What it is called inside says nothing about what it is."""
    images = [make("ext4", place, name) for name in ("image", "image-other")]
    with device(images[0]) as granted, device(images[1]) as other:
        for loop, result in ((granted, "ok"), (other, "EPERM")):
            node = place / "loop-node"
            node.unlink(missing_ok=True)
            os.mknod(node, 0o060666, os.stat(loop).st_rdev)
            rule = f'{{fstype: ext4, source: "{granted}", do: emulate}}'
            assert Ran(place, rule, str(node), "ext4", "0", "").errno == result


@pytest.mark.parametrize(
    ("data", "owner", "mode"),
    [
        ("", (0, 0), 0o755),
        ("uid=0,gid=0", (0, 0), 0o755),
        ("uid=5", (5, 0), 0o755),
        ("gid=7,mode=0711", (0, 7), 0o711),
        ("uid=5,gid=7,size=2M", (5, 7), 0o755),
        ("uid=4000000", (65534, 65534), 0o755),
        ("uid=many", None, 0),
    ],
)
@pytest.mark.parametrize("shift", ["auto", "false"])
def test_hugetlbfs(
    place: Path, data: str, owner: tuple[int, int] | None, mode: int, shift: str
) -> None:
    if not there("hugetlbfs"):
        pytest.skip("this kernel has no hugetlbfs")
    script = (
        "import ctypes, json, os, sys; l = ctypes.CDLL(None, use_errno=True)\n"
        "if l.mount(b'none', b'/mnt', b'hugetlbfs', ctypes.c_ulong(0), sys.argv[1].encode()):\n"
        "    print(json.dumps(ctypes.get_errno())); sys.exit()\n"
        "at = os.stat('/mnt'); open('/mnt/x', 'w').close() if at.st_uid == 0 else 0\n"
        "print(json.dumps([at.st_uid, at.st_gid, at.st_mode & 0o7777, l.umount2(b'/mnt', 0)]))"
    )
    policy = place / "policy.yaml"
    policy.write_text(
        "version: 1\nsyscalls:\n  mount:\n"
        "    - {fstype: hugetlbfs, options: {allow: '*'}, do: {emulate: {shift: SHIFT}}}\n".replace(
            "SHIFT", shift
        )
    )
    person = Person()
    done = run(person, python(person), "-c", script, data, options=("--policy", str(policy)))
    assert done.returncode == 0, done.stderr
    expected = errno.EINVAL if owner is None else [*owner, mode, 0]
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "ramfs"])
def test_filesystems_without_a_device(place: Path, kind: str) -> None:
    """The kernel's own answer is told: of a driver that is not there, or to what it was asked."""
    source, data = "files.example.com:/export/a", "vers=4.2,sec=sys,addr=192.0.2.1"
    rule = (
        f"{{fstype: {kind}, source: 'files.example.com:/export/*', "
        "options: {allow: ['vers=*', 'addr=*', 'sec=sys', 'mode=*']}, do: emulate}"
    )
    if kind == "ramfs":
        data = "mode=0757"
    libc = ctypes.CDLL(None, use_errno=True)
    ours = Ran(place, rule, source, kind, "0", data)
    if not there(kind) or kind == "ramfs":
        expected = 0
        if kind != "ramfs":
            done = libc.mount(source.encode(), b"/mnt", kind.encode(), ctypes.c_ulong(0), None)
            assert done != 0
            expected = ctypes.get_errno()
        assert ours.found["errno"] == expected
    if kind == "ramfs":
        shown = ours.found["shown"]
        dash = shown.index("-")
        assert shown[dash + 1 : dash + 3] == [kind, source], "the text is handed on as it was"
        assert "mode=757" in shown[dash + 3]
    # what the policy does not allow is not even asked of the kernel
    refused = Ran(place, rule, "elsewhere:/export/a", kind, "0", data)
    assert (refused.errno, refused.record["verdict"]) == ("EPERM", "refuse")
    refused = Ran(place, rule, source, kind, "0", "sec=none")
    assert refused.record["reason"].startswith("sec=none is not allowed by policy.yaml:")
    assert refused.errno == "EPERM"


def test_shift_true_where_it_cannot_be(place: Path) -> None:
    for kind in ("ramfs", "devpts"):
        rule = f"{{fstype: {kind}, do: {{emulate: {{shift: true}}}}}}"
        ran = Ran(place, rule, "none", kind, "0", "")
        assert ran.errno == "EINVAL"
        assert ran.record["how"] == "mount: the filesystem cannot be idmapped, and shift is true"


@pytest.mark.parametrize("via", ["kernel", "fuse"])
def test_an_ordinary_user(user: Person, via: str) -> None:
    """By the kernel it is EPERM, and the record says why; by a program it is mounted."""
    if via == "fuse":
        need("fuse2fs")
    with scratch() as place:
        image = make("ext4", place)
        policy, records = place / "policy.yaml", place / "records.json"
        policy.write_text(
            "version: 1\nsyscalls:\n  mount:\n"
            f'    - {{fstype: ext4, source: "{place}/*", do: {{emulate: {{via: {via}}}}}}}\n'
        )
        records.touch()
        records.chmod(0o666)
        with for_everybody():
            done = run(
                user, python(user), "-c", INSIDE, str(image), "ext4", "0", "",
                options=("--policy", str(policy), "--audit", str(records)),
            )  # fmt: skip
        found = json.loads(done.stdout)
        lines = map(json.loads, records.read_text().splitlines())
        (record,) = [line for line in lines if line.get("syscall") == "mount"]
        if via == "kernel":
            assert found["errno"] == errno.EPERM
            assert "seccompd is not root" in record["how"]
        else:
            assert (found["errno"], found["root"], found["made"]) == (0, 0, [5, 6]), record
