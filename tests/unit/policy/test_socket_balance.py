"""Rules that share calls out to backends: read, kept, recorded, learned, explained."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel import bpf, simulate
from supervisor.kernel.address_text import read
from supervisor.kernel.syscalls import I386, X86_64
from supervisor.model import Balance, SocketSettings
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.leads import leads_to, led_to
from supervisor.policy.recorded import recorded
from supervisor.policy.said import settings_of
from supervisor.policy.schema import json_schema
from supervisor.policy.sockets import SocketRules
from supervisor.policy.source import PolicyFindings
from tests.support.policies import policy
from tests.unit.policy.test_learn import clean, grants, learned
from tests.unit.policy.test_socket_rules import connect, decide, findings
from tests.unit.policy.test_socket_tools import call

TWO = '["10.0.0.1:80", "10.0.0.2"]'
SET = "set: {TCP_NODELAY: 1, TCP_CONGESTION: 'reno'}"
FULL = f"{{to: {TWO}, by: hash, rest: 2s, wait: 500ms, peername: asked, {SET}}}"


def settings(do: str) -> SocketSettings:
    rules = connect(f'to: "203.0.113.7", do: {{balance: {do}}}').families["connect"]
    assert isinstance(rules, SocketRules)
    return rules.rules[0].settings


def test_what_a_rule_says() -> None:
    to = (read("10.0.0.1:80"), read("10.0.0.2:0"))
    assert settings(TWO) == SocketSettings(balance=Balance(to, "round-robin", 10, 5))
    expected = SocketSettings(
        balance=Balance(to, "hash", 2, 0.5), peername=True,
        options=(("TCP_NODELAY", 1), ("TCP_CONGESTION", "reno")),
    )  # fmt: skip
    assert settings(FULL) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("700ms", 0.7), ("1.1s", 1.1), ("1001ms", 1.001), ("0.3m", 18.0), ("2m", 120.0), ("3", 3.0)],
)
def test_times_are_what_was_written(text: str, seconds: float) -> None:
    """To the last digit: they are shown in records, and in what is learned of those."""
    balance = settings(f"{{to: {TWO}, wait: {text}}}").balance
    assert balance is not None
    assert repr(balance.wait) == repr(seconds)


def test_a_compiled_policy_keeps_it() -> None:
    policy = connect(f'to: "203.0.113.7", do: {{balance: {FULL}}}')
    again = CompiledPolicy.from_json(json.loads(json.dumps(policy.to_json())))
    assert again.families == policy.families
    assert again.balances == policy.balances == {settings(FULL).balance}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ('to: "1.2.3.4", do: {balance: "10.0.0.1:80"}', "a list of backends"),
        ('to: "1.2.3.4", do: {balance: []}', "a list of backends"),
        ('to: "1.2.3.4", do: {balance: ["10.0.0.1:80", localhost]}', "no address to lead to"),
        ('to: "1.2.3.4", do: {balance: ["10.0.0.1:80", "10.0.0.1:80"]}', "twice"),
        (f'to: "1.2.3.4", do: {{balance: {{to: {TWO}, by: random}}}}', "by is round-robin"),
        (f'to: "1.2.3.4", do: {{balance: {{to: {TWO}, rest: -1}}}}', "between 1ms"),
        (f'to: "1.2.3.4", do: {{balance: {{to: {TWO}, weight: 1}}}}', "unknown setting"),
        ('to: "1.2.3.4", do: {balance: {by: hash}}', "'to' is missing"),
        (f"port: 80, do: {{balance: {TWO}}}", "balance leads elsewhere"),
        (f"path: /x, do: {{balance: {TWO}}}", "has no port"),
        (f'to: "1.2.3.4", do: {{balance: {[f"1.1.1.{n}" for n in range(65)]}}}', "no more than 64"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_rule(rule: str, said: str) -> None:
    (message,) = findings(rule)
    assert said in message


HOST = "do: {emulate: {network: host}}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"connect: [{{{HOST}}}]", "needs rules on bind"),
        (f"bind: [{{{HOST}}}]", "needs rules on connect"),
        (f"connect: [{{{HOST}}}]\n  bind: {{otherwise: kernel, rules: []}}", "needs rules on bind"),
        (f"connect: [{{path: /x, {HOST}}}]\n  bind: [{{do: emulate}}]", "IPv4 and IPv6"),
        ("connect: [{do: {emulate: {network: own}}}]", "network is host"),
    ],
)
def test_the_hosts_network_is_gated_as_a_whole(text: str, said: str) -> None:
    with pytest.raises(PolicyFindings) as caught:
        policy(f"version: 1\nsyscalls:\n  {text}\n")
    assert [said in finding.message for finding in caught.value.findings] == [True]


def test_what_the_hosts_network_takes() -> None:
    made = policy(f"version: 1\nsyscalls:\n  connect: [{{{HOST}}}]\n  bind: [{{do: emulate}}]\n")
    assert made.hosts
    for arch, nr, *args in ((X86_64, 50, 3), (I386, 363, 3), (I386, 102, 4)):
        assert simulate.run(made.filter, nr, arch, args).action == bpf.RET_USER_NOTIF
    rules = made.families["connect"]
    assert isinstance(rules, SocketRules)
    assert settings_of(rules.rules[0].decision()) == {"network": "host"}
    again = CompiledPolicy.from_json(json.loads(json.dumps(made.to_json())))
    assert again.families == made.families
    other = policy("version: 1\nsyscalls:\n  connect: [{do: emulate}]\n")
    assert not other.hosts
    assert simulate.run(other.filter, 50, X86_64, (3, 1)).action == bpf.RET_ALLOW


def test_for_an_editor() -> None:
    schema = json_schema(FAMILIES)
    rule = "- {to: 1.2.3.4, do: {balance: %s}}"
    for do in (TWO, FULL):
        jsonschema.validate(
            {"version": 1, "syscalls": {"connect": yaml.safe_load(rule % do)}}, schema
        )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            {"version": 1, "syscalls": {"connect": yaml.safe_load(rule % "[]")}}, schema
        )


def test_nowhere_else_than_to_a_backend() -> None:
    decision = decide(connect(f'to: "203.0.113.7", do: {{balance: {FULL}}}'), "203.0.113.7:99")
    assert led_to(decision.settings, read("203.0.113.7:99")) == read("10.0.0.1:80")
    said = leads_to(decision, read("203.0.113.7:99"))
    assert said == "one of 10.0.0.1:80, 10.0.0.2:99 (hash)"


def test_a_policy_is_learned_from_records(tmp_path: Path) -> None:
    decision = decide(connect(f'to: "203.0.113.7", do: {{balance: {FULL}}}'), "203.0.113.7:99")
    said = json.loads(json.dumps(settings_of(decision)))
    record = call("203.0.113.7:99", emulate=said)
    text = learned(tmp_path, record)
    assert (
        'do: {balance: {to: ["10.0.0.1:80", "10.0.0.2"], by: hash, rest: 2.0, wait: 0.5, '
        "peername: asked, set: {TCP_NODELAY: 1, TCP_CONGESTION: reno}}}"
    ) in text
    assert clean(text)
    assert grants(text, record)


def test_the_hosts_network_is_learned_with_what_it_needs(tmp_path: Path) -> None:
    record = call("203.0.113.7:99", emulate={"network": "host", "set": {"TCP_NODELAY": 1}})
    text = learned(tmp_path, record)
    assert "do: {emulate: {network: host, set: {TCP_NODELAY: 1}}}" in text
    assert "\n  bind: []\n" in text
    assert grants(text, record)
    both = learned(tmp_path, record, call("127.0.0.1:8080", "bind"))
    assert "bind: []" not in both


@pytest.mark.parametrize(
    "more",
    [
        {"balance": "10.0.0.1:80"}, {"balance": [1]}, {"balance": ["10.0.0.1:80"], "by": "x}"},
        {"redirect": "10.0.0.1:80", "peername": ["asked"]}, {"redirect": ["10.0.0.1:80"]},
        {"set": {"SO_LINGER": 1}}, {"set": []}, {"network": "own"},
    ],
)  # fmt: skip
def test_what_no_session_writes_is_not_believed(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no settings"):
        recorded(FAMILIES, call("203.0.113.7:99", emulate=more))
