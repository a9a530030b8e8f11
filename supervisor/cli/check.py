"""`seccompd check FILE...`: every mistake in a policy, with its place.

A file NAME.test.yaml is run against the policy beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from supervisor.errors import PolicyError
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.bpf import RET_ALLOW
from supervisor.kernel.simulate import disassemble, run
from supervisor.kernel.syscalls import NATIVE_ARCHES, arch_name
from supervisor.policy import selftest, store
from supervisor.policy.compile import compile_policy
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.families import Traits
from supervisor.policy.source import PolicyFindings

# getpid on x86_64 and on i386: calls that no policy will ever be about.
_UNRELATED = (39, 20)
_CASES = ".test.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("policy", nargs="+", metavar="NAME|FILE")
    parser.add_argument("--filter", action="store_true", help="print the filter, disassembled")
    parser.add_argument(
        "--nodes",
        choices=("host", "private", "none"),
        default="host",
        help="compile for an ordinary user (host), for root (private), or for --map none (none)",
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """0: nothing is wrong; 1: there are errors."""
    reports: list[dict[str, Any]] = []
    failed = False
    for name in args.policy:
        report: dict[str, Any] = {"policy": name, "findings": []}
        reports.append(report)
        try:
            if name.endswith(_CASES):
                failed |= _run_cases(Path(name), report, args.output)
                continue
            file = store.find(name)
            report["file"] = str(file)
            content = store.read(file, name if "/" in name else None)
            policy = compile_policy(file, content, Traits(args.nodes), FAMILIES)
        except PolicyError as error:
            failed = True
            report["findings"] = _findings(error, report.get("file", name))
            if args.output == "text":
                sys.stderr.write(f"{error}\n")
            continue
        report["instructions"] = len(policy.filter) // 8
        if args.filter:
            report["filter"] = disassemble(policy.filter)
        if args.output == "text":
            _print(file, policy, report)
    if args.output == "json":
        sys.stdout.write(json.dumps(reports, indent=1) + "\n")
    return int(failed)


def _run_cases(cases: Path, report: dict[str, Any], output: str) -> bool:
    """Runs the cases of NAME.test.yaml against NAME.yaml beside it; whether any failed."""
    policy = cases.with_name(cases.name.removesuffix(_CASES) + ".yaml")
    report["file"] = str(cases)
    count, failures = selftest.run(policy, FAMILIES)
    report["cases"] = count
    report["failures"] = [failure.text() for failure in failures]
    if output == "text":
        for failure in failures:
            sys.stderr.write(f"{failure.text()}\n")
        sys.stdout.write(f"{cases}: {count - len(failures)} of {count} cases passed\n")
    return bool(failures)


def _findings(error: PolicyError, file: str) -> list[dict[str, Any]]:
    if not isinstance(error, PolicyFindings):
        return [{"file": file, "line": 1, "column": 1, "severity": "error", "message": error.what}]
    return [
        {
            "file": finding.file,
            "line": finding.mark.line,
            "column": finding.mark.column,
            "severity": finding.severity,
            "message": finding.message,
        }
        for finding in error.findings
    ]


def _print(file: Path, policy: CompiledPolicy, report: dict[str, Any]) -> None:
    rules = sum(len(rules.rules) for rules in policy.families.values())
    sys.stdout.write(f"{file}: ok, {rules} rules, {report['instructions']} instructions\n")
    for line in report.get("filter", ()):
        sys.stdout.write(f"{line}\n")
    if "filter" in report:
        for arch, nr in zip(NATIVE_ARCHES, _UNRELATED, strict=True):
            result = run(policy.filter, nr, arch)
            assert result.action == RET_ALLOW
            sys.stdout.write(
                f"a call that is not in the policy: {result.steps} instructions on "
                f"{arch_name(arch)}, none that look at arguments\n"
            )
