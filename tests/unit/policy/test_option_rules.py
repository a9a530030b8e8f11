"""Rules of socket options: what the filter does by itself, and what is decided of the rest."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from errno import EACCES, EFAULT, ENODEV, ENOPROTOOPT, ENOSYS, EPERM
from pathlib import Path

import pytest

from supervisor.handlers.base import UnreadableArgument
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.bpf import RET_ALLOW, RET_KILL_PROCESS, RET_USER_NOTIF, ret_errno
from supervisor.kernel.simulate import run
from supervisor.kernel.socket_options import named
from supervisor.kernel.syscalls import I386, X86_64, number, numbers
from supervisor.model import Decision, Facts, Message, OptionSettings, Snapshot, Verdict
from supervisor.plans import AskCaller, SocketCall
from supervisor.policy import selftest
from supervisor.policy.call_text import parse
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.draft import read_draft
from supervisor.policy.hot import answered_calls
from supervisor.policy.lint import lint
from supervisor.policy.recorded import recorded
from supervisor.policy.smallest import smallest
from tests.support.policies import policy

HEAD = "version: 1\nsyscalls:\n  setsockopt:\n"
ROOT = Facts(None, 0, 0)
SOMEBODY = Facts(None, 7, 7)
OPTIONS = ("SO_MARK", "SO_RCVTIMEO", "TCP_NODELAY", "TCP_REPAIR", "IP_TRANSPARENT", '"17:5"')
LEVELS = ("SOL_SOCKET", "SOL_TCP", "17", "IPPROTO_IP")


def rules(*some: str, otherwise: str = "refuse", family: str = "setsockopt") -> CompiledPolicy:
    lines = "".join(f"\n      - {{{rule}}}" for rule in some) or " []"
    return policy(
        f"version: 1\nsyscalls:\n  {family}:\n    otherwise: {otherwise}\n    rules:{lines}\n"
    )


def decide(
    compiled: CompiledPolicy, level: int, name: int, facts: Facts | None = None, *,
    nr: int = 54, arch: int = X86_64,
) -> Decision:
    snapshot = Snapshot(0, 0, arch, nr, 0, "setsockopt", (3, level, name, 1, 4))
    return compiled.decide("setsockopt", snapshot, facts)


def action(compiled: CompiledPolicy, arch: int, *args: int, name: str = "setsockopt") -> int:
    nr = number(name, arch)
    assert nr is not None
    return run(compiled.filter, nr, arch, args).action


def some_rule(rnd: random.Random) -> str:
    keys = []
    if rnd.random() < 0.7:
        keys.append(f"optname: [{', '.join(rnd.sample(OPTIONS, rnd.randrange(1, 4)))}]")
    elif rnd.random() < 0.7:
        keys.append(f"level: [{', '.join(rnd.sample(LEVELS, rnd.randrange(1, 3)))}]")
    if rnd.random() < 0.2:
        keys.append("uid: 0")
    do = rnd.choice(("continue", "refuse", "{errno: ENODEV}", "kill", "{return: 5}", "emulate"))
    if do == "emulate" and any("17:5" in key for key in keys):
        do = "refuse"  # what has no name here is set for nobody
    if rnd.random() < 0.5 and do not in ("continue", "{return: 5}", "emulate"):
        keys.append("silent: true")
    elif rnd.random() < 0.1:
        keys.append("mode: audit")
    return ", ".join([*keys, f"do: {do}"])


def answer(decision: Decision) -> int:
    """What a filter does that settles this."""
    if decision.verdict is Verdict.CONTINUE and not decision.audit:
        return RET_ALLOW
    if decision.audit or not decision.silent:
        return RET_USER_NOTIF
    answers = {Verdict.KILL: RET_KILL_PROCESS, Verdict.REFUSE: ret_errno(EPERM)}
    return answers.get(decision.verdict, ret_errno(ENODEV))


@pytest.mark.parametrize("seed", range(25))
def test_the_filter_settles_what_registers_settle(seed: int) -> None:
    """It answers a call as its rule would, and asks where somebody is to hear of it, or who calls
    makes a difference; upper halves of registers mean nothing."""
    rnd = random.Random(seed)
    compiled = rules(
        *(some_rule(rnd) for _ in range(rnd.randrange(1, 6))),
        otherwise=rnd.choice(("refuse", "kernel")),
    )
    for _ in range(60):
        level = rnd.choice((1, 6, 17, 0, 41, 0x7FFFFFFF, -1))
        name = rnd.choice((36, 20, 66, 1, 19, 5, 0, -1, rnd.getrandbits(31)))
        upper = [rnd.choice((0, 0, 1 << 32)) for _ in range(2)]
        wanted = {answer(decide(compiled, level, name, facts)) for facts in (ROOT, SOMEBODY)}
        for arch in (X86_64, I386):
            found = action(
                compiled, arch, 3, level & 0xFFFFFFFF | upper[0], name & 0xFFFFFFFF | upper[1], 1, 4
            )
            assert found == (wanted.copy().pop() if len(wanted) == 1 else RET_USER_NOTIF)


def test_a_list_of_what_is_allowed_never_leaves_the_kernel() -> None:
    allowed = ("SO_REUSEADDR", "SO_KEEPALIVE", "SO_ERROR", "SO_RCVTIMEO", "SO_SNDBUF", "SO_LINGER",
               "TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "IP_TOS", "IPV6_V6ONLY")  # fmt: skip
    compiled = rules(f"optname: [{', '.join(allowed)}], do: continue")
    for name in allowed:
        for one in named()[name]:
            assert action(compiled, X86_64, 3, *one, 1, 4) == RET_ALLOW
            assert action(compiled, I386, 3, *one, 1, 4) == RET_ALLOW
    assert action(compiled, X86_64, 3, *named()["SO_MARK"][0], 1, 4) == RET_USER_NOTIF
    assert action(compiled, X86_64, 3, 1, 2, name="getsockopt") == RET_ALLOW


def test_times_have_two_numbers_and_both_count() -> None:
    compiled = rules("optname: SO_RCVTIMEO, do: {errno: EACCES}", otherwise="kernel")
    assert named()["SO_RCVTIMEO"] == ((1, 20), (1, 66))
    assert [decide(compiled, 1, name).value for name in (20, 66, 21)] == [EACCES, EACCES, 0]


def test_level_and_option_both_have_to_hold() -> None:
    compiled = rules("level: SOL_TCP, optname: [TCP_NODELAY, SO_MARK], do: refuse",
                     otherwise="kernel")  # fmt: skip
    assert decide(compiled, 6, 1).verdict is Verdict.REFUSE
    assert decide(compiled, 1, 36).verdict is Verdict.CONTINUE
    with pytest.raises(Exception, match="no option here is one of SOL_TCP: this rule never match"):
        rules("level: SOL_TCP, optname: SO_MARK, do: refuse")


def test_who_calls_is_asked_where_a_rule_asks() -> None:
    compiled = rules("optname: SO_MARK, uid: 0, do: continue", "optname: TCP_ULP, do: continue")
    assert decide(compiled, 1, 36).needs_facts
    assert decide(compiled, 1, 36, ROOT).verdict is Verdict.CONTINUE
    assert decide(compiled, 1, 36, SOMEBODY).verdict is Verdict.REFUSE
    assert not decide(compiled, 6, 31).needs_facts
    assert not decide(compiled, 6, 19).needs_facts


@pytest.mark.parametrize(("name", "do", "verdict", "value"), [
    (36, "{errno: EACCES}", Verdict.ERRNO, EACCES), (36, "{return: 3}", Verdict.RETURN, 3),
    (36, "refuse", Verdict.REFUSE, 0), (36, "kill", Verdict.KILL, 0),
    (2, "refuse", Verdict.EMULATE, 0), (9999, "refuse", Verdict.ERRNO, ENOPROTOOPT),
])  # fmt: skip
def test_by_socketcall_nothing_goes_on_beside_a_refusal(
    name: int, do: str, verdict: Verdict, value: int
) -> None:
    """Its level and option lie in memory: what is refused is, and all else is carried out, where
    somebody else than the caller can do so."""
    compiled = rules(f"optname: SO_MARK, do: {do}", "optname: TCP_ULP, mode: audit, do: refuse",
                     otherwise="kernel")  # fmt: skip
    direct, wrapped = numbers("setsockopt", I386)
    found = decide(compiled, 1, name, nr=wrapped, arch=I386)
    assert (found.verdict, found.value) == (verdict, value)
    goes_on = decide(compiled, 1, 2, nr=direct, arch=I386)
    assert goes_on.verdict is Verdict.CONTINUE
    audited = decide(compiled, 6, 31, nr=wrapped, arch=I386)
    assert (audited.verdict, audited.audit) == (Verdict.EMULATE, False)
    assert run(compiled.filter, 102, I386, (14, 0)).action == RET_USER_NOTIF
    assert run(compiled.filter, 102, I386, (15, 0)).action == RET_ALLOW


def test_what_is_carried_out_says_how() -> None:
    compiled = rules("optname: SO_MARK, uid: 7, do: {emulate: {value: 5}}",
                     "optname: TCP_CONGESTION, do: {emulate: {value: reno}}",
                     "level: SOL_SOCKET, do: emulate", otherwise="kernel")  # fmt: skip
    assert decide(compiled, 1, 36).needs_facts
    mine, other = decide(compiled, 1, 36, SOMEBODY), decide(compiled, 1, 36, ROOT)
    assert (mine.verdict, mine.settings) == (Verdict.EMULATE, OptionSettings(5))
    assert (other.verdict, other.settings) == (Verdict.EMULATE, OptionSettings())
    reno = decide(compiled, 6, 13)
    assert reno.settings == OptionSettings("reno")
    # what nobody else can set is not set, nor is it let go on
    for name in (26, 9999):
        found = decide(compiled, 1, name)
        assert (found.verdict, found.value) == (Verdict.ERRNO, ENOPROTOOPT)
    assert decide(compiled, 6, 1).verdict is Verdict.CONTINUE
    family = FAMILIES["setsockopt"]
    snapshot = Snapshot(0, 0, X86_64, 54, 0, "setsockopt", (3, 6, 13, b"cubic", 5))
    made = SocketCall(
        "set-option", 3, None, option=(6, 13), length=5, message=Message(b"", b"cubic"),
        value=b"reno\0",
    )  # fmt: skip
    assert family.plan(snapshot, reno) == AskCaller(made)
    assert family.plan(snapshot, other) == AskCaller(replace(made, value=None))
    again = CompiledPolicy.from_json(compiled.to_json())
    assert again == compiled


def test_what_cannot_be_read_may_be_decided_otherwise() -> None:
    compiled = rules("optname: SO_MARK, uid: 0, do: {errno: EACCES}", "do: emulate",
                     family="getsockopt")  # fmt: skip
    snapshot = Snapshot(0, 0, X86_64, 55, 0, "getsockopt", (3, 1, 36, 64, -EFAULT))
    first = compiled.decide("getsockopt", snapshot, None)
    assert FAMILIES["getsockopt"].plan(snapshot, first) == AskCaller(errno=EFAULT)
    assert compiled.decide("getsockopt", snapshot, ROOT).value == EACCES


@pytest.mark.parametrize("name", [
    "SO_ATTACH_FILTER", "SO_ATTACH_BPF", "SO_PEERCRED", "SO_PEERPIDFD", "TCP_ZEROCOPY_RECEIVE",
    "MCAST_JOIN_GROUP", "IPT_SO_SET_REPLACE", "PACKET_RX_RING",
])  # fmt: skip
def test_what_has_to_do_with_the_callers_memory_or_descriptors_is_made_for_nobody(
    name: str,
) -> None:
    """Who made it would pass its own."""
    compiled = rules("optname: SO_MARK, do: refuse", otherwise="kernel")
    wrapped = numbers("setsockopt", I386)[1]
    found = decide(compiled, *named()[name][0], nr=wrapped, arch=I386)
    assert (found.verdict, found.value) == (Verdict.ERRNO, ENOPROTOOPT)


def test_by_socketcall_who_calls_is_asked_first() -> None:
    compiled = rules("optname: SO_MARK, uid: 0, do: continue")
    wrapped = numbers("setsockopt", I386)[1]
    assert decide(compiled, 1, 36, nr=wrapped, arch=I386).needs_facts
    found = decide(compiled, 1, 36, ROOT, nr=wrapped, arch=I386)
    assert (found.verdict, found.needs_facts) == (Verdict.EMULATE, False)
    assert decide(compiled, 1, 36, SOMEBODY, nr=wrapped, arch=I386).verdict is Verdict.REFUSE


def test_what_cannot_be_read_by_socketcall_is_no_option_of_level_0() -> None:
    """Nobody has seen what it is: the caller hears so, whatever the rules say."""
    compiled = rules("level: IPPROTO_IP, do: {errno: EACCES}", otherwise="kernel")
    wrapped = numbers("setsockopt", I386)[1]
    snapshot = Snapshot(0, 0, I386, wrapped, 0, "setsockopt", (0, 0, 0, -EFAULT, 0))
    found = compiled.decide("setsockopt", snapshot, None)
    assert found.verdict is Verdict.EMULATE
    with pytest.raises(UnreadableArgument) as raised:
        FAMILIES["setsockopt"].plan(snapshot, found)
    assert raised.value.errno == EFAULT


def test_a_record_of_a_call_by_socketcall_is_decided_as_one() -> None:
    record = {
        "syscall": "setsockopt", "arch": "i386", "nr": 102, "uid": 0, "gid": 0,
        "args": {"sockfd": 3, "level": 1, "optname": 2, "optval": None, "optlen": 4},
    }  # fmt: skip
    asked = recorded(FAMILIES, record)
    assert asked is not None
    compiled = rules("optname: SO_MARK, do: refuse", otherwise="kernel")
    assert compiled.decide("setsockopt", asked.snapshot, None).verdict is Verdict.EMULATE


def test_check_says_what_is_not_made_by_socketcall() -> None:
    said = list(answered_calls(rules("optname: SO_MARK, do: refuse", otherwise="kernel")))
    assert any(one.startswith("setsockopt of 32-bit programs by socketcall") for one in said)
    recorded_only = rules("optname: SO_MARK, mode: audit, do: refuse", otherwise="kernel")
    assert not list(answered_calls(recorded_only))


def test_by_socketcall_what_is_only_recorded_goes_on() -> None:
    compiled = rules("optname: SO_MARK, mode: audit, do: refuse", otherwise="kernel")
    wrapped = numbers("setsockopt", I386)[1]
    for name in (36, 2):
        assert decide(compiled, 1, name, nr=wrapped, arch=I386).value == 0
    assert run(compiled.filter, number("io_uring_setup", X86_64) or 0, X86_64, ()).action == (
        RET_ALLOW
    )


def test_rings_are_closed_where_options_are_refused() -> None:
    compiled = rules("optname: SO_MARK, do: refuse", otherwise="kernel")
    assert action(compiled, X86_64, 1, 0, name="io_uring_setup") == ret_errno(ENOSYS)


def test_it_comes_back_from_the_cache() -> None:
    compiled = rules(
        'optname: ["17:5", SO_MARK], uid: 0, do: {errno: EACCES}, silent: true',
        "level: SOL_TCP, mode: audit, do: refuse", otherwise="kernel",
    )  # fmt: skip
    again = CompiledPolicy.from_json(compiled.to_json())
    assert again == compiled


@pytest.mark.parametrize(("rule", "said"), [
    ("optname: SO_MARKS, do: refuse", "unknown option 'SO_MARKS': did you mean SO_MARK"),
    ("optname: 36, do: refuse", 'what has no name here is written "LEVEL:NUMBER"'),
    ('optname: "1:4294967296", do: refuse', "unknown option"),
    ("level: SOL_SOCK, do: refuse", "unknown level 'SOL_SOCK'"),
    ("level: -1, do: refuse", "unknown level -1"),
    ("optname: SO_MARK, do: {inject: {content: x}}", "unknown action 'inject'"),
    ('optname: "17:5", do: emulate', "cannot emulate 17:5, which has no name here"),
    ("optname: SO_PEERCRED, do: emulate", "cannot emulate SO_PEERCRED, which has to do with mem"),
    ("do: {emulate: {value: 1}}", "value is for options that are named"),
    ("level: SOL_TCP, do: {emulate: {value: 1}}", "value is for options that are named"),
    ("optname: SO_LINGER, do: {emulate: {value: 1}}", "SO_LINGER is no number and no text"),
    ("optname: SO_MARK, do: {emulate: {value: reno}}", "SO_MARK takes a number of 32 bits"),
    ("optname: TCP_CONGESTION, do: {emulate: {value: 1}}", "TCP_CONGESTION takes a name of 15"),
    ("optname: SO_MARK, do: {emulate: {value: 4294967296}}", "value is a number of 32 bits"),
    ("optname: SO_MARK, do: {emulate: {value: }}", "value is a number of 32 bits"),
    ("optname: SO_MARK, do: {emulate: {valeu: 1}}", "did you mean value"),
    ("optname: SO_MARK, do: {emulate: 1}", "takes settings, such as emulate: {value: 1}"),
])  # fmt: skip
def test_mistakes(rule: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        rules(rule)


def test_rules_that_never_decide_are_found() -> None:
    text = HEAD + (
        "    - {level: SOL_SOCKET, do: refuse}\n"
        "    - {optname: [SO_MARK, SO_DEBUG], do: continue}\n"
        "    - {optname: [SO_MARK, TCP_ULP], do: continue}\n"
    )
    draft = read_draft(Path("x.yaml"), text.encode(), FAMILIES)
    lint(draft)
    found = [(one.mark.line, one.message) for one in draft.source.everything()]
    assert found == [(5, "this rule is never reached: x.yaml:4 decides all that it matches")]


def test_a_rule_that_the_filter_carries_out_has_had_its_case(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(HEAD + (
        "    - {optname: SO_MARK, do: refuse, silent: true}\n"
        "    - {optname: SO_DEBUG, do: continue}\n    - {optname: TCP_ULP, do: continue}\n"
    ))
    (tmp_path / "p.test.yaml").write_text(
        "cases:\n  - {call: setsockopt, args: {level: 1, optname: 36}, verdict: errno EPERM}\n"
        "  - {call: setsockopt, args: {level: 1, optname: 1}, verdict: allow}\n"
    )
    report = selftest.run(file, FAMILIES)
    assert report.failures == ()
    assert report.untried == ("p.yaml:6",)


def test_calls_as_strace_writes_them() -> None:
    for text in (
        "setsockopt(3, SOL_SOCKET, SO_MARK, [1], 4) = 0",
        'setsockopt(3, SOL_TCP, TCP_ULP, "tls", 4)',
        "setsockopt(3, SOL_UDP, 5, [1], 4)",
        "setsockopt(3, SOL_SOCKET, SO_RCVTIMEO_NEW, {tv_sec=1, tv_usec=0}, 16)",
    ):  # fmt: skip
        head = text.split(", ")[:3]
        assert parse(FAMILIES, text).text().split(", ")[:3] == head
    found = parse(FAMILIES, "getsockopt(3, SOL_SOCKET, SO_SNDTIMEO_OLD, {tv_sec=0}, [16])")
    assert found.text().startswith("getsockopt(3, SOL_SOCKET, SO_SNDTIMEO, ")
    found = parse(FAMILIES, "getsockopt(3, SOL_SOCKET, SO_PEERCRED, {pid=1, uid=0, gid=0}, [12])")
    assert found.snapshot.args[1:3] == (1, 17)


def test_numbers_of_tables_are_those_of_the_kernels_headers(tmp_path: Path) -> None:
    """Which the shim cannot include."""
    names = [name for name in named() if name.startswith(("IPT_", "IP6T_", "ARPT_", "EBT_"))]
    lines = "".join(f'printf("{name} %d\\n", {name});' for name in names)
    (tmp_path / "a.c").write_text(
        "#include <stdio.h>\n#include <linux/netfilter_ipv4/ip_tables.h>\n"
        "#include <linux/netfilter_ipv6/ip6_tables.h>\n"
        "#include <linux/netfilter_bridge/ebtables.h>\n"
        "#include <linux/netfilter_arp/arp_tables.h>\n"
        f"int main(void) {{ {lines} return 0; }}\n"
    )
    subprocess.run(["cc", "-o", tmp_path / "a", tmp_path / "a.c"], check=True, timeout=60)
    out = subprocess.run([tmp_path / "a"], check=True, capture_output=True, text=True, timeout=60)
    said = dict(line.split() for line in out.stdout.splitlines())
    assert said == {name: str(named()[name][0][1]) for name in names}
    assert len(names) == 10


def test_the_smallest_rule_stands_where_a_policy_with_it_loads() -> None:
    """Behind a rule that returns, which of a caller of whom nobody knows what it is capable of
    decides nothing: that is no race."""
    own = ("level: SOL_SOCKET, capability: sys_admin, do: {return: 0}", "do: refuse")
    call = parse(FAMILIES, "setsockopt(3, SOL_SOCKET, SO_MARK, [1], 4)").told({"capability": []})
    found = smallest(rules(*own).families["setsockopt"], call, call.facts, FAMILIES, "host")
    assert found is not None
    assert found[1] == "p.yaml:7"
    assert rules(own[0], found[0].strip("{}"), own[1])


@pytest.mark.parametrize("who", ["capability: sys_admin", "executable: /usr/bin/*", "host_uid: 5"])
@pytest.mark.parametrize("otherwise", ["refuse", "kernel"])
def test_who_calls_leads_nobody_past_a_rule(who: str, otherwise: str) -> None:
    """A rule that answers matches nobody of whom nothing is known; but level and option are
    registers, and the call that goes on is the one that was looked at."""
    text = (
        f"version: 1\nsyscalls:\n  setsockopt:\n    otherwise: {otherwise}\n    rules:\n"
        f"      - {{level: SOL_SOCKET, {who}, do: {{return: 0}}}}\n"
        "      - {optname: [SO_MARK, SO_KEEPALIVE], do: continue}\n"
        "      - {level: SOL_SOCKET, do: {errno: EIO}}\n"
    )
    assert not read_draft(Path("p.yaml"), text.encode(), FAMILIES).source.everything()
