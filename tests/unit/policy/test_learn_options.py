"""Policies learned from records of options of sockets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.bpf import RET_ALLOW, RET_USER_NOTIF
from supervisor.kernel.socket_options import named
from supervisor.policy.recorded import recorded
from tests.support.policies import policy
from tests.unit.policy.test_learn import clean, learned
from tests.unit.policy.test_replay import run as replay


def record(option: str, name: str = "setsockopt", number: int = 0, **more: Any) -> dict[str, Any]:
    """Of a 64-bit program, by one of the numbers of an option."""
    level, optname = named()[option][number]
    last = {"optval": None, "optlen": 4} if name == "setsockopt" else {"optval": 64, "optlen": 16}
    return {
        "v": 1, "session": "s", "policy": "p", "time": "t", "syscall": name, "arch": "x86_64",
        "nr": 54 if name == "setsockopt" else 55, "uid": 0, "gid": 0,
        "args": {"sockfd": 3, "level": level, "optname": optname, **last},
        "verdict": "emulate", "rule": "p.yaml:4", "result": 0,
    } | more  # fmt: skip


def test_one_rule_names_what_was_set(tmp_path: Path) -> None:
    records = [
        record("TCP_NODELAY"), record("SO_KEEPALIVE"), record("SO_KEEPALIVE"),
        record("SO_ERROR", "getsockopt"), record("SO_RCVTIMEO"), record("SO_RCVTIMEO", number=1),
        record("IP_TTL", verdict="continue", rule="p.yaml:7"),
    ]  # fmt: skip
    text = learned(tmp_path, *records)
    body = text[text.index("syscalls:") :]
    names = "IP_TTL, SO_KEEPALIVE, SO_RCVTIMEO, SO_RCVTIMEO_NEW, TCP_NODELAY"
    assert body == (
        f"syscalls:\n  setsockopt:\n    - {{optname: [{names}], do: continue}}\n"
        "  getsockopt:\n    - {optname: SO_ERROR, do: continue}\n"
    )
    assert clean(text)
    compiled = policy(text)
    for one in records:
        asked = recorded(FAMILIES, one)
        assert asked is not None
        assert asked.filtered(compiled.filter).action == RET_ALLOW
        assert asked.granted(compiled)
    other = recorded(FAMILIES, record("SO_MARK"))
    assert other is not None
    assert not other.granted(compiled)


def test_values_and_callers_of_rules_are_taken_over(tmp_path: Path) -> None:
    text = learned(
        tmp_path,
        record("TCP_KEEPIDLE", emulate={"value": 77}), record("TCP_MAXSEG", emulate={"value": 77}),
        record("TCP_CONGESTION", emulate={"value": "reno"}),
        record(
            "SO_MARK", caller={"capability": ["net_admin"]},
            facts={"uid": 0, "gid": 0, "capabilities": ["net_admin"]},
        ),
        record("TCP_CORK"),
    )  # fmt: skip
    assert text[text.index("  setsockopt:") :].splitlines()[1:] == [
        "    - {optname: SO_MARK, capability: net_admin, do: continue}",
        "    - {optname: [TCP_MAXSEG, TCP_KEEPIDLE], do: {emulate: {value: 77}}}",
        "    - {optname: TCP_CONGESTION, do: {emulate: {value: reno}}}",
        "    - {optname: TCP_CORK, do: continue}",
    ]


@pytest.mark.parametrize("more", [
    {"verdict": "refuse", "errno": "EPERM"}, {"verdict": "return", "result": 0},
    {"mode": "audit"}, {"mode": "audit", "verdict": "continue"}, {"errno": "ENOPROTOOPT"},
])  # fmt: skip
def test_what_was_not_granted_is_not_learned(tmp_path: Path, more: dict[str, Any]) -> None:
    text = learned(tmp_path, record("TCP_NODELAY"), record("SO_MARK", **more))
    assert "- {optname: TCP_NODELAY, do: continue}" in text
    assert not any("SO_MARK" in line for line in text.splitlines() if not line.startswith("#"))


def test_what_came_by_socketcall_is_learned_and_replayed_as_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_socketcall = record("SO_KEEPALIVE", arch="i386", nr=102)
    text = learned(tmp_path, by_socketcall)
    assert "- {optname: SO_KEEPALIVE, do: continue}" in text
    asked = recorded(FAMILIES, by_socketcall)
    assert asked is not None
    assert asked.filtered(policy(text).filter).action == RET_USER_NOTIF
    rule = "  setsockopt: [{optname: SO_MARK, do: refuse}, {optname: SO_KEEPALIVE, do: kill}]\n"
    replay(tmp_path, rule, by_socketcall, output="json")
    (flip,) = json.loads(capsys.readouterr().out)["flips"]
    assert (flip["before"], flip["after"]) == ("emulate", "kill")
