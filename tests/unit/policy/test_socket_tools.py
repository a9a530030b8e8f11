"""The tools for policies, on sockets: learn, replay, test, check, profile."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli import check
from supervisor.errors import PolicyError
from supervisor.handlers.registry import FAMILIES
from supervisor.model import Verdict
from supervisor.policy import selftest
from supervisor.policy.compile import rules_of
from supervisor.policy.lxc_profile import lxc
from supervisor.policy.profile import oci
from supervisor.policy.recorded import recorded
from supervisor.policy.traits import Traits
from tests.support.policies import policy
from tests.unit.policy.test_learn import clean, grants, learned
from tests.unit.policy.test_replay import run as replay

RULES = """version: 1
syscalls:
  connect:
    - {to: "10.0.0.0/8", port: 443, do: emulate}
    - {path: "/run/**", do: emulate}
    - {abstract: "x*", do: {errno: ENOENT}}
"""
TRANSLATED = """    - {to: "203.0.113.0/24", do: {translate: "64:ff9b::/96"}}
"""


def call(address: str | None, name: str = "connect", **more: Any) -> dict[str, Any]:
    args: dict[str, dict[str, Any]] = {
        "connect": {"sockfd": 3, "addr": address, "addrlen": 16},
        "bind": {"sockfd": 3, "addr": address, "addrlen": 16},
        "sendmsg": {"sockfd": 3, "msg": address, "flags": 0},
    }
    return {
        "v": 1, "session": "s", "policy": "p", "time": "t", "syscall": name, "arch": "x86_64",
        "nr": 42, "uid": 0, "gid": 0, "args": args[name], "verdict": "emulate",
        "rule": "p.yaml:4", "result": 0,
    } | more  # fmt: skip


def test_a_policy_is_learned_from_records(tmp_path: Path) -> None:
    facts = {"uid": 0, "gid": 0}
    records = [
        call("10.0.0.1:443"), call("10.0.0.2:443"), call("[2001:db8::1]:53", "sendmsg"),
        call("/run/a.sock", resolved="/run/a.sock", facts=facts), call(None, "sendmsg"),
        call("unix:b.sock", resolved="/run/b.sock", facts=facts), call("@x[1]"),
        call("netlink:0:0"), call("127.0.0.1:8080", "bind"),
    ]  # fmt: skip
    text = learned(tmp_path, *records)
    assert '- {to: ["10.0.0.1", "10.0.0.2"], port: 443, do: emulate}' in text
    assert '- {address: "127.0.0.1", port: 8080, do: emulate}' in text
    assert '- {path: ["/run/a.sock", "/run/b.sock"], do: emulate}' in text
    assert clean(text)
    assert all(grants(text, record) for record in records)
    assert not grants(text, call("10.0.0.3:443"))
    assert not grants(text, call("@x1"))


def test_a_record_is_decided_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = '  connect:\n    - {to: "10.0.0.1", do: emulate}\n'
    status = replay(tmp_path, rules, call("10.0.0.1:80"), call("10.0.0.2:80"))
    out = capsys.readouterr().out
    assert status == 1
    assert 'sin_addr=inet_addr("10.0.0.2")' in out
    assert "2 calls decided again, 1 come out otherwise" in out


def test_cases(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(RULES + TRANSLATED)
    (tmp_path / "p.test.yaml").write_text("""cases:
  - {call: connect, args: {addr: "10.0.0.1:443"}, verdict: emulate, rule: 4}
  - {call: sendto, args: {dest_addr: "[::ffff:10.0.0.1]:443"}, verdict: emulate, rule: 4}
  - {call: sendto, args: {len: 5}, verdict: allow}
  - {call: sendmsg, args: {}, verdict: emulate}
  - {call: connect, args: {addr: "unix:a"}, caller: {cwd: /run}, verdict: emulate, rule: 5}
  - {call: connect, args: {addr: /run/a}, caller: {resolved: /tmp/a}, verdict: refuse}
  - {call: connect, arch: i386, args: {addr: "@x1"}, verdict: errno, errno: ENOENT, rule: 6}
  - {call: bind, args: {addr: "0.0.0.0:80"}, verdict: allow}
  - {call: connect, args: {addr: "203.0.113.7:80"}, verdict: emulate,
     leads_to: "[64:ff9b::cb00:7107]:80"}
""")
    report = selftest.run(tmp_path / "p.yaml", FAMILIES)
    assert [failure.text() for failure in report.failures] == []
    assert report.untried == ()


def test_check_says_what_is_refused_besides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text(RULES)
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    assert check.main(parser.parse_args([str(tmp_path / "p.yaml")])) == 0
    assert "io_uring_setup is refused (errno ENOSYS)" in capsys.readouterr().out


def test_profiles(tmp_path: Path) -> None:
    """runc and crun take their listener out by other ways than a call that is notified."""
    rules = rules_of(tmp_path / "p.yaml", RULES.encode(), Traits("private"), FAMILIES)
    made = oci(rules, None, listener="/run/x.sock", metadata=None)
    names = {name for entry in made["syscalls"] for name in entry["names"]}
    assert {"connect", "sendmsg", "sendmmsg", "sendto", "socketcall", "socket"} < names


def test_a_profile_for_lxc(tmp_path: Path) -> None:
    """Calls of i386 on sockets cannot be named there: only what is named is allowed."""
    rules = rules_of(tmp_path / "p.yaml", RULES.encode(), Traits("private"), FAMILIES)
    base = "2\ndenylist\nreject_force_umount\n[all]\nkexec_load errno 1\nswapon # none\n"
    for given in (None, base):
        lines = lxc(rules, given).splitlines()
        assert lines[:3] == ["2", "allowlist errno 38", "[all]"]
        assert {"connect notify", "sendmsg notify", "read allow", "bind allow"} < set(lines)
        assert "connect allow" not in lines
        assert not [line for line in lines[2:] if line.endswith(" 38")]
        # as in a list of what is refused, and no more than that
        assert ("swapon kill" in lines) == ("swapon allow" not in lines) == (given is not None)
        assert ("kexec_load errno 1" in lines) == (given is not None)
        forced = [line for line in lines if line.startswith("umount2")]
        assert forced == ["umount2 allow" + " [1,0,SCMP_CMP_MASKED_EQ,1]" * (given is not None)]
    listed = lxc(rules, "2\nallowlist\n[all]\nread\nconnect\n").splitlines()
    assert (listed[1], listed.count("read"), "write allow" in listed) == ("allowlist", 1, False)
    for other in ("[x86]\nswapon errno 1", "[all]\nread errno 1 [0,1,SCMP_CMP_EQ]"):
        with pytest.raises(PolicyError):
            lxc(rules, f"2\ndenylist\n{other}\n")


def test_a_record_keeps_what_the_decision_depends_on() -> None:
    asked = recorded(FAMILIES, call("[::ffff:10.0.0.1]:443"))
    assert asked is not None
    decision, _ = asked.decided(policy(RULES))
    assert decision.verdict is Verdict.EMULATE
    assert json.dumps(asked.text())
