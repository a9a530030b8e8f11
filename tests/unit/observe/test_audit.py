"""Audit records: complete, one line each, repeats counted, and never in anybody's way."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel.mounts import MS
from supervisor.kernel.syscalls import AT_FDCWD, X86_64, CallSpec, Kind, Param
from supervisor.model import Decision, MountSettings, Outcome, Settings, Snapshot, Verdict
from supervisor.observe.audit import AuditLog
from supervisor.observe.identity import identity
from supervisor.observe.where import directory, plainly
from tests.support.clock import Clock

SPEC = CallSpec(
    "mknod",
    "mknod",
    (Param("pathname", Kind.PATH), Param("mode", Kind.MODE), Param("dev", Kind.DEV)),
)
WHO = identity(os.getpid())
REFUSED = Decision(Verdict.ERRNO, "build.yaml:7", "", 1)


def snapshot(path: bytes | int = b"dev/null") -> Snapshot:
    return Snapshot(1, os.getpid(), X86_64, 133, 0x1000, "mknod", (path, 0o20666, 0x103))


def opened(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_says_who_what_and_why(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    log = AuditLog(opened(file), policy="build", session="run-1")
    log.record(snapshot(), SPEC, REFUSED, Outcome(1), 12e-6, who=WHO, delivered=True)
    log.close()
    record, end = records(file)
    assert record["v"] == 1
    assert (record["session"], record["policy"]) == ("run-1", "build")
    assert record["syscall"] == "mknod"
    assert record["arch"] == "x86_64"
    assert record["pid"] == record["tid"] == os.getpid()
    assert record["uid"] == os.getuid()
    assert record["args"] == {"pathname": "dev/null", "mode": 0o20666, "dev": 0x103}
    assert (record["verdict"], record["errno"], record["rule"]) == (
        "errno", "EPERM", "build.yaml:7",
    )
    assert record["usec"] == 12
    assert end["event"] == "session_end"


def recorded(tmp_path: Path, decision: Decision, outcome: Outcome, **more: Any) -> dict[str, Any]:
    file = tmp_path / "audit.json"
    log = AuditLog(opened(file), policy="p", session="s")
    log.record(snapshot(), SPEC, decision, outcome, 0, who=WHO, delivered=True, **more)
    log.close()
    return records(file)[0]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (Settings(), None),
        (Settings("closed"), {"realise": "closed"}),
        (
            MountSettings("fuse", ("/bin/x", "{source}"), inside=True, force=MS["nodev"]),
            {"via": "fuse", "program": ["/bin/x", "{source}"], "from": "container"},
        ),
        (
            MountSettings("kernel", shift="false", force=MS["ro"] | MS["nosuid"]),
            {"via": "kernel", "shift": "false", "force": ["ro", "nosuid"], "devices": True},
        ),
    ],
)
def test_how_a_rule_has_it_done_is_told_as_a_policy_says_it(
    tmp_path: Path, settings: Settings | MountSettings, told: dict[str, Any] | None
) -> None:
    decision = Decision(Verdict.EMULATE, "p.yaml:3", settings=settings)
    assert recorded(tmp_path, decision, Outcome(0, "node")).get("emulate") == told


@pytest.mark.parametrize(
    ("verdict", "value", "would"),
    [(Verdict.ERRNO, 19, "ENODEV"), (Verdict.RETURN, 7, 7), (Verdict.REFUSE, 0, None)],
)
def test_what_is_only_recorded_says_what_the_caller_would_have_got(
    tmp_path: Path, verdict: Verdict, value: int, would: object
) -> None:
    decision = Decision(verdict, "p.yaml:3", value=value, audit=True)
    assert recorded(tmp_path, decision, Outcome(0, left_alone=True)).get("would") == would


def test_the_directory_of_a_relative_path_is_told(tmp_path: Path) -> None:
    here = os.fsencode(os.getcwd())
    fd = os.open(tmp_path, os.O_RDONLY)
    at = CallSpec("mknod", "mknodat", (Param("dirfd", Kind.FD), *SPEC.params))
    try:
        for spec, args, found, leads in (
            (SPEC, (b"dev/../null", 0, 0), here, here + b"/null"),
            (SPEC, (b"/dev/./null", 0, 0), None, b"/dev/null"),
            (SPEC, (-14, 0, 0), None, None),
            (at, (AT_FDCWD, b"x", 0, 0), here, here + b"/x"),
            (at, (fd, b"x", 0, 0), os.fsencode(tmp_path), os.fsencode(tmp_path) + b"/x"),
            (at, (999, b"x", 0, 0), None, None),
        ):
            call = snapshot()._replace(args=args)
            assert directory(call, spec) == found
            assert plainly(call, spec, found) == leads
    finally:
        os.close(fd)
    assert recorded(tmp_path, REFUSED, Outcome(1), directory=b"/a\n")["directory"] == "/a\\x0a"


def test_an_unreadable_path_is_told_as_such(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    log = AuditLog(opened(file), policy="p", session="s")
    log.record(snapshot(-14), SPEC, REFUSED, Outcome(14), 0, who=WHO, delivered=True)
    log.close()
    assert records(file)[0]["args"] == {
        "pathname": {"error": "EFAULT"}, "mode": 0o20666, "dev": 0x103,
    }


def test_the_flags_of_a_mount_have_names(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    log = AuditLog(opened(file), policy="p", session="s")
    kinds = (Kind.TEXT, Kind.PATH, Kind.TEXT, Kind.MOUNT_FLAGS, Kind.DATA)
    names = ("source", "target", "filesystemtype", "mountflags", "data")
    spec = CallSpec("mount", "mount", tuple(map(Param, names, kinds)))
    call = Snapshot(1, 1, X86_64, 165, 0, "mount", (b"a", b"m", 0, 0xC0ED0003, -7))
    log.record(call, spec, REFUSED, Outcome(22), 0, who=WHO, delivered=True)
    log.close()
    assert records(file)[0]["args"] == {
        "source": "a", "target": "m", "filesystemtype": None, "mountflags": 0xC0ED0003,
        "flags": ["ro", "nosuid"], "data": {"error": "E2BIG"},
    }  # fmt: skip


def test_repeats_are_counted(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "audit.json"
    log = AuditLog(opened(file), policy="p", session="s", clock=clock)
    assert not log.repeated(7, b"key")
    log.record(snapshot(), SPEC, REFUSED, Outcome(1), 0, who=WHO, delivered=True, key=b"key")
    tid = os.getpid()
    assert [log.repeated(tid, b"key") for _ in range(5)] == [True] * 5
    assert not log.repeated(tid, b"other")
    assert 0 < log.sweep() <= 1
    clock.now += 1.5
    assert log.sweep() == float("inf")
    assert not log.repeated(tid, b"key"), "a record of its own after the window"
    log.close()
    first, repeats, _end = records(file)
    assert "repeats" not in first
    assert repeats["repeats"] == 5
    assert repeats["args"] == first["args"]


def test_a_slow_reader_loses_records_and_is_told(clock: Clock) -> None:
    reader, writer = os.pipe()
    log = AuditLog(writer, policy="p", session="s", clock=clock)
    for _ in range(3000):  # far more than a pipe holds: a writer that waits stays here
        log.record(snapshot(b"x" * 200), SPEC, REFUSED, Outcome(1), 0, who=WHO, delivered=True)
    os.set_blocking(reader, False)
    got = b""
    while chunk := _read(reader):
        got += chunk
    log.close()
    got += _read(reader)
    os.close(reader)
    os.close(writer)
    lines = got.splitlines()
    assert all(json.loads(line)["v"] == 1 for line in lines), "never half a record"
    assert json.loads(lines[-1])["lost_records"] > 0
    assert len(lines) < 3000


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    log = AuditLog(writer, policy="p", session="s")
    os.close(reader)
    log.record(snapshot(), SPEC, REFUSED, Outcome(1), 0, who=WHO, delivered=True)
    log.close()
    os.close(writer)
