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
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench import calls, containers, lxc, mounts, opens, peers, policies, session, sockets
from bench.compare import Bench, Row
from bench.peers import BenchError


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
        for item in calls.items(bench):
            if wanted(item.what):
                attempt(partial(bench.compare, item))
        for name, group in (
            ("decide alone", policies.decisions), ("load a policy", policies.loading),
            ("run -- true", session.start_up),
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
        if wanted("opens as root") and bench.root:
            for one in opens.as_root(bench):
                attempt(one)
        if wanted("sockets"):
            for one in sockets.measure(bench):
                attempt(one)
        if wanted("memory"):
            try:
                processes = session.memory(bench)
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
