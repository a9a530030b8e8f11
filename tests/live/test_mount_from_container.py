"""FUSE programs of the container's own: whose files and who they are, and what they cannot do."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from errno import EACCES, EINVAL, EIO, ENOENT, ENOEXEC, ENOSPC, ETIMEDOUT
from pathlib import Path

import pytest

from supervisor.kernel.fuse_programs import PROGRAMS
from tests.attack.test_mount_attacks import hung
from tests.live.test_mount_fuse import FORCE, gone
from tests.live.test_mount_kernel import make_image
from tests.support.devices import for_everybody
from tests.support.mounting import START, Actor, Target, mounting
from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch

pytestmark = pytest.mark.needs("fuse2fs")

FUSE2FS = PROGRAMS["fuse2fs"][1:]
# A program that is nowhere but in the container: what it does comes before its work.
PROGRAM = "/opt/fs/bin/mine"


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
    assert place
    with contextlib.ExitStack() as stack:
        if request.param == "no maker":
            stack.enter_context(for_everybody())
        with mounting(ceiling=[] if request.param == "maker" else None, deadline=2) as found:
            found[0].run("mount -t tmpfs opt /opt && mkdir -p /opt/fs/bin && touch /opt/only-here")
            yield found
            found[0].run("umount /opt")


def install(target: Target, place: Path, text: str, path: str = PROGRAM) -> None:
    """Makes `text` a program of the container's."""
    (place / "text").write_text(text)
    status, said = target.run(f"cp {place}/text {path} && chmod 755 {path}")
    assert status == 0, said


def mount(actor: Actor, place: Path, *program: str, **more: object) -> tuple[int, str]:
    words: dict[str, object] = {
        "source": str(place / "image"), "target": str(place / "mp"), "via": "fuse",
        "program": program or (PROGRAM, *FUSE2FS), "force": FORCE, "inside": True,
    }  # fmt: skip
    return actor.mount(**{**words, **more})


def script(actor: Actor, target: Target, place: Path, text: str, **more: object) -> tuple[int, str]:
    """What comes of a shell script of the container's that does not mount."""
    install(target, place, f"#!/bin/sh\n{text}\n")
    return mount(actor, place, PROGRAM, "{source}", "{target}", **more)


def programs(actor: Actor) -> list[int]:
    """The session's children in pid namespaces of their own, whatever they execute, but for the
    one that waits for the next mount and has nothing of anybody's.
    """
    listed = Path(f"/proc/{actor.process.pid}/task/{actor.process.pid}/children").read_text()
    found = []
    for pid in map(int, listed.split()):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            (line,) = [line for line in status.splitlines() if line.startswith("NSpid:")]
            spare = status.startswith("Name:\tseccompd-spare\n")
            if len(line.split()) > 2 and not spare:
                found.append(pid)
    return found


def unmounted(target: Target, place: Path) -> bool:
    return target.run(f"grep -c {place}/mp /proc/self/mountinfo")[1] == "0"


def test_it_is_the_containers_file(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    assert not os.path.exists("/opt/fs"), "the host has no such program"
    install(target, place, '#!/bin/sh\nls /opt >&2\nexec /usr/bin/fuse2fs "$@"\n')
    errno, how = mount(actor, place)
    assert (errno, how.split(",")[0]) == (0, "fuse"), how
    assert target.run(f"cat {place}/mp/file; echo more > {place}/mp/new") == (0, "text")
    assert target.run(f"mount -o remount,bind,dev,suid {place}/mp")[0] != 0, "flags are locked"
    assert target.run(f": < {place}/mp/null")[0] != 0
    # it does not keep the container's own mounts busy
    assert target.run(f"umount {place}/mp") == (0, "")
    assert gone("fuse2fs -f")
    assert subprocess.run(["e2fsck", "-fn", place / "image"], check=False).returncode == 0
    # what the host has under that name, the container need not have
    target.run("mount -t tmpfs none /usr/local")
    assert mount(actor, place, "/usr/local/bin/nowhere", *FUSE2FS)[0] == ENOENT
    target.run("umount /usr/local")


def test_it_is_found_below_the_callers_root(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    for path in ("/opt/fs/bin/mine", f"{place}/jail/opt/fs/bin/mine"):
        target.run(f"mkdir -p {os.path.dirname(path)} {place}/jail/proc {place}/jail/mp")
        install(target, place, f"#!/bin/sh\necho I am {path}\nexit 7\n", path)
    for name in ("usr", "lib", "lib64", "bin"):
        target.run(f"mkdir {place}/jail/{name}; mount --bind /{name} {place}/jail/{name}")
    target.run(f"cp {place}/image {place}/jail/")
    pid = target.start(f"chroot {place}/jail sleep 60")
    errno, how = mount(actor, place, tid=pid, source="/image", target="/mp")
    target.run(f"kill {pid}; wait")
    assert errno == EINVAL
    assert f"I am {place}/jail/opt" in how


def test_who_it_is_and_what_it_sees(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    errno, how = script(
        actor, target, place,
        "id -u; id -G; grep -E 'Cap(Prm|Eff|Inh|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status;"
        "echo top: $(ls /); echo dev: $(ls /dev); echo processes: $(ls -d /proc/[0-9]* | wc -l);"
        "echo net: $(grep -c : /proc/net/dev); echo fds: $(ls /proc/self/fd | wc -l); exit 9",
    )  # fmt: skip
    assert errno == EINVAL
    said = how.split("; ")
    assert said[0].endswith("status 9): 0")
    assert said[1] == "0", "no groups but the first one"
    for name in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"):
        # DAC_OVERRIDE at most, to open the image once more: nothing to mount with
        assert f"{name}:\t0000000000000002" in how, how
    assert "NoNewPrivs:\t1" in said
    assert "Seccomp:\t2" in said
    (top,) = [line.split() for line in said if line.startswith("top:")]
    assert set(top[1:]) <= {
        "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "mnt", "opt", "proc", "sbin", "tmp",
        "usr",
    }  # fmt: skip
    assert "dev: fd fuse image null random urandom zero" in said
    assert "net: 1" in said, "a network of its own, with nothing but lo"
    # the shell, its $( ), and ls
    assert int(said[-2].split()[1]) <= 3
    # standard streams, and the directory that is listed
    assert said[-1] == "fds: 4"


def test_it_is_no_more_than_its_caller(both: tuple[Target, Actor], place: Path) -> None:
    """A caller that is uid 1000 with CAP_SYS_ADMIN alone does not become root that way."""
    target, actor = both
    caps = " ".join(
        f"--{which} -all,+sys_admin" for which in ("inh-caps", "ambient-caps", "bounding-set")
    )
    pid = target.start(f"setpriv --reuid 1000 --regid 1001 --groups 7 {caps} sleep 60")
    (place / "image").chmod(0o666)
    errno, how = script(
        actor, target, place,
        "id -u; id -g; id -G; grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status; exit 9", tid=pid,
    )  # fmt: skip
    target.run(f"kill {pid}; wait")
    assert errno == EINVAL
    assert "): 1000; 1001; 1001; CapPrm:\t0000000000000000; CapEff:\t0000000000000000;" in how, how
    assert "CapBnd:\t0000000000000000" in how


# Each line tries one thing that must not go through, and says so where it does.
ESCAPES = """
import ctypes, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
count = 0
def tried(name, *args):
    global count
    count += 1
    if libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in args]) >= 0:
        print("GOT", name, flush=True)
P = lambda text: ctypes.c_char_p(text)
os.mkdir("/tmp/x")
tried("bind", 165, P(b"/usr"), P(b"/tmp/x"), P(b""), 4096, None)
tried("tmpfs", 165, P(b"t"), P(b"/tmp/x"), P(b"tmpfs"), 0, None)
tried("proc", 165, P(b"p"), P(b"/tmp/x"), P(b"proc"), 0, None)
tried("writable", 165, P(b""), P(b"/usr"), P(b""), 32 | 4096, None)
tried("umount", 166, P(b"/usr"), 2)
tried("open_tree", 428, -100, P(b"/usr"), 1)
tried("fsopen", 430, P(b"tmpfs"), 0)
tried("unshare", 272, 0x10000000)
tried("setns", 308, 3, 0)
tried("chroot", 161, P(b"/tmp"))
tried("pivot_root", 155, P(b"."), P(b"."))
tried("ptrace", 101, 0, 0, 0, 0)
tried("process_vm_readv", 310, os.getpid(), None, 0, None, 0, 0)
tried("bpf", 321, 0, None, 0)
tried("userfaultfd", 323, 0)
tried("perf_event_open", 298, None, 0, -1, -1, 0)
tried("keyctl", 250, 0, 0)
tried("io_uring_setup", 425, 1, None)
tried("open_by_handle_at", 304, 3, None, 0)
tried("clone of a namespace", 56, 0x10000011, None, None, None, None)
tried("clone3", 435, None, 0)
tried("setuid", 105, 0 if os.getuid() else 5)
tried("setgroups", 116, 1, ctypes.byref(ctypes.c_uint(5)))
tried("capset", 126, (ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)(1 << 21, 1 << 21))
tried("mknod", 133, P(b"/tmp/disk"), 0o060666, 0x700)
tried("seccomp", 317, 0, 1, None)
tried("unix", 41, 1, 1, 0)
tried("vsock", 41, 40, 1, 0)
tried("alg", 41, 38, 5, 0)
tried("memfd_create", 319, P(b"m"), 0)
tried("memfd_secret", 447, 0)
tried("shmget", 29, 0, 4096, 0o1600)
tried("msgget", 68, 0, 0o1600)
tried("semget", 64, 0, 1, 0o1600)
tried("mq_open", 240, P(b"q"), 0o102, 0o600, None)
tried("reboot", 169, 0xFEE1DEAD, 672274793, 0x4321FEDC, None)
for path in ("/usr/written", "/opt/written", "/etc/written"):
    try:
        open(path, "w")
        print("GOT", path)
    except OSError:
        count += 1
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        print("GOT process", name)
print(count, "refused")
sys.exit(9)
"""


def test_what_it_may_not_do(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    install(target, place, ESCAPES.strip("\n"), "/opt/fs/bin/escape.py")
    # /opt is there only for programs that are below it
    words = ("/usr/bin/python3", "/opt/fs/bin/escape.py", "{source}", "{target}")
    errno, how = mount(actor, place, *words)
    assert (errno, "status 2" in how) == (EINVAL, True), how
    errno, how = script(actor, target, place, "exec /usr/bin/python3 /opt/fs/bin/escape.py")
    assert (errno, "status 9" in how) == (EINVAL, True), how
    assert "GOT" not in how
    assert "39 refused" in how
    assert unmounted(target, place)


@pytest.mark.parametrize(
    ("text", "errno", "said"),
    [
        ("#!/bin/sh\nsleep 77", ETIMEDOUT, "in time"),
        ("#!/bin/sh\n(sleep 77 &); (setsid sleep 78 &); exec sleep 79", ETIMEDOUT, "in time"),
        ("#!/bin/sh\ntrap '' TERM INT HUP; while :; do sleep 77; done", ETIMEDOUT, "in time"),
        ("#!/bin/sh\nexit 0", EINVAL, "status 0"),
        # pid 1 gets no signal that it does not handle, its own neither
        ("#!/bin/sh\nkill -SEGV $$; sleep 77", ETIMEDOUT, "in time"),
        ("#!/usr/bin/python3\nimport os\nos.abort()", EIO, "SIG"),
        ("#!/bin/sh\nexec 3<&-; head -c 1000000 /dev/zero; exit 4", EINVAL, "status 4"),
        ("#!/nowhere/sh\n", ENOENT, "exec"),
        ("no program at all", ENOEXEC, "exec"),
        ("", ENOEXEC, "exec"),
        # a filesystem that is none of FUSE's, on the place where one is waited for
        ('#!/bin/sh\nmount -t tmpfs x "$2"; exit 5', EINVAL, "status 5"),
        ('#!/bin/sh\nmount --bind /usr "$2"; sleep 77', ETIMEDOUT, "in time"),
    ],
)
def test_hostile_programs(
    both: tuple[Target, Actor], place: Path, text: str, errno: int, said: str
) -> None:
    target, actor = both
    install(target, place, text)
    found, how = mount(actor, place, PROGRAM, "{source}", "{target}")
    assert (found, said in how) == (errno, True), how
    assert gone("sleep 7"), "all that it forked has gone"
    assert unmounted(target, place)
    # and who comes after it is served
    install(target, place, '#!/bin/sh\nexec /usr/bin/fuse2fs "$@"')
    assert mount(actor, place)[0] == 0
    assert target.run(f"umount {place}/mp")[0] == 0


def test_a_program_that_may_not_be_executed(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    install(target, place, "#!/bin/sh\n")
    target.run(f"chmod 600 {PROGRAM}")
    assert mount(actor, place)[0] == EACCES
    status, said = target.run(f"mount -o remount,bind,noexec /opt && chmod 755 {PROGRAM}")
    assert status == 0, said
    assert mount(actor, place)[0] == EACCES
    # a place that a program cannot come from
    assert mount(actor, place, "/dev/shm/x", *FUSE2FS)[0] == ENOENT
    assert mount(actor, place, "/../etc/passwd", *FUSE2FS)[0] in (EACCES, ENOENT)


# Mounts, answers what keeps a mount alive, and goes on when the mount has gone.
KEEPER = """#!/usr/bin/python3
import ctypes, os, struct, sys, time
fd = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fd
assert ctypes.CDLL(None).mount(b"keeper", b"/mnt", b"fuse", 6, options) == 0
if os.fork() == 0:  # one more that has the descriptor
    time.sleep(77)
while True:
    try:
        request = os.read(fd, 1 << 20)
    except OSError:
        time.sleep(77)
    size, opcode, unique = struct.unpack("IIQ", request[:16])
    if opcode == 26:
        out = struct.pack("IIIIHHII", 7, 31, 65536, 0, 16, 12, 4096, 1).ljust(64, b"\\0")
        os.write(fd, struct.pack("IiQ", 16 + len(out), 0, unique) + out)
    elif opcode not in (2, 42):
        os.write(fd, struct.pack("IiQ", 16, -5, unique))
"""


def test_one_that_goes_on_without_its_mount(place: Path) -> None:
    """It counts as a mount until it ends, and it ends with the session."""
    with mounting(ceiling=[], most=2) as (target, actor):
        target.run("mount -t tmpfs opt /opt && mkdir -p /opt/fs/bin")
        install(target, place, KEEPER)
        for number in range(2):
            image = make_image(place, f"image{number}")  # the image of one that goes on is taken
            errno, how = mount(actor, place, source=str(image))
            assert errno == 0, how
            assert target.run(f"umount {place}/mp")[0] == 0
        errno, how = mount(actor, place)
        assert (errno, "limit" in how) == (ENOSPC, True), how
        assert not gone(PROGRAM, 0.1)
    assert gone(PROGRAM)


@pytest.mark.parametrize("way", ["umount", "namespace"])
def test_one_that_goes_on_is_ended(place: Path, way: str) -> None:
    """However its mount has gone, and though nobody asks for anything afterwards."""
    with mounting(ceiling=[], idleness=0.2) as (target, actor):
        target.run("mount -t tmpfs opt /opt && mkdir -p /opt/fs/bin")
        install(target, place, KEEPER)
        more: dict[str, object] = {}
        if way == "namespace":
            more = {"tid": target.start("unshare -m sleep 77")}
        errno, how = mount(actor, place, **more)
        assert errno == 0, how
        assert not gone(PROGRAM, 0.5), "it has its mount still"
        target.run(f"umount {place}/mp" if way == "umount" else f"kill {more['tid']}")
        assert gone(PROGRAM)


@pytest.mark.parametrize("longest", [{"patience": 600.0}, {"patience": 1.0}])
def test_one_that_goes_on_writing_has_more_time(place: Path, longest: dict[str, float]) -> None:
    """It may be all that the image still lacks; but not for ever."""
    with mounting(ceiling=[], idleness=0.6, **longest) as (target, actor):
        target.run("mount -t tmpfs opt /opt && mkdir -p /opt/fs/bin")
        # the one that it has forked
        install(target, place, KEEPER.replace("    time.sleep(77)\nwhile", (
            "    while True:\n        os.write(1, b'x')\n        time.sleep(0.05)\nwhile"
        )))  # fmt: skip
        assert "os.write(1" in (place / "text").read_text()
        assert mount(actor, place)[0] == 0
        assert target.run(f"umount {place}/mp")[0] == 0
        if longest["patience"] == 1.0:
            assert gone(PROGRAM)
        else:
            assert not gone(PROGRAM, 2.5)


def test_its_death_is_an_error_not_a_hang(both: tuple[Target, Actor], place: Path) -> None:
    target, actor = both
    install(target, place, KEEPER)
    errno, how = mount(actor, place)
    assert errno == 0
    os.kill(int(how.rpartition(" ")[2]), 9)
    assert target.run(f"timeout 5 ls {place}/mp")[0] not in (0, 124)
    assert target.run(f"umount {place}/mp")[0] == 0
    assert gone(PROGRAM)


def test_a_program_on_a_mount_that_hangs(both: tuple[Target, Actor], place: Path) -> None:
    """It is looked up and read by nobody that others wait for."""
    target, actor = both
    with hung(target, place) as where:
        actor.send(
            source=str(place / "image"), target=str(place / "mp"), via="fuse", inside=True,
            program=[f"{where}/program", *FUSE2FS], force=FORCE,
        )  # fmt: skip
        time.sleep(0.3)
        (place / "other").mkdir()
        make_image(place, "image2")
        actor.send(
            source=str(place / "image2"), target=str(place / "other"), via="fuse",
            program=PROGRAMS["fuse2fs"], force=FORCE,
        )  # fmt: skip
        assert actor.hear()[0] == 0, "others are served meanwhile"
        errno, how = actor.hear()
        assert (errno, "in time" in how) == (ETIMEDOUT, True), how
        assert target.run(f"umount {place}/other")[0] == 0
    end = time.monotonic() + 20
    while programs(actor) and time.monotonic() < end:
        time.sleep(0.05)
    assert programs(actor) == [], "what hung has gone with what it hung on"
    assert mount(actor, place, *PROGRAMS["fuse2fs"])[0] == 0
    target.run(f"umount {place}/mp")


def test_under_seccompd_run(person: Person) -> None:
    """A program that is there only inside, as root and as an ordinary user."""
    with scratch() as place:
        image = place / "disk.img"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", image], check=True)
        image.chmod(0o666)
        policy = place / "policy.yaml"
        policy.write_text(
            "version: 1\nsyscalls:\n  mount:\n    otherwise: kernel\n    rules:\n"
            "      - fstype: ext4\n        source: /**\n"
            "        do: {emulate: {via: fuse, from: container, force: [nosuid],\n"
            f'             program: [{PROGRAM}, "-f", "-o", "{{options}}", "{{source}}", '
            '"{target}"]}}\n'
        )
        mount_call = (
            "import ctypes, sys; l = ctypes.CDLL(None, use_errno=True); "
            "sys.exit(ctypes.get_errno() if l.mount(sys.argv[1].encode(), b'/mnt', b'ext4', "
            "ctypes.c_ulong(0), None) else 0)"
        )
        inside = (
            "mount -t tmpfs opt /opt && mkdir -p /opt/fs/bin && "
            f"printf '#!/bin/sh\\nexec /usr/bin/fuse2fs \"$@\"\\n' > {PROGRAM} && "
            f'chmod 755 {PROGRAM} && {python(person)} -c "$0" {image} && '
            "echo text > /mnt/file && stat -c %u:%g /mnt/file && umount /mnt && umount /opt"
        )
        with for_everybody():
            done = run(person, "sh", "-euc", inside, mount_call, options=("--policy", str(policy)))
        assert (done.returncode, done.stdout) == (0, "0:0\n"), done.stderr
        assert gone("fuse2fs -f")
        subprocess.run(["e2fsck", "-fn", image], check=True, stdout=subprocess.DEVNULL)
        found = subprocess.run(
            ["debugfs", "-R", "cat /file", image], check=True, capture_output=True, text=True
        )
        assert found.stdout == "text\n"
