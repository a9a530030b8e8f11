"""Opens that come one right after the other, of which no helper looks where the path leads: each is
looked at from its own caller's root directory, and none keeps anybody from unmounting that."""

from __future__ import annotations

import os
import signal
import subprocess
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.people import Person, python
from tests.support.program import Started, names
from tests.support.scratch import scratch

RULES = """
version: 1
syscalls:
  open:
    - {path: [/srv/file, /mnt/none/file], do: {inject: {file: PLACE/file, access: read-write}}}
    - {path: /srv/text, do: {inject: {content: "text"}}}
"""
CODE = """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def called(number):
    if number:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
top = os.open("/", os.O_PATH)
def go(path):
    os.chroot(path) if path else (os.fchdir(top), os.chroot("."))
def read(path="/srv/file"):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 9).decode()
    finally:
        os.close(fd)
def mounted(path, link):
    called(libc.mount(b"none", path.encode(), b"tmpfs", 0, None))
    os.mkdir(path + "/real")
    os.symlink("/real", path + "/srv") if link else os.mkdir(path + "/srv")
    with open(path + "/real/file", "w") as file:
        file.write("own")
def memory():
    called(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None))
    return missing()
def missing():
    return {read("/mnt/none/file") for _ in range(9)}
def linked():
    os.mkdir("/mnt/some")
    with open("/mnt/some/file", "w") as file:
        file.write("own")
    said = []
    for _ in range(50):
        said.append(read("/mnt/none/file"))
        os.symlink("some", "/mnt/none")
        said.append(read("/mnt/none/file"))
        os.unlink("/mnt/none")
    return said
def there_and_back():
    mounted("/mnt", True)
    said = []
    for _ in range(50):
        said += [read() for _ in range(4)]
        go("/mnt")
        said += [read() for _ in range(2)]
        go(None)
    called(libc.umount2(b"/mnt", 0))
    return said
def two():
    mounted("/mnt", True)
    said = [], []
    def inside():
        called(libc.unshare(0x200))  # CLONE_FS
        go("/mnt")
        said[1].extend(read() for _ in range(300))
    thread = threading.Thread(target=inside)
    thread.start()
    said[0].extend(read() for _ in range(300))
    thread.join()
    called(libc.umount2(b"/mnt", 2))  # the thread is still about to end
    return [set(one) for one in said]
def unmounted(path):
    said = set()
    for _ in range(50):
        mounted("/mnt", False)
        go("/mnt")
        said.update(read(path) for _ in range(5))
        go(None)
        called(libc.umount2(b"/mnt", 0))
    return said
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


class Inside:
    """A container whose program says what an expression comes to."""

    def __init__(self, root: Person, policy: Path) -> None:
        words = ["run", "--policy", str(policy), "--", python(root), "-c", CODE]
        self.started = Started(root, words, stdin=subprocess.PIPE)

    def __call__(self, expression: str) -> Any:
        pipe, said = self.started.process.stdin, self.started.process.stdout
        assert pipe is not None
        assert said is not None
        pipe.write(expression.encode() + b"\n")
        pipe.flush()
        found = literal_eval(said.readline().decode())
        assert "seccompd-open" in names(self.started.processes).values()
        return found


@pytest.fixture
def inside(root: Person) -> Iterator[Inside]:
    with scratch(0o755, "/var/tmp") as folder:
        (folder / "file").write_text("file")
        (folder / "file").chmod(0o600)
        (folder / "rules.yaml").write_text(RULES.replace("PLACE", str(folder)))
        found = Inside(root, folder / "rules.yaml")
        try:
            yield found
        finally:
            found.started.kill()
    assert found.started.wait_gone() == []


def test_another_root_directory(inside: Inside) -> None:
    """Where the path leads on by a symbolic link the rule is not about it."""
    assert inside("there_and_back()") == (["file"] * 4 + ["own"] * 2) * 50


def test_two_callers_with_roots_of_their_own(inside: Inside) -> None:
    assert inside("two()") == [{"file"}, {"own"}]


def test_a_root_directory_that_is_unmounted(inside: Inside) -> None:
    """As soon as nobody of the container is there: EBUSY would be ours."""
    assert inside("unmounted('/srv/file')") == {"file"}
    assert inside("unmounted('/srv/text')") == {"text"}


def test_what_is_missing_in_memory(inside: Inside) -> None:
    """A tmpfs, as /dev of most containers, does not remember what is not there: nobody is asked."""
    assert inside("memory()") == {"file"}
    found = names(inside.started.processes)
    helpers = [pid for pid, name in found.items() if name in ("seccompd-path", "seccompd-make")]
    assert len(helpers) > 2
    for pid in helpers:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert inside("missing()") == {"file"}
    finally:
        for pid in helpers:
            os.kill(pid, signal.SIGCONT)
    assert inside("linked()") == ["file", "own"] * 50
