"""Mounts: what they cost under seccompd, against real root's own.

`python -m bench.mounts KIND SOURCE TARGET` is who mounts: for every number that it reads it mounts
and unmounts so many times, and prints the microseconds that each mount took. KIND is a type of
filesystem, for one mount(2); or what real root does instead: "loop" attaches a loop device to the
image with LOOP_CONFIGURE (autoclear, as we have it), then calls mount(2); "by hand" runs fuse2fs
until its mount is there, which is when it goes into the background by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import peers
from bench.compare import Bench, Row, quartiles
from bench.peers import Asked

POLICY: Final = """\
version: 1
name: mounts
syscalls:
  mount:
    otherwise: kernel
    rules:
      - {fstype: ext4, source: "**", do: emulate}
      - {fstype: ext3, do: {emulate: {via: fuse}}}
"""
_NODEV: Final = ctypes.c_ulong(4)
_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_FLAGS_AT: Final = 8 + 5 * 8 + 3 * 4  # lo_flags in struct loop_config
_CONFIG_SIZE: Final = 8 + 232 + 64
_AUTOCLEAR: Final = 4
_FUSE2FS: Final = ("fuse2fs", "-o", "allow_other,default_permissions")


class Caller:
    """Who mounts, in the process that is measured."""

    def __init__(self, kind: str, source: str, target: str) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._source, self._target = source, target
        self._words = [word.encode() for word in (source, target, kind)]
        self._there = os.stat(target).st_dev
        self._mount = {"loop": self._with_loop, "by hand": self._by_hand}.get(kind, self._plainly)
        # its program writes to the image until a little later
        self._rest = 0.05 if kind in ("by hand", "ext3") else 0.0

    def _call(self, source: bytes, target: bytes, kind: bytes) -> None:
        if self._libc.mount(source, target, kind, _NODEV, None):
            raise OSError(ctypes.get_errno(), f"mount of {self._source}")

    def _plainly(self) -> None:
        self._call(*self._words)

    def _with_loop(self) -> None:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        image = os.open(self._source, os.O_RDWR | os.O_CLOEXEC)
        config = bytearray(_CONFIG_SIZE)
        struct.pack_into("I", config, 0, image)
        struct.pack_into("I", config, _FLAGS_AT, _AUTOCLEAR)
        while True:
            name = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            loop = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop, _LOOP_CONFIGURE, config)
                break
            except OSError as error:  # somebody else may have been quicker
                os.close(loop)
                if error.errno != errno.EBUSY:
                    raise
        self._call(name.encode(), self._words[1], b"ext4")
        for fd in (loop, image, control):
            os.close(fd)

    def _by_hand(self) -> None:
        null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
        words = [*_FUSE2FS, self._source, self._target]
        pid = os.posix_spawnp("fuse2fs", words, os.environ, file_actions=null)
        if os.waitpid(pid, 0)[1]:
            raise OSError(f"fuse2fs: {self._source}")
        while os.stat(self._target).st_dev == self._there:
            time.sleep(0.0005)

    def times(self, count: int) -> list[float]:
        """The microseconds of so many mounts."""
        taken = []
        for _ in range(count):
            start = time.perf_counter_ns()
            self._mount()
            taken.append((time.perf_counter_ns() - start) / 1e3)
            if self._libc.umount2(self._words[1], 0):
                raise OSError(ctypes.get_errno(), f"umount of {self._target}")
            time.sleep(self._rest)
        return taken


@contextlib.contextmanager
def _callers(bench: Bench, *sides: tuple[Sequence[str], Sequence[str]]) -> Iterator[list[Asked]]:
    with contextlib.ExitStack() as stack:
        found = []
        for prefix, words in sides:
            found.append(Asked(bench.env, prefix, ["bench.mounts", *words]))
            stack.callback(found[-1].close)
        for one in found:
            one.ask(3)  # the first one waits for a session
        yield found


def _compare(
    bench: Bench, what: str, bound: float, floor: tuple[Sequence[str], Sequence[str]],
    ours: tuple[Sequence[str], Sequence[str]], counts: tuple[int, int],
) -> Row:  # fmt: skip
    """Rounds by turns, `counts[0]` of them with `counts[1]` mounts each."""
    taken: tuple[list[float], list[float]] = ([], [])
    with _callers(bench, floor, ours) as both:
        for number in range(max(3, round(counts[0] * bench.scale))):
            for which in (0, 1) if number % 2 else (1, 0):
                taken[which].append(both[which].ask(counts[1]))
    low, middle, high = quartiles([b / a for a, b in zip(*taken, strict=True)])
    medians = statistics.median(taken[0]), statistics.median(taken[1])
    return Row(what, *medians, "us", middle, low, high, bound)


def _continued(bench: Bench, ours: Sequence[str], target: str) -> Row:
    """What a tmpfs costs more than without us, against the least of any supervisor."""
    words = ["tmpfs", "t", target]
    extra = []
    with _callers(bench, (["unshare", "-Urm"], words), (ours, words)) as (alone, continued):
        for _ in range(max(3, round(7 * bench.scale))):
            more = -alone.ask(200) + continued.ask(200)
            # an umount in between takes that long
            request = f"same 300 180 1 {bench.place}/kernel/x"
            least = bench.ask(peers.floor("continue"), request, 1).median_us
            extra.append((more / least, more, least))
    low, middle, high = quartiles([one for one, _, _ in extra])
    return Row(
        "mount of a tmpfs, what continue adds", statistics.median(e[2] for e in extra),
        statistics.median(e[1] for e in extra), "us", middle, low, high, 1.5,
    )  # fmt: skip


@contextlib.contextmanager
def _node_of(image: Path, node: Path) -> Iterator[str]:
    """A node for a loop device on the image, as a container has it."""
    done = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True,
                          text=True)  # fmt: skip
    loop = done.stdout.strip()
    try:
        os.mknod(node, 0o060666, os.stat(loop).st_rdev)
        os.chown(node, peers.OUTSIDE, peers.OUTSIDE)
        yield str(node)
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


def measure(bench: Bench) -> Iterator[Callable[[], list[Row]]]:
    """ext4 by the kernel and by fuse2fs against root's own; a tmpfs that is continued."""
    place = bench.place / "mounts"
    (place / "mp").mkdir(parents=True)
    policy = bench.place / "mounts.yaml"
    policy.write_text(POLICY)
    ours = peers.seccompd(bench.command, policy)
    target = str(place / "mp")
    yield lambda: [_continued(bench, ours, target)]
    if not bench.root or shutil.which("mkfs.ext4") is None:
        return
    image = place / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    image.chmod(0o666)
    os.chown(place / "mp", peers.OUTSIDE, peers.OUTSIDE)
    root = ["unshare", "-m"]

    def by_kernel() -> list[Row]:
        what = "mount of an ext4 image by the kernel"
        floor, mine = ["loop", str(image), target], ["ext4", str(image), target]
        return [_compare(bench, what, 2.0, (root, floor), (ours, mine), (25, 8))]

    def by_kernel_from_a_device() -> list[Row]:
        what = "  from a loop device that is there"
        with _node_of(image, place / "disk") as node:
            words = ["ext4", node, target]
            return [_compare(bench, what, 2.0, (root, words), (ours, words), (25, 8))]

    def by_program() -> list[Row]:
        what = "mount of an ext4 image by fuse2fs"
        floor, mine = ["by hand", str(image), target], ["ext3", str(image), target]
        return [_compare(bench, what, 1.3, (root, floor), (ours, mine), (15, 3))]

    yield by_kernel
    yield by_kernel_from_a_device
    if shutil.which("fuse2fs") is not None:
        yield by_program


def main() -> None:
    """Mounts as often as it is told."""
    caller = Caller(*sys.argv[1:4])
    for line in sys.stdin:
        print(json.dumps(caller.times(int(line))), flush=True)


if __name__ == "__main__":
    main()
