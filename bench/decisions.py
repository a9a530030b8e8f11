"""How long one decision takes, without a kernel: `python -m bench.decisions FAMILY POLICY ...`.

Prints JSON. For each policy and each path of PATHS (standard input, JSON list) the nanoseconds that
CompiledPolicy.decide() takes, best of several rounds that go through all policies in turn. FAMILY
mknod: mknod(PATH, S_IFCHR | 0666, makedev(1, 3)) at the first look. mount: mount(PATH, "/mnt",
"ext4", 0, NULL), both looks. Nothing here remembers an earlier answer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from supervisor.handlers.registry import FAMILIES
from supervisor.model import Arg, Facts, Snapshot, Source
from supervisor.policy.store import load
from supervisor.policy.traits import Traits

AUDIT_ARCH_X86_64, S_IFCHR, NULL = 0xC000003E, 0o020000, 0x103
NUMBERS = {"mknod": 133, "mount": 165}
CALLS, ROUNDS = 1000, 15


def call(family: str, number: int, path: bytes) -> tuple[Snapshot, Facts | None]:
    """A call, and what a second look at it would know."""
    args: tuple[Arg, ...] = (path, S_IFCHR | 0o666, NULL)
    facts = None
    if family == "mount":
        args = (path, b"/mnt", b"ext4", 0, 0)
        facts = Facts(b"/mnt", 0, 0, Source("image", path), b"/mnt")
    return Snapshot(number, 1, AUDIT_ARCH_X86_64, NUMBERS[family], 0, family, args), facts


def main(family: str, files: list[str], paths: list[str]) -> list[dict[str, float]]:
    policies = [
        load(file, Traits("private"), search=[Path("/nonexistent")], families=FAMILIES)
        for file in files
    ]
    best: list[dict[str, float]] = [{path: float("inf") for path in paths} for _ in files]
    for _ in range(ROUNDS):
        for policy, times in zip(policies, best, strict=True):
            for path in paths:
                calls = [
                    call(family, number, f"{path}{number}".encode()) for number in range(CALLS)
                ]
                start = time.perf_counter_ns()
                for asked, facts in calls:
                    policy.decide(family, asked, None)
                    if facts is not None:
                        policy.decide(family, asked, facts)
                times[path] = min(times[path], (time.perf_counter_ns() - start) / CALLS)
    return best


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:], json.load(sys.stdin))))
