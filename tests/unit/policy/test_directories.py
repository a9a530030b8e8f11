"""Rules of the family mkdir: what is decided, what the filter does, and what tools say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.bpf import RET_ALLOW, RET_USER_NOTIF, ret_errno
from supervisor.kernel.simulate import run
from supervisor.kernel.syscalls import I386, NATIVE_ARCHES, X86_64, number
from supervisor.model import DirectorySettings, Facts, Snapshot, Verdict
from supervisor.plans import MakeDirectory, Place
from supervisor.policy import selftest, smallest
from supervisor.policy.asked import Asked
from supervisor.policy.call_text import parse
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.draft import read_draft
from supervisor.policy.explain import explain
from supervisor.policy.leads import leads_to
from supervisor.policy.lint import lint
from supervisor.policy.recorded import recorded
from tests.support.policies import policy

ENOSYS = ret_errno(38)
A = 'mkdir("/a", 0755)'


def rules(*some: str, otherwise: str = "refuse", more: str = "") -> CompiledPolicy:
    """The first rule stands in line 6."""
    return policy(text_of(*some, otherwise=otherwise) + more)


def text_of(*some: str, otherwise: str = "refuse") -> str:
    lines = "".join(f"\n    - {rule}" for rule in some) or " []"
    return f"version: 1\nsyscalls:\n  mkdir:\n    otherwise: {otherwise}\n    rules:{lines}\n"


def asked(text: str, **caller: Any) -> Asked:
    return parse(FAMILIES, text).told(caller)


def warnings(*some: str, otherwise: str = "refuse") -> list[str]:
    draft = read_draft(Path("p.yaml"), text_of(*some, otherwise=otherwise).encode(), FAMILIES)
    draft.source.fail()
    lint(draft, "host")
    return [one.message for one in draft.source.everything()]


def test_what_is_not_named_is_refused_and_named_paths_are_made() -> None:
    found = rules('{path: ["/srv/**", "/a"], do: emulate}')
    for text, caller, wanted in (
        (A, {}, Verdict.EMULATE),
        ('mkdirat(AT_FDCWD, "/srv/b/c/", 0700)', {}, Verdict.EMULATE),
        ('mkdirat(3, "b", 0700)', {"cwd": "/srv"}, Verdict.EMULATE),
        ('mkdirat(3, "b", 0700)', {"cwd": "/etc"}, Verdict.REFUSE),
        ('mkdir("/srv/link/b", 0700)', {"resolved": "/etc/b"}, Verdict.REFUSE),
        ('mkdir("/b", 0755)', {"resolved": "/srv/b"}, Verdict.REFUSE),
        ('mkdir("/a/b", 0755)', {}, Verdict.REFUSE),
    ):
        assert asked(text, **caller).decided(found)[0].verdict is wanted, text
    left = rules('{path: "/a", do: emulate}', otherwise="kernel")
    assert asked('mkdir("/b", 0755)').decided(left)[0].verdict is Verdict.CONTINUE


def test_a_redirect_is_kept_with_the_policy_and_becomes_the_plan() -> None:
    found = rules('{path: "/a", do: {redirect: "/b/é"}}', '{path: "/c", do: emulate}')
    again = CompiledPolicy.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    decision, facts = asked(A).decided(again)
    assert facts is not None
    assert decision.settings == DirectorySettings("/b/é".encode())
    snapshot = Snapshot(1, 1, X86_64, 258, 0, "mkdirat", (7, b"a/", 0o1755))
    assert FAMILIES["mkdir"].plan(snapshot, decision) == MakeDirectory(
        Place(7, b"a/"), 0o1755, DirectorySettings("/b/é".encode())
    )
    assert asked('mkdir("/c", 0)').decided(again)[0].settings == DirectorySettings()


@pytest.mark.parametrize(
    ("do", "said"),
    [
        ("{redirect: b}", "redirect takes an absolute path"),
        ("{redirect: 7}", "redirect takes an absolute path"),
        ("{redirect: /a/../b}", 'without ".."'),
        ("{redirect: /a/}", "a slash at its end"),
        ("{redirect: /}", 'without ".."'),
        ('{redirect: "/a\\0b"}', "redirect takes an absolute path"),
        (f"{{redirect: /{'a' * 4095}}}", "no path is as long as that"),
        ("{emulate: {realise: bind}}", "emulate of mkdir takes no settings"),
        ("{inject: {content: a}}", "unknown action 'inject'"),
        ("{balance: [/a]}", "unknown action 'balance'"),
    ],
)
def test_what_do_cannot_be(do: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        rules(f"{{path: /a, do: {do}}}")


def test_a_redirect_is_in_the_place_of_something() -> None:
    with pytest.raises(Exception, match=r"p\.yaml:6:.*redirect needs a path"):
        rules("{uid: 0, do: {redirect: /b}}")


@pytest.mark.parametrize(
    ("some", "otherwise", "watched", "closed"),
    [
        (["{path: /a, do: emulate}"], "kernel", True, True),
        ([], "refuse", True, True),
        ([], "kernel", False, False),
        (["{path: /a, do: continue}"], "kernel", False, False),
        (["{do: continue}", "{path: /a, do: refuse}"], "refuse", False, True),
        (["{path: /a, mode: audit, do: refuse}"], "kernel", True, False),
        (["{do: refuse, silent: true}"], "kernel", True, True),
    ],
)
def test_the_filter_asks_where_more_than_the_kernel_has_a_say(
    some: list[str], otherwise: str, watched: bool, closed: bool
) -> None:
    """And what goes through a ring is closed where anything may come of it (it makes directories:
    IORING_OP_MKDIRAT)."""
    found = rules(*some, otherwise=otherwise)
    for arch in NATIVE_ARCHES:
        for name in ("mkdir", "mkdirat"):
            action = run(found.filter, number(name, arch) or 0, arch, (0, 0, 0)).action
            assert (action == RET_USER_NOTIF) is watched, (name, arch)
        ring = run(found.filter, number("io_uring_setup", arch) or 0, arch, (8, 0)).action
        assert ring == (ENOSYS if closed else RET_ALLOW)


def test_directories_give_no_device_and_bring_no_companions() -> None:
    found = rules("{do: emulate}", otherwise="kernel")
    assert found.ceiling == ()
    assert {spec.family for spec in found.calls.values()} == {"mkdir"}
    assert number("mkdir", I386) == 39


@pytest.mark.parametrize("rule", ["{path: /a, do: continue}", "{path: /a, mode: audit, do: kill}"])
def test_a_path_is_memory(rule: str) -> None:
    with pytest.raises(Exception, match="beside a refusal by path is a race with"):
        rules(rule)
    accepted = rule.replace("do:", "accept_race: true, do:")
    assert rules(accepted)
    assert any("gets past" in one for one in warnings(accepted))
    assert rules(rule, otherwise="kernel")
    assert rules("{uid: 0, do: continue}")


def test_who_calls_is_none() -> None:
    """A rule that answers matches nobody of whom nothing is known: that is no path."""
    told = "{executable: /usr/bin/*, do: {return: 0}}"
    assert rules(told, "{do: continue}")
    with pytest.raises(Exception, match="beside a refusal by path is a race with"):
        rules(told, "{path: /a, do: {return: 1}}", "{do: continue}")


def test_a_directory_that_is_made_elsewhere_is_not_got_past() -> None:
    rule = "{path: /a, do: {redirect: /b}}"
    with pytest.raises(Exception, match="beside a rule that leads elsewhere by path is a race"):
        rules(rule, otherwise="kernel")
    assert rules(rule, "{do: emulate}", otherwise="kernel")
    assert rules(rule, "{do: continue, accept_race: true}", otherwise="kernel")


def test_what_check_says() -> None:
    assert warnings('{path: "/srv/**", do: emulate}', "{do: refuse}") == []
    twice = warnings('{path: "/srv/**", do: emulate}', "{path: /srv/a, do: {redirect: /b}}")
    assert twice == ["this rule is never reached: p.yaml:6 decides all that it matches"]


def test_explain_says_which_rule_and_where_it_leads() -> None:
    found = rules('{path: "/srv/*", uid: 5, do: emulate}', "{path: /a, do: {redirect: /b}}")
    made = explain(found, asked(A))
    assert made.decision is not None
    assert made.decision.rule == "p.yaml:7"
    assert leads_to(made.decision, 0) == "/b"
    assert [one.objection for one in made.tried] == [
        "/a, where it leads, does not match /srv/*", ""
    ]  # fmt: skip
    refused = explain(found, asked('mkdir("/srv/a", 0)', uid=4))
    assert [(one.key, one.objection) for one in refused.tried] == [
        ("uid", "uid is 4"), ("path", "/srv/a, where it leads, does not match /a"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "caller", "rule"),
    [
        ('mkdir("/x/b c", 0755)', {}, '{path: "/x/b c", do: emulate}'),
        ('mkdirat(3, "b/", 0755)', {"cwd": "/x"}, '{path: "/x/b", do: emulate}'),
        ('mkdirat(3, "b", 0755)', {}, '{path: "**/b", do: emulate}'),
        ('mkdir("..", 0755)', {}, None),
    ],
)
def test_the_smallest_rule(text: str, caller: dict[str, str], rule: str | None) -> None:
    found, call = rules("{path: /a, do: emulate}"), asked(text, **caller)
    decision, facts = call.decided(found)
    assert decision.verdict is Verdict.REFUSE
    best = smallest.smallest(found.families["mkdir"], call, facts, FAMILIES, "host")
    assert best == (None if rule is None else (rule, ""))
    if rule is not None:
        careful = smallest.warnings(call, rule, FAMILIES)
        assert [one.partition(":")[0] for one in careful] == (
            ["where b leads is not known"] if "**" in rule else []
        )


def test_cases(tmp_path: Path) -> None:
    text = text_of("{path: /a, do: {redirect: /b}}", '{path: "/srv/*", do: emulate}')
    (tmp_path / "p.yaml").write_text(text)
    (tmp_path / "p.test.yaml").write_text("""cases:
  - {call: mkdir, args: {pathname: /a, mode: 0o755}, verdict: emulate, rule: 6, leads_to: /b}
  - {call: 'mkdirat(3, "b", 0700)', caller: {cwd: /srv}, verdict: emulate, rule: 7}
  - {call: mkdirat, args: {pathname: b}, caller: {cwd: /}, verdict: refuse, arch: i386}
""")
    report = selftest.run(tmp_path / "p.yaml", FAMILIES)
    assert [failure.text() for failure in report.failures] == []
    assert report.untried == ()


def test_a_path_that_could_not_be_read_is_no_grant_by_path() -> None:
    found = rules("{path: /a, do: emulate}", "{uid: 0, do: {errno: EROFS}}", otherwise="kernel")
    snapshot = Snapshot(1, 1, X86_64, 83, 0, "mkdir", (-14, 0o755))
    assert found.decide("mkdir", snapshot, Facts(None, 0, 0)).verdict is Verdict.ERRNO


def test_a_record_with_a_redirect_that_no_session_writes() -> None:
    record: dict[str, Any] = {
        "syscall": "mkdir", "arch": "x86_64", "nr": 83, "uid": 0, "gid": 0, "verdict": "emulate",
        "args": {"pathname": "/a", "mode": 493}, "result": 0, "resolved": "/a",
    }  # fmt: skip
    assert recorded(FAMILIES, {**record, "emulate": {"redirect": "/b\\xff"}}) is not None
    for wrong in ("b", "/b/..", 7):
        with pytest.raises(ValueError, match=r"redirect|record"):
            recorded(FAMILIES, {**record, "emulate": {"redirect": wrong}})
