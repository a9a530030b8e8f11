"""The rules of extended attributes: what they match, what the filter asks about, what is a race."""

from __future__ import annotations

import random
from errno import E2BIG, EFAULT, EINVAL, ENOSYS, ERANGE
from pathlib import Path
from typing import Any

import pytest

from supervisor.handlers.base import UnreadableArgument
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.bpf import RET_ALLOW, RET_USER_NOTIF, ret_errno
from supervisor.kernel.simulate import run
from supervisor.kernel.syscalls import AT_FDCWD, I386, NATIVE_ARCHES, X32_BIT, X86_64, number
from supervisor.model import Arg, Decision, Facts, Message, Snapshot, Verdict, XattrCeiling
from supervisor.model import XattrSettings as How
from supervisor.plans import ChangeXattr, Place
from supervisor.policy.call_text import parse
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.draft import read_draft
from supervisor.policy.explain import explain
from supervisor.policy.lint import lint
from supervisor.policy.notified import Notified, beyond
from supervisor.policy.smallest import smallest
from supervisor.policy.traits import Nodes
from tests.support.policies import policy
from tests.unit.policy.test_learn import clean, grants, learned
from tests.unit.policy.test_replay import run as replay

SETS = ("setxattr", "lsetxattr", "fsetxattr")
CALLS = (*SETS, "removexattr", "lremovexattr", "fremovexattr")
ACL = b"system.posix_acl_access"
HEAD = "version: 1\nsyscalls:\n  xattr:\n    otherwise: {}\n    rules:\n"
LXD = 'name: trusted.overlay.opaque, value: "y", do: {emulate: {as: root}}'


def text_of(*rules: str, otherwise: str = "refuse") -> str:
    lines = "".join(f"      - {{{rule}}}\n" for rule in rules)
    return HEAD.format(otherwise) + (lines or "      []\n")


def rules(*some: str, otherwise: str = "refuse", nodes: Nodes = "private") -> CompiledPolicy:
    return policy(text_of(*some, otherwise=otherwise), nodes)


def sets(
    name: Arg, value: Arg = b"y", size: int | None = None, flags: int = 0, *, path: Arg = b"/a/f"
) -> Snapshot:
    length = size if size is not None else len(value) if isinstance(value, bytes) else 1
    args = (path, name, value, length, flags)
    sent = Message(b"", value if isinstance(value, bytes) else b"")
    return Snapshot(0, 0, X86_64, 188, 0, "setxattr", args, message=sent)


def removes(name: Arg, path: Arg = b"/a/f") -> Snapshot:
    return Snapshot(0, 0, X86_64, 197, 0, "removexattr", (path, name))


def decided(compiled: CompiledPolicy, call: Snapshot, path: bytes | None = b"/a/f") -> Decision:
    """By both looks."""
    first = compiled.decide("xattr", call)
    return compiled.decide("xattr", call, Facts(path, 0, 0)) if first.needs_facts else first


def test_first_match_decides() -> None:
    compiled = rules(
        "name: user.secret, do: {errno: EXDEV}", 'name: "user.*", path: "/a/**", do: emulate',
        LXD, "do: {return: 5}",
    )  # fmt: skip
    assert decided(compiled, sets(b"user.secret")).verdict is Verdict.ERRNO
    assert decided(compiled, sets(b"user.secrets")).settings == How()
    assert decided(compiled, sets(b"user.x"), b"/b").verdict is Verdict.RETURN
    assert decided(compiled, sets(b"user.x"), None).verdict is Verdict.RETURN
    opaque = decided(compiled, sets(b"trusted.overlay.opaque"))
    assert (opaque.verdict, opaque.settings) == (Verdict.EMULATE, How(root=True))
    for other in (b"n", b"yy", b"", b"y\0"):
        assert decided(compiled, sets(b"trusted.overlay.opaque", other)).value == 5
    assert decided(compiled, removes(b"trusted.overlay.opaque")).value == 5
    # of a value of that size the beginning alone is known
    assert decided(compiled, sets(b"trusted.overlay.opaque", b"y", 300)).value == 5
    assert decided(compiled, sets(b"user.\xff\xfe")).verdict is Verdict.EMULATE


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        (sets(-ERANGE, flags=4), EINVAL), (sets(-EFAULT, flags=8), EINVAL),
        (sets(-ERANGE, -E2BIG, 70000), ERANGE), (sets(-EFAULT, -EFAULT), EFAULT),
        (sets(b"user.a", -E2BIG, 70000, path=-EFAULT), E2BIG),
        (sets(b"user.a", -EFAULT, path=-E2BIG), EFAULT), (removes(-ERANGE), ERANGE),
    ],
)  # fmt: skip
def test_what_the_kernel_refuses_before_it_looks_for_the_file(call: Snapshot, errno: int) -> None:
    """No rule decides on a name or a value that is none, and none of these is left to the kernel,
    which another thread could show another one.
    """
    for compiled in (
        rules("do: {errno: EXDEV}"), rules("name: user.b, do: emulate", otherwise="refuse"),
        rules("name: user.b, do: refuse", "do: continue, accept_race: true"),
    ):  # fmt: skip
        decision = compiled.decide("xattr", call)
        assert decision.verdict is Verdict.EMULATE
        with pytest.raises(UnreadableArgument) as raised:
            FAMILIES["xattr"].plan(call, decision)
        assert raised.value.errno == errno
    for harmless in ("do: continue", "do: refuse, mode: audit"):
        decision = rules(harmless, otherwise="kernel").decide("xattr", call)
        assert decision.verdict is Verdict.CONTINUE


def test_plans() -> None:
    family, emulate = FAMILIES["xattr"], Decision(Verdict.EMULATE, "x", settings=How(root=True))
    null = sets(b"user.a", 0, 0)._replace(message=Message(b"", b""))
    assert family.plan(null, emulate) == ChangeXattr(
        Place(AT_FDCWD, b"/a/f"), True, b"user.a", b"", 0, How(root=True)
    )
    long = sets(b"user.a", b"z" * 256, 1000, 2)._replace(message=Message(b"", b"z" * 1000))
    planned = family.plan(long, Decision(Verdict.REFUSE, "x"))
    assert planned == ChangeXattr(
        Place(AT_FDCWD, b"/a/f"), True, b"user.a", b"z" * 1000, 2, How()
    )
    descriptor = Snapshot(0, 0, X86_64, 199, 0, "fremovexattr", (7, b"user.a"))
    assert family.plan(descriptor, emulate) == ChangeXattr(
        Place(7, None), True, b"user.a", None, 0, How(root=True)
    )
    link = Snapshot(0, 0, X86_64, 198, 0, "lremovexattr", (b"l", b"user.a"))
    assert family.plan(link, emulate) == ChangeXattr(
        Place(AT_FDCWD, b"l"), False, b"user.a", None, 0, How(root=True)
    )
    with pytest.raises(UnreadableArgument):
        family.plan(removes(b"user.a", -EFAULT), emulate)


# -- races, and rules that never decide


@pytest.mark.parametrize(
    ("rule", "by"),
    [
        ('name: "user.*", do: continue', "name"), ('value: "y", do: continue', "value"),
        ('path: "/a", do: continue', "path"), ("name: user.a, mode: audit, do: refuse", "name"),
        ('name: user.a, value: "y", do: continue', "name and value"),
    ],
)
def test_what_goes_on_beside_a_refusal_is_a_race(rule: str, by: str) -> None:
    with pytest.raises(Exception, match=f"beside a refusal by {by} is a race"):
        rules(rule)
    with pytest.raises(Exception, match="is a race"):
        rules("name: user.a, do: {return: 0}", otherwise="kernel")
    rules(rule.replace("do:", "accept_race: true, do:"))
    rules(rule, "do: emulate", otherwise="kernel")
    rules("capability: sys_admin, do: continue")  # who calls lies in no memory


def test_rules_that_never_decide_are_found() -> None:
    text = text_of(
        'name: "user.*", do: emulate', 'name: [user.a, "user.b*"], path: /a, do: emulate',
        'name: "trusted.*", value: [y, z], do: emulate', 'name: trusted.a, value: "z", do: emulate',
        "name: trusted.a, do: emulate",
    )  # fmt: skip
    draft = read_draft(Path("x.yaml"), text.encode(), FAMILIES)
    lint(draft)
    found = [(one.mark.line, one.message) for one in draft.source.everything()]
    assert found == [
        (7, "this rule is never reached: x.yaml:6 decides all that it matches"),
        (9, "this rule is never reached: x.yaml:8 decides all that it matches"),
    ]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("name: usr.a, do: emulate", "'usr.a' is no name of an attribute"),
        ("name: user, do: emulate", "'user' is no name of an attribute"),
        ('name: "user.[a", do: emulate', "closes"),
        (f'name: "user.{"a" * 251}", do: emulate', "at most 255 bytes"),
        ("value: 1, do: emulate", "a value is a text"),
        (f'value: "{"a" * 257}", do: emulate', "at most 256 bytes"),
        ("do: {emulate: {as: admin}}", "unknown 'admin'"),
        ("do: {emulate: {is: root}}", "unknown setting 'is' of emulate: one of as"),
        ("do: {emulate: {as: root}}", "say which, such as name: trusted.overlay.opaque"),
        ("name: security.capability, do: {emulate: {as: root}}", "not 'security.capability'"),
        ('name: [trusted.a, "*"], do: {emulate: {as: root}}', "not '\\*'"),
        ('name: "t*.overlay.opaque", do: {emulate: {as: root}}', "begin with trusted."),
        ('name: "trusted.[ab]", do: {emulate: {as: root}}', "in letters, digits"),
        ("do: {inject: {content: a}}", "unknown action 'inject'"),
        ("devices: zero, do: emulate", "unknown key devices"),
    ],
)
def test_mistakes(rule: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        rules(rule)


def test_what_is_wider_than_it_need_be_is_said() -> None:
    wider = LXD.replace("opaque", "*")
    nodes: Nodes
    for rule, nodes, said in (
        (LXD, "private", []), (f"mode: audit, accept_race: true, {wider}", "private", []),
        (wider, "private", ["trusted.overlay.* as the host's root: what goes by such names"]),
        (LXD, "host", ["for an ordinary user nobody acts as the host's root: this is EPERM"]),
    ):
        draft = read_draft(Path("x.yaml"), text_of(rule).encode(), FAMILIES)
        lint(draft, nodes)
        messages = [one.message for one in draft.source.everything()]
        assert [one.partition(",")[0] if "goes" in one else one for one in messages
                if "root" in one] == said  # fmt: skip


# -- the filter


def action(
    compiled: CompiledPolicy, name: str, arch: int, size: int = 1, flags: int = 0
) -> int:
    nr = number(name, arch)
    assert nr is not None
    return run(compiled.filter, nr, arch, (7, 8, 9, size, flags, 0)).action


@pytest.mark.parametrize("arch", NATIVE_ARCHES)
def test_what_lxd_asks_for_costs_calls_of_one_byte(arch: int) -> None:
    compiled = rules(LXD, otherwise="kernel")
    for name in CALLS:
        wanted = RET_USER_NOTIF if name in SETS else RET_ALLOW
        assert action(compiled, name, arch) == wanted
        for size in (0, 2, 3, 28, 65536, 65537):
            assert action(compiled, name, arch, size) == RET_ALLOW
        assert action(compiled, name, arch, flags=4) == RET_ALLOW  # which is EINVAL
        assert action(compiled, name, arch, flags=2) == wanted


FILTERED = (
    "do: emulate", "do: continue", "do: refuse, silent: true", "do: {errno: ENOENT}, silent: true",
    "do: refuse", "do: {return: 0}", "do: continue, capability: sys_admin",
    "do: refuse, silent: true, capability: sys_admin", "do: refuse, mode: audit",
)  # fmt: skip
KEYS = ("", "name: user.a, ", 'value: "y", ', "value: [yy, zz, zzz], ", "path: /a, ")


@pytest.mark.parametrize("seed", range(40))
def test_it_asks_about_what_a_rule_could_want_and_no_more(seed: int) -> None:
    """Said once more with no regard to how the filter does it."""
    rnd = random.Random(seed)
    some = [(rnd.choice(KEYS), rnd.choice(FILTERED)) for _ in range(rnd.randrange(1, 5))]
    last = rnd.choice(("refuse", "kernel"))
    lines = [f"{key}accept_race: true, {do}" for key, do in some]
    lines += ["accept_race: true, do: continue"] if last == "kernel" else []
    compiled = rules(*lines)
    said = {
        "do: continue": RET_ALLOW, "do: continue, capability: sys_admin": RET_ALLOW,
        "do: refuse, silent: true": ret_errno(1), "do: {errno: ENOENT}, silent: true": ret_errno(2),
        "do: refuse, silent: true, capability: sys_admin": ret_errno(1),
    }  # fmt: skip
    for name in CALLS:
        for size in (0, 1, 2, 3, 4, 1 << 32, 1 << 32 | 2):
            for flags in (0, 1, 4, 1 << 31):
                answers = []
                for key, do in some:
                    lengths = {'value: "y", ': (1,), "value: [yy, zz, zzz], ": (2, 3)}.get(key)
                    if lengths and (name not in SETS or size & 0xFFFFFFFF not in lengths):
                        continue
                    answers.append(said.get(do, RET_USER_NOTIF))
                    if not key and "capability" not in do:
                        break
                else:
                    answers.append(RET_ALLOW if last == "kernel" else RET_USER_NOTIF)
                wanted = answers[0] if len(set(answers)) == 1 else RET_USER_NOTIF
                if name in SETS and flags & ~3:
                    wanted = RET_ALLOW
                found = action(compiled, name, rnd.choice(NATIVE_ARCHES), size, flags)
                assert found == wanted, (lines, name, size, flags)


@pytest.mark.parametrize("arch", [*NATIVE_ARCHES, X86_64 | 1])
def test_the_newer_calls_and_rings_are_no_way_around(arch: int) -> None:
    refused, recorded = rules("do: emulate"), rules("do: refuse, mode: audit", otherwise="kernel")
    for name in ("setxattrat", "removexattrat", "io_uring_setup"):
        nr = number(name, X86_64)
        assert nr is not None
        native = arch in NATIVE_ARCHES
        assert run(refused.filter, nr, arch, (0,) * 6).action == ret_errno(ENOSYS)
        if native:
            assert run(recorded.filter, nr, arch, (0,) * 6).action == RET_ALLOW
        assert run(refused.filter, nr | X32_BIT, X86_64, (0,) * 6).action == ret_errno(ENOSYS)
    assert run(refused.filter, 464, I386, (0,) * 6).action == RET_ALLOW  # getxattrat


def test_what_another_policy_does_not_hear_is_told() -> None:
    opaque, every = rules(LXD, otherwise="kernel"), rules("do: emulate")
    notified = [Notified.of(one, FAMILIES) for one in (opaque, every)]
    assert beyond(notified[0], notified[1]) == ()
    assert beyond(notified[1], notified[0]) == tuple(sorted(CALLS))


# -- beside device nodes


def test_nodes_of_an_ordinary_user_keep_their_lists() -> None:
    """Both families are about the same calls: the rules decide, and are told of the nodes."""
    text = text_of("name: user.a, do: emulate", otherwise="kernel")
    text += "  mknod:\n    - {devices: zero, do: emulate}\n"
    compiled = policy(text, "host")
    for name in CALLS:
        nr = number(name, X86_64)
        assert nr is not None
        assert compiled.calls[X86_64, nr].family == "xattr"
        assert action(compiled, name, X86_64, 5) == RET_USER_NOTIF
    decision = compiled.decide("xattr", sets(ACL))
    assert (decision.verdict, decision.settings) == (Verdict.CONTINUE, How(nodes=True))
    assert compiled.decide("xattr", sets(ACL)) is decision
    assert compiled.decide("xattr", sets(b"user.b")).settings != How(nodes=True)
    again = CompiledPolicy.from_json(compiled.to_json())
    assert again.decide("xattr", sets(ACL)).settings == How(nodes=True)
    private = policy(text, "private")  # where a node is not the host's
    assert private.decide("xattr", sets(ACL)).settings != How(nodes=True)
    alone = rules("name: user.a, do: emulate", otherwise="kernel", nodes="host")
    assert alone.decide("xattr", sets(ACL)).settings != How(nodes=True)


# -- the tools


def test_it_comes_back_from_the_cache() -> None:
    compiled = rules(
        LXD, 'name: ["user.*", security.a], path: "/a/**", uid: 0, do: emulate',
        "do: {errno: EACCES}, silent: true",
    )  # fmt: skip
    again = CompiledPolicy.from_json(compiled.to_json())
    assert again == compiled
    assert again.xattrs == (XattrCeiling(b"trusted.overlay.opaque", b"y"),)


def test_the_ceiling_is_what_rules_in_force_say() -> None:
    compiled = rules(
        LXD, LXD, 'name: [trusted.a, "trusted.b.*"], do: {emulate: {as: root}}',
        "name: trusted.c, mode: audit, accept_race: true, do: {emulate: {as: root}}",
        "name: trusted.d, do: emulate",
    )  # fmt: skip
    assert compiled.xattrs == (
        XattrCeiling(b"trusted.overlay.opaque", b"y"), XattrCeiling(b"trusted.a"),
        XattrCeiling(b"trusted.b.*"),
    )  # fmt: skip
    assert rules("do: emulate").xattrs == ()


def test_calls_as_strace_writes_them() -> None:
    for text in (
        'setxattr("/a", "user.x", "y", 1, 0)', 'setxattr("/a", "user.x", "\\xff\\"", 2, 0x1)',
        'fsetxattr(3, "user.x", "", 0, 0)', 'lremovexattr("/a", "user.x")',
        'setxattr("/a", EFAULT, EFAULT, 5, 0)', 'setxattr("/a", ERANGE, E2BIG, 70000, 0)',
    ):  # fmt: skip
        assert parse(FAMILIES, f"{text} = 0").text() == text
    named = parse(FAMILIES, "setxattr pathname=/a name=user.x value=yes flags=XATTR_CREATE")
    assert named.snapshot.args == (b"/a", b"user.x", b"yes", 3, 1)
    long = f'setxattr("/a", "user.x", "{"y" * 256}"..., 1000, 0)'
    assert parse(FAMILIES, long).text() == long
    with pytest.raises(ValueError, match="was cut off"):
        parse(FAMILIES, 'setxattr("/a", "user.x", "yy"..., 1000, 0)')


@pytest.mark.parametrize(
    ("text", "objections", "smallest_rule"),
    [
        (
            'setxattr("/b", "user.x", "y", 1, 0)', ["name", "value", "path"],
            '{name: user.x, value: y, path: "/b", do: emulate}',
        ),
        (
            'removexattr("/b", "user.a")', ["value", "value", "path"],
            '{name: user.a, path: "/b", do: emulate}',
        ),
        (
            'setxattr("/b", "trusted.x*", "n", 1, 0)', ["name", "name", "name"], None,
        ),
        (
            'setxattr("/b", "trusted.overlay.opaque", "y", 1, 0)', ["name", "name", "name"],
            '{name: trusted.overlay.opaque, value: y, path: "/b", do: {emulate: {as: root}}}',
        ),
        (f'setxattr("/b", "user.a", "{"z" * 256}"..., 300, 0)', ["value", "value", "path"],
         '{name: user.a, path: "/b", do: emulate}'),
    ],
)  # fmt: skip
def test_explanations(text: str, objections: list[str], smallest_rule: str | None) -> None:
    compiled = rules(
        'name: user.a, value: "v", do: emulate', 'name: "user.*", value: ["v", w], do: emulate',
        'name: "user.*", path: "/a/*", do: emulate',
    )  # fmt: skip
    asked = parse(FAMILIES, text)
    found = explain(compiled, asked)
    assert [tried.key for tried in found.tried] == objections
    assert all(tried.objection for tried in found.tried)
    got = smallest(compiled.families["xattr"], asked, found.facts, FAMILIES, "private")
    assert (None if got is None else got[0]) == smallest_rule


def record(name: str, value: str = "y", verdict: str = "emulate", **more: Any) -> dict[str, Any]:
    return {
        "v": 1, "session": "s", "policy": "p", "time": "t", "syscall": "setxattr",
        "arch": "x86_64", "nr": 188, "uid": 0, "gid": 0, "verdict": verdict, "rule": "p.yaml:4",
        "args": {"pathname": f"/l/{name}", "name": name, "value": value, "size": len(value),
                 "flags": 0},
        "resolved": f"/l/{name}", "facts": {"uid": 0, "gid": 0}, "result": 0,
    } | more  # fmt: skip


def test_a_policy_is_learned_from_records(tmp_path: Path) -> None:
    root: dict[str, Any] = {"emulate": {"as": "root"}}
    records = [
        record("trusted.overlay.opaque", **root), record("user.a"), record("user.b", "z"),
        record("security.capability"),
    ]  # fmt: skip
    others = [record("trusted.overlay.redirect", **root), record("trusted.x", **root)]
    text = learned(tmp_path, *records, *others)
    assert "  xattr:\n    otherwise: kernel\n    rules:\n" in text
    assert '      - name: trusted.overlay.opaque\n        value: y\n' in text
    assert "name: [security.capability, user.a, user.b]" in text
    assert clean(text)
    assert all(grants(text, one) for one in records)
    assert not any(grants(text, one) for one in others)
    assert not grants(text, record("trusted.overlay.opaque", "n", **root))
    assert text.count("never learned") == 2
    # names of users' own are alike; and what was refused is refused
    many = [record(f"user.{name}") for name in "abcd"]
    refused = record("user.secret", verdict="errno", errno="EXDEV")
    del refused["result"]
    text = learned(tmp_path, *many, refused)
    assert "otherwise" not in text
    assert not grants(text, refused)
    assert "name: [user.a, user.b, user.c, user.d]" in text
    text = learned(tmp_path, *many)
    assert 'name: "user.*"' in text
    # nothing that a container chose is YAML, or a wildcard
    odd = record("user.x*, do: kill}", **root)
    assert "user.x*" not in learned(tmp_path, odd).partition("syscalls")[2]
    assert not grants(learned(tmp_path, record('user."*[a]\n')), record("user.abc"))


def test_a_record_is_decided_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = '  xattr:\n    - {name: "user.*", value: "y", do: emulate}\n'
    assert replay(tmp_path, some, record("user.a"), record("user.a", "z")) == 1
    out = capsys.readouterr().out
    assert '"user.a", "z", 1, 0)' in out
    assert "2 calls decided again, 1 come out otherwise" in out
