"""Directories that a policy has made, elsewhere or not at all: a program inside of a container."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.people import Person, python
from tests.support.program import Started, run
from tests.support.scratch import compile_c, scratch

POLICY = """
version: 1
on_error: ENOMEDIUM
syscalls:
  mknod: [{devices: ["null"], do: emulate}]
  mkdir:
    - {path: /mnt/led, do: {redirect: /mnt/there/led}}
    - {path: /mnt/relative, do: {redirect: /mnt/there/relative}}
    - {path: /mnt/lost, do: {redirect: /mnt/nowhere/lost}}
    - {path: /mnt/shut, do: {redirect: /mnt/there/closed/shut}}
    - {path: /of-jail, do: {redirect: /led-in-jail}}
    - {path: /mnt/number, do: {return: 7}}
    - {path: /mnt/seen, mode: audit, accept_race: true, do: {errno: EROFS}}
    - {path: [/mnt/*, "/mnt/there/**", "/mnt/open/**", "/**/fuse/*", "/**/fuse"], do: emulate}
"""
SCRIPT = """
import ctypes, errno, os, struct, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def tell(name, *said):
    print(name, *said, flush=True)
def made(name, path, *, at=-100, mode=0o777):
    path = path.encode() if isinstance(path, str) else path
    failed = libc.syscall(258, at, path, mode)
    tell(name, errno.errorcode[ctypes.get_errno()] if failed < 0 else failed)
def seen(name, path):
    found = os.stat(path)
    tell(name, f"{found.st_mode:o} {found.st_uid}:{found.st_gid}")
def child(run):
    if not (pid := os.fork()):
        try:
            run()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
libc.mount(b"t", b"/mnt", b"tmpfs", 0, b"mode=755")
os.umask(0)
for name in ("there", "open", "there/closed", "open/shared", "jail", "ro"):
    made("scene", f"/mnt/{name}", mode=0o755)
os.umask(0o027)
made("led", "/mnt/led")
seen("led is", "/mnt/there/led")
tell("asked for is there", os.path.exists("/mnt/led"))
made("led again", "/mnt/led")
os.chdir("/mnt/open")
made("relative", "../relative/")
tell("is there", os.path.exists("/mnt/there/relative"))
made("lost", "/mnt/lost")
made("number", "/mnt/number")
made("seen", "/mnt/seen")
tell("is there", os.path.exists("/mnt/seen"))
def as_somebody():
    os.setgroups([9])
    os.setgid(5)
    os.setuid(5)
    made("shut", "/mnt/shut")
    made("not mine", "/mnt/open/not-mine")
    os.umask(0o007)
    made("of the group", "/mnt/open/shared/one")
    seen("of the group is", "/mnt/open/shared/one")
os.chown("/mnt/open/shared", 0, 9)
os.chmod("/mnt/open/shared", 0o2770)
child(as_somebody)
def in_jail():
    os.chroot("/mnt/jail")
    os.chdir("/")
    made("of jail", "of-jail")
    tell("in jail", *os.listdir("/"))
child(in_jail)
def in_thread():
    libc.unshare(0x200)  # CLONE_FS
    os.chdir("/mnt/there")
    made("thread", "thread")
thread = threading.Thread(target=in_thread)
thread.start()
thread.join()
tell("of thread", os.path.isdir("/mnt/there/thread"), os.getcwd())
subprocess.run(["unshare", "-pf", "mkdir", "-m", "700", "in-pid"], check=True)
seen("pid namespace", "in-pid")
libc.mount(b"/mnt/ro", b"/mnt/ro", None, 4096, None)
libc.mount(b"none", b"/mnt/ro", None, 4096 | 32 | 1, None)
os.symlink("around", "/mnt/around")
os.symlink("nowhere", "/mnt/open/dangling")
for path in (
    "/etc", "/", "/etc/..", "/etc/new", "/etc/new/", "/etc/new/x", "/etc/passwd", "/etc/passwd/x",
    "/etc/passwd/", "/mnt/ro/x", "/mnt/around/x", "/etc/" + "n" * 256, "/" + "n/" * 2050, "",
    "/nowhere/x", "/mnt/open/dangling", "../../etc", "../../etc/new", None,
):
    made("refused " + str(path)[:14], path)
def where_nothing_is_left():
    os.mkdir("/mnt/gone")
    os.chdir("/mnt/gone")
    os.rmdir("/mnt/gone")
    made("gone", "x")
    made("up from there", "../up")
child(where_nothing_is_left)
made("bad number", "x", at=77)
made("a file", "x", at=os.open("/etc/passwd", os.O_RDONLY))
def fuse():
    # Answers that it is there, and no other question.
    fd = os.open(sys.argv[2], os.O_RDWR)
    os.mkdir("/mnt/fuse")
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"f", b"/mnt/fuse", b"fuse", 6, options):
        tell("no FUSE", errno.errorcode[ctypes.get_errno()])
    if not (pid := os.fork()):
        while request := os.read(fd, 1 << 17):
            opcode, unique = struct.unpack_from("=4xIQ", request)
            body = struct.pack("=IIIIHHI40x", 7, 31, 0, 0, 0, 0, 4096) if opcode == 26 else b""
            error = 0 if body else -(errno.ENOSYS if opcode == 34 else errno.EIO)
            os.write(fd, struct.pack("=IiQ", 16 + len(body), error, unique) + body)
        os._exit(0)
    os.close(fd)
    return pid
def behind_fuse():
    os.setgid(5)
    os.setuid(5)
    made("somebody's FUSE", "/mnt/fuse/theirs")
server = fuse()
made("own FUSE", "/mnt/fuse/mine")
child(behind_fuse)
os.kill(server, 9)
params = ctypes.create_string_buffer(120)
tell("ring", libc.syscall(425, 4, params), errno.errorcode[ctypes.get_errno()])
subprocess.run([sys.argv[1], "/mnt/open", "i386-directories"], check=True)
"""


@pytest.fixture(scope="module")
def place(root: Person) -> Iterator[Path]:
    """The programs and the policy, and the device that a FUSE program needs."""
    assert root.name is None
    with scratch(0o755, "/var/tmp") as folder:
        compile_c("callers", folder, "-pthread")
        compile_c("stall", folder)
        (folder / "p.yaml").write_text(POLICY)
        (folder / "hasty.yaml").write_text(POLICY + "limits: {path: 1s}\n")
        (folder / "script.py").write_text(SCRIPT)
        os.mknod(folder / "fuse", stat.S_IFCHR, os.makedev(10, 229))
        os.chmod(folder / "fuse", 0o666)
        yield folder


def test_what_is_made_and_what_is_not(person: Person, place: Path) -> None:
    own = place / f"of-{person.uid}"
    own.mkdir()
    log = person.given(own) / "log"
    done = run(
        person, python(person), str(place / "script.py"), str(place / "callers"),
        str(place / "fuse"), options=["--policy", str(place / "p.yaml"), "--audit", str(log)],
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = [line for line in done.stdout.splitlines() if line != "scene 0"]
    assert found == [
        "led 0", "led is 40750 0:0", "asked for is there False", "led again EEXIST",
        "relative 0", "is there True", "lost ENOENT", "number 7", "seen 0", "is there True",
        "shut EACCES", "not mine EACCES", "of the group 0", "of the group is 42770 5:9",
        "of jail 0", "in jail led-in-jail", "thread 0", "of thread True /mnt/open",
        "pid namespace 40700 0:0",
        "refused /etc EEXIST", "refused / EEXIST", "refused /etc/.. EEXIST",
        "refused /etc/new EACCES", "refused /etc/new/ EACCES", "refused /etc/new/x ENOENT",
        "refused /etc/passwd EEXIST", "refused /etc/passwd/x ENOTDIR",
        "refused /etc/passwd/ EEXIST", "refused /mnt/ro/x EROFS", "refused /mnt/around/x ELOOP",
        "refused /etc/nnnnnnnnn ENAMETOOLONG", "refused /n/n/n/n/n/n/n ENAMETOOLONG",
        "refused  ENOENT", "refused /nowhere/x ENOENT", "refused /mnt/open/dang EEXIST",
        "refused ../../etc EEXIST", "refused ../../etc/new EACCES", "refused None EFAULT",
        "gone ENOENT", "up from there 0", "bad number EBADF", "a file ENOTDIR",
        "own FUSE EIO", "somebody's FUSE EACCES", "ring -1 ENOSYS",
        "i386-mkdir 0", "i386-again EEXIST", "i386-mkdirat 0", "i386-refused EACCES",
    ]  # fmt: skip
    records = [json.loads(line) for line in log.read_text().splitlines()]
    by_path: dict[str, dict[str, Any]] = {
        one["args"]["pathname"]: one for one in records if isinstance(one.get("args"), dict)
        and isinstance(one["args"]["pathname"], str)
    }  # fmt: skip
    relative = by_path["../relative/"]
    assert relative["emulate"] == {"redirect": "/mnt/there/relative"}
    assert relative["how"] == "directory /mnt/there/relative"
    assert (relative["resolved"], relative["result"]) == ("/mnt/relative", 0)
    assert (by_path["in-pid"]["resolved"], by_path["in-pid"]["how"]) == (
        "/mnt/open/in-pid", "directory",
    )  # fmt: skip
    seen = by_path["/mnt/seen"]
    assert (seen["mode"], seen["would"], seen["answered_by"]) == ("audit", "EROFS", "kernel")


def test_a_directory_that_never_answers(user: Person, place: Path) -> None:
    """Its caller is refused at the deadline, and nobody waits behind it."""
    own = place / "stalls"
    own.mkdir()
    command = [str(place / "stall"), "directory", str(user.given(own)), "1"]
    started = Started(
        user, ["run", "--policy", str(place / "hasty.yaml"), "--", *command],
        env={"FUSE_DEVICE": str(place / "fuse")},
    )  # fmt: skip
    done = started.finish(timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[1] for line in lines if line[0] == "attacker"] == ["ENOMEDIUM"]
    (bystander,) = [line for line in lines if line[0] == "bystander"]
    assert int(bystander[2]) == 0
    assert started.wait_gone() == []
