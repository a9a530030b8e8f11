"""`seccompd schema`: the JSON Schema of policies, for editors with a YAML language server."""

from __future__ import annotations

import argparse
import json
import sys

from supervisor.handlers.registry import FAMILIES
from supervisor.policy.schema import json_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb has no options."""
    parser.description = (
        "Print the JSON Schema of policies. An editor with a YAML language server uses it after "
        "`# yaml-language-server: $schema=FILE` in the first line of a policy."
    )


def main(args: argparse.Namespace) -> int:  # noqa: ARG001
    """Prints the schema."""
    sys.stdout.write(json.dumps(json_schema(FAMILIES), indent=2) + "\n")
    return 0
