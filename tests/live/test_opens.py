"""Opens that are given, by real programs: what they get, what it can do, and what is recorded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.devices import for_everybody
from tests.support.needs import need
from tests.support.people import Person, python
from tests.support.program import Started, run
from tests.support.scratch import scratch

RULES = """
version: 1
name: given
syscalls:
  open:
    - {path: /dev/net/tun, do: {inject: {device: tun}}}
    - {path: /dev/fuse, do: {inject: {device: fuse}}}
    - {path: /dev/nothing, do: {inject: {device: "null"}}}
    - {path: /dev/zeroes, do: {inject: {device: zero, access: read-only}}}
    - {path: /proc/cpuinfo, access: read-only, do: {inject: {content: "processor : 0\\n"}}}
    - {path: /etc/licence, do: {inject: {file: PLACE/licence}}}
    - {path: /srv/shared, do: {inject: {file: PLACE/shared, access: read-write}}}
    - {path: /srv/common, do: {inject: {file: PLACE/common, access: read-write}}}
    - {path: /srv/gone, do: {inject: {file: PLACE/gone}}}
    - {path: /srv/directory, do: {inject: {file: PLACE}}}
    - {path: /srv/proc, do: {inject: {file: /proc/version}}}
    - {path: PLACE/turned/thing, do: {inject: {content: "given"}}}
    - {path: "/only/root", uid: 0, do: {inject: {content: "root"}}}
    - {path: "/tried", mode: audit, do: {inject: {content: "tried"}}}
"""

# No rule asks who calls: then equal calls are settled.
TUN = """
version: 1
syscalls:
  open: [{path: /dev/net/tun, do: {inject: {device: tun}}}]
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o777, "/var/tmp") as folder:
        (folder / "rules.yaml").write_text(RULES.replace("PLACE", str(folder)))
        (folder / "licence").write_text("secret\n")
        (folder / "licence").chmod(0o600)
        (folder / "shared").write_text("a\n")
        (folder / "shared").chmod(0o600)
        (folder / "common").write_text("a\n")
        (folder / "common").chmod(0o666)
        yield folder


def shell(
    person: Person, place: Path, script: str, *options: str
) -> subprocess.CompletedProcess[str]:
    options = ("--policy", str(place / "rules.yaml"), *options)
    return run(person, "sh", "-uc", script, options=options)


def code(person: Person, place: Path, text: str, *options: str) -> str:
    """What a Python program prints."""
    options = ("--policy", str(place / "rules.yaml"), *options)
    done = run(person, python(person), "-c", text, options=options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_programs(person: Person, place: Path) -> None:
    done = shell(
        person, place,
        """
        cat /proc/cpuinfo; grep -c processor /proc/cpuinfo; cd /proc; wc -l <cpuinfo; cd /
        head -c 2 /dev/zeroes | od -An -tx1; dd if=/dev/zeroes bs=3 count=1 2>/dev/null | wc -c
        echo x >/dev/nothing && echo written; cat /dev/nothing
        cd "$(mktemp -d)"; ln -s /dev dev; cat "$PWD/dev/nothing" && echo aliased
        cat dev/nothing && echo relative; rm dev; rmdir "$PWD"
        """,
    )  # fmt: skip
    expected = "processor : 0 1 1 00 00 3 written relative"
    assert done.stdout.split() == expected.split()
    assert done.stderr.count("\n") == 1  # as it is written, that path is no granted one
    assert "/dev/nothing: No such file" in done.stderr


def test_again_and_again(person: Person, place: Path) -> None:
    """Equal opens are given without a look at the policy, by where their path leads each time."""
    text = f"""
import ctypes, fcntl, os
os.chdir({str(place)!r})
path = os.path.abspath("turned/thing")
def opened(flags=0):
    try:
        fd = os.open(path, flags)
    except OSError as error:
        return error.strerror
    try:
        return os.read(fd, 9).decode()
    finally:
        os.close(fd)
print(*(opened() for _ in range(3)), sep=", ")
os.mkdir("own"), open("own/thing", "w").write("own"), os.mkdir("turned")
print(opened(), opened(os.O_WRONLY), sep=", ")
os.rmdir("turned"), os.symlink("own", "turned")
print(*(opened() for _ in range(3)), sep=", ")
os.unlink("turned"), os.mkdir("turned")
print(*(opened() for _ in range(3)), sep=", ")
os.unlink("own/thing"), os.rmdir("own"), os.rmdir("turned")
for flags in (os.O_CLOEXEC, 0, os.O_NONBLOCK) * 2:
    fd = ctypes.CDLL(None).open(path.encode(), flags)
    kept = not os.get_inheritable(fd)
    os.close(os.open("/", 0))
    print(kept, bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK), end=" ")
"""
    own = "own, own, own"
    given = "given, given, given"
    assert code(person, place, text).splitlines() == [
        given, "given, Permission denied", own, given,
        "True False False False False True " * 2,
    ]  # fmt: skip


def test_what_openat2_is_to_resolve(person: Person, place: Path) -> None:
    """With what keeps a path from links and mounts the kernel alone finds what is there; that none
    of it may lead by a link of /proc makes no difference to what is given."""
    text = """
import ctypes, errno, os, struct
libc = ctypes.CDLL(None, use_errno=True)
NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT, CACHED = (1 << bit for bit in range(6))
root = os.open("/", os.O_PATH)
def opened(path, resolve):
    how = struct.pack("QQQ", os.O_RDONLY, 0, resolve)
    fd = libc.syscall(437, root, path, how, len(how))
    return os.read(fd, 12) if fd >= 0 else errno.errorcode[ctypes.get_errno()]
for path in b"proc/cpuinfo", b"/dev/nothing":
    for resolve in 0, NO_MAGICLINKS, NO_XDEV, NO_SYMLINKS, BENEATH, IN_ROOT, CACHED, 1 << 60:
        print(opened(path, resolve))
"""
    found = code(person, place, text).splitlines()
    given, none = "b'processor : '", "b''"
    assert found[:2] == [given] * 2
    assert given not in found[2:8]
    assert found[8:10] == [none] * 2
    # nothing is there; with an absolute path that is to stay beneath it is EXDEV, as with one that
    # leads to another mount
    assert {*found[10:15]} <= {"ENOENT", "EXDEV", "EAGAIN"}
    assert found[7] == found[15] == "EINVAL"


def test_mounts_of_what_is_given_cannot_be_taken(root: Person, place: Path) -> None:
    """A node that could be mounted would be there without a rule."""
    text = f"""
import ctypes, errno, os, struct
libc = ctypes.CDLL(None, use_errno=True)
open_tree, move_mount, mount_setattr, AT_EMPTY_PATH, CLONE, BIND = 428, 429, 442, 0x1000, 1, 4096
os.chdir({str(place)!r})
open("taken", "w").close()
clear = struct.pack("QQQQ", 0, 1 | 2 | 4, 0, 0)
for path in "/dev/zeroes", "/dev/net/tun", "/etc/licence", "/srv/common":
    for _ in range(4):
        fd = os.open(path, os.O_RDONLY)
        for call in (
            lambda: libc.syscall(mount_setattr, fd, b"", AT_EMPTY_PATH, clear, len(clear)),
            lambda: libc.syscall(move_mount, fd, b"", -100, b"taken", 4),
            lambda: libc.syscall(open_tree, fd, b"", AT_EMPTY_PATH | CLONE),
            lambda: libc.mount(f"/proc/self/fd/{{fd}}".encode(), b"taken", None, BIND, None),
        ):
            print(errno.errorcode[ctypes.get_errno()] if call() < 0 else "done")
os.unlink("taken")
"""
    assert code(root, place, text).splitlines() == ["EINVAL"] * 4 * 4 * 4


def test_a_static_program(person: Person, place: Path) -> None:
    """busybox has the C library in it, and calls what it likes."""
    busybox = shutil.which("busybox")
    need("busybox")
    done = shell(person, place, f"{busybox} cat /proc/cpuinfo; {busybox} head -c1 /dev/zeroes")
    assert done.stdout == "processor : 0\n\0"


def test_a_device_no_wider_than_it_is_given(root: Person, place: Path) -> None:
    """Not by opening the descriptor again, either."""
    text = """
import os
for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
    for path in ("/dev/zeroes", f"/proc/self/fd/{os.open('/dev/zeroes', os.O_RDONLY)}"):
        try:
            print(os.read(os.open(path, flags), 1))
        except OSError as error:
            print(error.strerror)
for change in (os.fchmod, lambda fd, mode: os.fchown(fd, 0, 0)):
    try:
        change(os.open("/dev/zeroes", 0), 0o777)
        print("changed")
    except OSError as error:
        print(error.strerror)
"""
    denied = ["Permission denied"] * 4
    lines = code(root, place, text).splitlines()
    assert lines == [r"b'\x00'"] * 2 + denied + ["Operation not permitted"] * 2


def test_files_of_the_hosts(root: Person, place: Path) -> None:
    """Read-only is read-only, whatever the file's mode is for others; a directory is none."""
    (place / "licence").chmod(0o606)
    text = f"""
import os
def opened(path, flags):
    try:
        os.close(os.open(path, flags)); return "opened"
    except OSError as error:
        return error.strerror
fd = os.open("/etc/licence", os.O_RDONLY)
print(os.read(fd, 99))
print(opened("/etc/licence", os.O_RDWR), opened(f"/proc/self/fd/{{fd}}", os.O_RDWR), sep=", ")
print(opened("/srv/gone", 0), opened("/srv/directory", 0), opened("/srv/proc", 0), sep=", ")
print(opened("{place}/licence", os.O_RDWR))
with open("/srv/shared", "a") as file:
    file.write("b")
"""
    assert code(root, place, text).splitlines() == [
        r"b'secret\n'",
        "Permission denied, Read-only file system",
        "No such file or directory, Is a directory, Operation not permitted",
        "opened",  # by its own name it is what its mode says
    ]
    assert (place / "shared").read_text() == "a\nb"
    (place / "licence").chmod(0o600)


def test_what_the_container_may_write_itself_needs_no_helper(root: Person, place: Path) -> None:
    """The first time a maker lends it; then the session opens it with rights of the container's."""
    text = """
import os
for _ in range(2):
    for flags in os.O_WRONLY | os.O_APPEND, os.O_RDONLY:
        fd = os.open("/srv/common", flags)
    print(os.read(fd, 99), flush=True)
    os.write(os.open("/srv/common", os.O_WRONLY | os.O_APPEND), b"b")
    input()
try:
    os.fchmod(fd, 0o4777)
except OSError as error:
    print(error.strerror)
"""
    words = ["run", "--policy", str(place / "rules.yaml"), "--", python(root), "-c", text]
    started = Started(root, words, stdin=subprocess.PIPE)
    try:
        said, asked = started.process.stdout, started.process.stdin
        assert said is not None
        assert asked is not None
        assert said.readline() == b"b'a\\n'\n"
        makers = [pid for pid in started.processes() if _name(pid).startswith("seccompd-make")]
        assert len(makers) == 2
        for pid in makers:
            os.kill(pid, signal.SIGSTOP)
        asked.write(b"\n")
        asked.flush()
        assert said.readline() == b"b'a\\nb'\n"
        for pid in makers:
            os.kill(pid, signal.SIGCONT)
        asked.write(b"\n")
        asked.close()
        started.process.stdin = None
        assert started.finish().stdout == "Operation not permitted\n"
        assert (place / "common").read_text() == "a\nbb"
    finally:
        started.kill()


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_an_ordinary_user_is_given_no_file(user: Person, place: Path) -> None:
    done = shell(user, place, "cat /etc/licence")
    assert "Operation not permitted" in done.stderr


def test_tun_is_of_the_callers_network(person: Person, place: Path) -> None:
    text = """
import fcntl, os, struct
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"tun-given", 1))
print([name for name in os.listdir("/sys/class/net") if name != "lo"])
print([line.split(":")[0].strip() for line in open("/proc/net/dev") if "tun-given" in line])
"""
    if person.uid and not os.stat("/dev/net/tun").st_mode & 0o002:
        done = shell(person, place, ": <>/dev/net/tun", "--unshare", "net")
        assert "Permission denied" in done.stderr  # what a user may not open, it is not given
        return
    assert code(person, place, text, "--unshare", "net").splitlines()[1] == "['tun-given']"
    assert "tun-given" not in os.listdir("/sys/class/net")


def test_tun_is_of_the_callers_network_again_and_again(user: Person, place: Path) -> None:
    """Also where nobody but the session of an ordinary user could open it."""
    text = """
import fcntl, os, struct
for number in range(5):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"given%d" % number, 1))
    print(f"given{number}" in open("/proc/net/dev").read())
"""
    (place / "tun.yaml").write_text(TUN)
    options = ["--policy", str(place / "tun.yaml"), "--unshare", "net"]
    with for_everybody("/dev/net/tun"):
        done = run(user, python(user), "-c", text, options=options)
    assert (done.stdout.split(), done.stderr) == (["True"] * 5, "")


def test_fuse_can_be_mounted(person: Person, place: Path) -> None:
    """The kernel wants who mounts to be of the user namespace that /dev/fuse was opened in."""
    text = """
import ctypes, os
fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
os.makedirs("/tmp/sd-fuse", exist_ok=True)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
print(libc.mount(b"given", b"/tmp/sd-fuse", b"fuse", 6, options), ctypes.get_errno())
print(len(os.read(fd, 65536)) > 40)  # FUSE_INIT
"""
    with for_everybody():
        assert code(person, place, text).splitlines() == ["0 0", "True"]


def test_who_calls(person: Person, place: Path) -> None:
    script = "cat /only/root; setpriv --reuid 1 --clear-groups cat /only/root"
    done = shell(person, place, script)
    assert done.stdout == "root"
    assert "No such file" in done.stderr


def test_what_is_only_recorded(person: Person, place: Path, tmp_path: Path) -> None:
    """Opens that are the kernel's are not recorded; what was given is, and what would have been."""
    log = place / f"audit-{person.uid}"
    done = shell(
        person, place, "cat /tried; cat /proc/cpuinfo /etc/passwd >/dev/null", "--audit", str(log)
    )
    assert "No such file" in done.stderr
    records = [json.loads(line) for line in log.read_text().splitlines()]
    calls = [record for record in records if record.get("syscall", "").startswith("open")]
    found = [
        (call["args"]["pathname"], call["verdict"], call.get("mode"), call.get("how"))
        for call in calls
    ]
    assert found == [
        ("/tried", "inject", "audit", None),
        ("/proc/cpuinfo", "inject", None, "injected: content"),
    ]
    assert records[-1]["errors"] == 0
