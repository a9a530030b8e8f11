"""Every policy that ships passes its own cases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.policy import selftest, store
from supervisor.policy.source import PolicyFindings

TOP = Path(__file__).resolve().parents[3]
SHIPPED = sorted(store.available([store.shipped()]).values())


def test_they_are_there() -> None:
    assert {file.stem for file in SHIPPED} == {
        "build", "default", "deny-all", "docker", "egress", "fitted", "fuse", "ipv6-only", "learn",
        "loop-images", "neighbours",
    }  # fmt: skip
    assert [selftest.test_file(file).exists() for file in SHIPPED] == [True] * len(SHIPPED)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_each_has_a_page_that_others_lead_to_and_an_example(file: Path) -> None:
    """tests/live/test_examples.py runs the examples."""
    page = (TOP / f"docs/shipped/{file.stem}.md").read_text()
    for other in ("README.md", "docs/policies.md"):
        assert f"shipped/{file.stem}.md)" in (TOP / other).read_text()
    (example,) = re.findall(r"\*\*Example:\*\* \[(examples/[a-z-]+\.py)\]", page)
    names_it = re.search(rf"\b{file.stem}\b", (TOP / example).read_text())
    assert names_it, example


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_cases(file: Path) -> None:
    report = selftest.run(file, FAMILIES)
    assert len(report.results) > 3
    assert [failure.text() for failure in report.failures] == []
    assert report.untried == ()


CASE = '{call: mknod, args: {pathname: /a, mode: char, dev: "1:3"}, verdict: emulate'


@pytest.mark.parametrize(
    ("case", "failure"),
    [
        (CASE + ", caller: {resolved: /dev/x}}", None),
        (CASE + "}", "verdict: expected emulate, found refuse"),
        (CASE + ", caller: {resolved: /dev/x}, rule: 4}", None),
        (CASE + ", caller: {resolved: /dev/x}, rule: 5}", "rule: expected 5, found 4"),
        (
            "{call: mknod, args: {pathname: a, mode: char, dev: 261}, verdict: errno, errno: EIO}",
            None,
        ),
        (
            "{call: mknod, args: {mode: char, dev: 261}, verdict: errno, errno: EPERM}",
            "errno: expected EPERM, found EIO",
        ),
        ('{call: mknod, args: {pathname: a, mode: char, dev: "1:7"}, verdict: errno EPERM}', None),
    ],
)
def test_a_case_says_what_came_out_otherwise(
    tmp_path: Path, case: str, failure: str | None
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "version: 1\nsyscalls:\n  mknod:\n"
        '    - {devices: ["null"], path: ["/dev/**", /a], do: emulate}\n'
        "    - {devices: zero, do: {errno: EIO}}\n"
        "    - {devices: full, do: refuse, silent: true}\n"
    )
    if failure == "verdict: expected emulate, found refuse":
        case = case.replace("/a", "/etc/a")
    (tmp_path / "p.test.yaml").write_text(f"cases:\n  - {case}\n")
    report = selftest.run(file, FAMILIES)
    assert len(report.results) == 1
    found = [one.text() for one in report.failures]
    assert found == [] if failure is None else failure in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cases: 1",
        "case: []",
        "cases: [1]",
        "cases: [{call: mount}]",
        "nodes: x\ncases: []",
        "cases: [{call: mknod, args: {pathname: a, x: 1}, verdict: emulate}]",
        "cases: [{call: mknod, args: {mode: chair}, verdict: emulate}]",
        "cases: [{call: mknod, args: {dev: a}, verdict: emulate, foo: 1}]",
    ],
)
def test_what_is_no_case_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\nsyscalls: {}\n")
    (tmp_path / "p.test.yaml").write_text(text)
    try:
        found = selftest.run(file, FAMILIES).wrong
    except PolicyFindings as error:
        found = error.findings
    assert {one.severity for one in found} == {"error"}
