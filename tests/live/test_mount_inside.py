"""Mounts as the programs of a container meet them: made, used, changed and refused from inside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from errno import EPERM
from pathlib import Path

import pytest

from supervisor.kernel.fuse_programs import PROGRAMS
from tests.live.test_mount_kernel import make_image
from tests.live.test_mount_programs import MOUNT, fuse, image, inner_root
from tests.live.test_mount_ready_made import CHECK, MAKE, TYPE
from tests.support.inside import wait_for
from tests.support.needs import need
from tests.support.people import Person, python
from tests.support.program import Started, run
from tests.support.scratch import a_place
from tests.support.shell import NO

__all__ = ["fuse"]
pytestmark = pytest.mark.needs("fuse2fs")

place = a_place()


def policy(place: Path, *rules: str) -> tuple[str, str]:
    """The option for a policy that has these rules on mounts, and leaves the rest to the kernel."""
    file = place / "policy.yaml"
    begin = "version: 1\nsyscalls:\n  mount:\n    otherwise: kernel\n    rules:\n"
    file.write_text(begin + "".join(f"      - {rule}\n" for rule in rules))
    return ("--policy", str(file))


def inside(person: Person, script: str, options: Sequence[str]) -> str:
    """What a shell's script prints; `m SOURCE TYPE [FLAGS]` mounts on /mnt, and is the errno."""
    begin = f'm() {{ {python(person)} -c "$MOUNT" "$1" /mnt "$2" "${{3-0}}"; }}\n{NO}'
    done = run(person, "sh", "-euc", begin + script, options=options, env={"MOUNT": MOUNT})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("program", MAKE)
def test_each_ready_made_program(person: Person, place: Path, program: str) -> None:
    """Chosen by the type alone; squashfuse has tests of its own, with a snap."""
    need(MAKE[program][0], PROGRAMS[program][0])
    file = place / "image"
    with file.open("wb") as opened:
        opened.truncate(16 << 20)
    subprocess.run([*MAKE[program], file], check=True, capture_output=True)
    file.chmod(0o666)
    rule = f'{{fstype: {TYPE[program]}, source: "{file}", do: {{emulate: {{via: fuse}}}}}}'
    script = (
        f"m {file} {TYPE[program]}; mkdir /mnt/d; echo text >/mnt/d/x; umount /mnt\n"
        f"no test -e /mnt/d; m {file} {TYPE[program]}; cat /mnt/d/x; umount /mnt"
    )
    assert inside(person, script, policy(place, rule)) == "text\n"
    subprocess.run([*CHECK[program], file], check=True, capture_output=True)


def with_a_device(place: Path) -> Path:
    """An image of the container's root, with a node for a device in it."""
    file = make_image(place)
    os.chown(file, inner_root(), inner_root())
    return file


def test_device_nodes_open_where_the_rule_says_so(root: Person, place: Path) -> None:
    file = with_a_device(place)
    for devices, status in (("true", "0"), ("false", "2")):
        rule = f'{{fstype: ext4, source: "**", do: {{emulate: {{devices: {devices}}}}}}}'
        script = f"m {file} ext4; s=0; (: </mnt/null) 2>/dev/null || s=$?; echo $s; umount /mnt"
        assert inside(root, script, policy(place, rule)) == f"{status}\n"


def test_an_image_that_is_only_read_is_attached_so(root: Person, place: Path) -> None:
    file = with_a_device(place)
    before = file.read_bytes()
    rule = f'{{fstype: ext4, source: "{file}", do: emulate}}'
    script = f"""
    for flags in 1 0; do
      m {file} ext4 $flags
      loop=$(sed -n 's,.* /mnt .* - ext4 /dev/\\(loop[0-9]*\\) .*,\\1,p' /proc/self/mountinfo)
      cat /sys/block/$loop/ro; umount /mnt
    done
    """
    assert inside(root, script, policy(place, rule)) == "1\n0\n"
    rule = f'{{fstype: ext4, source: "{file}", do: {{emulate: {{force: ro}}}}}}'
    file.write_bytes(before)
    script = f"m {file} ext4; no touch /mnt/x 2>/dev/null; "
    script += "no mount -o remount,rw /mnt 2>/dev/null; "
    inside(root, script + "no touch /mnt/x 2>/dev/null; umount /mnt", policy(place, rule))
    assert file.read_bytes() == before


@pytest.mark.parametrize("program", ["mount", "busybox mount"])
def test_remounts_beside_what_is_forced(root: Person, place: Path, program: str) -> None:
    """As real root's of a mount that has the same flags; and none of these is to be had back."""
    need("busybox")
    file = with_a_device(place)
    rule = '{fstype: ext4, source: "**", options: {allow: "*"}, do: {emulate: {force: nosuid}}}'
    remounts = f"""
    for options in ro rw noatime relatime,noexec strictatime; do
      {program} -o remount,$options,nosuid,nodev /mnt
      grep ' /mnt ' /proc/self/mountinfo | cut -d' ' -f6
    done
    """
    regain = f"""
    no {program} -o remount,suid,dev /mnt 2>/dev/null; no mount -o remount,bind,dev /mnt 2>/dev/null
    grep -q ' /mnt .*nosuid,nodev' /proc/self/mountinfo
    umount /mnt; no grep -q ' /mnt ' /proc/self/mountinfo
    """
    found = inside(root, f"m {file} ext4; {remounts} {regain}", policy(place, rule))
    real = subprocess.run(
        ["unshare", "-m", "sh", "-euc", f"mount -o loop,nosuid,nodev {file} /mnt; {remounts}"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    flags = [set(line.split(",")) - {"idmapped"} for line in found.split()]
    assert flags == [set(line.split(",")) for line in real.split()]
    assert len(flags) == 5


MOUNT_WHEN_TOLD = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
print("ready", flush=True)
sys.stdin.readline()
got = libc.mount(b"x", b"/mnt", b"ramfs", 0, None)
print(ctypes.get_errno() if got else 0, os.path.ismount("/mnt"), flush=True)
"""


@pytest.mark.parametrize("why", ["none for this user", "they have died"])
def test_what_fails_is_never_the_kernels_to_do(
    root: Person, user: Person, place: Path, why: str
) -> None:
    """A ramfs: each container may mount one by itself, so the kernel would not refuse it."""
    person = root if "died" in why else user
    options = policy(place, "{fstype: ramfs, do: emulate}")
    words = ["run", *options, "--", python(person), "-c", MOUNT_WHEN_TOLD]
    started = Started(person, words, stdin=subprocess.PIPE)
    told, hears = started.process.stdout, started.process.stdin
    assert told is not None
    assert hears is not None
    try:
        assert told.readline() == b"ready\n"
        if person is root:
            for pid in wait_for(lambda: named(started, "make"), lambda found: len(found) == 2):
                os.kill(pid, signal.SIGKILL)
        hears.write(b"\n")
        hears.flush()
        assert told.readline().split() == [str(EPERM).encode(), b"False"]
    finally:
        started.kill()
    assert started.wait_gone() == []
    allowed = policy(place, "{fstype: ext4, do: {emulate: {via: fuse}}}")
    assert inside(person, "m x ramfs; umount /mnt", allowed) == "", "as it does without the rule"


def named(started: Started, kind: str) -> list[int]:
    """Its processes of that kind."""
    found = []
    for pid in started.processes():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == f"seccompd-{kind}\n":
                found.append(pid)
    return found


def children(pid: int, name: str) -> list[int]:
    """Those of a process that have this name."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in listed if Path(f"/proc/{one}/comm").read_text() == f"{name}\n"]


def test_programs_end_with_seccompd(person: Person, place: Path) -> None:
    file = image(place)
    os.chown(file, inner_root() if person.name is None else person.uid, -1)
    options = policy(place, "{fstype: ext4, do: {emulate: {via: fuse}}}")
    script = f'{python(person)} -c "$0" {file} /mnt ext4 0; echo mounted; sleep 77'
    started = Started(person, ["run", *options, "--", "sh", "-c", script, MOUNT])
    told = started.process.stdout
    assert told is not None
    try:
        assert told.readline() == b"mounted\n"
        # the kernel keeps 15 letters; the beginning of the next program has its name for a moment
        (session,) = wait_for(lambda: named(started, "sessio"), lambda found: len(found) == 1)
        (program,) = children(session, "fuse2fs")
    finally:
        started.kill()
    assert started.wait_gone() == []
    wait_for(lambda: Path(f"/proc/{program}").exists(), lambda there: not there)
