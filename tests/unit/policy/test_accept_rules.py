"""Rules on who connects, from what docs/sockets.md promises; and the tools for policies on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.address_text import read
from supervisor.kernel.bpf import RET_ALLOW, RET_ERRNO, RET_USER_NOTIF
from supervisor.kernel.simulate import run as run_filter
from supervisor.kernel.syscalls import I386, X86_64, as_filtered, number, numbers
from supervisor.model import Decision, Facts, Snapshot, Verdict
from supervisor.plans import AskCaller, SocketCall
from supervisor.policy.call_text import parse
from supervisor.policy.compile import rules_of
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.draft import read_draft
from supervisor.policy.explain import explain
from supervisor.policy.lint import lint
from supervisor.policy.lxc_profile import lxc
from supervisor.policy.recorded import recorded
from supervisor.policy.smallest import smallest
from supervisor.policy.source import PolicyFindings
from supervisor.policy.traits import Traits
from tests.support.policies import policy
from tests.unit.policy.test_learn import clean, grants, learned
from tests.unit.policy.test_replay import run as replay

RULES = """version: 1
syscalls:
  accept:
    - {from: "10.0.0.0/8", port: "1-1023", do: emulate}
    - {from: "10.0.0.66", do: refuse}
    - {from: ["10.0.0.0/8", "::1"], uid: 0, do: emulate}
    - {family: unix, do: emulate}
"""
NOBODY = Facts(None, 0, 0)


def decide(compiled: CompiledPolicy, facts: Facts | None, name: str = "accept4") -> Decision:
    args = (3, 0, 0, 0) if name == "accept4" else (3, 0, 0)
    nr = number(name, X86_64)
    assert nr is not None
    return compiled.decide("accept", Snapshot(1, 1, X86_64, nr, 0, name, args), facts)


@pytest.mark.parametrize(
    ("peer", "uid", "line"),
    [
        ("10.0.0.66:1023", 5, 4),
        ("10.0.0.66:1024", 0, 5),
        ("10.0.0.67:1024", 0, 6),
        ("[::ffff:10.0.0.67]:1024", 0, 6),
        ("10.0.0.67:1024", 5, 0),
        ("[::1]:7", 0, 6),
        ("[::2]:7", 0, 0),
        ("0x0100", 9, 7),  # a unix socket without a name
        ("@name", 9, 7),
        ("/run/a.sock", 9, 7),
        ("0x2800ffff00000000", 0, -1),  # vsock
    ],
)
def test_who_connects_decides(peer: str, uid: int, line: int) -> None:
    compiled = policy(RULES)
    for name in ("accept", "accept4"):
        found = decide(compiled, Facts(None, uid, 0, peer=read(peer)), name)
        if line > 0:
            assert found.rule.endswith(f":{line}")
        granted = line > 0 and line != 5
        assert (found.verdict is Verdict.EMULATE) == granted
        assert not found.needs_facts


def test_nothing_is_decided_before_there_is_a_peer() -> None:
    compiled = policy(RULES)
    first = decide(compiled, None)
    assert (first.verdict, first.needs_facts) == (Verdict.EMULATE, True)
    everybody = policy("version: 1\nsyscalls:\n  accept:\n    - {do: emulate}\n")
    for one in (compiled, everybody):
        assert decide(one, None).needs_facts
        assert not decide(one, None).asks_caller
        assert decide(one, NOBODY).needs_facts
        # nor is one that the kernel says nothing of
        assert decide(one, NOBODY._replace(peer=b"")).verdict is Verdict.ERRNO
        asked = parse(FAMILIES, "accept(3, NULL, NULL)")
        assert asked.decided(one)[0].verdict is Verdict.REFUSE  # nobody knows who


SETTLED = {
    "{do: continue}": Verdict.CONTINUE, "{do: {errno: EXDEV}}": Verdict.ERRNO,
    "{do: {return: 7}}": Verdict.RETURN, "{do: kill}": Verdict.KILL,
    "{mode: audit, do: kill}": Verdict.KILL,
}  # fmt: skip


def accepts(*some: str, otherwise: str = "refuse") -> CompiledPolicy:
    lines = "".join(f"\n      - {rule}" for rule in some) or " []"
    return policy(
        f"version: 1\nsyscalls:\n  accept:\n    otherwise: {otherwise}\n    rules:{lines}\n"
    )


@pytest.mark.parametrize("rule", SETTLED)
def test_what_no_peer_has_a_say_in_is_settled_at_once(rule: str) -> None:
    for behind in ((), ('{from: "10.0.0.1", do: refuse}',), ("{uid: 0, do: emulate}",)):
        found = decide(accepts(rule, *behind), None)
        assert (found.verdict, found.needs_facts) == (SETTLED[rule], False)
    behind_a_peer = accepts('{from: "10.0.0.1", do: refuse}', rule)
    for facts in (None, NOBODY):
        found = decide(behind_a_peer, facts)
        assert (found.verdict, found.needs_facts) == (Verdict.EMULATE, True)
        assert not found.asks_caller
    with_peer = NOBODY._replace(peer=read("10.0.0.2:1"))
    assert decide(behind_a_peer, with_peer).verdict is SETTLED[rule]


@pytest.mark.parametrize("rule", SETTLED)
def test_who_calls_is_asked_before_anybody_is_taken(rule: str) -> None:
    compiled = accepts(rule.replace("{", "{uid: 5, ", 1), '{from: "10.0.0.1", do: emulate}')
    first = decide(compiled, None)
    assert (first.verdict, first.needs_facts, first.asks_caller) == (Verdict.EMULATE, True, True)
    snapshot = Snapshot(1, 1, X86_64, 43, 0, "accept", (3, 0, 0))
    made = FAMILIES["accept"].plan(snapshot, first)
    assert made == AskCaller(SocketCall("accept", 3, None))
    mine = decide(compiled, NOBODY._replace(uid=5))
    assert (mine.verdict, mine.needs_facts) == (SETTLED[rule], False)
    other = decide(compiled, NOBODY)
    assert (other.verdict, other.needs_facts) == (Verdict.EMULATE, True)
    # whoever has become somebody else meanwhile
    found = decide(compiled, NOBODY._replace(uid=5, peer=read("10.0.0.9:1")))
    assert found.verdict is SETTLED[rule]


def test_who_calls_is_not_asked_before_where_it_makes_no_difference() -> None:
    for some in (("{uid: 0, do: emulate}", "{do: emulate}"), ("{uid: 0, do: refuse}",)):
        first = decide(accepts(*some), None)
        assert (first.verdict, first.needs_facts, first.asks_caller) == (
            Verdict.EMULATE, True, False,
        )
    # a rule that takes some callers' connections stands before one that does not
    first = decide(accepts("{uid: 0, do: emulate}", "{do: {errno: EXDEV}}"), None)
    assert (first.verdict, first.asks_caller) == (Verdict.EMULATE, True)


def test_what_is_left_to_the_kernel_is_not_asked_for() -> None:
    left = accepts('{from: "10.0.0.1", do: refuse}', otherwise="kernel")
    assert decide(left, None).needs_facts
    assert decide(left, NOBODY._replace(peer=read("10.0.0.2:1"))).verdict is Verdict.CONTINUE
    nobody_asks = accepts("{uid: 0, do: continue}", otherwise="kernel")
    assert run_filter(nobody_asks.filter, 288, X86_64, [3, 0, 0, 0, 0, 0]).action == RET_ALLOW
    # of a call that only some callers are refused the rest goes on
    some = accepts("{uid: 5, do: {errno: EXDEV}}", otherwise="kernel")
    assert decide(some, None).asks_caller
    assert decide(some, NOBODY).verdict is Verdict.CONTINUE


@pytest.mark.parametrize(
    "section",
    [
        "[{do: {inject: {content: x}}}]", "[{do: {redirect: '127.0.0.1:1'}}]",
        "[{do: {emulate: {set: {SO_MARK: 1}}}}]",
        "[{do: {emulate: {network: host}}}]", "[{do: {emulate: {realise: bind}}}]",
        "[{to: '10.0.0.1', do: emulate}]",
        "[{path: /run/x, do: emulate}]", "[{from: '10.0.0.1', family: unix, do: emulate}]",
        "[{port: 1, family: unix, do: emulate}]",
    ],
)  # fmt: skip
def test_what_no_rule_can_say(section: str) -> None:
    with pytest.raises(PolicyFindings):
        policy(f"version: 1\nsyscalls:\n  accept: {section}\n")


@pytest.mark.parametrize("rule", ["mode: audit, do: refuse", "do: continue"])
def test_what_is_let_go_races_with_nothing(rule: str) -> None:
    """Who has connected lies in no memory of the caller's."""
    text = (
        f"version: 1\nsyscalls:\n  accept:\n    - {{from: '10.0.0.1', {rule}, ACCEPT}}\n"
        "    - {from: '10.0.0.2', do: {errno: EXDEV}}\n    - {do: emulate}\n"
    )
    policy(text.replace(", ACCEPT", ""))
    accepted = text.replace("ACCEPT", "accept_race: true")
    draft = read_draft(Path("x.yaml"), accepted.encode(), FAMILIES)
    lint(draft)
    assert [one.message for one in draft.source.everything()] == [
        "accept_race says nothing here: no pointer leads from this to a refusal"
    ]


def test_explain_says_what_is_settled_before_anybody_connects() -> None:
    compiled = accepts("{uid: 5, do: {errno: EXDEV}}", '{from: "10.0.0.1", do: emulate}')
    asked = parse(FAMILIES, "accept4(3, NULL, NULL, 0)")
    found = explain(compiled, asked.told({"uid": 5}))
    assert [(one.key, one.look) for one in found.tried] == [("", 2)]
    assert found.decision is not None
    assert found.decision.verdict is Verdict.ERRNO
    found = explain(compiled, asked.told({"uid": 6}))
    assert [one.key for one in found.tried] == ["uid", "from"]
    assert found.tried[1].objection == "nobody has said who connects"
    at_once = explain(accepts("{do: kill}"), asked)
    assert [(one.key, one.look) for one in at_once.tried] == [("", 1)]


def test_the_filter_notifies_all_of_them() -> None:
    compiled = policy(RULES)
    for arch in (X86_64, I386):
        for name in ("accept", "accept4"):
            for every in numbers(name, arch):
                nr, registers = as_filtered(every, [3, 0, 0, 0, 0, 0])
                action = run_filter(compiled.filter, nr, arch, registers).action
                assert action == RET_USER_NOTIF, (name, nr)
    assert run_filter(compiled.filter, 42, X86_64, [3, 0, 16, 0, 0, 0]).action == RET_ALLOW
    ring = run_filter(compiled.filter, 425, X86_64, [0] * 6).action
    assert ring & 0xFFFF0000 == RET_ERRNO


@pytest.mark.parametrize(
    ("name", "args", "flags"), [("accept", (3, 64, 80), 0), ("accept4", (3, 64, 80, 2048), 2048)]
)
def test_plans(name: str, args: tuple[int, ...], flags: int) -> None:
    snapshot = Snapshot(1, 1, X86_64, 0, 0, name, args)
    found = FAMILIES["accept"].plan(snapshot, Decision(Verdict.EMULATE, "x"))
    assert found == SocketCall("accept", 3, None, flags=flags, shown_at=(64, 80))


def test_explain_says_why() -> None:
    compiled = policy(RULES)
    asked = parse(FAMILIES, "accept4 sockfd=3 addr=0 addrlen=0 flags=0", X86_64)
    found = explain(compiled, asked.told({"peer": "10.0.0.66:2000"}))
    assert [(one.key, bool(one.objection)) for one in found.tried] == [("port", True), ("", False)]
    told = asked.told({"peer": "192.0.2.1:2000"})
    found = explain(compiled, told)
    assert [one.key for one in found.tried] == ["from", "from", "from", "family"]
    assert found.decision is not None
    assert found.decision.verdict is Verdict.REFUSE
    rules = compiled.families["accept"]
    new = smallest(rules, told, found.facts, FAMILIES, "private")
    assert new is not None
    assert new[0] == '{from: "192.0.2.1", do: emulate}'


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ('{sa_family=AF_INET, sin_port=htons(7), sin_addr=inet_addr("10.0.0.9")}, [128 => 16]', 4),
        ('{sa_family=AF_INET6, sin6_port=htons(7), sin6_flowinfo=htonl(0), '
         'inet_pton(AF_INET6, "::ffff:10.0.0.9", &sin6_addr), sin6_scope_id=0}, [28]', 4),
        ("{sa_family=AF_UNIX}, [110 => 2]", 7),
        ('{sa_family=AF_UNIX, sun_path=@"x"}, [110 => 4]', 7),
        ("NULL, NULL", 0), ("0x7ffc0123, [128]", 0),
    ],
)  # fmt: skip
def test_explain_reads_who_connects_as_strace_prints_it(address: str, line: int) -> None:
    compiled = policy(RULES)
    for text in (f"accept(3, {address}) = 4", f"[pid 7] accept4(3, {address}, SOCK_CLOEXEC) = 4"):
        asked = parse(FAMILIES, text, X86_64)
        decision = explain(compiled, asked).decision
        assert decision is not None
        assert (decision.verdict is Verdict.EMULATE) == bool(line) != asked.is_for_nobody
        assert not line or decision.rule.endswith(f":{line}")


def record(peer: str, **more: Any) -> dict[str, Any]:
    return {
        "v": 1, "session": "s", "policy": "p", "time": "t", "syscall": "accept4",
        "arch": "x86_64", "nr": 288, "uid": 0, "gid": 0,
        "args": {"sockfd": 3, "addr": 0, "addrlen": 0, "flags": 0}, "verdict": "emulate",
        "rule": "p.yaml:4", "result": 0, "facts": {"uid": 0, "gid": 0, "peer": peer},
    } | more  # fmt: skip


def test_a_policy_is_learned_from_records(tmp_path: Path) -> None:
    records = [record("10.0.0.1:4000"), record("10.0.0.2:5000"), record("0x0100")]
    text = learned(tmp_path, *records)
    assert '- {from: ["10.0.0.1", "10.0.0.2"], do: emulate}' in text
    assert "- {family: unix, do: emulate}" in text
    assert clean(text)
    assert all(grants(text, one) for one in records)


def test_who_was_refused_is_not_learned(tmp_path: Path) -> None:
    """A listener that does not block says EAGAIN then, as of a connection that is under way."""
    refused = record("10.0.0.3:4000", verdict="refuse", errno="EAGAIN")
    nobody = record("10.0.0.4:4000", errno="EAGAIN", facts={"uid": 0, "gid": 0})
    text = learned(tmp_path, record("10.0.0.1:4000"), refused, nobody)
    assert '- {from: "10.0.0.1", do: emulate}' in text
    assert "nobody wrote down" not in text


def test_replay_decides_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = recorded(FAMILIES, record("10.0.0.66:2000"))
    assert asked is not None
    assert asked.facts is not None
    assert asked.facts.peer == read("10.0.0.66:2000")
    rules = RULES.partition("syscalls:\n")[2]
    nobody = record("10.0.0.1:1", errno="EAGAIN", facts={})
    replay(
        tmp_path, rules, record("10.0.0.66:2000"), record("10.0.0.67:2000"), nobody, output="json"
    )
    (flip,) = json.loads(capsys.readouterr().out)["flips"]
    assert (flip["before"], flip["after"], flip["sure"]) == ("emulate", "refuse", True)


def test_replay_decides_what_was_settled_without_a_peer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settled = record("", verdict="errno", errno="EXDEV", facts={"uid": 5, "gid": 0})
    rule = "  accept: [{uid: 5, do: {errno: EACCES}}]\n"
    replay(tmp_path, rule, settled, output="json")
    (flip,) = json.loads(capsys.readouterr().out)["flips"]
    assert (flip["before"], flip["after"]) == ("errno EXDEV", "errno EACCES")


def test_profiles_of_lxc(tmp_path: Path) -> None:
    rules = rules_of(tmp_path / "p.yaml", RULES.encode(), Traits("private"), FAMILIES)
    lines = lxc(rules, None).splitlines()
    assert {"accept notify", "accept4 notify"} <= set(lines)
