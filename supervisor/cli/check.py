"""`seccompd check FILE...`: every mistake in a policy, and whatever is odd in it, with its place.

A file NAME.test.yaml is run against the policy beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from supervisor.errors import PolicyError, UsageError
from supervisor.handlers.registry import FAMILIES
from supervisor.policy import machine, runtimes, selftest, store
from supervisor.policy.annotate import annotated
from supervisor.policy.compile import compile_draft
from supervisor.policy.draft import read_draft
from supervisor.policy.hot import answered_calls, hot_path, named_paths
from supervisor.policy.lint import lint
from supervisor.policy.source import SIZE_MAX, Finding, PolicyFindings, Source, in_order
from supervisor.policy.traits import Traits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument(
        "policy", nargs="+", metavar="NAME|FILE|DIR|-",
        help="a policy by name or path, every .yaml below a folder, or stdin (-)",
    )
    parser.add_argument("--filter", action="store_true", help="print the filter, disassembled")
    parser.add_argument(
        "--nodes",
        choices=("host", "private", "none"),
        help="for an ordinary user (host, the default), for root (private), or for --map none"
        " (none); with it, warn of what cannot be done there",
    )
    parser.add_argument(
        "--oci", metavar="RUNTIME", help="warn of what this runtime (runc, crun, ...) lacks"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """0: nothing is wrong, but there may be warnings; 1: there are errors."""
    reports: list[dict[str, Any]] = []
    failed = False
    features = None if args.oci is None else runtimes.features_of(args.oci)
    for name in _names(args.policy):
        report: dict[str, Any] = {"policy": name, "findings": []}
        reports.append(report)
        try:
            if name.endswith(selftest.SUFFIX):
                failed |= _run_cases(Path(name), report, args.output)
            else:
                _check(name, report, args, features)
        except PolicyError as error:
            failed = True
            report["findings"] = _findings(error, report.get("file", name))
            if args.output == "text":
                sys.stderr.write(f"{error}\n")
    if args.output == "json":
        sys.stdout.write(json.dumps(reports, indent=1) + "\n")
    return int(failed)


def _names(words: Sequence[str]) -> Iterator[str]:
    """The arguments, a folder as all policies and cases below it."""
    for word in words:
        if not store.is_folder(word):
            yield word
            continue
        files = sorted(Path(word).rglob("*.yaml"))
        if not files:
            raise UsageError("no file below it ends in .yaml", where=word)
        yield from map(str, files)


def _read(name: str) -> tuple[Path, bytes]:
    """Where a policy is, and what is in it."""
    if name == "-":
        return Path("<stdin>"), sys.stdin.buffer.read(SIZE_MAX + 1)
    file = store.find(name)
    return file, store.read(file, name if "/" in name else None)


def _check(name: str, report: dict[str, Any], args: argparse.Namespace, features: Any) -> None:
    file, content = _read(name)
    report["file"] = str(file)
    draft = read_draft(file, content, FAMILIES)
    lint(draft, args.nodes)
    machine.warn(draft)
    if args.oci is not None:
        for text in runtimes.lacks(args.oci, features, draft):
            Source.at(draft.source.root, text, "warning")
    draft.source.fail()
    policy = compile_draft(draft, content, Traits(args.nodes or "host"), FAMILIES)
    warnings = in_order(draft.source.everything())
    report["findings"] = [_row(warning) for warning in warnings]
    report["instructions"] = len(policy.filter) // 8
    report["hot_path"] = {arch: steps for arch, steps, _ in hot_path(policy)}
    report["answered"] = list(answered_calls(policy))
    if args.filter:
        report["filter"] = annotated(policy)
    if args.output == "text":
        for warning in warnings:
            sys.stderr.write(f"{warning.text()}\n")
        rules = sum(len(rules.rules) for rules in policy.families.values())
        said = f"{rules} rule{'s' * (rules != 1)}, {report['instructions']} instructions"
        said += f", {_counted(warnings)}" if warnings else ""
        sys.stdout.write(f"{file}: ok, {said}\n")
        for text in report["answered"]:
            sys.stdout.write(f"{file}: {text}\n")
        for line in report.get("filter", ()):
            sys.stdout.write(f"{line}\n")
        if args.filter:
            for arch, steps, what in hot_path(policy):
                sys.stdout.write(f"{what}: {steps} instructions on {arch}\n")
            for call, most in named_paths(policy):
                sys.stdout.write(f"{call}: at most {most} instructions on x86_64\n")


def _counted(warnings: Sequence[Finding]) -> str:
    return f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}"


def _run_cases(cases: Path, report: dict[str, Any], output: str) -> bool:
    """Runs the cases of NAME.test.yaml against NAME.yaml beside it; whether any failed."""
    report["file"] = str(cases)
    found = selftest.run(selftest.policy_of(cases), FAMILIES)
    count, failures = len(found.results), found.failures
    report["cases"] = count
    report["failures"] = [failure.text() for failure in failures]
    report["findings"] = [_row(finding) for finding in found.wrong]
    if output == "text":
        for finding in found.wrong:
            sys.stderr.write(f"{finding.text()}\n")
        for failure in failures:
            sys.stderr.write(f"{failure.text()}\n")
        sys.stdout.write(f"{cases}: {count - len(failures)} of {count} cases passed\n")
    return bool(failures or found.wrong)


def _findings(error: PolicyError, file: str) -> list[dict[str, Any]]:
    if not isinstance(error, PolicyFindings):
        row = {"file": file, "line": 1, "column": 1, "severity": "error", "message": error.what}
        return [row | ({"hint": error.hint} if error.hint else {})]
    return [_row(finding) for finding in error.findings]


def _row(finding: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {
        "file": finding.file,
        "line": finding.mark.line,
        "column": finding.mark.column,
        "severity": finding.severity,
        "message": finding.message,
    }
    return row | ({"included_from": list(finding.included)} if finding.included else {})
