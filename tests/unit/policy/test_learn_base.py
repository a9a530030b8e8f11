"""Policies learned from records and the policy that they were written under."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli import learn as cli
from tests.support.policies import policy
from tests.unit.policy.test_learn import clean, node
from tests.unit.policy.test_learn_options import record


def learned(tmp_path: Path, base: str, *records: dict[str, Any], merge: str | None = None) -> str:
    log, out, file = (tmp_path / name for name in ("log", "out.yaml", "base.yaml"))
    log.write_text("".join(json.dumps(one) + "\n" for one in records))
    out.unlink(missing_ok=True)
    file.write_text(f"version: 1\n{base}")
    cli.learn([log], str(out), merge=merge, base=str(file))
    return out.read_text()


OPTIONS = """lists: {some: [SO_MARK, SO_COOKIE]}
syscalls:
  getsockopt:
    otherwise: kernel
    rules:
      - {optname: SO_REUSEADDR, do: {emulate: {value: 5}}}
      - {optname: $some, capability: net_admin, mode: audit, do: {errno: EIO}}
      - {optname: $some, do: refuse}
      - {optname: SO_ERROR, do: {return: 0}}
"""


def test_what_a_base_leaves_to_the_kernel_is_left_to_it(tmp_path: Path) -> None:
    """With what it refuses, of which the records need say nothing."""
    text = learned(tmp_path, OPTIONS, record("SO_REUSEADDR", "getsockopt", emulate={"value": 5}))
    assert text[text.index("syscalls:") :] == (
        "syscalls:\n  getsockopt:\n"
        "    # as base.yaml has it: what it left to the kernel is in no record\n"
        "    otherwise: kernel\n    rules:\n"
        "      - {optname: SO_REUSEADDR, do: {emulate: {value: 5}}}\n"
        "      # as base.yaml:8 has it\n"
        "      - {optname: [SO_MARK, SO_COOKIE], capability: net_admin, mode: audit, "
        "do: {errno: EIO}}\n"
        "      # as base.yaml:9 has it\n      - {optname: [SO_MARK, SO_COOKIE], do: refuse}\n"
        "      # as base.yaml:10 has it\n      - {optname: SO_ERROR, do: {return: 0}}\n"
    )
    assert clean(text)
    assert policy(text)


def test_what_a_base_refuses_is_not_let_go_for_lack_of_rules(tmp_path: Path) -> None:
    text = learned(tmp_path, "syscalls: {connect: [{to: 10.0.0.1, do: emulate}]}\n")
    assert text.endswith("syscalls:\n  connect: []\n")
    text = learned(tmp_path, "syscalls: {connect: [{do: emulate}], mkdir: {otherwise: kernel}}\n")
    assert text.endswith("syscalls: {}\n")
    text = learned(tmp_path, "mode: audit\nsyscalls: {connect: []}\n")
    assert text.endswith("syscalls: {}\n")


def test_what_a_base_refuses_of_opens_stays_refused(tmp_path: Path) -> None:
    """Beside what goes on that is a race, which the base has accepted."""
    refused = '{path: "/a", do: {errno: EIO}}'
    goes_on = "{do: continue, accept_race: true}"
    text = learned(tmp_path, f"syscalls: {{open: [{refused}, {goes_on}]}}\n")
    rules = [line.strip() for line in text.splitlines() if line.strip().startswith("- ")]
    assert rules == [f"- {refused}", f"- {goes_on}"]
    assert policy(text)


def test_what_would_race_is_done_as_the_caller(tmp_path: Path) -> None:
    """A rule that emulates stood behind it, or it was accepted to be one."""
    base = "syscalls: {mkdir: [{path: /a/**, do: continue}, {path: /b, mode: audit, do: refuse}, "
    made = {"syscall": "mkdir", "nr": 83, "args": {"pathname": "/c", "mode": 0o777}}
    text = learned(tmp_path, base + "{do: emulate}]}\n", node(b"/c", 0) | made)
    rules = [line.strip() for line in text.splitlines() if line.strip().startswith("- ")]
    assert rules == [
        '- {path: "/c", do: emulate}', '- {path: "/a/**", do: emulate}',
        '- {path: "/b", do: emulate}',
    ]  # fmt: skip
    assert clean(text)
    base = "syscalls: {mkdir: {otherwise: kernel, rules: [{path: /a, do: refuse}, "
    text = learned(tmp_path, base + "{do: continue, accept_race: true}]}}\n")
    rules = [line.strip() for line in text.splitlines() if line.strip().startswith("- ")]
    assert rules == ['- {path: "/a", do: refuse}', "- {do: emulate}"]
    assert clean(text)


def test_what_nobody_can_do_as_the_caller_is_refused_and_said(tmp_path: Path) -> None:
    base = "syscalls: {mknod: [{devices: [zero], path: /a, do: continue, accept_race: true}, "
    text = learned(tmp_path, base + "{devices: ['null'], do: emulate}]}\n", node(b"/x", 0x103))
    assert '- {devices: ["null"], path: "/x", do: emulate}' in text
    assert "/a" not in text
    assert "# mknod: refused but for the rules below. base.yaml let more go" in text
    assert clean(text)


def test_how_it_was_refused_counts_where_it_was_asked_for(tmp_path: Path) -> None:
    """A program that was told 0 goes on."""
    base = (
        "syscalls:\n  mknod:\n    - {devices: [zero], do: {return: 0}}\n"
        "    - {devices: [full], do: {errno: EIO}}\n    - {devices: ['null'], do: emulate}\n"
    )
    told = node(b"/x", 0x105, verdict="return", rule="base.yaml:4", result=0)
    text = learned(tmp_path, base, told)
    assert "  mknod:\n    # as base.yaml:4 has it\n    - {devices: zero, do: {return: 0}}\n" in (
        text.replace("[zero]", "zero")
    )
    assert "EIO" not in text


def test_an_admins_refusal_stays_in_a_merge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("version: 1\nsyscalls: {getsockopt: [{optname: SO_TYPE, do: continue}]}\n")
    asked = record("SO_REUSEADDR", "getsockopt", emulate={"value": 5})
    text = learned(tmp_path, OPTIONS, asked, merge=str(old))
    assert "otherwise" not in text
    assert "base.yaml lets calls of getsockopt go that are in no record" in capsys.readouterr().err
    old.write_text("version: 1\nsyscalls: {mknod: []}\n")
    text = learned(tmp_path, OPTIONS, asked, merge=str(old))
    assert "getsockopt: {otherwise: kernel, rules: [" in text
    assert "do: refuse" in text
    assert "in no record" not in capsys.readouterr().err
