"""Decisions of audit logs, taken again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli import replay as cli
from supervisor.errors import PolicyError
from supervisor.policy.records import Log
from tests.unit.policy.test_learn import mount, node

REFUSED: dict[str, Any] = {"verdict": "refuse", "rule": "old.yaml:2", "answered_by": "kernel"}


def run(tmp_path: Path, policy: str, *records: dict[str, Any] | str, output: str = "text") -> int:
    (tmp_path / "new.yaml").write_text(f"version: 1\nsyscalls:\n{policy}")
    (tmp_path / "log").write_text(
        "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records)
    )
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    words = ["--policy", str(tmp_path / "new.yaml"), "-o", output, str(tmp_path / "log")]
    return cli.main(parser.parse_args(words))


def test_what_flips_is_listed_with_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = node(b"/a", 0xAE8, **REFUSED)
    status = run(
        tmp_path,
        '  mknod:\n    - {devices: ["null"], do: {errno: EIO}}\n'
        "    - {devices: [kvm], do: emulate}\n",
        node(b"/x/null", 0x103),
        refused,
        {**refused, "repeats": 41},
        node(b"/x/zero", 0x105, **REFUSED),
        {"event": "session_end"},
        {"syscall": "unlink", "rule": "companion", "args": {}},
    )
    out = capsys.readouterr().out
    assert status == 1
    assert out == (
        '42 x mknod("/a", S_IFCHR|0666, makedev(10, 232))\n'
        "    was: refuse, by old.yaml:2\n    now: emulate, by new.yaml:5\n"
        '1 x mknod("/x/null", S_IFCHR|0666, makedev(1, 3))\n'
        "    was: emulate, by learn.yaml:13\n    now: errno EIO, by new.yaml:4\n"
        "44 calls decided again, 43 come out otherwise\n"
    )


def test_the_same_policy_flips_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = '  mknod:\n    - {devices: ["null"], path: "/x/*", uid: 0, do: emulate}\n'
    assert run(tmp_path, rules, node(b"y", 0x103, b"/x/null"), node(b"/q", 5, **REFUSED)) == 0
    assert "2 calls decided again, 0 come out otherwise" in capsys.readouterr().out


def test_what_was_not_recorded_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = "  mknod:\n    - {host_uid: 5, do: emulate}\n    - {path: /x/**, do: emulate}\n"
    plain = node(b"/x/y", 0x103)
    del plain["facts"]
    assert run(tmp_path, rules, plain, output="json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["calls"], row["flips"], row["not_recorded"]) == (1, [], 1)
    assert run(tmp_path, rules, node(b"y", 0x103, b"/a/y"), output="json") == 1
    (flip,) = json.loads(capsys.readouterr().out)["flips"]
    assert (flip["sure"], flip["after"]) == (False, "refuse")
    by_path = "  mknod:\n    - {path: /x/**, do: emulate}\n"
    assert run(tmp_path, by_path, node(b"y", 0x103, b"/a/y"), output="json") == 1
    (flip,) = json.loads(capsys.readouterr().out)["flips"]
    assert (flip["sure"], flip["after"]) == (True, "refuse")


def test_what_the_filter_does_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = (
        "  mknod:\n    - {devices: [zero], do: refuse, silent: true}\n"
        "    - {devices: [full], do: continue}\n"
    )
    records = [
        node(b"/a", 0x105, **REFUSED),
        node(b"/a", 0x107, verdict="continue", rule="x"),
        node(b"/a", 0x107, **REFUSED),
        mount(b"/a", b"/b"),
        mount(b"/a", b"/b", "tmpfs", verdict="continue", rule="y"),
    ]
    assert run(tmp_path, rules, *records, output="json") == 1
    flips = json.loads(capsys.readouterr().out)["flips"]
    assert {(flip["before"], flip["after"]) for flip in flips} == {
        ("refuse", "errno EPERM"),
        ("refuse", "the kernel decides"),
        ("emulate", "the kernel decides"),
    }


def test_modes_and_values_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = (
        "  mknod:\n    - {devices: [zero], mode: audit, do: {errno: EIO}}\n"
        "    - {do: {return: 5}}\n"
    )
    records = [
        node(b"/a", 0x105, verdict="errno", would="EIO", mode="audit"),
        node(b"/a", 0x105, verdict="errno", errno="EIO"),
        node(b"/a", 0x103, verdict="return", result=5),
        node(b"/a", 0x103, verdict="return", result=6),
    ]
    assert run(tmp_path, rules, *records, output="json") == 1
    flips = json.loads(capsys.readouterr().out)["flips"]
    assert {(flip["before"], flip["after"]) for flip in flips} == {
        ("errno EIO", "errno EIO (only recorded)"),
        ("return 6", "return 5"),
    }


def test_what_is_no_record_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = node(b"/a", 0x103)
    del broken["args"]["dev"]
    lost = {**node(b"/a", 0x103, **REFUSED), "lost_records": 7}
    strange: list[dict[str, Any]] = [{"rule": {}}, {"rule": None}, {"uid": "0"}]
    odd = [{**broken, **more} for more in strange]
    odd += [{**lost, "syscall": {}, "lost_records": 0}, {**lost, "arch": [], "lost_records": 0}]
    lines: list[Any] = ["not json", "[1]", "{" * 2000, '{"a":' * 9000, *odd, broken]
    lines += [lost, {**lost, "lost_records": 9}]
    assert run(tmp_path, "  mknod: []\n", *lines) == 0
    out = capsys.readouterr().out
    assert "2 calls decided again" in out
    assert "9 records of the logs had been lost" in out
    assert "9 lines are no records of this version" in out
    with pytest.raises(PolicyError, match="cannot read it"):
        list(Log({}).calls([tmp_path / "nothing"]))


def test_how_calls_are_carried_out_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node that nobody could open, and now everybody can, is what an admin wants to see."""
    closed = node(b"/a", 0x105, emulate={"realise": "closed"})
    rules = "  mknod:\n    - {devices: [zero], do: emulate}\n"
    assert run(tmp_path, rules, closed, output="json") == 1
    (flip,) = json.loads(capsys.readouterr().out)["flips"]
    assert flip["before"] == 'emulate {"realise": "closed"}'
    assert flip["after"] == "emulate as asked"
    same = "  mknod:\n    - {devices: [zero], do: {emulate: {realise: closed}}}\n"
    assert run(tmp_path, same, closed) == 0
    capsys.readouterr()
    made = {"syscall": "mkdir", "nr": 83, "args": {"pathname": "/a", "mode": 0o777}}
    led = {k: v for k, v in node(b"/a", 0).items() if k != "facts"} | made
    rules = "  mkdir:\n    - {path: /a, do: {redirect: /c}}\n"
    assert run(tmp_path, rules, led | {"emulate": {"redirect": "/b"}}, output="json") == 1
    (flip,) = json.loads(capsys.readouterr().out)["flips"]
    assert flip["after"] == 'emulate {"redirect": "/c"}'
    assert run(tmp_path, rules, led | {"emulate": {"redirect": "/c"}}) == 0


def test_what_led_nowhere_would_lead_nowhere_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of such a call nobody has seen where it leads, so a policy that grants it at first comes to
    the same error; one that refuses what is written does not."""
    failed = node(b"no/such", 0x105, result=None, errno="ENOENT")
    failed = {key: failed[key] for key in failed.keys() - {"result", "resolved", "facts", "how"}}
    by_path = "  mknod:\n    - {path: /x/**, do: {errno: EIO}}\n    - {path: /y/**, do: emulate}\n"
    assert run(tmp_path, by_path, failed, output="json") == 0
    assert json.loads(capsys.readouterr().out)["not_recorded"] == 1
    assert run(tmp_path, "  mknod:\n    - {do: refuse}\n", failed) == 1
    assert run(tmp_path, by_path, failed | {"errno": "EEXIST"}) == 1, "it was found"


def test_what_nobody_could_look_at_again_is_decided_by_the_first_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record says so since a call in audit mode may have gone on all the same."""
    rules = (
        "  mknod:\n    otherwise: kernel\n    rules:\n"
        "    - {path: /x/**, mode: audit, do: emulate}\n"
        "    - {path: /**, mode: audit, do: {errno: EIO}}\n"
    )
    gone = node(b"/x/../z/no/such", 0x105, mode="audit", answered_by="kernel", rule="new.yaml:4")
    gone = {key: gone[key] for key in gone.keys() - {"result", "resolved", "facts", "how"}}
    assert run(tmp_path, rules, gone) == 1, "nobody says whether it was looked at"
    capsys.readouterr()
    assert run(tmp_path, rules, gone | {"nowhere": "ENOENT"}, output="json") == 0
    assert json.loads(capsys.readouterr().out)["not_recorded"] == 0
    assert run(tmp_path, rules, gone | {"nowhere": ["ENOENT"]}, output="json") == 0
    assert json.loads(capsys.readouterr().out)["unread"] == 1
    assert run(tmp_path, "  mknod: [{do: refuse}]\n", gone | {"nowhere": "ENOENT"}) == 1
