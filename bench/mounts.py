"""Mounts: what they cost under seccompd, against real root's own, by the same caller.

`python -m bench.mounts KIND SOURCE TARGET COUNT` is that caller: it mounts and unmounts, and prints
the microseconds of each mount.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench import peers
from bench.peers import BenchError

if TYPE_CHECKING:
    from bench.run import Bench, Row

POLICY = """\
version: 1
name: mounts
syscalls:
  mount:
    otherwise: kernel
    rules:
      - {fstype: ext4, source: "**", do: emulate}
      - {fstype: ext3, do: {emulate: {via: fuse}}}
"""
NODEV = 4


def call(kind: str, source: str, target: str, count: int) -> list[float]:
    """The times of so many mounts; for "by hand" those of fuse2fs until its mount is there."""
    libc = ctypes.CDLL(None, use_errno=True)
    there = os.stat(target).st_dev
    words = [word.encode() for word in (source, target, kind)]
    taken = []
    for _ in range(count):
        start = time.perf_counter_ns()
        if kind == "by hand":
            # without -f it forks once the mount is there
            options = "allow_other,default_permissions"
            subprocess.run(["fuse2fs", "-o", options, source, target], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            while os.stat(target).st_dev == there:
                time.sleep(0.0005)
        elif libc.mount(*words, ctypes.c_ulong(NODEV), None):
            raise OSError(ctypes.get_errno(), f"mount of {source}")
        taken.append((time.perf_counter_ns() - start) / 1e3)
        if libc.umount2(target.encode(), 0):
            raise OSError(ctypes.get_errno(), f"umount of {target}")
        if "hand" in kind or kind == "ext3":  # its program lets go of the image a little later
            time.sleep(0.05)
    return taken


def _times(bench: Bench, prefix: Sequence[str], *words: str) -> float:
    command = [*prefix, sys.executable, "-m", "bench.mounts", *words]
    done = subprocess.run(command, env=bench.env, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{' '.join(words)}: {done.stderr.strip()}")
    times: list[float] = json.loads(done.stdout)
    return statistics.median(times)


def measure(bench: Bench) -> list[Row]:
    """ext4 by the kernel and by fuse2fs against root's own; a tmpfs that is continued."""
    from bench.run import Row, quartiles

    place = bench.place / "mounts"
    (place / "mp").mkdir(parents=True)
    policy = bench.place / "mounts.yaml"
    policy.write_text(POLICY)
    ours = peers.seccompd(bench.command, policy)
    target = str(place / "mp")
    rounds = max(3, round(7 * bench.scale))

    def row(what: str, bound: float, left: Sequence[str], right: Sequence[str], words: str,
            other: str = "") -> Row:  # fmt: skip
        first, second, ratios = [], [], []
        for _ in range(rounds):
            first.append(_times(bench, left, *(other or words).split("|")))
            second.append(_times(bench, ours if right == ours else right, *words.split("|")))
            ratios.append(second[-1] / first[-1])
        low, middle, high = quartiles(ratios)
        medians = statistics.median(first), statistics.median(second)
        return Row(what, *medians, "us", middle, low, high, bound)

    rows = []
    plain = ["unshare", "-Urm"]
    words = f"tmpfs|t|{target}|200"
    floor = peers.floor("continue")
    extra = []
    for _ in range(rounds):
        alone, continued = (_times(bench, side, *words.split("|")) for side in (plain, ours))
        # an umount in between takes that long
        least = bench.ask(floor, f"same 300 180 1 {bench.place}/kernel/x", 1).median_us
        extra.append(((continued - alone) / least, continued - alone, least))
    low, middle, high = quartiles([one for one, _, _ in extra])
    rows.append(
        Row("mount of a tmpfs, what continue adds", statistics.median(e[2] for e in extra),
            statistics.median(e[1] for e in extra), "us", middle, low, high, 1.5)
    )  # fmt: skip
    if not bench.root or shutil.which("mkfs.ext4") is None:
        return rows
    image = place / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    image.chmod(0o666)
    os.chown(place / "mp", peers.OUTSIDE, peers.OUTSIDE)
    done = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True,
                          text=True)  # fmt: skip
    loop = done.stdout.strip()
    try:
        node = place / "disk"
        os.mknod(node, 0o060666, os.stat(loop).st_rdev)
        os.chown(node, peers.OUTSIDE, peers.OUTSIDE)
        private = ["unshare", "-m"]
        rows.append(
            row("mount of ext4 by the kernel", 2.0, private, ours, f"ext4|{node}|{target}|20")
        )
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
    if shutil.which("fuse2fs") is not None:
        rows.append(
            row("mount of ext4 by fuse2fs", 1.3, private, ours, f"ext3|{image}|{target}|10",
                f"by hand|{image}|{target}|10")
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    print(json.dumps(call(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
