"""`seccompd doctor`: what works on this machine, for this user, and what is missing."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence

from supervisor.cli import checks, mount_checks
from supervisor.cli.checks import MISSING, Finding

SCHEMA = 1

CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    checks.kernel_version,
    checks.libraries,
    checks.libseccomp,
    checks.other_distributions,
    checks.kernel_features,
    checks.namespaces,
    checks.procfs,
    checks.yama,
    checks.privileges,
    checks.id_mapping,
    checks.subordinate_ids,
    checks.devices,
    mount_checks.fuse,
    mount_checks.fuse_programs,
    checks.cache,
)


def examine() -> list[Finding]:
    """Every finding, in the order in which the checks build on each other."""
    return [finding for check in CHECKS for finding in checks.guarded(check)]


def works(findings: Sequence[Finding]) -> bool:
    """Whether `seccompd run` will work here."""
    return not any(finding.state == MISSING for finding in findings)


def _as_json(findings: Sequence[Finding]) -> str:
    """The findings for a program: {"schema", "works", "uid", "findings": [...]}."""
    listed = [
        {"name": f.name, "state": f.state, "detail": f.detail, "remedy": f.remedy}
        for f in findings
    ]
    return json.dumps(
        {"schema": SCHEMA, "works": works(findings), "uid": os.geteuid(), "findings": listed},
        indent=2,
    )


def _as_text(findings: Sequence[Finding]) -> str:
    """The findings for a person."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<8}{finding.name:<26}{finding.detail}")
        if finding.remedy:
            lines.append(f"{'':<34}-> {finding.remedy}")
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    lines.append("")
    if works(findings):
        lines.append(f"`seccompd run` works here for {who}.")
    else:
        lines.append(f"`seccompd run` does not work here for {who}: see what is missing above.")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `doctor`."""
    parser.epilog = "Exit status 0 only where `seccompd run` will work for this user, else 1."
    parser.add_argument("-o", dest="output", choices=("text", "json"), default="text",
                        help="how to print the findings (%(default)s)")


def main(args: argparse.Namespace) -> int:
    """The verb. Exit status 0 only where `seccompd run` will work for this user, else 1."""
    findings = examine()
    print(_as_json(findings) if args.output == "json" else _as_text(findings))
    return 0 if works(findings) else 1
