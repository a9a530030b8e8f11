"""`seccompd schema`: the JSON Schema of policies, for editors with a YAML language server."""

from __future__ import annotations

import argparse
import json
import sys

from supervisor.handlers.registry import FAMILIES
from supervisor.policy.asked import specs
from supervisor.policy.doors import DOORS
from supervisor.policy.schema import cases_schema, json_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.description = (
        "Print the JSON Schema of policies. An editor with a YAML language server uses it after "
        "`# yaml-language-server: $schema=FILE` in the first line of a policy."
    )


    parser.add_argument(
        "--test", action="store_true", help="print that of files with cases, NAME.test.yaml"
    )


def main(args: argparse.Namespace) -> int:
    """Prints the schema."""
    calls = [*specs(FAMILIES), *DOORS]
    schema = cases_schema(calls) if args.test else json_schema(FAMILIES)
    sys.stdout.write(json.dumps(schema, indent=2) + "\n")
    return 0
