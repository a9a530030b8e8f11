"""The command line's frame: verbs, errors, and what must not be imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from supervisor.cli import main as cli


def test_help_lists_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "run " in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("seccompd ")


def test_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fly"]) == 2
    assert capsys.readouterr().err.startswith("seccompd: no such verb: fly")


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupt)
    assert cli.main(["run"]) == 130


def test_errors_have_their_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from supervisor.errors import CommandNotFound

    def fail(_words: list[str]) -> int:
        raise CommandNotFound("command not found", where="x", hint="PATH")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.main(["run"]) == 127
    assert capsys.readouterr().err == "seccompd: x: command not found\n  hint: PATH\n"


def test_front_imports_nothing_heavy() -> None:
    code = "import supervisor.intake.command, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"trio", "pydantic", "yaml", "pyseccomp", "asyncio", "subprocess", "inspect"}
    assert heavy & set(done.stdout.split()) <= {"inspect"}
