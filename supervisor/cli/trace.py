"""`seccompd trace`: what a daemon's sessions decide, as it happens."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from supervisor.cli import client
from supervisor.observe.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    client.add_arguments(parser)
    parser.add_argument("--container", metavar="ID", help="of this container alone")
    parser.add_argument(
        "--syscall", action="append", metavar="NAME", help="of this call alone; more than once"
    )
    parser.add_argument(
        "--verdict", action="append", metavar="VERDICT",
        help="with this verdict alone (emulate, continue, refuse, errno ...); more than once",
    )


def main(args: argparse.Namespace) -> int:
    """0 once the daemon ends, 130 after Control-C."""
    request = {
        "do": "trace", "container": args.container, "syscalls": args.syscall,
        "verdicts": args.verdict,
    }  # fmt: skip
    try:
        for record in client.stream(args, request):
            if "syscall" not in record:
                continue
            text = json.dumps(record) if args.output == "json" else _line(record)
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    return 0


def _line(record: dict[str, Any]) -> str:
    """One record for a person. A session that was taken over may have written it."""
    values = ", ".join(f"{name}={value}" for name, value in record.get("args", {}).items())
    result = record.get("errno", record.get("result", record.get("answered_by", "?")))
    lost = f" ({record['lost_records']} lost so far)" if "lost_records" in record else ""
    text = (
        f"{record.get('session', '?')} {record.get('comm', '?')}[{record.get('pid', '?')}] "
        f"{record['syscall']}({values}) = {result} [{record.get('verdict', '?')}: "
        f"{record.get('rule', '?')}]{lost}"
    )
    return printable(text.encode("utf-8", "surrogateescape"))
