"""`seccompd replay`: what another policy would have said to the calls of audit logs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from supervisor.handlers.registry import FAMILIES
from supervisor.policy.compile import compile_named
from supervisor.policy.records import Log
from supervisor.policy.replay import Replay, replay
from supervisor.policy.traits import Traits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.description = (
        "Decide the calls of audit logs again, by another policy, and list those that come out "
        "otherwise."
    )
    parser.add_argument("--policy", required=True, metavar="NAME|FILE", help="the new policy")
    parser.add_argument("--nodes", choices=("host", "private", "none"), default="host")
    parser.add_argument("--session", metavar="NAME", help="only the records of this session")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("log", nargs="+", metavar="LOG")


def main(args: argparse.Namespace) -> int:
    """0: nothing comes out otherwise; 1: something does."""
    policy = compile_named(args.policy, Traits(args.nodes), FAMILIES)
    log = Log(FAMILIES, args.session)
    found = replay(policy, log.calls(map(Path, args.log)))
    log.check_session()
    if args.output == "json":
        sys.stdout.write(json.dumps(_row(found, log), indent=1) + "\n")
    else:
        _print(found, log)
    return int(bool(found.flips))


def _row(found: Replay, log: Log) -> dict[str, Any]:
    return {
        "calls": found.calls,
        "flips": [
            {"count": count, "call": flip.call, "before": flip.before, "after": flip.after,
             "rule_before": flip.rule_before, "rule_after": flip.rule_after, "sure": flip.sure}
            for flip, count in found.sorted()
        ],
        "more": found.more,
        "not_recorded": found.blind,
        "lost_records": log.lost,
        "unread": log.unread,
    }  # fmt: skip


def _print(found: Replay, log: Log) -> None:
    for flip, count in found.sorted():
        doubt = "" if flip.sure else "  (as far as the record tells)"
        sys.stdout.write(
            f"{count} x {flip.call}\n"
            f"    was: {flip.before}, by {flip.rule_before}\n"
            f"    now: {flip.after}, by {flip.rule_after}{doubt}\n"
        )
    flipped = sum(found.flips.values()) + found.more
    sys.stdout.write(f"{found.calls} calls decided again, {flipped} come out otherwise\n")
    if found.blind:
        sys.stdout.write(
            f"{found.blind} of the others were decided by guesses: their records lack something\n"
        )
    if log.lost:
        sys.stdout.write(f"{log.lost} records of the logs had been lost\n")
    if log.unread:
        sys.stdout.write(f"{log.unread} lines are no records of this version: {log.complaint}\n")
