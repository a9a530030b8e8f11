"""Counts of what seccompd's processes hold, to be the same before and after."""

from __future__ import annotations

import os
import re
import subprocess
import time
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


def anonymous_kb(pids: dict[int, str]) -> dict[str, int]:
    """Memory of our own, pages that our processes share counted once in all; by name."""
    found: dict[str, int] = {}
    for pid, name in pids.items():
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        (own,) = re.findall(r"Pss_Anon:\s+(\d+) kB", text)
        found[name] = found.get(name, 0) + int(own)
    return found


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
