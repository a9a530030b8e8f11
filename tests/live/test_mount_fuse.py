"""Mounts by FUSE programs: what they can do, what they see, and when they end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from errno import EBUSY, EINTR, EINVAL, EIO, ENOENT, ETIMEDOUT
from pathlib import Path

import pytest

from supervisor.engine.limits import DEFAULT
from supervisor.kernel.fuse_programs import PROGRAMS
from supervisor.kernel.mounts import MS
from tests.live.test_mount_kernel import make_image
from tests.support.devices import for_everybody
from tests.support.mounting import START, Actor, Target, abandoned, mounting
from tests.support.people import Person
from tests.support.scratch import scratch

FORCE = MS["nosuid"] | MS["nodev"]

pytestmark = pytest.mark.needs("fuse2fs")


@pytest.fixture
def place(root: Person) -> Iterator[Path]:
    assert root.name is None
    with scratch(0o755) as folder:
        os.chown(folder, START, START)
        (folder / "mp").mkdir()
        make_image(folder)
        yield folder


@pytest.fixture(params=["maker", "no maker"])
def both(request: pytest.FixtureRequest, place: Path) -> Iterator[tuple[Target, Actor]]:
    """With a maker for /dev/fuse, or as an ordinary user has it: the host's is for everybody."""
    assert place
    with contextlib.ExitStack() as stack:
        if request.param == "no maker":
            stack.enter_context(for_everybody())
        with mounting(ceiling=[] if request.param == "maker" else None, deadline=2) as found:
            yield found


def mount(actor: Actor, place: Path, *program: str, **more: object) -> tuple[int, str]:
    words: dict[str, object] = {
        "source": str(place / "image"), "target": str(place / "mp"), "via": "fuse",
        "program": program or PROGRAMS["fuse2fs"], "force": FORCE,
    }  # fmt: skip
    return actor.mount(**{**words, **more})


def gone(text: str, seconds: float = 20) -> bool:
    """Whether no process with `text` in its command line is left."""
    end = time.monotonic() + seconds
    while abandoned(text):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def spare(actor: Actor) -> int:
    """The beginning of the next program, once it is there."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        listed = Path(f"/proc/{actor.process.pid}/task/{actor.process.pid}/children").read_text()
        for pid in map(int, listed.split()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that is ending
                if Path(f"/proc/{pid}/comm").read_text() == "seccompd-spare\n":
                    return pid
        time.sleep(0.02)
    raise AssertionError("nothing is there for the next mount")


def test_an_ext4_image(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    errno, how = mount(actor, place)
    assert (errno, how.split(",")[0]) == (0, "fuse")
    assert target.run(f"stat -c %u:%g {place}/mp/file; echo more > {place}/mp/new")[1] == "0:0"
    # everybody inside may use it, as far as its permissions go
    nobody = "setpriv --reuid 1000 --regid 1000 --clear-groups"
    assert target.run(f"{nobody} cat {place}/mp/file") == (0, "text")
    assert target.run(f"{nobody} touch {place}/mp/theirs")[0] != 0
    assert target.run(f"mount -o remount,bind,dev,suid {place}/mp")[0] != 0
    assert target.run(f": < {place}/mp/null")[0] != 0
    # the program ends with the mount
    assert target.run(f"umount {place}/mp") == (0, "")
    assert gone("fuse2fs")
    assert subprocess.run(["e2fsck", "-fn", place / "image"], check=False).returncode == 0


def test_no_device_opens_whatever_the_rule_says(
    both: tuple[Target, Actor], place: Path
) -> None:
    target, actor = both
    assert mount(actor, place, force=0)[0] == 0
    # libfuse asks for nodev by itself; the container's root may take that away
    assert target.run(f"mount -o remount,bind,dev,nosuid {place}/mp")[0] == 0
    assert target.run(f": < {place}/mp/null")[0] != 0
    assert target.run(f"umount {place}/mp") == (0, "")


def test_read_only(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    before = (place / "image").read_bytes()
    assert mount(actor, place, flags=MS["ro"])[0] == 0
    assert target.run(f"cat {place}/mp/file; touch {place}/mp/new")[0] != 0
    target.run(f"umount {place}/mp")
    assert gone("fuse2fs")
    assert (place / "image").read_bytes() == before


def test_it_ends_with_the_session(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    assert mount(actor, place)[0] == 0
    actor.process.kill()
    actor.process.wait()
    assert gone("fuse2fs")
    # an error, not a hang
    status, text = target.run(f"timeout 5 ls {place}/mp; echo; umount {place}/mp")
    assert (status, "not connected" in text) == (0, True), text


def test_its_death_is_an_error_not_a_hang(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    errno, how = mount(actor, place)
    assert errno == 0
    os.kill(int(how.rpartition(" ")[2]), 9)
    assert target.run(f"timeout 5 ls {place}/mp")[0] not in (0, 124)
    assert target.run(f"umount {place}/mp")[0] == 0
    assert mount(actor, place)[0] == 0
    target.run(f"umount {place}/mp")


@pytest.mark.parametrize(
    ("program", "errno", "said"),
    [
        (["/usr/bin/nowhere"], ENOENT, "nowhere"),
        (["/bin/sh", "-c", "echo why it fails >&2; exit 3"], EINVAL, "status 3): why it fails"),
        (["/bin/sh", "-c", "exit 0"], EINVAL, "status 0"),
        (["/bin/sh", "-c", "sleep 77"], ETIMEDOUT, "in time"),
        (["/bin/sh", "-c", "(sleep 77 &) ; exec sleep 78"], ETIMEDOUT, "in time"),
        (["/bin/sh", "-c", "{unknown}"], EIO, "unknown"),
        (["/bin/sh", "-c", "yes | head -c 300000; exit 1"], EINVAL, "y; y; y"),
    ],
)
def test_failures_reach_the_caller_and_the_record(
    both: tuple[Target, Actor], place: Path, program: list[str], errno: int, said: str
) -> None:
    target, actor = both
    found, how = mount(actor, place, *program)
    assert (found, said in how) == (errno, True), how
    assert len(how) < 4096
    assert gone("sleep 7")
    assert target.run(f"grep -c {place}/mp /proc/self/mountinfo")[1] == "0"
    # and what comes after it is served
    assert mount(actor, place)[0] == 0
    target.run(f"umount {place}/mp")


def test_what_a_program_sees(both: tuple[Target, Actor], place: Path) -> None:
    _, actor = both
    script = (
        "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; ls /; ls -d /proc/[0-9]* | wc -l;"
        "echo net $(cat /proc/net/dev | wc -l); ls /dev; touch /usr/x /x; ls -l /proc/self/fd;"
        "unshare -U true; mount -t proc p /tmp && chroot /tmp true; kill -9 $PPID; exit 9"
    )
    errno, how = mount(actor, place, "/bin/sh", "-c", script)
    assert errno == EINVAL
    assert "CapEff:\t0000000000000002" in how, "CAP_DAC_OVERRIDE, for its image"
    assert "NoNewPrivs:\t1" in how
    assert "Seccomp:\t2" in how
    assert "home" not in how
    assert "net 3" in how, "nothing but lo"
    assert "touch: cannot touch '/usr/x'" in how
    assert not Path("/usr/x").exists()


FORKS = (
    "/usr/bin/python3", "-c",
    "import os, threading; t = threading.Thread(target=os.write, args=(2, b'a thread, '));"
    "t.start(); t.join(); os.fork() and os.write(2, b'a process'); os._exit(9)",
)  # fmt: skip


@pytest.mark.parametrize("ready_made", [FORKS, None])
def test_ready_made_programs_are_one_process(
    place: Path, ready_made: tuple[str, ...] | None
) -> None:
    """So the limit on a process's memory is that of the program. Others may fork."""
    with mounting(ceiling=[], ready_made=ready_made) as (target, actor):
        for _ in range(2):
            errno, how = mount(actor, place, *FORKS)
            assert (errno, "a thread, " in how) == (EINVAL, True), how
            assert ("a process" in how, "PermissionError" in how) == (
                (False, True) if ready_made else (True, False)
            )
            # the next one has its beginning made ahead
            assert mount(actor, place)[0] == 0
            spare(actor)
            assert target.run(f"umount {place}/mp")[0] == 0


def test_the_next_program_is_begun_ahead_and_is_as_the_first(
    both: tuple[Target, Actor], place: Path
) -> None:
    target, actor = both
    scripts = (
        "grep -E '^(Cap|Uid|Gid|Groups|NoNew|Seccomp|Sig|Umask|TracerPid)' /proc/self/status",
        "cut -d' ' -f5,6 /proc/self/mountinfo | sort",
        "stat -c '%n %F %a %u:%g %t:%T' / /* /etc/* /dev/*; readlink /proc/self/cwd",
        "ls -l /proc/$$/fd | sed 's/.*[0-9] -> / /; s/:.*//'; env; echo $$ $PPID; ps -e | wc -l",
        "ulimit -a | sed 's/  */ /'",
    )

    def sees() -> list[str]:
        found = []
        for script in scripts:
            if found_spare:
                spare(actor)
            errno, how = mount(actor, place, "/bin/bash", "-c", f"({script}) >&2; exit 9")
            assert (errno, len(how) > 100) == (EINVAL, True), how
            found.append(how)
            if found_spare:  # a failure begins no other one
                assert mount(actor, place)[0] == 0
                assert target.run(f"umount {place}/mp")[0] == 0
        return found

    found_spare = False
    first = sees()
    assert mount(actor, place)[0] == 0
    for _ in range(3):
        begun = spare(actor)
        assert target.run(f"umount {place}/mp")[0] == 0
        errno, how = mount(actor, place)
        assert (errno, int(how.rpartition(" ")[2])) == (0, begun)
        assert target.run(f"cat {place}/mp/file")[1] == "text"
    target.run(f"umount {place}/mp")
    found_spare = True
    assert sees() == first


def test_a_spare_beginning_holds_nothing_and_ends(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    assert mount(actor, place)[0] == 0
    begun = spare(actor)
    shown = {os.readlink(f"/proc/{begun}/fd/{name}") for name in os.listdir(f"/proc/{begun}/fd")}
    shown = {name.partition(":")[0] for name in shown}
    assert shown == {"/dev/null", "socket", "mnt"}, "its own namespace, and who it waits for"
    assert str(place) not in Path(f"/proc/{begun}/mountinfo").read_text()
    # one that was killed is no loss
    os.kill(begun, 9)
    assert target.run(f"umount {place}/mp")[0] == 0
    assert mount(actor, place)[0] == 0
    begun = spare(actor)
    actor.process.kill()
    actor.process.wait()
    end = time.monotonic() + 20
    while Path(f"/proc/{begun}").exists():
        assert time.monotonic() < end, "it outlives the session"
        time.sleep(0.02)
    target.run(f"umount {place}/mp")


def test_mounts_are_shown_under_the_callers_name(
    both: tuple[Target, Actor], place: Path
) -> None:
    """As after `fuse2fs IMAGE DIRECTORY` by root."""
    target, actor = both
    assert mount(actor, place)[0] == 0
    shown = target.run(f"findmnt -no SOURCE {place}/mp")
    target.run(f"umount {place}/mp")
    assert shown == (0, str(place / "image"))
    (place / "root").mkdir()
    subprocess.run(["fuse2fs", place / "image", place / "root"], check=True)
    by_root = subprocess.run(
        ["findmnt", "-no", "SOURCE", place / "root"], check=True, capture_output=True, text=True
    )
    subprocess.run(["umount", place / "root"], check=True)
    assert gone("fuse2fs")
    assert by_root.stdout.strip() == shown[1]


def test_an_option_that_ends_in_a_backslash(both: tuple[Target, Actor], place: Path) -> None:
    """libfuse would take the next word, one of ours perhaps, for its end."""
    _, actor = both
    for data in ("x\\", "x\\,y", "a,b\\,c"):
        errno, how = mount(actor, place, flags=MS["ro"], data=data)
        assert (errno, "backslash" in how) == (EINVAL, True), how


# Mounts, and answers what keeps a mount alive; LATER is done once it is there.
TALKER = """
import ctypes, os, struct, sys
fd = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fd
assert ctypes.CDLL(None).mount(b"talker", b"/mnt", b"fuse", 6, options) == 0
while True:
    size, opcode, unique = struct.unpack("IIQ", os.read(fd, 1 << 20)[:16])
    if opcode == 26:
        out = struct.pack("IIIIHHII", 7, 31, 65536, 0, 16, 12, 4096, 1).ljust(64, b"\\0")
        os.write(fd, struct.pack("IiQ", 16 + len(out), 0, unique) + out)
    elif opcode == 17:
        os.write(2, sys.argv[1].encode() * int(sys.argv[2]) + b"\\n")
        os.write(fd, struct.pack("IiQ", 96, 0, unique) + b"\\0" * 80)
    elif opcode not in (2, 42):
        os.write(fd, struct.pack("IiQ", 16, -5, unique))
"""


@pytest.mark.parametrize("last", ["sys.exit(9)", "os.close(fd); time.sleep(77)"])
def test_one_that_mounts_and_does_not_serve(
    both: tuple[Target, Actor], place: Path, last: str
) -> None:
    """Nobody is told that a filesystem is there which answers nothing."""
    target, actor = both
    begin = TALKER.partition("while")[0].replace("sys\n", "sys, time\n")
    # as the ready-made ones: the kernel asks them before it lets anybody look
    script = begin.replace("allow_other", "allow_other,default_permissions") + last
    errno, how = mount(actor, place, "/usr/bin/python3", "-c", script)
    expected = (EINVAL, "status 9") if "exit" in last else (EIO, "not attached")
    assert (errno, expected[1] in how) == (expected[0], True), how
    assert target.run(f"grep -c {place}/mp /proc/self/mountinfo")[1] == "0"
    assert gone("sys, time")


def test_what_a_program_says_is_told_as_it_says_it(
    both: tuple[Target, Actor], place: Path
) -> None:
    target, actor = both
    for times, ending in ((1, ""), (40_000, " bytes more")):
        words = ("/usr/bin/python3", "-c", TALKER.replace("{", "{{").replace("}", "}}"))
        errno, how = mount(actor, place, *words, "x", str(times), "{source}", "{target}")
        assert errno == 0, how
        target.run(f"stat -f {place}/mp")
        said = actor.event()
        assert (said["event"], f"fuse, pid {said['pid']}") == ("fuse", how)
        assert said["says"].startswith("x" * min(times, 900))
        assert said["says"].endswith(ending)
        assert len(said["says"]) < 1100
        assert "status" not in said, "it has its mount, and goes on"
        assert target.run(f"umount {place}/mp")[0] == 0
        assert "status" in actor.event()


def test_a_signal_ends_the_wait(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    # blocked it is no reason, pending and deliverable it is
    target.run(
        "python3 -c 'import signal, time; signal.signal(15, lambda *a: None);"
        f' open("{place}/pid", "x"); time.sleep(60)\' & echo $! > {place}/mounter;'
        f" until test -e {place}/pid; do sleep 0.02; done"
    )
    pid = int((place / "mounter").read_text())
    os.kill(pid, 19)  # as a caller that is stopped in its call: what comes stays pending
    start = time.monotonic()
    actor.send(
        source=str(place / "image"), target=str(place / "mp"), via="fuse", tid=pid,
        program=["/bin/sh", "-c", "sleep 77"],
    )  # fmt: skip
    time.sleep(0.3)
    os.kill(pid, 15)
    assert actor.hear()[0] == EINTR
    assert time.monotonic() - start < DEFAULT.mount / 2  # the deadline was not what ended it
    os.kill(pid, 9)
    target.run("wait")
    assert gone("sleep 7")


def test_a_caller_that_is_killed_leaves_nothing(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    pid = target.start("sleep 60")
    actor.send(
        source=str(place / "image"), target=str(place / "mp"), via="fuse", tid=pid,
        program=["/bin/sh", "-c", "sleep 77"],
    )  # fmt: skip
    time.sleep(0.3)
    os.kill(pid, 9)
    target.run("wait")
    assert actor.hear()[0] != 0
    assert gone("sleep 7")
    assert target.run(f"grep -c {place}/mp /proc/self/mountinfo")[1] == "0"


def test_one_program_for_an_image(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    (place / "other").mkdir()
    assert mount(actor, place)[0] == 0
    assert mount(actor, place, target=str(place / "other"))[0] == EBUSY
    # one that still writes after its umount is waited for
    for _ in range(5):
        assert target.run(f"cp /bin/sh {place}/mp/; umount {place}/mp")[0] == 0
        assert mount(actor, place)[0] == 0
    target.run(f"umount {place}/mp")
    assert gone("fuse2fs")
    assert subprocess.run(["e2fsck", "-fn", place / "image"], check=False).returncode == 0
