"""How long one decision takes, without a kernel: `python -m bench.decisions POLICY ...`.

Prints JSON. For each policy and each path of PATHS (standard input, JSON list) the nanoseconds that
CompiledPolicy.decide() takes for mknod(PATH, S_IFCHR | 0666, makedev(1, 3)), best of several rounds
that go through all policies in turn. Nothing here remembers an earlier answer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from supervisor.handlers.registry import FAMILIES
from supervisor.model import Snapshot
from supervisor.policy.store import load
from supervisor.policy.traits import Traits

AUDIT_ARCH_X86_64, MKNOD, S_IFCHR, NULL = 0xC000003E, 133, 0o020000, 0x103
CALLS, ROUNDS = 1000, 15


def main(files: list[str], paths: list[str]) -> list[dict[str, float]]:
    policies = [
        load(file, Traits("private"), search=[Path("/nonexistent")], families=FAMILIES)
        for file in files
    ]
    best: list[dict[str, float]] = [{path: float("inf") for path in paths} for _ in files]
    for _ in range(ROUNDS):
        for policy, times in zip(policies, best, strict=True):
            for path in paths:
                calls = [
                    Snapshot(
                        id=number,
                        tid=1,
                        arch=AUDIT_ARCH_X86_64,
                        nr=MKNOD,
                        ip=0,
                        name="mknod",
                        args=(f"{path}{number}".encode(), S_IFCHR | 0o666, NULL),
                    )
                    for number in range(CALLS)
                ]
                start = time.perf_counter_ns()
                for call in calls:
                    policy.decide("mknod", call, None)
                times[path] = min(times[path], (time.perf_counter_ns() - start) / CALLS)
    return best


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:], json.load(sys.stdin))))
