"""What a policy does not allow is refused here, and never left to a kernel that would grant it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch
from tests.support.shell import NO

# mount calls in a row, and their errnos
SCRIPT = """
import ctypes, errno, json
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, kind, flags=0, data=None):
    got = libc.mount(source, target, kind, ctypes.c_ulong(flags), data)
    return errno.errorcode[ctypes.get_errno()] if got else "ok"
print(json.dumps([
    mount(b"t", b"/mnt", b"tmpfs"),
    mount(b"t", b"/nope", b"tmpfs"),
    mount(b"t", b"/mnt", b"tmpfs", 0xC0ED0000),
    mount(b"t", b"/mnt", b"ext4", 0, b"x" * 4096),
    mount(b"t", b"/mnt", b"tmpfs", 32),
    mount(b"/", b"/mnt", None, 4096 | 16384),
    mount(None, b"/mnt", None, 32 | 4096 | 1),
]))
"""


@pytest.fixture
def policy() -> Iterator[Path]:
    with scratch() as folder:
        file = folder / "p.yaml"
        file.write_text(
            "version: 1\nsyscalls:\n  mount:\n"
            "    - {fstype: ext4, source: /images/**, options: {allow: '*'}, do: emulate}\n"
        )
        file.chmod(0o644)
        yield file


def test_a_refusal_is_one(person: Person, policy: Path) -> None:
    done = run(person, python(person), "-c", SCRIPT, options=("--policy", str(policy)))
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    # a tmpfs is the container's own to the kernel, and refused by this policy all the same
    assert answers[:4] == ["EPERM", "ENOENT", "EPERM", "EINVAL"]
    # a remount of what is no mount, a bind mount and its flags: as ever
    assert answers[4:] == ["EINVAL", "ok", "ok"]


def test_the_newer_calls_are_no_way_around(person: Person, policy: Path) -> None:
    """A tmpfs by fsopen, which the kernel grants a container; then what mount(8) does instead."""
    script = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
print(errno.errorcode.get(ctypes.get_errno()) if libc.syscall(430, b"tmpfs", 0) < 0 else "ok")
print(errno.errorcode.get(ctypes.get_errno()) if libc.syscall(433, -100, b"/", 0) < 0 else "ok")
"""
    done = run(person, python(person), "-c", script, options=("--policy", str(policy)))
    assert (done.returncode, done.stdout.split()) == (0, ["ENOSYS", "ENOSYS"]), done.stderr


def test_without_a_namespace_nothing_is_mounted(root: Person, policy: Path) -> None:
    """There is no user namespace to mount for; what is none of ours is the kernel's."""
    policy.write_text(
        "version: 1\nsyscalls:\n  mount:\n    otherwise: kernel\n    rules:\n"
        "      - {fstype: ext4, source: '**', do: emulate}\n"
    )
    script = NO + """
    mount -t tmpfs t /mnt; mount -o remount,ro,size=1m /mnt; grep " /mnt " /proc/self/mountinfo
    no mount -i -t ext4 /dev/null /mnt; umount /mnt
    """
    done = run(
        root, "unshare", "-m", "sh", "-euc", script,
        options=("--map", "none", "--policy", str(policy)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " ro," in done.stdout
    assert "size=1024k" in done.stdout
    assert "permission denied" in done.stderr
