"""A program in a container that says what expressions come to; by itself one for ordinary users',
which is somebody else while it opens things."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.people import Person, python
from tests.support.program import Started, names

OPENED = """
def opened(path, flags=os.O_RDWR):
    try:
        return os.open(path, flags)
    except OSError as error:
        return errno.errorcode[error.errno]
"""
# A thread that calls keeps the session from letting go of its openers; `quiet` stops it.
_BEFORE = """
import ctypes, errno, fcntl, os, stat, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
quiet = threading.Event()
def tick():
    while not quiet.wait(0.05):
        os.close(os.open("/tick", os.O_RDONLY))
threading.Thread(target=tick, daemon=True).start()
def attached(name, tun):  # whether the interface is in our network
    fd = opened(tun)
    if isinstance(fd, str):
        return fd
    try:
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name, 1))
        return name.decode() in open("/proc/thread-self/net/dev").read()
    finally:
        os.close(fd)
def in_thread(call):
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]
"""
_AFTER = """
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""
_OTHERS = """
def times(count, path="/given", flags=os.O_RDWR):  # and what the kernel says of the device itself
    found = [opened(path, flags) for _ in range(count)]
    itself = opened({"/given": "/dev/fuse", "/tun": "/dev/net/tun"}[path], flags)
    if isinstance(itself, str) or isinstance(found[-1], str):
        assert itself == found[-1], (itself, found)
    else:
        os.close(itself)
    [os.close(fd) for fd in found if isinstance(fd, int)]
    return [fd if isinstance(fd, str) else "OK" for fd in found]
def in_child(call):
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, repr(call()).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as said:
        text = said.read()
    os.wait()
    return eval(text)
def by_turns(change, back, count=4):
    found = []
    for _ in range(count):
        found += times(2)
        change()
        found += times(2)
        back()
    return found
def setgroups(*groups):  # of this thread alone
    assert not libc.syscall(116, len(groups), (ctypes.c_uint32 * len(groups))(*groups))
def setfsuid(uid):
    libc.setfsuid(uid)
def setfsgid(gid):
    libc.setfsgid(gid)
def drop_dac():
    drop(0b110)
def drop_ptrace():
    drop(1 << 19)
def drop(capabilities):
    head, data = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    assert not libc.syscall(125, head, data)
    words = list(struct.unpack("6I", data.raw))
    words[0] &= ~capabilities
    assert not libc.syscall(126, head, struct.pack("6I", *words))
def nested(inside=0):
    uid, gid = os.geteuid(), os.getegid()
    assert not libc.prctl(4, 1, 0, 0, 0)
    assert not libc.unshare(0x10000000)
    maps = ("uid_map", f"{inside} {uid} 1"), ("gid_map", f"{inside} {gid} 1")
    for name, text in (("setgroups", "deny"), *maps):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
def network(name):
    return attached(name, "/tun")
def elsewhere():
    libc.unshare(0x40000000)
    return network(b"tun-inner"), network(b"tun-again"), network(b"tun-third")
"""


class Evaluating:
    """A container whose program says what an expression comes to."""

    def __init__(self, person: Person, rules: Path, *options: str, code: str = _OTHERS) -> None:
        words = ["run", "--policy", str(rules), *options, "--", python(person), "-c"]
        code = _BEFORE + OPENED + code + _AFTER
        self.started = Started(person, [*words, code], stdin=subprocess.PIPE)

    def begin(self, expression: str) -> None:
        asked = self.started.process.stdin
        assert asked is not None
        asked.write(expression.encode() + b"\n")
        asked.flush()

    def end(self) -> Any:
        said = self.started.process.stdout
        assert said is not None
        return literal_eval(said.readline().decode())

    def __call__(self, expression: str) -> Any:
        self.begin(expression)
        return self.end()

    def ours(self, name: str) -> list[int]:
        return [pid for pid, it in names(self.started.processes).items() if it == name]

    @contextlib.contextmanager
    def without_resolvers(self) -> Iterator[None]:
        """Who needs one is refused, after the deadline."""
        stopped = self.ours("seccompd-path")
        assert stopped
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
