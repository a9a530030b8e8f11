"""`seccompd ps`: the containers that the daemon serves."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from supervisor.cli import client
from supervisor.observe.text import printable

_COLUMNS = ("CONTAINER", "DOOR", "UID", "POLICY", "PID", "SESSION", "CALLS", "DENIALS", "AGE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    client.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """0."""
    found = client.ask(args, {"do": "ps"})["containers"]
    if args.output == "json":
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return 0
    rows = [_COLUMNS, *(_cells(row) for row in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells, row in zip(rows, [{}, *found], strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        sys.stdout.write((line + _remarks(row)).rstrip() + "\n")
    return 0


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    values = [row[name] for name in ("container", "door", "uid", "policy", "pid", "session",
                                     "calls", "denials")]  # fmt: skip
    shown = ["-" if value is None else printable(str(value).encode()) for value in values]
    return *shown, _age(row["age"])


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds / size)}{unit}"
    return f"{int(seconds)}s"


def _remarks(row: dict[str, Any]) -> str:
    remarks = []
    if row.get("refuses_all"):
        remarks.append(f"refuses all: {printable(str(row['refuses_all']).encode())}")
    missing = row.get("unnotified", [])
    if missing is None:
        remarks.append("restart it to be sure that its filter is made for its policy")
    elif missing:
        remarks.append(f"restart it: its filter does not notify {', '.join(missing)}")
    return "".join(f"  [{one}]" for one in remarks)
