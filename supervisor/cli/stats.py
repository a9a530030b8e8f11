"""`seccompd stats`: the daemon's figures."""

from __future__ import annotations

import argparse
import json
import sys

from supervisor.cli import client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    client.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """0."""
    found = client.ask(args, {"do": "stats"})
    if args.output == "json":
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return 0
    width = max(map(len, found))
    for name, value in found.items():
        sys.stdout.write(f"{name.ljust(width)}  {value}\n")
    return 0
