"""Directories of the host's that are given: what their descriptors are good for, and what not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch

RULES = """
version: 1
name: directories
syscalls:
  open:
    - {path: /given/read, do: {inject: {directory: PLACE/read}}}
    - {path: /given/write, do: {inject: {directory: PLACE/write, access: read-write}}}
    - {path: /given/theirs, do: {inject: {directory: PLACE/theirs, access: read-write}}}
    - {path: /given/file, do: {inject: {directory: PLACE/read/a}}}
    - {path: /given/gone, do: {inject: {directory: PLACE/gone}}}
    - {path: /given/proc, do: {inject: {directory: /proc}}}
"""
HEAD = """
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def tried(call, *args, **more):
    try:
        result = call(*args, **more)
        return "done" if result is None else result
    except OSError as error:
        return errno.errorcode[error.errno]
def said(result):
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result
def opened(path, flags=os.O_RDONLY, **more):
    fd = tried(os.open, path, flags, **more)
    return fd if isinstance(fd, str) else "opened"
fd = os.open("/given/read", os.O_RDONLY | os.O_DIRECTORY)
"""


@pytest.fixture(scope="module")
def place(root: Person) -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        (folder / "rules.yaml").write_text(RULES.replace("PLACE", str(folder)))
        for name in ("read", "read/below", "write", "theirs", "work"):
            (folder / name).mkdir(mode=0o755)
        (folder / "secret").write_text("not given")
        (folder / "read" / "a").write_text("read me")
        (folder / "read" / "a").chmod(0o600)
        (folder / "read" / "below" / "b").write_text("me too")
        (folder / "read" / "below" / "up").symlink_to("../../secret")
        os.mknod(folder / "read" / "null", 0o020666, os.makedev(1, 3))
        (folder / "read" / "null").chmod(0o666)
        (folder / "work").chmod(0o777)
        (folder / "write" / "everybody").mkdir()
        (folder / "write" / "everybody").chmod(0o777)
        os.chown(folder / "theirs", root.inner_root, root.inner_root)
        yield folder


def says(person: Person, place: Path, code: str) -> list[str]:
    options = ("--policy", str(place / "rules.yaml"))
    work = f"WORK = {str(place / 'work')!r}\n"
    done = run(person, python(person), "-c", HEAD + work + code, options=options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_is_below_can_be_read(root: Person, place: Path) -> None:
    """A file that is its owner's alone, too: the container's root is the owner there."""
    code = """
print(sorted(os.listdir(fd)), sorted(os.listdir("/given/read/")))
print(os.read(os.open("a", os.O_RDONLY, dir_fd=fd), 99), os.stat("a", dir_fd=fd).st_uid)
os.chdir(fd)
print(open("below/b").read(), os.get_inheritable(fd))
os.chdir("/")
relative = os.open("given/read", os.O_RDONLY)
print(os.path.sameopenfile(fd, relative))
"""
    assert says(root, place, code) == [
        "['a', 'below', 'null'] ['a', 'below', 'null']", "b'read me' 0", "me too False", "True",
    ]  # fmt: skip


def test_it_is_the_programs_working_directory(root: Person, place: Path) -> None:
    script = 'exec 3</given/read; cd /proc/self/fd/3 && ls && cat below/b && echo && ls .. | wc -l'
    options = ("--policy", str(place / "rules.yaml"))
    done = run(root, "sh", "-uc", script, options=options)
    assert done.stdout.split() == ["a", "below", "null", "me", "too", "3"], done.stderr


def test_nothing_is_written_where_it_is_read_only(root: Person, place: Path) -> None:
    code = """
print(opened("a", os.O_WRONLY, dir_fd=fd), opened("new", os.O_RDWR | os.O_CREAT, dir_fd=fd))
print(tried(os.mkdir, "new", dir_fd=fd), tried(os.unlink, "a", dir_fd=fd))
print(tried(os.chmod, fd, 0o777), tried(os.chown, "a", 0, 0, dir_fd=fd))
print(opened(f"/proc/self/fd/{fd}/a", os.O_RDWR))
print(opened(f"/proc/self/fd/{os.open('a', os.O_RDONLY, dir_fd=fd)}", os.O_RDWR))
"""
    assert " ".join(says(root, place, code)).split() == ["EROFS"] * 8
    assert (place / "read" / "a").read_text() == "read me"


def test_nothing_leads_out_of_it(root: Person, place: Path) -> None:
    code = f"""
here = os.fstat(fd).st_ino
for path in ("..", "../..", "below/../..", "below/../../../.."):
    print(os.stat(path, dir_fd=fd).st_ino == here, end=" ")
    print(os.fstat(os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)).st_ino == here)
print(os.stat(f"/proc/self/fd/{{fd}}/..").st_ino == here)
print(opened("below/up", dir_fd=fd), opened("../secret", dir_fd=fd))
print(opened("null", os.O_RDWR, dir_fd=fd))
os.chdir(fd)
os.chdir("..")
print(os.stat(".").st_ino == here, opened(f"..{place}/secret"))
"""
    assert says(root, place, code) == [
        *["True True"] * 4, "True", "ENOENT ENOENT", "EACCES", "True ENOENT",
    ]  # fmt: skip


def test_its_mount_cannot_be_taken(root: Person, place: Path) -> None:
    """Who is root of a mount namespace may do as it likes with mounts that are there, and with
    those that are not attached anywhere yet. This one is neither.
    """
    code = """
open_tree, move_mount, mount_setattr, AT_EMPTY_PATH, CLONE = 428, 429, 442, 0x1000, 1
REMOUNT, BIND = 32, 4096
os.chdir(WORK)
os.mkdir("taken")
writable = struct.pack("QQQQ", 0, 1 | 2 | 4, 0, 0)
for number in (fd, os.open("below", os.O_RDONLY, dir_fd=fd)):
    change = libc.syscall(mount_setattr, number, b"", AT_EMPTY_PATH, writable, len(writable))
    print(said(change))
    print(said(libc.syscall(move_mount, number, b"", -100, b"taken", 4)))
    print(said(libc.syscall(open_tree, number, b"", AT_EMPTY_PATH | CLONE)))
    path = f"/proc/self/fd/{number}".encode()
    print(said(libc.mount(path, b"taken", None, BIND, None)))
    print(said(libc.mount(None, path, None, REMOUNT | BIND, None)))
print(opened("a", os.O_WRONLY, dir_fd=fd), os.listdir("taken"))
"""
    assert says(root, place, code) == [*["EINVAL"] * 10, "EROFS []"]


def test_what_may_be_written(root: Person, place: Path) -> None:
    """With the caller's own ids, as the host has them."""
    code = """
fd = os.open("/given/write", os.O_RDONLY)
print(opened("new", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
print(opened("everybody/new", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
fd = os.open("/given/theirs", os.O_RDONLY)
file = os.open("new", os.O_WRONLY | os.O_CREAT, 0o755, dir_fd=fd)
os.write(file, b"written")
os.chmod(file, 0o4755)
print(os.fstat(file).st_uid, tried(os.rename, "new", "other", src_dir_fd=fd, dst_dir_fd=fd))
"""
    assert says(root, place, code) == ["EACCES", "opened", "0 done"]
    found = (place / "theirs" / "other").stat()
    assert (place / "theirs" / "other").read_text() == "written"
    assert found.st_uid == (place / "write" / "everybody" / "new").stat().st_uid == root.inner_root


def test_errnos(root: Person, place: Path) -> None:
    """As of a directory that is there; and of what is none, or is the kernel's own."""
    code = """
for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_CREAT | os.O_EXCL):
    print(opened("/given/read", flags), end=" ")
print(opened("/given/file"), opened("/given/gone"), opened("/given/proc"))
print(opened("/given/read/a"), opened("/given/read", os.O_PATH))
print(opened("/given/read", os.O_NONBLOCK | os.O_NOFOLLOW))
os.chdir(WORK)
os.mkdir("root"), os.symlink("/given/read", "link")
print(opened("link"), opened("link", os.O_NOFOLLOW))
os.chroot("root")
print(opened("/given/read"))
"""
    assert says(root, place, code) == [
        "EISDIR EISDIR EISDIR EISDIR EEXIST ENOTDIR ENOENT EPERM", "ENOENT ENOENT", "opened",
        "ENOENT ELOOP", "opened",
    ]  # fmt: skip


def test_an_ordinary_user_is_given_none(user: Person, place: Path) -> None:
    options = ("--policy", str(place / "rules.yaml"))
    done = run(user, "ls", "/given/read/.", options=options)
    assert done.returncode
    script = "exec 3</given/read"
    assert "Operation not permitted" in run(user, "sh", "-c", script, options=options).stderr
