"""What a launch that failed says."""

from __future__ import annotations

from errno import EACCES, EBUSY, EINVAL, ENOENT, ENOEXEC, ENXIO, EPERM
from pathlib import Path

import pytest

from supervisor.errors import CommandNotExecutable, CommandNotFound, KernelError
from supervisor.intake import refusals
from supervisor.kernel.launch import Event, Kind, Stage


@pytest.mark.parametrize(
    ("name", "error", "kind", "text"),
    [
        ("sd-none", ENOENT, CommandNotFound, "command not found"),
        # a directory of PATH that is closed to the command
        ("sd-none", EACCES, CommandNotFound, "command not found"),
        ("/sd/none", ENOENT, CommandNotFound, "no such file"),
        ("/etc/passwd", ENOENT, CommandNotFound, "interpreter"),
        ("/etc/passwd", EACCES, CommandNotExecutable, "chmod"),
        ("/bin/sh", EACCES, CommandNotExecutable, "another user"),
        ("/bin/sh", ENOEXEC, CommandNotExecutable, "no program"),
        ("/etc", EACCES, CommandNotExecutable, "/etc: is a directory"),
        ("", ENOENT, CommandNotFound, "'': command not found"),
        ("a\n\udcff", ENOENT, CommandNotFound, "a\\x0a\\xff: command not found"),
    ],
)
def test_exec(name: str, error: int, kind: type[Exception], text: str) -> None:
    found = refusals.exec_failure(name, error, mapped=True)
    assert type(found) is kind
    assert text in str(found)


def test_found_in_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sd-there").write_text("")
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    found = refusals.exec_failure("sd-there", ENOENT, mapped=False)
    assert "interpreter" in str(found)
    assert str(tmp_path) in str(found)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.EXEC])
def test_every_stage_has_words(stage: Stage) -> None:
    event = Event(Kind.NOTE, stage, EPERM)
    said = refusals.note(event)
    if said is None:
        error = refusals.launch(event, "true", mapped=True)
        assert isinstance(error, KernelError)
        said = str(error)
    assert "Operation not permitted" in said


def test_another_listener_above() -> None:
    error = refusals.launch(Event(Kind.FAILED, Stage.FILTER, EBUSY), "true", mapped=True)
    assert "another listener is above this process" in str(error)


def test_an_audit_file_that_is_no_fifo(tmp_path: Path) -> None:
    text = str(refusals.audit_file(str(tmp_path), OSError(ENXIO, "No such device")))
    assert text == f"{tmp_path}: cannot be written: No such device"


def test_namespaces() -> None:
    assert "chroot" in str(refusals.namespaces(OSError(EPERM, "no")))
    assert "without" in str(refusals.namespaces(OSError(EINVAL, "no")))
