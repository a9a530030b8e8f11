"""`seccompd check` and `seccompd schema`."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest

from supervisor.cli import check, schema
from supervisor.cli.main import main
from supervisor.errors import UsageError


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


def test_folders_and_stdin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.yaml").write_text("version: 1\nsyscalls: {mknod: [{do: emulate}]}\n")
    (tmp_path / "b.yaml").write_text("version: 1\nsyscalls: {mknod: []}\n")
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/b.yaml: ok, 0 rules, " in out
    assert f"{tmp_path}/deep/a.yaml: ok, 1 rule, " in out
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file below it"):
        run(tmp_path / "empty")
    monkeypatch.chdir(tmp_path)
    for text, status, said in (
        (b"version: 1\ninclude: ./b.yaml\n", 0, "<stdin>: ok, 0 rules"),
        (b"version: 1\nsyscalls: {mknod: 5}\n", 1, "<stdin>:2:19: error: "),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert run("-") == status
        captured = capsys.readouterr()
        assert said in captured.out + captured.err


def test_what_is_wrong_with_an_included_file_names_who_includes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\n\ninclude: ./b.yaml\n")
    (tmp_path / "b.yaml").write_text("version: 1\ninclude: [./c.yaml]\n")
    (tmp_path / "c.yaml").write_text("version: 1\nsyscalls: {mknod: [{do: emulat}]}\n")
    assert run(tmp_path / "a.yaml") == 1
    way = f"\n  included from {tmp_path}/b.yaml:2\n  included from {tmp_path}/a.yaml:3\n"
    assert way in capsys.readouterr().err
    assert run(tmp_path / "a.yaml", "-o", "json") == 1
    ((found,),) = [one["findings"] for one in json.loads(capsys.readouterr().out)]
    assert found["included_from"] == [f"{tmp_path}/b.yaml:2", f"{tmp_path}/a.yaml:3"]
    (tmp_path / "c.yaml").write_text("version: 1\ninclude: [./a.yaml]\n")
    assert run(tmp_path / "a.yaml") == 1
    assert "includes itself: a.yaml > b.yaml > c.yaml > a.yaml" in capsys.readouterr().err


def test_what_of_an_included_file_does_not_count_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = "syscalls: {mount: {otherwise: kernel, rules: []}}\n"
    (tmp_path / "b.yaml").write_text(
        f"version: 1\nmode: audit\non_error: EIO\nlimits: {{path: 1s}}\notherwise: kernel\n{rules}"
    )
    (tmp_path / "a.yaml").write_text("version: 1\ninclude: ./b.yaml\n")
    assert run(tmp_path / "a.yaml") == 0
    err = capsys.readouterr().err
    for text in ("it says mode: audit", "it says on_error: EIO", "it has limits of its own",
                 "it says otherwise: kernel for mount",
                 "it says otherwise: kernel, which"):  # fmt: skip
        assert f"a.yaml:2:10: warning: {text}" in err
    (tmp_path / "a.yaml").write_text(
        "version: 1\ninclude: ./b.yaml\nmode: audit\non_error: EIO\nlimits: {path: 1s}\n"
        f"otherwise: kernel\n{rules}"
    )
    assert run(tmp_path / "a.yaml") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "what a runtime's own profile notifies, and no family" in captured.out
    (tmp_path / "b.yaml").write_text("version: 1\nmode: enforce\non_error: EPERM\n" + rules)
    assert run(tmp_path / "a.yaml") == 0
    assert capsys.readouterr().err == "", "what this policy says itself is no surprise"


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    schema.add_arguments(parser)
    assert schema.main(parser.parse_args([])) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["properties"]["version"]["const"] == 1
    text = json.dumps(found)
    for word in ("devices", "EPERM", "realise", "urandom", "otherwise"):
        assert f'"{word}"' in text


def test_a_folder_hides_no_policy_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["check", "build"]) == 0
    assert main(["check", "./build"]) == 2
    assert "./build: no file below it ends in .yaml" in capsys.readouterr().err
