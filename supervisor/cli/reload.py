"""`seccompd reload`: has the daemon load its policies again, all of them or none."""

from __future__ import annotations

import argparse
import json
import sys

from supervisor.cli import client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    client.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """0; 1 where a policy is wrong, and nothing has changed."""
    answer = client.ask(args, {"do": "reload"})
    text = json.dumps(answer, indent=1) if args.output == "json" else answer["done"]
    sys.stdout.write(text + "\n")
    return 0
