"""The command line's frame: verbs, errors, and what must not be imported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.cli import main as cli

ROOT = Path(__file__).resolve().parents[3]


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


VERBS = [["doctor"], ["--help"], ["--version"], ["schema"], ["check", "build"], ["run", "--help"]]


def shell(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A script in which "$@" is `seccompd WORDS`."""
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "supervisor", *words],
        capture_output=True, text=True, check=False, timeout=60, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_output_that_cannot_be_written(words: list[str]) -> None:
    done = shell('exec "$@" >/dev/full', *words)
    assert done.returncode == 1
    assert done.stderr.startswith("seccompd: No space left on device\n  hint: ")
    assert done.stderr.count("\n") == 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_closed_streams(words: list[str], closed: str) -> None:
    done = shell(f'exec "$@" {closed}', *words)
    assert done.returncode == 0
    assert done.stderr == ""
    assert bool(done.stdout) == (closed == "2>&-")


@pytest.mark.parametrize("words", [["fly"], ["run"], ["run", "--moon"], ["check", "no-such"], []])
def test_an_error_without_a_stderr_is_its_status_alone(words: list[str]) -> None:
    done = shell('exec "$@" 2>&-', *words)
    assert done.returncode == (1 if "check" in words else 2)
    assert done.stdout == ""


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
@pytest.mark.parametrize("limit", ["-n 5", "-n 10"])
def test_without_descriptors(words: list[str], limit: str) -> None:
    """Whether a verb finds enough to work with or not: no traceback."""
    done = shell(f'ulimit {limit}; exec "$@"', *words)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    if done.returncode:
        assert done.returncode == 1
        assert done.stderr.startswith("seccompd: ") or "missing" in done.stdout


def test_no_memory_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_words: list[str]) -> int:
        raise MemoryError

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.main(["run"]) == 1
    assert capsys.readouterr().err.startswith("seccompd: no memory is left\n  hint: ")


def test_a_reader_who_has_enough() -> None:
    done = shell('{ "$@"; echo $? >&2; } | true', "schema")
    assert done.stderr == "141\n"


def test_every_verb_is_there() -> None:
    for module, _ in cli.VERBS.values():
        assert importlib.util.find_spec(module)


def test_front_imports_nothing_heavy() -> None:
    code = "import supervisor.intake.command, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"trio", "pydantic", "yaml", "pyseccomp", "asyncio", "subprocess", "inspect"}
    assert heavy & set(done.stdout.split()) <= {"inspect"}
