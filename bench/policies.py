"""Policies of 10,000 rules: what their decisions cost without a kernel, and their loading."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from bench.compare import Bench, Row, quartiles
from bench.peers import BenchError

FEW, MANY = 5, 10_000


def decisions(bench: Bench) -> list[Row]:
    """Decisions of 10,000 rules to those of 5, in one process and without a kernel."""
    rows = []
    for shape in ("devices", "paths", "mixed", "mounts"):
        family = "mount" if shape == "mounts" else "mknod"
        files = [
            bench.policy(
                f"{shape}-{n}",
                bench.many_mounts(n) if family == "mount" else bench.many_rules(n, shape), family,
            )
            for n in (FEW, MANY)
        ]  # fmt: skip
        paths = [f"{bench.place}/errno/x", "/tmp/x", "x"]
        result = subprocess.run(
            [sys.executable, "-m", "bench.decisions", family, *map(str, files)],
            input=json.dumps(paths),
            capture_output=True,
            env=bench.env,
            text=True,
        )
        if result.returncode:
            raise BenchError(result.stderr.strip())
        few, many = json.loads(result.stdout)
        # The source of a mount is where it leads: there is none that is relative.
        fates = ("last rule", "no rule", *(("relative",) if family == "mknod" else ()))
        for path, fate in zip(paths, fates, strict=False):
            ratio, what = many[path] / few[path], f"decide alone: {shape}, {fate}"
            rows.append(Row(what, few[path], many[path], "ns", ratio, ratio, ratio, 1.3))
    return rows


def loading(bench: Bench) -> list[Row]:
    """How long a policy takes that was never read before: YAML, proofs, filter, cache."""
    found: list[list[float]] = [[], []]
    files = [bench.policy(f"load-{n}", bench.many_rules(n, "mixed")) for n in (FEW, MANY)]
    for number in range(max(3, round(5 * bench.scale))):
        for file, taken in zip(files, found, strict=True):
            file.write_text(f"# {number} {time.time_ns()}\n{file.read_text()}")
            result = subprocess.run(
                [sys.executable, "-c", _LOAD, str(file)],
                capture_output=True, env=bench.env, text=True,
            )  # fmt: skip
            if result.returncode:
                raise BenchError(result.stderr.strip())
            taken.append(float(result.stdout) * 1e3)
    few, many = map(statistics.median, found)
    low, _, high = quartiles(found[1])
    return [Row("load a policy of 10,000 rules", few, many, "ms", many, low, high, 2000.0)]


_LOAD = """
import sys, time
from supervisor.handlers.registry import FAMILIES
from supervisor.policy.traits import Traits
from supervisor.policy.store import load
start = time.perf_counter()
load(sys.argv[1], Traits("private"), families=FAMILIES)
print(time.perf_counter() - start)
"""
