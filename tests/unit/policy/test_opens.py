"""Rules of opens: what decides, what is notified, what may race, and what a policy may say."""

from __future__ import annotations

from errno import EACCES, EIO

import pytest

from supervisor.handlers.base import UnreadableArgument
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.opening import pack_how
from supervisor.kernel.simulate import action_text, run
from supervisor.kernel.syscalls import I386, X86_64
from supervisor.model import Decision, Facts, Inject, Verdict
from supervisor.policy.asked import Asked
from supervisor.policy.call_text import parse
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.explain import explain
from supervisor.policy.opens import OpenRules
from supervisor.policy.source import PolicyFindings
from tests.support.policies import policy

KVM = '{path: /dev/kvm, do: {inject: {device: kvm}}}'
INFO = '{path: /proc/cpuinfo, access: read-only, do: {inject: {content: "none"}}}'
MODELS = '{path: /srv/models, do: {inject: {directory: /models}}}'
LOOPS = '{path: [/dev/loop-control, "/dev/loop*"], do: {inject: {loops: "64-71"}}}'
ANY_NET = '{path: "/dev/net/*", do: {inject: {device: tun}}}'


def opens(*rules: str) -> CompiledPolicy:
    """A policy of these rules; the first stands in line 4."""
    lines = "".join(f"\n    - {rule}" for rule in rules)
    return policy(f"version: 1\nsyscalls:\n  open:{lines}\n")


def asked(text: str, arch: int = X86_64) -> Asked:
    return parse(FAMILIES, text, arch)


def first(rules: CompiledPolicy, text: str) -> tuple[str, bool]:
    """The verdict of the first look, and whether there is to be a second one."""
    call = asked(text)
    decision = rules.decide("open", call.snapshot)
    return decision.verdict.value, decision.needs_facts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('open("/dev/kvm", O_RDWR)', ("inject", True)),
        ('open("//dev/./kvm", O_RDWR)', ("inject", True)),
        ('open("/dev/kvm/", O_RDWR)', ("continue", False)),
        ('open("/dev/kvm/.", O_RDWR)', ("continue", False)),
        ('open("/dev/kvmx", O_RDWR)', ("continue", False)),
        ('open("/srv/kvm", O_RDWR)', ("continue", False)),
        ('openat(5, "kvm", O_RDWR)', ("inject", True)),
        ('openat(5, "../dev/kvm", O_RDWR)', ("inject", True)),
        ('openat(5, "kvm2", O_RDWR)', ("continue", False)),
        ('openat(5, "kvm/..", O_RDWR)', ("continue", False)),
        ('openat(5, "", O_RDWR)', ("continue", False)),
        ('open("/dev/kvm", O_PATH)', ("continue", False)),
        ('open("/dev/kvm", O_DIRECTORY)', ("continue", False)),
        ('open("/dev/kvm", 3)', ("continue", False)),
        ('creat("/dev/kvm", 0666)', ("inject", True)),
        ('open("/proc/cpuinfo", O_RDONLY)', ("inject", True)),
        ('open("/proc/cpuinfo", O_RDWR)', ("continue", False)),
        ('openat2(5, "/dev/kvm", {flags=O_RDWR}, 24)', ("inject", True)),
        ('openat2(5, "/dev/kvm", {flags=O_RDWR, mode=0600}, 24)', ("continue", False)),
        ('openat2(5, "/dev/kvm", {flags=O_RDWR|O_CREAT, mode=0600}, 24)', ("inject", True)),
        ('openat2(5, "/dev/kvm", {flags=O_RDWR|O_CREAT, mode=010600}, 24)', ("continue", False)),
        ('openat2(5, "/dev/kvm", {flags=O_RDWR|0x40000000}, 24)', ("continue", False)),
        ('openat2(5, "/dev/kvm", {flags=0, resolve=RESOLVE_IN_ROOT}, 24)', ("continue", False)),
        ('openat2(5, "/dev/kvm", {flags=0, resolve=RESOLVE_NO_MAGICLINKS}, 24)', ("inject", True)),
        ('openat2(5, "/dev/kvm", EFAULT, 24)', ("continue", False)),
        ('open(EFAULT, O_RDWR)', ("continue", False)),
    ],
)
def test_the_first_look(text: str, expected: tuple[str, bool]) -> None:
    assert first(opens(KVM, INFO), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('open("/srv/models", O_RDONLY)', ("inject", True)),
        ('open("/srv/models", O_RDWR)', ("inject", True)),
        ('open("/srv/models/", O_RDONLY|O_DIRECTORY)', ("inject", True)),
        ('open("/srv/models/.", O_RDONLY|O_DIRECTORY)', ("inject", True)),
        ('open("/srv/models/a", O_RDONLY)', ("continue", False)),
        ('openat(5, "models/", O_RDONLY)', ("inject", True)),
        ('openat(5, ".", O_RDONLY|O_DIRECTORY)', ("inject", True)),
        ('openat(5, "other", O_RDONLY|O_DIRECTORY)', ("continue", False)),
        ('open("/srv/models", O_PATH|O_DIRECTORY)', ("continue", False)),
        ('open("/srv/models", O_TMPFILE|O_RDWR)', ("continue", False)),
        ('open("/dev/kvm", O_RDONLY|O_DIRECTORY)', ("continue", False)),
        ('open("/dev/kvm/", O_RDONLY)', ("continue", False)),
    ],
)
def test_the_first_look_at_directories(text: str, expected: tuple[str, bool]) -> None:
    assert first(opens(KVM, MODELS), text) == expected


def test_a_name_that_is_not_known_may_be_any() -> None:
    for text in ('openat(5, "x", O_RDWR)', 'openat(5, "../net/tun", O_RDWR)'):
        assert first(opens(ANY_NET), text) == ("inject", True)
        assert first(opens('{path: "/dev/**", do: {inject: {device: kvm}}}'), text)[1]
        assert not first(opens('{path: "/dev/[a-f]*", do: {inject: {device: kvm}}}'), text)[1]


def test_the_second_look() -> None:
    rules = opens('{path: /dev/kvm, uid: 7, do: {inject: {device: kvm}}}', KVM)
    call = asked('open("kvm", O_RDWR)').snapshot
    lines = [
        (Facts(b"/dev/kvm", 7, 0), "inject", "p.yaml:4"),
        (Facts(b"/dev/kvm", 8, 0), "inject", "p.yaml:5"),
        (Facts(b"/srv/kvm", 7, 0), "continue", "p.yaml:3"),
        (Facts(None, 7, 0), "continue", "p.yaml:3"),
    ]
    for facts, verdict, place in lines:
        found = rules.decide("open", call, facts)
        assert (found.verdict.value, found.rule) == (verdict, place)
    assert rules.decide("open", call, lines[0][0]).settings == Inject(("c", 10, 232), writes=True)


def test_what_refuses_without_a_path_needs_no_race_accepted() -> None:
    rules = opens("{host_uid: 100007, do: {errno: EACCES}}", KVM)
    assert first(rules, 'open("/etc/passwd", O_RDONLY)') == ("continue", True)
    call = asked('open("/etc/passwd", O_RDONLY)').snapshot
    facts = Facts(b"/etc/passwd", 7, 7, host_uid=100007)
    assert rules.decide("open", call, facts).verdict is Verdict.ERRNO
    unknown = asked("open(EFAULT, O_RDONLY)").snapshot
    assert rules.decide("open", unknown).verdict is Verdict.ERRNO


@pytest.mark.parametrize(
    "rule", ["{path: /etc/shadow, do: {errno: EACCES}}", "{access: read-write, do: refuse}"]
)
def test_a_refusal_by_what_lies_in_memory_races(rule: str) -> None:
    with pytest.raises(PolicyFindings, match="is a race with"):
        opens(rule, KVM)
    opens(rule, "{do: continue, accept_race: true}")


def test_what_is_given_races_with_nothing() -> None:
    opens(KVM, INFO, '{path: "/x/**", do: continue}')


@pytest.mark.parametrize("arch", [X86_64, I386])
def test_what_leaves_the_kernel(arch: int) -> None:
    every, reads, directories = opens(KVM), opens(INFO), opens(KVM, MODELS)
    for text, notified, of_reads, of_directories in (
        ('open("/x", O_RDONLY)', True, True, True),
        ('open("/x", O_WRONLY|O_CREAT)', True, False, True),
        ('openat(5, "/x", O_RDWR|O_CLOEXEC)', True, False, True),
        ('creat("/x", 0600)', True, False, True),
        ('open("/x", O_RDONLY|O_DIRECTORY)', False, False, True),
        ('openat(5, "/x", O_PATH|O_NOFOLLOW)', False, False, False),
        ('openat(5, "/x", O_TMPFILE|O_RDWR)', False, False, True),
        ('openat2(5, "/x", {flags=O_PATH}, 24)', True, True, True),
    ):
        call = asked(text, arch)
        pairs = (every, notified), (reads, of_reads), (directories, of_directories)
        for rules, expected in pairs:
            action = action_text(call.filtered(rules.filter).action)
            assert action == ("notify" if expected else "allow"), (text, arch)
    none = policy("version: 1\nsyscalls:\n  open: []\n")
    assert action_text(asked('open("/x", O_RDWR)', arch).filtered(none.filter).action) == "allow"


@pytest.mark.parametrize("arch", [X86_64, I386])
def test_ioctls_of_loop_devices_leave_the_kernel(arch: int) -> None:
    """Where a rule gives some; no others."""
    loops = opens(KVM, LOOPS)
    number = {X86_64: 16, I386: 54}[arch]
    for op, notified in (
        (0x4BFF, False), (0x4C00, True), (0x4C0A, True), (0x4C82, True), (0x4CFF, True),
        (0x4D00, False), (0x1_0000_4C00, True), (0x0001_4C00, False), (0x5401, False),
    ):
        if op >> 32 and arch == I386:
            continue
        action = action_text(run(loops.filter, number, arch, [3, op, 0, 0, 0, 0]).action)
        assert action == ("notify" if notified else "allow"), hex(op)
    found = run(opens(KVM).filter, number, arch, [3, 0x4C00, 0, 0, 0, 0]).action
    assert action_text(found) == "allow"


def test_there_and_back() -> None:
    rules = opens(
        KVM, INFO, MODELS, LOOPS,
        '{path: [/a, "/b/*"], uid: 3, do: {inject: {file: /srv/x, access: read-write}}}',
        '{path: /c, mode: audit, do: {inject: {device: "block 7:0", access: read-only}}}',
    )  # fmt: skip
    again = CompiledPolicy.from_json(rules.to_json())
    assert again == rules
    assert isinstance(again.families["open"], OpenRules)
    assert again.lent == (
        Inject(("c", 10, 232), writes=True), Inject(directory="/models"),
        Inject(loops=(64, 71), writes=True),
        Inject(file="/srv/x", writes=True),
    )  # fmt: skip


def test_a_return_is_looked_at_where_the_path_leads() -> None:
    rules = opens("{path: /dev/kvm, do: {return: 7}}", "{do: continue, accept_race: true}")
    for text in ('openat(5, "kvm", O_RDWR)', 'open("/dev/kvm", O_RDWR)'):
        assert rules.decide("open", asked(text).snapshot).needs_facts
        for path, verdict in ((b"/dev/kvm", Verdict.RETURN), (b"/kvm", Verdict.CONTINUE)):
            found = rules.decide("open", asked(text).snapshot, Facts(path, 0, 0))
            assert (found.verdict, found.value) == (verdict, 7 if verdict is Verdict.RETURN else 0)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{do: {inject: {device: kvm}}}", "inject needs a path"),
        ("{path: /a, do: inject}", "unknown action 'inject'"),
        ("{path: /a, do: emulate}", "unknown action 'emulate'"),
        ("{path: /a, do: {return: 3}}", "is a race"),
        ("{path: /a, do: {return: -1}}", "return takes 0 to"),
        ("{path: /a, do: {inject: {}}}", "inject gives one thing"),
        ("{path: /a, do: {inject: {device: kvm, file: /x}}}", "inject gives one thing"),
        ('{path: /a, do: {inject: {device: "block 7:*"}}}', "not a range"),
        ("{path: /a, do: {inject: {file: x}}}", "an absolute path"),
        ("{path: /a, do: {inject: {directory: x}}}", "an absolute path"),
        ("{path: /a, do: {inject: {directory: /x, file: /x}}}", "inject gives one thing"),
        ("{path: /a, do: {inject: {content: x, access: read-write}}}", "read-only"),
        ("{path: /a, do: {inject: {fits: meminfo, access: read-write}}}", "fits is read-only"),
        ("{path: /a, do: {inject: {fits: memory}}}", "unknown file 'memory'"),
        ("{path: /a, do: {inject: {fits: [cpus]}}}", "unknown file"),
        ("{path: /a, do: {inject: {fits: cpus, content: x}}}", "inject gives one thing"),
        ("{path: /a, do: {inject: {devise: kvm}}}", "did you mean device"),
        ("{path: /a, do: {inject: {loops: x}}}", "numbers of loop devices"),
        ("{path: /a, do: {inject: {loops: 9-8}}}", "at most 64 numbers"),
        ("{path: /a, do: {inject: {loops: 0-64}}}", "at most 64 numbers"),
        ("{path: /a, do: {inject: {loops: 1048576}}}", "at most 64 numbers"),
        ("{path: /a, do: {inject: {loops: 8, access: read-only}}}", "loops take no access"),
        ("{path: /a, access: read, do: {inject: {device: kvm}}}", "unknown access"),
    ],
)
def test_what_means_nothing(rule: str, said: str) -> None:
    with pytest.raises(PolicyFindings) as error:
        opens(rule)
    assert said in str(error.value)


def test_otherwise_is_the_kernels() -> None:
    with pytest.raises(PolicyFindings, match="kernel"):
        policy("version: 1\nsyscalls:\n  open: {otherwise: refuse, rules: []}\n")


@pytest.mark.parametrize(
    "text",
    [
        'open("/dev/kvm", O_RDWR)', 'openat(5, "kvm", O_RDWR)', 'open("/x", O_RDWR)',
        'openat(5, "x", O_RDONLY)', 'open("/dev/kvm/", O_RDWR)', 'open("/proc/cpuinfo", O_RDWR)',
        'openat2(5, "/dev/kvm", {flags=O_PATH}, 24)',
    ],
)  # fmt: skip
def test_explanations_tell_what_is_decided(text: str) -> None:
    found = explain(opens(KVM, INFO), asked(text))
    assert found.decision is not None
    decided = [one.place for one in found.tried if not one.objection]
    granted = found.decision.verdict is Verdict.INJECT
    assert decided == ([found.decision.rule] if granted else [])


def test_how_by_its_members() -> None:
    text = 'openat2 pathname=/dev/kvm how={flags=O_RDWR,mode=0} size=24'
    assert asked(text).snapshot.args[2] == pack_how(2)


def both_looks(rules: CompiledPolicy, text: str, uid: int) -> Decision:
    call = asked(text).told({"uid": uid})
    return call.decided(rules)[0]


@pytest.mark.parametrize("path", ["/a", "a"])
def test_what_refuses_a_caller_is_not_passed_by_for_the_records(path: str) -> None:
    """The first look does not know who calls: what it would let go for the records alone is looked
    at again, for a rule in force before that refuses some callers."""
    rules = opens(
        "{uid: 5, do: {errno: EIO}}", "{path: '**/a', mode: audit, do: {errno: EACCES}}",
    )  # fmt: skip
    refused = both_looks(rules, f'open("{path}", O_RDONLY)', 5)
    assert (refused.value, refused.audit) == (EIO, False)
    spared = both_looks(rules, f'open("{path}", O_RDONLY)', 6)
    assert (spared.value, spared.audit) == (EACCES, True)


@pytest.mark.parametrize("path", ["/a", "a"])
def test_an_audit_rule_that_asks_who_calls_is_not_passed_by(path: str) -> None:
    rules = opens("{uid: 5, mode: audit, do: {errno: EIO}}", "{do: {errno: EACCES}}")
    spared = both_looks(rules, f'open("{path}", O_RDONLY)', 5)
    assert (spared.value, spared.audit) == (EIO, True)
    refused = both_looks(rules, f'open("{path}", O_RDONLY)', 6)
    assert (refused.value, refused.audit) == (EACCES, False)


@pytest.mark.parametrize("audit", ["{uid: 7, mode: audit, do: refuse}",
                                   "{executable: /bin/a, mode: audit, do: kill}"])
@pytest.mark.parametrize("held", ["{uid: 5, do: refuse}", "{do: {errno: EACCES}}",
                                  "{uid: 5, do: {return: 0}}"])
def test_a_path_that_cannot_be_read_gets_nobody_past_a_refusal(audit: str, held: str) -> None:
    """Another thread may have put it there by the time that the kernel reads it."""
    for path in ("EFAULT", "ENAMETOOLONG"):
        call = asked(f"open({path}, O_RDONLY)").snapshot
        decision = opens(audit, held).decide("open", call)
        assert decision.needs_facts, "whoever carries it out says its errno"
        with pytest.raises(UnreadableArgument):
            FAMILIES["open"].plan(call, decision)
        assert not opens(audit).decide("open", call).needs_facts


def test_a_path_that_leads_nowhere_is_returned_by_a_rule_for_all_paths() -> None:
    rules = opens(
        "{gid: 0, mode: audit, do: {errno: EPERM}}", "{uid: 5, do: {return: 0}}",
        "{path: /a, uid: 5, mode: audit, do: {inject: {directory: /models}}}",
    )
    call = asked('open("/a", O_RDONLY)').snapshot
    found = rules.decide("open", call, Facts(None, 5, 1, nowhere=True))
    assert (found.verdict, found.audit) == (Verdict.RETURN, False)
    found = rules.decide("open", call, Facts(None, 6, 1, nowhere=True))
    assert found.verdict is Verdict.CONTINUE
