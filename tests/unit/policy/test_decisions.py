"""Decisions, from the semantics that docs/policies.md promises."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from supervisor.kernel.syscalls import I386
from supervisor.model import Decision, Facts, Settings, Snapshot, Verdict
from supervisor.policy import callers, rules
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.match import glob_matches, glob_regex, lexical
from tests.support.policies import BLOCK, call, device, mknod, node_rules, policy

ROOT = Facts(b"/dev/null", 0, 0)


def decide(policy: CompiledPolicy, snapshot: Snapshot, facts: Facts | None = None) -> Decision:
    return policy.decide("mknod", snapshot, facts)


def test_first_match_decides_and_nothing_is_a_refusal() -> None:
    compiled = mknod(
        '{devices: ["null"], do: {errno: ENXIO}}',
        '{devices: ["char 1:*"], do: emulate}',
        '{devices: ["null", "char 2:0"], do: kill}',
    )
    first = decide(compiled, call(b"x"))
    assert (first.verdict, first.value, first.rule) == (Verdict.ERRNO, 6, "p.yaml:6")
    assert decide(compiled, call(b"x", dev=0x105)).verdict is Verdict.EMULATE
    assert decide(compiled, call(b"x", dev=device(2, 0))).verdict is Verdict.KILL
    other = decide(compiled, call(b"x", dev=device(3, 0)))
    assert (other.verdict, other.rule) == (Verdict.REFUSE, "p.yaml:4")
    assert decide(compiled, call(b"x", mode=BLOCK)).verdict is Verdict.REFUSE
    kernel = mknod('{devices: ["null"], do: emulate}', otherwise="kernel")
    assert decide(kernel, call(b"x", dev=1)).verdict is Verdict.CONTINUE


def test_numbers_are_split_as_the_kernel_splits_them() -> None:
    compiled = mknod('{devices: ["char 4095:1048575", "block 259:70000-70002"], do: emulate}')
    assert decide(compiled, call(b"x", dev=0xFFFFFFFF)).verdict is Verdict.EMULATE
    yes = call(b"x", mode=BLOCK | 0o600, dev=device(259, 70001), arch=I386)
    assert decide(compiled, yes).verdict is Verdict.EMULATE
    no = call(b"x", mode=BLOCK, dev=device(259, 70003))
    assert decide(compiled, no).verdict is Verdict.REFUSE


def test_settings_travel_with_the_decision() -> None:
    compiled = mknod('{devices: ["null"], do: {emulate: {realise: bind}}}', "{do: {return: 7}}")
    assert decide(compiled, call(b"x")).settings == Settings("bind")
    returned = decide(compiled, call(b"x", dev=1))
    assert (returned.verdict, returned.value) == (Verdict.RETURN, 7)


def test_a_rule_without_conditions_needs_one_look_alone() -> None:
    compiled = mknod('{devices: ["null"], do: emulate}', "{path: /dev/**, do: emulate}")
    assert not decide(compiled, call(b"x")).needs_facts
    assert decide(compiled, call(b"x", dev=1)).needs_facts


@pytest.mark.parametrize("written", [b"dev/null", b"/a/../dev/null", b"/dev/null", b"//dev/./null"])
def test_a_granting_path_is_looked_at_twice(written: bytes) -> None:
    compiled = mknod("{path: /dev/**, do: emulate}")
    first = decide(compiled, call(written))
    assert first.verdict is Verdict.EMULATE
    assert first.needs_facts
    second = decide(compiled, call(written), ROOT)
    assert (second.verdict, second.needs_facts) == (Verdict.EMULATE, False)
    assert decide(compiled, call(written), Facts(b"/etc/x", 0, 0)).verdict is Verdict.REFUSE
    assert decide(compiled, call(written), Facts(None, 0, 0)).verdict is Verdict.REFUSE


def test_a_path_that_surely_does_not_match_is_refused_at_once() -> None:
    compiled = mknod("{path: /dev/**, do: emulate}")
    refused = decide(compiled, call(b"/etc/null"))
    assert (refused.verdict, refused.needs_facts) == (Verdict.REFUSE, False)


def test_a_refusing_path_matches_at_first_only_where_it_surely_does() -> None:
    compiled = mknod("{path: /etc/**, do: {errno: EACCES}}", "{do: emulate}")
    assert decide(compiled, call(b"/etc/x")).verdict is Verdict.ERRNO
    for written in (b"x", b"/dev/../etc/x", b"/dev/x"):
        first = decide(compiled, call(written))
        assert (first.verdict, first.needs_facts) == (Verdict.EMULATE, True)
        assert decide(compiled, call(written), Facts(b"/etc/x", 0, 0)).verdict is Verdict.ERRNO
        assert decide(compiled, call(written), Facts(None, 0, 0)).verdict is Verdict.ERRNO
        assert decide(compiled, call(written), ROOT).verdict is Verdict.EMULATE


def test_ids_are_known_at_the_second_look() -> None:
    compiled = mknod('{uid: [0, "1000-1999"], gid: 5, do: emulate}', "{uid: 7, do: kill}")
    assert decide(compiled, call(b"x")).needs_facts
    for uid, gid, verdict in (
        (0, 5, Verdict.EMULATE),
        (1500, 5, Verdict.EMULATE),
        (2000, 5, Verdict.REFUSE),
        (0, 6, Verdict.REFUSE),
        (7, 5, Verdict.KILL),
    ):
        assert decide(compiled, call(b"x"), Facts(b"/x", uid, gid)).verdict is verdict
    # A refusal by ids alone must not be lost at the first look of what else would be granted.
    strict = mknod("{uid: 7, do: kill}", "{do: emulate}")
    first = decide(strict, call(b"/x"))
    assert (first.verdict, first.needs_facts) == (Verdict.EMULATE, True)


def test_an_unreadable_path_decides_as_an_unknown_one() -> None:
    compiled = mknod("{path: /dev/**, do: emulate}")
    assert decide(compiled, call(-14)).verdict is Verdict.EMULATE
    assert decide(compiled, call(-14, dev=0x105)).needs_facts


def test_companions_are_emulated() -> None:
    compiled = mknod("{do: emulate}")
    spec = next(spec for spec in compiled.calls.values() if spec.name == "unlink")
    snapshot = Snapshot(1, 1, I386, 10, 0, "unlink", (b"x",))
    assert compiled.decide(spec.family, snapshot).verdict is Verdict.EMULATE


def test_silent_travels() -> None:
    assert decide(
        mknod("{uid: 3, do: refuse, silent: true}"), call(b"x"), Facts(b"/x", 3, 0)
    ).silent


def test_json_round_trip() -> None:
    compiled = mknod(
        '{devices: ["null", "block 7:0-7"], path: ["/a/**", "/é"], uid: 0, gid: 1-2, do: emulate}',
        "{do: {errno: ENODEV}, silent: true}",
        otherwise="refuse",
    )
    again = CompiledPolicy.from_json(json.loads(json.dumps(compiled.to_json())))
    assert again == compiled
    assert decide(again, call(b"x")) == decide(compiled, call(b"x"))
    with pytest.raises(ValueError, match="format"):
        CompiledPolicy.from_json({**compiled.to_json(), "format": 0})


def test_the_ceiling_has_what_may_be_made_and_no_more() -> None:
    compiled = mknod('{devices: ["null", zero], do: emulate}', '{devices: ["kvm"], do: continue}')
    assert compiled.ceiling == (("c", 1, 1, 3, 3, False), ("c", 1, 1, 5, 5, False))
    assert len(mknod("{do: emulate}").ceiling) == 2
    assert mknod("{do: refuse}").ceiling == ()
    assert policy("version: 1\nsyscalls: {}").ceiling == ()


def test_the_ceiling_knows_what_is_only_made_closed() -> None:
    closed = "do: {emulate: {realise: closed}}}"
    compiled = mknod("{devices: [mem, port], " + closed, "{devices: [mem], uid: 0, do: emulate}")
    assert compiled.ceiling == (("c", 1, 1, 1, 1, False), ("c", 1, 1, 4, 4, True))
    assert mknod("{uid: 0, do: {errno: EIO}}", "{" + closed).ceiling[0][-1] is True


def _any(globs: tuple[str, ...], path: bytes) -> bool:
    return any(glob_matches(glob, path) for glob in globs)


def slow(policy: CompiledPolicy, path: bytes, facts: Facts | None) -> Verdict:
    """The same semantics with no index at all, for calls of char 1:3."""
    rules = node_rules(policy)
    written = lexical(path)
    behind = False  # a refusal in force that asks who calls, and is not known to match
    for rule in rules.rules:
        if rule.nodes is not None and ("c", 1, 1, 3, 3) not in rule.nodes:
            continue
        known = written if facts is None else facts.path
        unsure = (rule.globs is not None and known is None) or (
            facts is None and rule.caller is not None
        )
        # For the records alone it lets some callers go: at the first look that is as a grant.
        spares = facts is None and rule.audit and not rule.verdict.grants
        looks = rule.verdict.grants or (spares and rule.caller is not None)
        if unsure and looks == (facts is not None):
            behind = behind or (not rule.audit and not looks and rule.caller is not None)
            continue
        globs = rule.globs
        if globs is not None and known is not None and not _any(globs, known):
            continue
        if facts is not None and not rule.matches_caller(facts):
            continue
        seen = spares and (behind or rule.caller is not None)
        return Verdict.EMULATE if seen else rule.verdict
    return rules.otherwise.verdict


@pytest.mark.parametrize("seed", range(40))
def test_the_index_changes_nothing(seed: int) -> None:
    rnd = random.Random(seed)
    parts = ("a", "b", "c", "*", "**", "x*")
    rules = []
    for _ in range(rnd.choice((3, 20))):
        keys = ['devices: ["null"]'] if rnd.random() < 0.7 else ["devices: [zero]"]
        if rnd.random() < 0.8:
            glob = "/" + "/".join(rnd.choice(parts) for _ in range(rnd.choice((1, 2, 3))))
            keys.append(f'path: ["{glob}", /q/r]')
        if rnd.random() < 0.2:
            keys.append(f"uid: {rnd.choice((0, 1))}")
        keys.append(rnd.choice(("do: emulate", "do: refuse", "do: kill", "do: {return: 1}")))
        if rnd.random() < 0.2:
            keys.append("mode: audit, accept_race: true")
        rules.append("{" + ", ".join(keys) + "}")
    compiled = mknod(*rules)
    for _ in range(200):
        names = [rnd.choice(("a", "b", "c", "xx", "q", "..")) for _ in range(rnd.choice((1, 2, 3)))]
        path = rnd.choice((b"/", b"/", b"")) + "/".join(names).encode()
        facts = Facts(rnd.choice((b"/a/b", b"/c", b"/q/r", b"/x/a/c", None)), rnd.choice((0, 1)), 0)
        first = decide(compiled, call(path))
        assert first.verdict is slow(compiled, path, None)
        assert decide(compiled, call(path), facts).verdict is slow(compiled, path, facts)
        narrowed = compiled.narrowed("mknod", call(b"/other"))
        assert (narrowed(path) if callable(narrowed) else narrowed) == first
        if first.as_written:
            for uid in (0, 1, 2):
                second = decide(compiled, call(path), Facts(lexical(path), uid, 0))
                assert second == replace(first, needs_facts=False, as_written=False)


def test_an_audit_rule_that_asks_who_calls_is_not_passed_by() -> None:
    """What no rule behind it grants, it lets go for the records: whom, says the second look."""
    for rule in ('{devices: ["null"], uid: 0, mode: audit, do: kill}',
                 '{devices: ["null"], uid: 0, mode: audit, do: {errno: EIO}}'):  # fmt: skip
        compiled = mknod(rule)
        for path in (b"/x", b"x"):
            first = decide(compiled, call(path))
            assert (first.verdict, first.needs_facts, first.as_written) == (
                Verdict.EMULATE, True, False,
            )  # fmt: skip
        known = decide(compiled, call(b"/x"), Facts(b"/x", 0, 0))
        assert known.audit
        assert known.verdict in (Verdict.KILL, Verdict.ERRNO)
        other = decide(compiled, call(b"/x"), Facts(b"/x", 5, 0))
        assert (other.verdict, other.audit) == (Verdict.REFUSE, False)


def test_only_ids_and_unknown_paths_have_to_be_looked_at_again() -> None:
    one = mknod("{path: /dev/**, do: emulate}", '{devices: ["null"], uid: 1, do: kill}')
    for written, dev, holds in (
        (b"/dev/x", 0x105, True),
        (b"//dev/./x", 0x105, True),
        (b"dev/x", 0x105, False),
        (b"/dev/../dev/x", 0x105, False),
        (b"/dev/x", 0x103, False),  # somewhere among its rules is one that looks at ids
    ):
        first = decide(one, call(written, dev=dev))
        assert (first.needs_facts, first.as_written) == (True, holds), written
    last = mknod("{path: /etc/**, do: refuse}", "{do: emulate}")
    assert decide(last, call(b"/dev/x")).as_written
    assert not decide(last, call(b"/etc/x")).as_written, "nothing is granted"


def test_strings_that_cannot_matter() -> None:
    compiled = mknod('{devices: ["null"], do: emulate}', "{path: /dev/**, do: emulate}")
    assert compiled.narrowed("mknod", call(b"x")) == decide(compiled, call(b"y"))
    assert callable(compiled.narrowed("mknod", call(b"x", dev=0x105)))
    fifo = call(b"x", mode=0o010000)
    assert compiled.narrowed("mknod", fifo) == decide(compiled, fifo)


@pytest.mark.parametrize(
    "rule",
    [
        '{{devices: ["char 9:{n}"], do: emulate}}',
        '{{devices: ["null"], path: /s/{n}/**, do: emulate}}',
        '{{devices: ["char {n}:*"], do: emulate}}',
    ],
)
def test_a_thousand_rules_cost_what_five_cost(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in rules and globs that are looked at; `make bench` has the time."""
    looks = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def count(*args: object) -> object:
            nonlocal looks
            looks += 1
            return function(*args)

        return count

    class Counted:
        def __init__(self, pattern: re.Pattern[bytes]) -> None:
            self.fullmatch = counted(pattern.fullmatch)

    for room, name in ((rules, "node_matches"), (callers, "id_matches")):
        monkeypatch.setattr(room, name, counted(getattr(room, name)))
    monkeypatch.setattr(rules, "glob_regex", lambda *globs: Counted(glob_regex(*globs)))

    def cost(count: int) -> int:
        nonlocal looks
        compiled = mknod(*[rule.format(n=n) for n in range(10, 10 + count)])
        devices = [(n, dev) for n in range(10, 15) for dev in (0x103, device(9, n), device(n, 3))]
        # The rules that a device meets are found once.
        for _, dev in devices:
            decide(compiled, call(b"x", dev=dev))
        looks = 0
        for n, dev in devices:
            decide(compiled, call(b"/s/%d/null" % n, dev=dev))
            decide(compiled, call(b"/s/%d/null" % n, dev=dev), Facts(b"/s/%d/null" % n, 0, 0))
        return looks

    assert cost(1000) <= 1.3 * cost(5)
