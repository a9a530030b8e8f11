"""`seccompd check` and `seccompd schema`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from supervisor.cli import check, schema


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return check.main(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\nsyscalls: {mknod: [{devices: zeor, do: emulat}]}\n")
    return file


def test_a_good_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "--filter") == 0
    out = capsys.readouterr().out
    assert "build.yaml: ok, 2 rules, " in out
    assert "return notify" in out
    assert "a call that is not in the policy (answered from the kernel's table" in out
    assert "mknod: at most " in out


def test_every_mistake_of_every_file(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bad, "build", "nonsense") == 1
    captured = capsys.readouterr()
    assert "did you mean zero?" in captured.err
    assert "did you mean emulate?" in captured.err
    assert "no policy named 'nonsense'" in captured.err
    assert "ok" in captured.out


def test_json(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bad, "build", "nonsense", "-o", "json") == 1
    first, second, third = json.loads(capsys.readouterr().out)
    assert [(one["line"], one["column"]) for one in first["findings"]] == [(2, 30), (2, 40)]
    assert second["findings"] == []
    assert third["findings"][0]["severity"] == "error"


def test_cases_are_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\nsyscalls: {mknod: []}\n")
    case = '{call: mknod, args: {pathname: a, mode: char, dev: "1:3"}, verdict: VERDICT}'
    cases = tmp_path / "p.test.yaml"
    for verdict, status in (("refuse", 0), ("emulate", 1)):
        cases.write_text(f"cases:\n  - {case.replace('VERDICT', verdict)}\n")
        assert run(cases) == status
    captured = capsys.readouterr()
    assert "1 of 1 cases passed" in captured.out
    assert 'p.test.yaml:2: mknod("a", S_IFCHR|0666, makedev(1, 3))' in captured.err
    assert "verdict: expected emulate, found refuse" in captured.err


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    schema.add_arguments(parser)
    assert schema.main(parser.parse_args([])) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["properties"]["version"]["const"] == 1
    text = json.dumps(found)
    for word in ("devices", "EPERM", "realise", "urandom", "otherwise"):
        assert f'"{word}"' in text
