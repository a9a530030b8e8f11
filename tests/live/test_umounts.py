"""umount of what seccompd mounted: whatever belongs to a mount goes with it, and in time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from errno import EAGAIN, EBUSY, EINVAL
from pathlib import Path

import pytest

from tests.live.test_mount_programs import fuse, image, inner_root
from tests.support.inside import wait_for
from tests.support.people import Person, python
from tests.support.program import Started
from tests.support.scratch import compile_c, scratch
from tests.support.shell import NO

__all__ = ["fuse"]
pytestmark = pytest.mark.needs("fuse2fs")

# A program that still has to write when the kernel is done with its mount: into the boot block,
# which ext4 leaves alone.
SLOW = (
    "/usr/bin/fuse2fs $@; sleep 1; "
    "printf DONE | dd of=/dev/image conv=notrunc status=none"
)
# For umount -f and -l, which wait for two seconds.
BRIEF = SLOW.replace("sleep 1", "sleep 0.3")
# The deadline is one that a busy machine does not miss.
RULES = """
version: 1
limits: {path: 60s}
syscalls:
  mknod:
    - {devices: ["null", zero], do: {emulate: {realise: bind}}}
  mount:
    otherwise: kernel
    rules:
      - fstype: ext3
        do: {emulate: {via: fuse, program: [/bin/sh, -c, "%s", sh, -f, -o, "{options}", "{source}",
              "{target}"]}}
      - {fstype: ext2, do: {emulate: {via: fuse}}}
      - {fstype: ext4, source: "**", do: {emulate: {via: kernel}}}
"""
# mount SOURCE TARGET TYPE, and umount TARGET FLAGS: the errno is the status
CALLS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[1] == "mount":
    got = libc.mount(*[word.encode() for word in sys.argv[2:5]], 0, None)
else:
    got = libc.umount2(sys.argv[2].encode(), int(sys.argv[3]))
sys.exit(ctypes.get_errno() if got else 0)
"""
FORCE, DETACH, EXPIRE, NOFOLLOW = 1, 2, 4, 8


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        (folder / "rules.yaml").write_text(RULES % SLOW)
        (folder / "calls.py").write_text(CALLS)
        yield folder


def inside(
    person: Person, place: Path, script: str, meanwhile: Callable[[Started], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """`m TYPE TARGET` mounts the image and `u TARGET FLAGS` unmounts; both are the errno. `written`
    says whether the program has, and `blank` that it has not. `meanwhile` is called once it runs.
    """
    file = place / "ext4.img"
    if not file.exists():
        image(place)
        os.chown(file, inner_root() if person.name is None else person.uid, -1)
    calls = f"{python(person)} {place}/calls.py"
    begin = f"""
    m() {{ {calls} mount {file} "$2" "$1"; }}
    u() {{ {calls} umount "$1" "$2"; }}
    written() {{ test "$(head -c 4 {file} | tr -d '\\0')" = DONE; }}
    blank() {{ head -c 4 /dev/zero | dd of={file} conv=notrunc status=none; }}
    {NO}    fails() {{
      want=$1; shift; s=0; "$@" || s=$?
      test $s = $want || {{ echo "$@: $s"; exit 9; }}
    }}
    """
    options = ["--policy", str(place / "rules.yaml")]
    started = Started(person, ["run", *options, "--", "sh", "-eu", "-c", begin + script])
    try:
        if meanwhile is not None:
            meanwhile(started)
        done = started.finish(60)
        assert started.wait_gone() == []
    finally:
        started.kill()
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    checked = subprocess.run(["e2fsck", "-fn", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    return done


def attached(place: Path) -> bool:
    """Whether a loop device is left."""
    file = place / "ext4.img"
    return bool(subprocess.run(["losetup", "-j", file], capture_output=True, check=True).stdout)


@pytest.mark.parametrize("flags", [0, FORCE, DETACH, NOFOLLOW, DETACH | NOFOLLOW])
def test_the_program_has_written_when_umount_returns(
    person: Person, place: Path, flags: int
) -> None:
    if flags & (FORCE | DETACH):
        (place / "rules.yaml").write_text(RULES % BRIEF)
    inside(person, place, f"m ext3 /mnt; echo x > /mnt/x; no written; u /mnt {flags}; written")


def test_by_the_umount_of_old(person: Person, place: Path) -> None:
    """umount of i386, with and without flags."""
    compile_c("mount_callers", place, "-pthread")
    for how in ("umount", "umount2"):
        script = f"m ext3 /mnt; no written; {place}/mount_callers i386-{how} x /mnt x; written"
        inside(person, place, script)
        with (place / "ext4.img").open("r+b") as file:
            file.write(bytes(4))


def test_only_the_last_umount_waits(person: Person, place: Path) -> None:
    script = """
    mkdir /run/b; mount --bind /run/b /run/b; m ext3 /mnt; mount --bind /mnt /run/b
    u /mnt 0; no written; echo x > /run/b/x; u /run/b 0; written
    """
    inside(person, place, "mount -t tmpfs t /run;" + script)


def test_what_is_busy_stays(person: Person, place: Path) -> None:
    script = f"""
    m ext3 /mnt; exec 5>/mnt/open; fails {EBUSY} u /mnt 0; no written; echo x >&5
    fails {EINVAL} u /mnt {DETACH | EXPIRE}; fails {EINVAL} u /mnt 64
    fails {EINVAL} u /mnt/lost+found 0
    ln -s /mnt {place}/link; fails {EINVAL} u {place}/link {NOFOLLOW}
    setpriv --bounding-set -sys_admin sh -c "! umount /mnt 2>/dev/null"
    u /mnt {DETACH}; echo y >&5; no written; exec 5>&-
    until written; do sleep 0.1; done # the end of the command would be that of the program
    """
    inside(person, place, script)


def test_what_expires(person: Person, place: Path) -> None:
    """The first call marks it, the second unmounts; nobody may touch it in between, nor do we. Nor
    does that umount wait for the program, so that the image may be in use for longer.
    """
    script = f"""
    for type in ext2 ext3 ext4; do
      test $type != ext4 || test {person.uid} = 0 || continue
      s={EBUSY}; while test $s = {EBUSY}; do s=0; m $type /mnt || s=$?; done; test $s = 0
      fails {EAGAIN} u /mnt {EXPIRE}; u /mnt {EXPIRE}; no grep -q " /mnt " /proc/mounts
      test $type != ext3 || until written; do sleep 0.1; done
    done
    """
    inside(person, place, script)


def test_with_nodes_on_it(person: Person, place: Path) -> None:
    """The mount of one emulation, and the nodes of another one on it."""
    (place / "rules.yaml").write_text(RULES % BRIEF)
    script = f"""
    for type in ext3 ext4; do
      test $type != ext4 || test {person.uid} = 0 || continue
      for flags in 0 {DETACH} {FORCE}; do
        blank; m $type /mnt; rm -rf /mnt/d; mkdir /mnt/d; mknod /mnt/n c 1 3; mknod /mnt/d/z c 1 5
        echo > /mnt/n; test -c /mnt/d/z
        (cd /mnt/d; fails {EBUSY} u /mnt 0); echo > /mnt/n; test -c /mnt/d/z
        u /mnt $flags; no grep -q " /mnt " /proc/mounts
        test $type = ext4 || written
        m $type /mnt; test -f /mnt/n; rm /mnt/n; u /mnt 0
      done
    done
    """
    inside(person, place, script)
    assert not attached(place)


def test_a_mount_on_a_mount(person: Person, place: Path) -> None:
    (place / "rules.yaml").write_text(RULES % BRIEF)
    script = f"""
    m ext3 /mnt; mkdir -p /mnt/t; mount -t tmpfs t /mnt/t; fails {EBUSY} u /mnt 0
    u /mnt/t 0; mount -t tmpfs t /mnt/t; u /mnt {DETACH}; written; no test -e /mnt/t
    """
    inside(person, place, script)


@pytest.mark.parametrize("flags", [FORCE, DETACH])
def test_a_program_that_hangs_is_forced(user: Person, place: Path, flags: int) -> None:
    """umount -f and -l are for that; it is not waited for as long as for another one."""
    (place / "rules.yaml").write_text(RULES % "/usr/bin/fuse2fs $@ & sleep 100")
    script = f"""
    m ext3 /mnt; touch {place}/mounted; until test -e {place}/hung; do sleep 0.1; done
    u /mnt {flags}; no grep -q " /mnt " /proc/mounts
    """

    def hang(started: Started) -> None:
        wait_for((place / "mounted").exists, bool)
        (program,) = (pid for pid in below(started.process.pid) if name_of(pid) == "fuse2fs")
        os.kill(program, signal.SIGSTOP)
        (place / "hung").touch()

    start = time.monotonic()
    inside(user, place, script, hang)
    assert time.monotonic() - start < 30


def below(pid: int) -> list[int]:
    """The descendants of a process."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *below(int(child))]
    return found


def name_of(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def beginning(started: Started) -> int:
    """The beginning of the next program, once it waits for its order."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for pid in started.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
                if name.endswith("(seccompd-spare") and rest.startswith("S"):
                    return pid
    raise AssertionError("nothing is there for the next mount")


def test_the_next_program_is_ready_while_the_session_waits_for_a_call(
    person: Person, place: Path
) -> None:
    # the session has not been woken up since it asked for that beginning
    image(place)
    os.chown(place / "ext4.img", inner_root() if person.name is None else person.uid, -1)
    script = f"""
import sys
sys.argv[1:] = ["mount", "{place}/ext4.img", "/mnt", "ext2"]
call = compile(open("{place}/calls.py").read().rpartition("sys.exit")[0], "calls", "exec")
for turn in range(3):
    exec(call); assert not got
    print("mounted", flush=True)
    assert not libc.umount2(b"/mnt", 0)
    print("unmounted", flush=True); sys.stdin.readline()
"""
    words = ["run", "--policy", str(place / "rules.yaml"), "--audit", str(place / "audit"), "--"]
    (place / "audit").touch()
    (place / "audit").chmod(0o666)
    started = Started(person, [*words, python(person), "-c", script], stdin=subprocess.PIPE)
    told, hears = started.process.stdout, started.process.stdin
    assert told is not None
    assert hears is not None
    begun = []
    for _ in range(3):
        assert told.readline() + told.readline() == b"mounted\nunmounted\n"
        begun.append(beginning(started))
        hears.write(b"\n")
        hears.flush()
    done = started.finish()
    assert (done.returncode, done.stderr) == (0, "")
    records = map(json.loads, (place / "audit").read_text().splitlines())
    mounted = [r["how"] for r in records if r.get("syscall") == "mount"]
    assert mounted[1:] == [f"fuse, pid {pid}" for pid in begun[:2]]


def test_umounts_of_others_are_left_alone(person: Person, place: Path) -> None:
    script = f"""
    m ext3 /mnt; mount -t tmpfs t /run; mkdir /run/a /run/b; mount -t tmpfs a /run/a
    fails {EBUSY} u /run 0; fails {EINVAL} u /run/b 0; no written
    u /run/a 0; u /run 0; u /mnt 0; written
    """
    inside(person, place, script)
