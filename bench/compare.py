"""Two sides compared by turns: the rows of the table, and the place where they are measured."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from bench.peers import Peer, Sample

EPERM, EEXIST = 1, 17


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
        return self._ask(self.peer(prefix), request, expect)

    def _ask(self, peer: Peer, request: str, expect: int) -> Sample:
        try:
            return peer.ask(request, expect)
        finally:
            for node in (self.place / "nodes").iterdir():
                node.unlink()

    def compare(self, item: Item) -> list[Row]:
        """Rounds of one item by turns on both sides: one row."""
        return self.by_turns(item, (self.peer(item.sides[0]), self.peer(item.sides[1])))

    def by_turns(self, item: Item, sides: tuple[Peer, Peer]) -> list[Row]:
        """The same with callers that are there."""
        kind, count, *rest = item.request.split()
        short = " ".join([kind, str(max(int(count) // 5, 5)), *rest])
        for side in sides:
            self._ask(side, short, item.expect)
        taken: tuple[list[float], list[float]] = ([], [])
        for number in range(max(3, round(item.rounds * self.scale))):
            for which in (0, 1) if number % 2 else (1, 0):  # neither always goes first
                sample = self._ask(sides[which], item.request, item.expect)
                taken[which].append(sample.per_second if item.rate else sample.median_us)
        low, middle, high = quartiles([b / a for a, b in zip(*taken, strict=True)])
        medians = statistics.median(taken[0]), statistics.median(taken[1])
        unit = "/s" if item.rate else "us"
        return [Row(item.what, *medians, unit, middle, low, high, item.bound, at_least=item.rate)]
