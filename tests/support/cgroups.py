"""Cgroups with limits, of either version."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inside import wait_for


@contextlib.contextmanager
def limited(memory: int, processors: float, named: str = "") -> Iterator[list[Path]]:
    """The files by which one enters cgroups with these limits, of whichever version has them."""
    period, name = 100_000, f"sd-test-{uuid.uuid4().hex[:8]}{named}"
    wanted: dict[str, dict[str, object]] = {
        "memory": {"memory.max": memory, "memory.limit_in_bytes": memory},
        "cpu": {"cpu.max": f"{round(processors * period)} {period}",
                "cpu.cfs_quota_us": round(processors * period)},
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        files = set()
        for controller, limits in wanted.items():
            folder = _top(controller) / name
            if not folder.exists():
                folder.mkdir()
                stack.callback(folder.rmdir)
            files.add(folder / "cgroup.procs")
            for setting, limit in limits.items():
                if (folder / setting).exists():
                    (folder / setting).write_text(str(limit))
        yield sorted(files)
        for file in files:
            wait_for(file.read_text, lambda text: not text)


def _top(controller: str) -> Path:
    """The top of the hierarchy that has a controller."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        top = Path(before.split()[4])
        if kind == "cgroup" and controller in options.split(","):
            return top
        if kind == "cgroup2" and controller in (top / "cgroup.subtree_control").read_text().split():
            return top
    pytest.skip(f"no cgroups of {controller}")
