"""`seccompd trace`: what a daemon's sessions decide, as it happens."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from supervisor.cli import client
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.syscalls import names
from supervisor.model import Verdict
from supervisor.observe.text import printable
from supervisor.policy.values import near


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    client.add_arguments(parser)
    parser.add_argument("--container", metavar="ID", help="of this container alone")
    parser.add_argument(
        "--syscall", action="append", type=_call, metavar="NAME",
        help="of this call, or family of calls, alone; more than once",
    )
    parser.add_argument(
        "--verdict", action="append", choices=[one.value for one in Verdict], metavar="VERDICT",
        help="with this verdict alone (emulate, continue, refuse, errno ...); more than once",
    )


def _call(text: str) -> str:
    """One that a record can be about; "syscall_0x..." is how those are named that no family has."""
    known = {*names(), *FAMILIES}
    if text not in known and not text.startswith("syscall_"):
        raise argparse.ArgumentTypeError(f"no policy is about {text}" + near(text, sorted(known)))
    return text


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
