"""`seccompd test`: runs the cases beside policies."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from supervisor.errors import PolicyError, UsageError
from supervisor.handlers.registry import FAMILIES
from supervisor.policy import selftest, store
from supervisor.policy.selftest import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.description = (
        "Run the cases of NAME.test.yaml against NAME.yaml beside it: of every policy below DIR, "
        "or of the policies that are named."
    )
    parser.add_argument("--junit", metavar="FILE", help="write the results as JUnit XML, too")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("where", nargs="+", metavar="DIR|NAME|FILE")


def main(args: argparse.Namespace) -> int:
    """0: every case passed; 1: one did not, or could not be read."""
    reports: list[Report] = []
    errors: list[tuple[Path, PolicyError]] = []
    for policy in _policies(args.where):
        try:
            reports.append(selftest.run(policy, FAMILIES))
        except PolicyError as error:
            errors.append((selftest.test_file(policy), error))
    if args.junit is not None:
        _write_junit(Path(args.junit), reports, errors)
    if args.output == "json":
        sys.stdout.write(json.dumps(_rows(reports, errors), indent=1) + "\n")
    else:
        _print(reports, errors)
    return int(bool(errors) or any(report.failures or report.wrong for report in reports))


def _policies(where: Sequence[str]) -> Iterator[Path]:
    for name in where:
        if store.is_folder(name):
            found = list(selftest.discover(Path(name)))
            if not found:
                raise UsageError(
                    f"test: {name}: no file below it ends in {selftest.SUFFIX}",
                    hint="the cases of NAME.yaml are in NAME.test.yaml beside it",
                )
            yield from found
        elif name.endswith(selftest.SUFFIX):
            yield selftest.policy_of(Path(name))
        else:
            yield store.find(name)


def _print(reports: Sequence[Report], errors: Sequence[tuple[Path, PolicyError]]) -> None:
    for report in reports:
        for failure in report.failures:
            sys.stdout.write(f"{failure.text()}\n")
        count = len(report.results)
        sys.stdout.write(f"{report.file}: {count - len(report.failures)} of {count} cases passed")
        if report.untried:
            sys.stdout.write(f"; no case for {', '.join(report.untried[:8])}")
            sys.stdout.write(" and others" if len(report.untried) > 8 else "")
        sys.stdout.write("\n")
        for finding in report.wrong:
            sys.stderr.write(f"{finding.text()}\n")
    for file, error in errors:
        sys.stderr.write(f"{file}: not run\n{error}\n")


def _rows(
    reports: Sequence[Report], errors: Sequence[tuple[Path, PolicyError]]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "file": str(report.file),
            "untried": list(report.untried),
            "wrong": [one.text() for one in report.wrong],
            "cases": [
                {"place": one.place, "name": one.name, "call": one.call, "passed": not one.wrong,
                 "wrong": list(one.wrong), "tried": list(one.tried)}
                for one in report.results
            ],
        }
        for report in reports
    ]  # fmt: skip
    return [*rows, *({"file": str(file), "error": str(error)} for file, error in errors)]


def _write_junit(
    file: Path, reports: Sequence[Report], errors: Sequence[tuple[Path, PolicyError]]
) -> None:
    """JUnit's XML as CI systems read it: a suite for each policy, a test case for each case."""
    top = ElementTree.Element("testsuites", name="seccompd test")
    for report in reports:
        suite = ElementTree.SubElement(
            top, "testsuite", name=_xml(str(report.file)),
            tests=str(len(report.results) + len(report.broken)),
            failures=str(len(report.failures)), errors=str(len(report.broken)), skipped="0",
        )  # fmt: skip
        name = _xml(report.file.name.removesuffix(selftest.SUFFIX))
        for one in report.results:
            line = one.place.rpartition(":")[2]
            case = ElementTree.SubElement(
                suite, "testcase", classname=name, name=_xml(one.name or one.call),
                file=_xml(str(report.file)), line=line, time="0",
            )  # fmt: skip
            if one.wrong:
                message = _xml("; ".join(one.wrong))
                ElementTree.SubElement(case, "failure", message=message).text = _xml(one.text())
        for at, findings in report.broken:
            case = ElementTree.SubElement(
                suite, "testcase", classname=name, name=f"the case of line {at}",
                file=_xml(str(report.file)), line=str(at), time="0",
            )  # fmt: skip
            message = _xml("; ".join(one.message for one in findings))
            mistake = ElementTree.SubElement(case, "error", message=message)
            mistake.text = _xml("\n".join(one.text() for one in findings))
    for path, error in errors:
        suite = ElementTree.SubElement(
            top, "testsuite", name=_xml(str(path)), tests="1", failures="0", errors="1",
            skipped="0",
        )  # fmt: skip
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(path.name), name="load")
        message = _xml(error.what.partition("\n")[0])
        ElementTree.SubElement(case, "error", message=message).text = _xml(str(error))
    top.set("tests", str(sum(int(suite.get("tests", "0")) for suite in top)))
    top.set("failures", str(sum(int(suite.get("failures", "0")) for suite in top)))
    top.set("errors", str(sum(int(suite.get("errors", "0")) for suite in top)))
    ElementTree.indent(top)
    try:
        ElementTree.ElementTree(top).write(file, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise UsageError(f"--junit {file}: {error.strerror}") from None


def _xml(text: str) -> str:
    """XML has no characters for most of what a terminal would not print, nor for surrogates."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
