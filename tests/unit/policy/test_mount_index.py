"""The index of mount rules, held against a walk over all rules: it changes what they cost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from supervisor.kernel.mounts import MS
from supervisor.model import Decision, Facts, MountSettings, Source, Verdict
from supervisor.policy.callers import CallerMatch
from supervisor.policy.mounts import MountRule, MountRules

TYPES = ("ext4", "xfs", "nfs", "tmpfs")
GLOBS = ("/a", "/a/*", "/a/**", "/**", "**", "**/x", "/a*", "/b/[xy]", "/b/x", "/b/x/", r"/a/\*",
         "/dev/loop*", "/dev/loop1")  # fmt: skip
TEXTS = ("nas:/x", "nas:*", "n[ab]s:/x", "/a/x", "")
NODES = (("b", 7, 7, 1, 1), ("b", 7, 7, 0, 9), ("b", 0, 4095, 1, 1), ("b", 8, 8, 1, 1))
OPTIONS = ("x", "y=*", "*", "ro")
SOURCES = (
    None,
    Source("image", b"/a"), Source("image", b"/a/x"), Source("image", b"/a/b/x"),
    Source("image", b"/ab"), Source("image", b"/b/x"), Source("image", b"/a/*"),
    Source("device", b"/dev/loop1", (7, 1)), Source("device", b"/dev/sda1", (8, 1)),
    Source("device", b"/dev/sdb", (8, 16)),
    Source("text", b"nas:/x"), Source("text", b"nbs:/x"), Source("text", b"/a/x"),
    Source("text", b"/a/b/c"), Source("text", b""), Source("text", b"none"),
)  # fmt: skip
PLACES = (None, b"/", b"/a", b"/a/x", b"/a/b/x", b"/b/x", b"/c")


def some(rnd: random.Random, values: Sequence[str], most: int = 2) -> tuple[str, ...]:
    return tuple(rnd.choice(values) for _ in range(rnd.randint(1, most)))


def a_rule(rnd: random.Random, number: int) -> MountRule:
    verdict = rnd.choice((Verdict.EMULATE, Verdict.EMULATE, Verdict.REFUSE, Verdict.ERRNO,
                          Verdict.CONTINUE))  # fmt: skip
    how = MountSettings(rnd.choice(("kernel", "fuse")), force=rnd.choice((0, MS["nodev"])))
    return MountRule(
        f"p.yaml:{number}",
        verdict,
        value=5 if verdict is Verdict.ERRNO else 0,
        settings=how if verdict is Verdict.EMULATE else MountSettings(),
        types=some(rnd, TYPES) if rnd.random() < 0.7 else None,
        sources=some(rnd, (*GLOBS, *TEXTS[:4])) if rnd.random() < 0.5 else None,
        devices=(rnd.choice(NODES), rnd.choice(NODES)) if rnd.random() < 0.3 else (),
        targets=some(rnd, GLOBS) if rnd.random() < 0.4 else None,
        flags=rnd.choice((MS["ro"], MS["ro"] | MS["nosuid"])) if rnd.random() < 0.5 else None,
        options=some(rnd, OPTIONS) if rnd.random() < 0.5 else None,
        caller=CallerMatch(uids=((0, 0),)) if rnd.random() < 0.2 else None,
        audit=rnd.random() < 0.1,
        required=rnd.choice((0, 0, 0, MS["ro"])),
    )


def allowed(
    rules: Sequence[MountRule], name: str, flags: int, options: Sequence[str]
) -> tuple[list[MountRule], str]:
    """Rules that may decide, up to the first that surely does, and why an earlier one does not."""
    out: list[MountRule] = []
    reason = ""
    for rule in rules:
        if rule.types is not None and name not in rule.types:
            continue
        objection = rule.objection(flags, options)
        if objection:
            reason = reason or f"{objection} by {rule.place}"
            continue
        out.append(rule)
        if not rule.needs_facts:
            break
    return out, reason


def walk(
    every: MountRules, name: str, flags: int, options: Sequence[str], facts: Facts | None
) -> Decision:
    """The decision as docs/mounts.md has it, one rule after the other."""
    rules, reason = allowed(every.rules, name, flags, options)
    otherwise = replace(every.otherwise, reason=reason or every.otherwise.reason)
    if facts is not None:
        return next((rule.decision() for rule in rules if rule.matches(facts)), otherwise)
    mounting = [rule for rule in rules if rule.verdict is Verdict.EMULATE]
    if mounting:
        fuse = next((rule for rule in mounting if rule.settings.via == "fuse"), mounting[0])
        return replace(mounting[0].decision(), needs_facts=True, settings=fuse.settings)
    if not rules:
        return otherwise
    if len(rules) == 1 and not rules[0].needs_facts:
        return rules[0].decision()
    return Decision(
        Verdict.EMULATE, rules[0].place, settings=MountSettings(text=True), needs_facts=True
    )


@pytest.mark.parametrize("seed", range(150))
def test_the_index_changes_nothing(seed: int) -> None:
    rnd = random.Random(seed)
    count = rnd.choice((1, 3, 10, 60))
    rules = MountRules(
        tuple(a_rule(rnd, number) for number in range(count)),
        Decision(rnd.choice((Verdict.REFUSE, Verdict.CONTINUE)), "p.yaml:1", "no rule matches"),
    )
    for _ in range(200):
        name = rnd.choice((*TYPES, "other"))
        flags = rnd.choice((0, MS["ro"], MS["nosuid"], MS["noexec"]))
        options = [rnd.choice(("x", "y=1", "z")) for _ in range(rnd.choice((0, 0, 1, 2)))]
        call = (b"/s", b"/t", name.encode(), flags, ",".join(options).encode())
        assert rules.decide(call, None) == walk(rules, name, flags, options, None)
        target = rnd.choice(PLACES)
        facts = Facts(target, rnd.choice((0, 1)), 0, rnd.choice(SOURCES), target)
        assert rules.decide(call, facts) == walk(rules, name, flags, options, facts)


@pytest.mark.parametrize("seed", range(20))
def test_a_remount_is_held_against_every_rule_of_the_kernels(seed: int) -> None:
    rnd = random.Random(seed)
    rules = MountRules(
        tuple(a_rule(rnd, number) for number in range(rnd.choice((1, 5, 30)))),
        Decision(Verdict.REFUSE, "p.yaml:1", "no rule matches"),
    )
    mounting = [rule for rule in rules.rules
                if rule.verdict is Verdict.EMULATE and rule.settings.via == "kernel"]  # fmt: skip
    for flags in (0, MS["ro"], MS["nosuid"], MS["noexec"]):
        for options in ([], ["x"], ["y=1", "z"]):
            call = (0, b"/t", 0, MS["remount"] | flags, ",".join(options).encode())
            wrong = [(rule.objection(flags, options), rule.place) for rule in mounting]
            said = [f"{what} by {place}" for what, place in wrong if what]
            assert rules.decide(call, None).reason == (said[0] if said else "")


def cost(rules: MountRules, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rules are looked at for the same calls."""
    looks = 0

    def counting(name: str) -> None:
        method = getattr(MountRule, name)

        def count(*args: object) -> object:
            nonlocal looks
            looks += 1
            return method(*args)

        monkeypatch.setattr(MountRule, name, count)

    counting("objection")
    counting("matches")
    for number in (1, 4, 3000):
        for name in (b"ext4", b"type%d" % number, b"nfs"):
            call = (b"/s", b"/t", name, MS["ro"], b"")
            rules.decide(call, None)
            for source in (
                Source("image", b"/images/%d/a" % number), Source("device", b"/dev/x", (7, number)),
                Source("text", b"nas:/%d" % number), Source("text", b""),
            ):  # fmt: skip
                target = b"/mnt/%d" % number
                rules.decide(call, Facts(target, 0, 0, source, target))
    monkeypatch.undo()
    return looks


@pytest.mark.parametrize(
    "keys",
    [
        lambda n: {"types": ("ext4",), "sources": (f"/images/{n}/*",)},
        lambda n: {"types": ("ext4",), "devices": (("b", 7, 7, n, n),)},
        lambda n: {"types": ("nfs",), "sources": (f"nas:/{n}",)},
        lambda n: {"types": ("ext4",), "targets": (f"/mnt/{n}",)},
        lambda n: {"types": (f"type{n}",), "sources": ("**",)},
        lambda n: {"sources": (f"/images/{n}/*", f"/other/{n}"), "options": ("x",), "flags": 1},
    ],
    ids=["images", "devices", "texts", "targets", "types", "any type"],
)  # fmt: skip
def test_two_thousand_rules_cost_what_five_cost(
    keys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in rules that are looked at; `make bench` has the time."""
    assert callable(keys)
    otherwise = Decision(Verdict.CONTINUE, "p.yaml:1", "no rule matches")
    few, many = (
        MountRules(
            tuple(MountRule(f"p.yaml:{n}", Verdict.EMULATE, **keys(n)) for n in range(count)),
            otherwise,
        )
        for count in (5, 2000)
    )
    assert 0 < cost(many, monkeypatch) <= 1.3 * cost(few, monkeypatch)
