"""Counts of what seccompd's processes hold, to be the same before and after."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path


def ours(front: int) -> dict[int, str]:
    """The processes below the front that are seccompd's own, by pid, with their names."""
    found = {front: "front"}
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listing.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    queue = [front]
    while queue:
        for pid in children.get(queue.pop(), []):
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
            if name.startswith("seccompd"):
                found[pid] = name
                if name != "seccompd-init":
                    queue.append(pid)
    return found


def descriptors(pids: dict[int, str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for pid, name in pids.items():
        counts[name] = counts.get(name, 0) + len(os.listdir(f"/proc/{pid}/fd"))
    return counts


def inodes(pids: dict[int, str]) -> dict[str, int]:
    """How many inodes the file systems that helpers have for themselves hold."""
    counts: dict[str, int] = {}
    for pid, name in pids.items():
        if name in ("seccompd-make", "seccompd-path"):
            home = os.statvfs(f"/proc/{pid}/root")
            counts[name] = counts.get(name, 0) + home.f_files - home.f_ffree
    return counts


def used_kb(pids: Iterable[int]) -> dict[int, int]:
    """The anonymous memory that each process uses, pages that it shares with others included.

    So neither a fork nor an end of another process changes it, nor the copy that is made of a page
    when one of them writes to it: only memory that was not used before does.
    """
    return _kb(pids, "Anonymous|Swap")


def own_kb(pids: Iterable[int]) -> dict[int, int]:
    """The memory that each process has written to and shares with nobody.

    That shows a leak in memory that a helper inherited, free, from who forked it. Other processes'
    beginnings and ends change it, so it says something only while there are none.
    """
    return _kb(pids, "Private_Dirty|Swap")


def _kb(pids: Iterable[int], fields: str) -> dict[int, int]:
    found: dict[int, int] = {}
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found[pid] = sum(map(int, re.findall(rf"^(?:{fields}):\s+(\d+) kB", text, re.M)))
    return found


def keeps_growing(rounds: Sequence[dict[int, int]], steady_kb: int) -> dict[int, list[int]]:
    """The processes that grew by more than `steady_kb` in each of these equal rounds, and by what.

    That is a leak. An allocator's own growth ends after some rounds, or comes now and then.
    """
    leaks: dict[int, list[int]] = {}
    for pid in rounds[0]:
        sizes = [memory[pid] for memory in rounds]
        grown = [after - before for before, after in itertools.pairwise(sizes)]
        if min(grown) > steady_kb:
            leaks[pid] = grown
    return leaks


def settled(front: int) -> dict[int, str]:
    """Our processes, once helpers that were let go have ended."""
    before = ours(front)
    for _ in range(20):
        time.sleep(0.3)
        now = ours(front)
        if now == before:
            return now
        before = now
    return before
