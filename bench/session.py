"""One command under a policy: how long it takes to start, and what memory its supervisor has."""

from __future__ import annotations

import shlex
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict

from bench import peers
from bench.compare import EPERM, Bench, Row, quartiles
from bench.peers import BenchError


def start_up(bench: Bench) -> list[Row]:
    """How many milliseconds `run -- true` takes more than `unshare -Urm true`."""
    file = bench.policy("start", bench.usual_rules())
    text = file.read_text()

    def seconds(command: Sequence[str]) -> float:
        start = time.perf_counter()
        result = subprocess.run(command, env=bench.env, capture_output=True, text=True)
        if result.returncode:
            raise BenchError(f"{shlex.join(command)}: {result.returncode}: {result.stderr.strip()}")
        return time.perf_counter() - start

    rows = []
    command = [*bench.command, "run", "--policy", str(file), "--", "true"]
    for what, new, bound in (("a cached policy", False, 150.0), ("a new policy", True, 500.0)):
        taken: tuple[list[float], list[float]] = ([], [])
        for number in range(max(3, round(11 * bench.scale)) + 1):
            if new:  # the cache goes by content
                file.write_text(f"# {time.time_ns()}\n{text}")
            pair = seconds(["unshare", "-Urm", "true"]) * 1e3, seconds(command) * 1e3
            if number:  # the first fills caches, the policy's among them
                taken[0].append(pair[0])
                taken[1].append(pair[1])
        low, more, high = quartiles([b - a for a, b in zip(*taken, strict=True)])
        medians = statistics.median(taken[0]), statistics.median(taken[1])
        rows.append(Row(f"run -- true, {what}", *medians, "ms", more, low, high, bound))
    return rows


def memory(bench: Bench) -> list[dict[str, object]]:
    """The session's processes after 200 calls, and what 10,000 more made of them."""
    policy = bench.policy("memory", bench.usual_rules())
    prefix = peers.seccompd(bench.command, policy)
    where, expect = (
        (f"{bench.place}/nodes/n", 0) if bench.root else (f"{bench.place}/errno/n", EPERM)
    )
    bench.ask(prefix, f"new 200 0 1 {where}", expect)
    pid = bench.peer(prefix).pid
    before = peers.memory_below(pid)
    for _ in range(5):
        bench.ask(prefix, f"new 500 0 4 {where}", expect)
    after = peers.memory_below(pid)
    found: list[dict[str, object]] = []
    for pid in sorted(before.keys() | after.keys()):
        was, now = before.get(pid), after.get(pid)
        one = was or now
        assert one is not None
        grown = None if was is None or now is None else now.private_kb - was.private_kb
        found.append({"pid": pid, **asdict(one), "grown_kb": grown})
    return found
