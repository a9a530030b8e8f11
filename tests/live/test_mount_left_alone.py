"""What a container mounts by itself: the kernel's answer, and not even a notification where the
registers tell that it is no new mount. Which they are the kernel says, without seccompd.
"""

from __future__ import annotations

import errno
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel.mounts import MS
from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import a_place

MAGIC = 0xC0ED0000
OPERATIONS = [
    MS[name] for name in ("remount", "bind", "move", "private", "slave", "shared", "unbindable")
]
# mount() with each of the flags, of a type that there is not: ENODEV says that it was a new mount.
FLAGS = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
out = []
for flags in json.loads(sys.argv[1]):
    got = libc.mount(b"x", b"/nowhere-at-all" if len(sys.argv) > 2 else b"/mnt", b"nosuchfs",
                     ctypes.c_ulong(flags), None)
    out.append(ctypes.get_errno() if got else 0)
print(json.dumps(out))
"""
# Each kind of filesystem that a container may mount, and what it does with mounts it has.
KINDS = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
REMOUNT, BIND, MOVE, REC = 32, 4096, 8192, 16384
UNBINDABLE, PRIVATE, SLAVE, SHARED, MAGIC = 1 << 17, 1 << 18, 1 << 19, 1 << 20, 0xC0ED0000
out = []
def call(*what):
    source, target, kind, flags, data = what
    got = libc.mount(*[w and w.encode() for w in (source, target, kind)], ctypes.c_ulong(flags),
                     data and data.encode())
    out.append([" ".join(map(str, what)), errno.errorcode[ctypes.get_errno()] if got else "ok"])
def umount(target, flags=0):
    got = libc.umount2(target.encode(), flags)
    out.append([f"umount {target} {flags}", errno.errorcode[ctypes.get_errno()] if got else "ok"])
call("t", "/mnt", "tmpfs", 0, "size=1m,mode=755")
for name in "abcdlw":
    os.mkdir("/mnt/" + name)
call("o", "/mnt/a", "overlay", 0, "lowerdir=/mnt/l,upperdir=/mnt/d,workdir=/mnt/w")
open("/mnt/a/x", "w").close()
out.append(["what is in the upper layer", os.listdir("/mnt/d")])
umount("/mnt/a")
for kind in ("tmpfs", "ramfs", "proc", "sysfs", "devpts", "mqueue", "cgroup2", "bpf", "devtmpfs",
             "securityfs", "nosuchfs"):
    call("x", "/mnt/a", kind, 2 | 4 | 8, None)
    umount("/mnt/a")
NEW = len([one for one in out if not one[0].startswith(("umount", "what"))])
call("/mnt/l", "/mnt/a", None, BIND, None)
call("/mnt/l", "/mnt/b", "ext4", BIND | REC | MAGIC, "no options")
call(None, "/mnt/a", None, REMOUNT | BIND | 1 | 4, None)
call(None, "/mnt/a", None, MAGIC | REMOUNT | BIND | 1 | 4, None)
call("/mnt/a", "/mnt/c", None, MOVE, None)
call("/mnt/c", "/mnt/a", None, MAGIC | MOVE, None)
for how in (SHARED, SLAVE, PRIVATE, UNBINDABLE):
    call(None, "/mnt/a", None, how, None)
    call("none", "/mnt", "", how | REC, None)
call(None, "/mnt/a", None, SHARED | PRIVATE, None)
call(None, "/mnt", None, REMOUNT | 2, "size=2m")
call("/nowhere", "/mnt/a", None, BIND, None)
for flags in (8, 4, 4, 2):
    umount("/mnt/a", flags)
umount("/mnt/b")
umount("/mnt")
umount("/mnt")
print(json.dumps([NEW, out]))
"""
NAMESPACES = ("net", "ipc", "uts", "cgroup")

place = a_place()


def plain(user: Person, *words: str) -> Any:
    """What a program prints in namespaces like those, without seccompd."""
    command = ["unshare", "-Ur", "-mpf", "--mount-proc", *(f"--{name}" for name in NAMESPACES)]
    done = subprocess.run(
        user.argv([*command, "--", python(user), "-c", *words]),
        env=user.environ(), cwd="/", capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def ours(person: Person, place: Path, rule: str, *words: str) -> tuple[Any, list[dict[str, Any]]]:
    """What it prints with seccompd, and the records."""
    policy, audit = place / "policy.yaml", place / "records.json"
    policy.write_text(
        f"version: 1\nsyscalls:\n  mount:\n    otherwise: kernel\n    rules:\n      - {rule}\n"
    )
    audit.touch()
    audit.chmod(0o666)
    done = run(
        person, python(person), "-c", *words,
        options=("--policy", str(policy), "--audit", str(audit), "--unshare", ",".join(NAMESPACES)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in audit.read_text().splitlines()]
    assert records[-1]["event"] == "session_end"
    assert records[-1]["lost_records"] == 0
    return json.loads(done.stdout), records


FUSE_RULE = "{fstype: ext4, do: {emulate: {via: fuse}}}"
KERNEL_RULE = '{fstype: ext4, source: "/images/*", do: emulate}'


def some_flags() -> list[int]:
    """All pairs of operations with and without the magic number, and flags by chance."""
    found = {0, MAGIC, 1 << 31, MAGIC | 1 << 20, MAGIC | 1 << 17, 0xC0EC0000, 0xC0ED0000 >> 1}
    for one in OPERATIONS:
        for other in (0, *OPERATIONS, *MS.values()):
            found |= {one | other, one | other | MAGIC, one | other | MS["ro"]}
    found |= set(MS.values()) | {MAGIC | bits for bits in MS.values()}
    dice = random.Random(11)
    found |= {dice.getrandbits(32) for _ in range(150)}
    found |= {MAGIC | dice.getrandbits(16) for _ in range(50)}
    found |= {dice.getrandbits(31) & ~sum(OPERATIONS) for _ in range(100)}
    # of the upper half alone the filter makes nothing, since 32-bit callers have garbage there
    found |= {0xDEAD << 32 | MAGIC, 0xDEAD << 32 | MS["bind"]}
    return sorted(found)


@pytest.mark.parametrize("rule", [FUSE_RULE, KERNEL_RULE])
def test_only_new_mounts_are_notified(person: Person, user: Person, place: Path, rule: str) -> None:
    flags = some_flags()
    expected = plain(user, FLAGS, json.dumps(flags))
    found, records = ours(person, place, rule, FLAGS, json.dumps(flags))
    assert found == expected
    new = {bits for bits, error in zip(flags, expected, strict=True) if error == errno.ENODEV}
    assert 100 < len(new) < len(flags) - 100
    if rule == KERNEL_RULE:
        # a remount may be of what seccompd mounted; whether it is one at all a place that is
        # nowhere tells: of other calls there, a new mount's ENODEV comes first
        again = {
            bits for bits in flags
            if bits & (MS["remount"] | MS["bind"]) == MS["remount"] and not bits & 1 << 31
        } | {
            bits for bits in flags
            if bits & 0xFFFF0000 == MAGIC and bits & (MS["remount"] | MS["bind"]) == MS["remount"]
        }  # fmt: skip
        new |= again
    notified = [record["args"]["mountflags"] for record in records if "syscall" in record]
    assert sorted(notified) == sorted(new)
    assert records[-1]["calls"] == len(new)


def test_what_a_container_mounts_by_itself(person: Person, user: Person, place: Path) -> None:
    expected_new, expected = plain(user, KINDS)
    (new, found), records = ours(person, place, FUSE_RULE, KINDS)
    assert found == expected
    worked = {what.split()[2] for what, result in found if " 14 " in what and result == "ok"}
    assert worked >= {"tmpfs", "ramfs", "proc", "sysfs", "devpts", "mqueue", "cgroup2"}
    # each new mount once, and of all others nothing; an umount, but for one that only expires,
    # may be of a FUSE program's mount
    umounts = [what for what, _ in found if what.startswith("umount") and what.split()[2] != "4"]
    assert new == expected_new
    assert records[-1]["calls"] == new + len(umounts)
    assert {record["answered_by"] for record in records if "syscall" in record} == {"kernel"}


def test_nothing_is_notified_where_no_policy_asks(person: Person, place: Path) -> None:
    audit = place / "records.json"
    audit.touch()
    audit.chmod(0o666)
    done = run(
        person, python(person), "-c", KINDS,
        options=("--policy", "default", "--audit", str(audit), "--unshare", ",".join(NAMESPACES)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # where nobody calls there is not even a session's end to be told
    assert "syscall" not in audit.read_text()
