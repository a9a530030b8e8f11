"""What seccompd costs, against the least that any supervisor in C costs (`make bench`).

Both sides take turns in short rounds, since machines are shared and noisy; each round gives one
ratio, and the median of the ratios is what counts. The spread is the ratios' quartiles. A row is
`ok`, a `MISS`, or `miss?` where the bound lies within the spread. The exit status is 1 after a
MISS, with --strict after a `miss?` too, and 2 where something could not be measured.

Nodes are made below TMPDIR: on a disk its journal is part of both sides, on a tmpfs it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from bench import containers, lxc, mounts, opens, peers
from bench.peers import BenchError, Peer, Sample

EPERM, EEXIST = 1, 17
FEW, MANY = 5, 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ratio` is a plain number, or where `unit` is "ms" a difference."""

    what: str
    floor: float
    seccompd: float
    unit: str
    ratio: float
    low: float
    high: float
    bound: float | None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return ""
        if self.at_least:
            good, surely_bad = self.ratio >= self.bound, self.high < self.bound
        else:
            good, surely_bad = self.ratio <= self.bound, self.low > self.bound
        return "ok" if good else "MISS" if surely_bad else "miss?"


@dataclass(frozen=True, slots=True)
class Item:
    """One comparison: `request` (see caller.c) made below both of `sides`, the floor first.

    `expect` is the errno that every call has to come to; `rate` compares calls a second instead of
    the median time of one.
    """

    what: str
    sides: tuple[list[str], list[str]]
    request: str
    bound: float | None
    expect: int = EPERM
    rate: bool = False
    rounds: int = 15


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


class Bench:
    """The places, policies and running peers of one benchmark run."""

    def __init__(self, stack: ExitStack, command: list[str], scale: float) -> None:
        self.command, self.scale = command, scale
        self.root = os.geteuid() == 0
        self.place = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="seccompd-bench."))
        )
        self.place.chmod(0o755)
        self.env = peers.environment(self.place / "cache")
        self._stack = stack
        self._peers: dict[tuple[str, ...], Peer] = {}
        for name in ("errno", "kernel", "nodes", "racy"):
            (self.place / name).mkdir()
            if self.root:  # the callers' root must be able to write there
                os.chown(self.place / name, peers.OUTSIDE, peers.OUTSIDE)

    def policy(self, name: str, rules: Sequence[str], family: str = "mknod") -> Path:
        """A policy file with these rules of a family, written as YAML flow mappings."""
        lines = ["version: 1", f"name: {name}", "on_error: EPERM", "syscalls:", f"  {family}:"]
        file = self.place / f"{name}.yaml"
        file.write_text("\n".join([*lines, *(f"    - {{{rule}}}" for rule in rules)]) + "\n")
        return file

    def connects(self) -> Path:
        """A policy file that refuses some destinations, and makes all other connects."""
        file = self.place / "connects.yaml"
        rules = ['{to: "169.254.0.0/16", do: refuse}', "{family: [inet, inet6], do: emulate}"]
        lines = ["version: 1", "name: connects", "syscalls:", "  connect:"]
        file.write_text("\n".join([*lines, *(f"    - {rule}" for rule in rules)]) + "\n")
        return file

    def usual_rules(self) -> list[str]:
        return [
            f'devices: ["null"], path: "{self.place}/errno/**", do: {{errno: EPERM}}',
            f'devices: ["null"], path: "{self.place}/nodes/**", do: emulate',
        ]

    def many_rules(self, count: int, shape: str) -> list[str]:
        """`count` rules, the usual ones last, the others for other devices, paths, or both."""
        fillers = []
        for i in range(count - 2):
            if shape == "devices" or (shape == "mixed" and i % 2):
                fillers.append(f'devices: ["char {300 + i // 200}:{i % 200}"], do: emulate')
            else:
                fillers.append(f'devices: ["null"], path: "/srv/images/{i}/dev/*", do: emulate')
        return fillers + self.usual_rules()

    def many_mounts(self, count: int) -> list[str]:
        """`count` rules for ext4, the last for images in errno/, the others told apart by image,
        device or target."""
        by = (
            'source: "/srv/images/{}/*.img"', 'source: "block 7:{}"',
            'source: "**", target: "/mnt/{}/**"',
        )  # fmt: skip
        fillers = [f"fstype: ext4, {by[i % 3].format(i)}, do: emulate" for i in range(count - 1)]
        last = f'fstype: ext4, source: "{self.place}/errno/**", do: {{errno: EPERM}}'
        return [*fillers, last]

    def peer(self, prefix: list[str]) -> Peer:
        """The caller below `prefix`, started when it is first asked for."""
        key = tuple(prefix)
        if key not in self._peers:
            self._peers[key] = self._stack.enter_context(Peer(prefix, self.env))
        return self._peers[key]

    def ask(self, prefix: list[str], request: str, expect: int) -> Sample:
        try:
            return self.peer(prefix).ask(request, expect)
        finally:
            for node in (self.place / "nodes").iterdir():
                node.unlink()

    def compare(self, item: Item) -> list[Row]:
        """Rounds of one item by turns on both sides: one row."""
        kind, count, *rest = item.request.split()
        short = " ".join([kind, str(max(int(count) // 5, 5)), *rest])
        for side in item.sides:
            self.ask(side, short, item.expect)
        taken: tuple[list[float], list[float]] = ([], [])
        for number in range(max(3, round(item.rounds * self.scale))):
            for which in (0, 1) if number % 2 else (1, 0):  # neither always goes first
                sample = self.ask(item.sides[which], item.request, item.expect)
                taken[which].append(sample.per_second if item.rate else sample.median_us)
        low, middle, high = quartiles([b / a for a, b in zip(*taken, strict=True)])
        medians = statistics.median(taken[0]), statistics.median(taken[1])
        unit = "/s" if item.rate else "us"
        return [Row(item.what, *medians, unit, middle, low, high, item.bound, at_least=item.rate)]


def items(bench: Bench) -> list[Item]:
    """Everything that is measured call by call."""
    usual = bench.policy("bench", bench.usual_rules())
    plain = peers.seccompd(bench.command, usual)
    audited = peers.seccompd(bench.command, usual, "--audit", str(bench.place / "audit.json"))
    refused = (peers.floor("refuse"), plain)
    logged = (peers.floor("refuse"), audited)
    passed = (peers.floor("filter"), plain)  # in many short rounds: the clock frequency changes
    few, many = (bench.policy(f"rules-{n}", bench.many_rules(n, "mixed")) for n in (FEW, MANY))
    rules = (peers.seccompd(bench.command, few), peers.seccompd(bench.command, many))
    path, node = f"{bench.place}/errno/x", f"{bench.place}/nodes/n"
    found = [
        Item("refused for its path", refused, f"same 2000 0 1 {path}", 1.6),
        # No decision is remembered and no repeat counted in these two: shown, not held to a bound.
        Item("  another path each time", refused, f"new 2000 0 1 {path}", None),
        Item("  with --audit", logged, f"same 2000 0 1 {path}", 2.5),
        Item("  with --audit, another path each", logged, f"new 2000 0 1 {path}", None),
        Item("  300 us between calls", refused, f"same 400 300 1 {path}", 2.0, rounds=9),
        Item("  10 ms between calls", refused, f"same 50 10000 1 {path}", 3.5, rounds=7),
        Item("  calls/s from 4 processes", refused, f"same 1000 0 4 {path}", None, rate=True),
        Item("refused as the kernel would", refused, f"same 1000 0 1 {bench.place}/kernel/x", None),
    ]
    if bench.root:
        whole, bare = (peers.floor("emulate"), plain), (peers.floor("bare"), plain)
        one, four = f"new 500 0 1 {node}", f"new 500 0 4 {node}"
        found += [
            Item("mknod emulated", whole, one, 4.0, expect=0),
            Item("  against a bare mknod in C", bare, one, None, expect=0),
            Item("  calls/s from 4 processes", whole, four, 0.35, expect=0, rate=True),
            Item("  the same against the bare one", bare, four, None, expect=0, rate=True),
        ]
    connects = (peers.floor("connect"), peers.seccompd(bench.command, bench.connects()))
    found.append(Item("connect to the loopback, allowed", connects, "connect 500 0 1 -", 1.5, 0))
    return found + [
        Item("passed by the filter: getppid", passed, "getppid 10 0 1 -", 1.1, 0, rounds=99),
        Item("passed by the filter: fifo", passed, "fifo 5 0 1 .", 1.1, EEXIST, rounds=99),
        Item("10,000 rules to 5, one path", rules, f"same 2000 0 1 {path}", 1.3),
        Item("10,000 rules to 5, another path each", rules, f"new 2000 0 1 {path}", 1.3),
    ]


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


def print_row(row: Row) -> None:
    digits = 3 if row.floor < 10 and row.unit == "us" else 1 if row.floor < 10000 else 0
    compared = f"{row.ratio:+8.0f} ms" if row.unit == "ms" else f"{row.ratio:8.2f} x "
    if row.unit == "MB" and not row.floor:
        compared = f"{row.ratio:8.2f} MB"
    spread = (
        f"{row.low:.0f}..{row.high:.0f}" if row.unit == "ms" else f"{row.low:.2f}..{row.high:.2f}"
    )
    bound = "" if row.bound is None else f"{'>=' if row.at_least else '<='} {row.bound:g}"
    print(
        f"{row.what:36} {row.floor:9.{digits}f} {row.seccompd:9.{digits}f} {row.unit:3}"
        f"{compared} {spread:>13} {bound:>7} {row.verdict}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seccompd", metavar="COMMAND", help="the command to measure")
    parser.add_argument("--only", metavar="TEXT", help="only rows whose name contains TEXT")
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--strict", action="store_true", help="fail within the noise too")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    options = parser.parse_args()
    command = shlex.split(options.seccompd) if options.seccompd else peers.default_seccompd()
    if shutil.which(command[0]) is None:
        parser.error(f"{command[0]}: no such command")
    peers.build()
    rows: list[Row] = []
    failures: list[str] = []
    processes: list[dict[str, object]] = []

    def attempt(measure: Callable[[], list[Row]]) -> None:
        try:
            for row in measure():
                rows.append(row)
                print_row(row)
        except BenchError as error:
            failures.append(str(error))
            print(f"not measured: {error}", flush=True)

    def wanted(name: str) -> bool:
        return options.only is None or options.only in name

    print(f"{'':36} {'floor':>9} {'seccompd':>9} {'':8}{'ratio':>7} {'quartiles':>13} {'bound':>7}")
    with ExitStack() as stack:
        bench = Bench(stack, command, 0.34 if options.quick else 1.0)
        if not bench.root:
            print("(not root: emulation by a real node is not measured)")
        for item in items(bench):
            if wanted(item.what):
                attempt(partial(bench.compare, item))
        for name, group in (
            ("decide alone", decisions), ("load a policy", loading), ("run -- true", start_up),
        ):  # fmt: skip
            if wanted(name):
                attempt(partial(group, bench))
        if wanted("LXC's door") and bench.root and shutil.which("lxc-start"):
            both = lxc.sides(bench, stack)
            for item in lxc.items(both):
                attempt(partial(bench.compare, item))
        if wanted("container"):
            for one in containers.measure(bench):
                attempt(one)
        if wanted("mount"):
            for one in mounts.measure(bench):
                attempt(one)
        if wanted("opens"):
            for one in opens.measure(bench):
                attempt(one)
        if wanted("memory"):
            try:
                processes = memory(bench)
            except BenchError as error:
                failures.append(str(error))
    for process in processes:
        print(
            f"memory: {process['name']:16} private {process['private_kb']} kB, proportional"
            f" {process['pss_kb']} kB; after 10,000 more calls {process['grown_kb']} kB more"
        )
    if options.json:
        whole = {
            "kernel": os.uname().release,
            "processors": os.cpu_count(),
            "rows": [{**asdict(row), "verdict": row.verdict} for row in rows],
            "memory": processes,
            "failures": failures,
        }
        options.json.write_text(json.dumps(whole, indent=2) + "\n")
    bad = {"MISS", "miss?"} if options.strict else {"MISS"}
    return 2 if failures else 1 if any(row.verdict in bad for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
