"""What is measured call by call: refused, made, passed by the filter, and among 10,000 rules."""

from __future__ import annotations

from bench import peers
from bench.compare import EEXIST, Bench, Item
from bench.policies import FEW, MANY


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
