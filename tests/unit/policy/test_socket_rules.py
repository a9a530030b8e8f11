"""Decisions on sockets, from the semantics that docs/sockets.md promises."""

from __future__ import annotations

import errno
import json
import random
from errno import EAFNOSUPPORT, EFAULT

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel import bpf, simulate
from supervisor.kernel.address_text import read
from supervisor.kernel.syscalls import I386, X86_64, numbers
from supervisor.model import Arg, Decision, Facts, Snapshot, SocketSettings, Verdict
from supervisor.plans import SocketCall
from supervisor.policy.call_text import parse
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.explain import explain
from supervisor.policy.leads import leads_to
from supervisor.policy.shadows import shadows
from supervisor.policy.smallest import smallest
from supervisor.policy.source import PolicyFindings
from tests.support.policies import policy as policy_of

EMULATE, REFUSE, ERRNO = Verdict.EMULATE, Verdict.REFUSE, Verdict.ERRNO


def connect(*rules: str, otherwise: str = "refuse", family: str = "connect") -> CompiledPolicy:
    lines = "".join(f"\n      - {{{rule}}}" for rule in rules) or " []"
    return policy_of(
        f"version: 1\nsyscalls:\n  {family}:\n    otherwise: {otherwise}\n    rules:{lines}\n"
    )


def decide(
    policy: CompiledPolicy, address: Arg | str, facts: Facts | None = None, call: str = "connect"
) -> Decision:
    given = read(address) if isinstance(address, str) else address
    args: dict[str, tuple[Arg, ...]] = {
        "connect": (3, given, 16), "bind": (3, given, 16), "sendto": (3, 1, 1, 0, given, 16),
        "sendmsg": (3, given, 0), "sendmmsg": (3, given, 1, 0),
    }  # fmt: skip
    nr = numbers(call, X86_64)[0]
    family = "bind" if call == "bind" else "connect"
    return policy.decide(family, Snapshot(1, 1, X86_64, nr, 0, call, args[call]), facts)


@pytest.mark.parametrize(
    ("address", "verdict"),
    [
        ("10.0.0.1:80", EMULATE), ("10.255.0.1:80", EMULATE), ("11.0.0.1:80", REFUSE),
        ("10.0.0.1:81", REFUSE), ("10.0.0.1:8080", EMULATE), ("[::ffff:10.0.0.1]:80", EMULATE),
        ("[::10.0.0.1]:80", REFUSE), ("[2001:db8::5]:80", EMULATE), ("[2001:db9::5]:80", REFUSE),
        ("/run/x", REFUSE), ("@x", REFUSE), ("netlink:0:0", REFUSE),
    ],
)  # fmt: skip
def test_addresses_and_ports(address: str, verdict: Verdict) -> None:
    policy = connect('to: ["10.0.0.0/8", "2001:db8::/32"], port: [80, "8000-8999"], do: emulate')
    for call in ("connect", "sendto", "sendmsg", "sendmmsg"):
        assert decide(policy, address, call=call).verdict is verdict


def test_a_mapped_network_is_the_ipv4_network() -> None:
    policy = connect('to: "::ffff:10.0.0.0/104", do: emulate')
    assert decide(policy, "10.9.9.9:1").verdict is EMULATE
    assert decide(policy, "[::ffff:10.9.9.9]:1").verdict is EMULATE
    assert decide(policy, "[::1]:1").verdict is REFUSE


def test_all_of_ipv6_is_not_ipv4() -> None:
    policy = connect('to: "::/0", do: emulate')
    assert decide(policy, "[::1]:1").verdict is EMULATE
    assert decide(policy, "[::ffff:10.9.9.9]:1").verdict is REFUSE


def test_families_and_names() -> None:
    policy = connect("family: inet6, do: emulate", 'abstract: "x-*", do: emulate')
    assert decide(policy, "[::1]:1").verdict is EMULATE
    assert decide(policy, "127.0.0.1:1").verdict is REFUSE
    assert decide(policy, "@x-1").verdict is EMULATE
    assert decide(policy, "@y-1").verdict is REFUSE
    assert decide(policy, "/x-1").verdict is REFUSE


def test_paths_are_looked_at_twice() -> None:
    policy = connect('path: "/run/secret/**", do: refuse', 'path: "/run/**", do: emulate')
    facts = Facts(b"/run/secret/x", 0, 0)
    assert decide(policy, "/run/x").needs_facts
    assert decide(policy, "/run/x", Facts(b"/run/x", 0, 0)).verdict is EMULATE
    assert decide(policy, "/run/x", facts).verdict is REFUSE
    assert decide(policy, "/run/secret/x").verdict is REFUSE
    # where a relative path leads is not known yet
    assert decide(policy, "unix:x").verdict is EMULATE
    assert decide(policy, "unix:x", facts).verdict is REFUSE
    assert decide(policy, "unix:x", Facts(None, 0, 0)).verdict is REFUSE


def test_who_calls() -> None:
    policy = connect("uid: 0, family: inet, do: emulate")
    first = decide(policy, "10.0.0.1:1")
    assert (first.verdict, first.needs_facts) == (EMULATE, True)
    assert decide(policy, "10.0.0.1:1", Facts(None, 0, 0)).verdict is EMULATE
    assert decide(policy, "10.0.0.1:1", Facts(None, 5, 0)).verdict is REFUSE


def test_what_needs_no_second_look_takes_none() -> None:
    """A path that is not there is looked at by nobody."""
    policy = connect('path: "/run/**", do: refuse', "family: [inet, inet6], do: emulate")
    assert not decide(policy, "10.0.0.1:1").needs_facts


@pytest.mark.parametrize("call", ["sendto", "sendmsg", "sendmmsg"])
def test_without_an_address_it_goes_where_the_socket_is_connected_to(call: str) -> None:
    assert decide(connect('to: "10.0.0.1", do: emulate'), 0, call=call).verdict is EMULATE
    assert decide(connect(otherwise="kernel"), 0, call=call).verdict is Verdict.CONTINUE


def test_what_cannot_be_read_or_understood() -> None:
    policy = connect("do: emulate")
    found = decide(policy, -EFAULT)
    assert (found.verdict, found.value) == (ERRNO, EFAULT)
    found = decide(policy, b"\x28\0" + bytes(14))
    assert (found.verdict, found.value) == (ERRNO, EAFNOSUPPORT)
    assert decide(policy, -errno.ESRCH).verdict is REFUSE
    # to end a connection leads nowhere
    assert decide(connect(), bytes(16)).verdict is EMULATE


def test_the_same_call_gets_the_same_decision() -> None:
    policy = connect('to: "10.0.0.1", do: emulate')
    assert decide(policy, "10.0.0.1:1") is decide(policy, "10.0.0.1:2")
    assert decide(policy, 0, call="sendmsg") is decide(policy, 0, call="sendto")


def test_where_a_call_is_led_to() -> None:
    policy = connect(
        'to: "10.0.0.0/8", port: 443, do: {redirect: "127.0.0.1:8443"}',
        'to: "10.0.0.0/8", uid: 5, do: {redirect: "192.0.2.1"}', 'to: "::1", do: {redirect: "::1"}',
    )  # fmt: skip
    found = decide(policy, "10.1.1.1:443")
    assert (found.verdict, found.settings) == (EMULATE, SocketSettings(read("127.0.0.1:8443")))
    first = decide(policy, "10.1.1.1:80")
    assert first.needs_facts
    found = decide(policy, "10.1.1.1:80", Facts(None, 5, 0))
    assert found.settings == SocketSettings(read("192.0.2.1:0"))
    assert decide(policy, "10.1.1.1:80", Facts(None, 6, 0)).verdict is REFUSE
    plan = FAMILIES["connect"].plan(
        Snapshot(1, 1, X86_64, 42, 0, "connect", (3, read("10.1.1.1:80"), 16)), found
    )
    assert isinstance(plan, SocketCall)
    assert (plan.address, plan.settings) == (read("10.1.1.1:80"), found.settings)


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("10.0.0.1:80", "[::1]:8443"), ("[::ffff:10.0.0.1]:80", "[::1]:8443"),
        ("10.0.0.2:80", "/run/a.sock"), ("10.0.0.3:80", "@a"), ("10.0.0.4:80", "[2001:db8::1]:80"),
        ("/run/x", "10.9.9.9:1"), ("@x", "/run/a.sock"), ("10.0.0.5:80", ""),
    ],
)  # fmt: skip
def test_to_another_family(asked: str, target: str) -> None:
    policy = connect(
        'to: "10.0.0.1", do: {redirect: "[::1]:8443"}',
        'to: "10.0.0.2", do: {redirect: /run/a.sock}', 'to: "10.0.0.3", do: {redirect: "@a"}',
        'to: "10.0.0.4", do: {redirect: "2001:db8::1"}',
        'path: /run/x, do: {redirect: "10.9.9.9:1"}', 'abstract: x, do: {redirect: /run/a.sock}',
        "do: emulate",
    )  # fmt: skip
    facts = Facts(b"/run/x", 0, 0)
    assert leads_to(decide(policy, asked, facts), read(asked)) == target
    found = explain(policy, parse(FAMILIES, f"connect addr={asked}"))
    assert found.decision is not None
    assert leads_to(found.decision, found.asked.address_argument) == target


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        # RFC 6052, 2.4
        ("2001:db8::/32", "2001:db8:c000:221::"), ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
    ],
)  # fmt: skip
def test_where_ipv4_is_on_a_network_of_ipv6(prefix: str, address: str) -> None:
    policy = connect(f'to: "0.0.0.0/0", do: {{translate: "{prefix}"}}')
    for asked in ("192.0.2.33:443", "[::ffff:192.0.2.33]:443"):
        found = leads_to(decide(policy, asked), read(asked))
        assert read(found) == read(f"[{address}]:443")
    assert decide(policy, "[2001:db8::1]:443").verdict is REFUSE


def test_bind_leads_nowhere() -> None:
    with pytest.raises(PolicyFindings):
        connect('address: "10.0.0.1", do: {redirect: "1.2.3.4:5"}', family="bind")


def test_as_json_and_back() -> None:
    policy = connect(
        'to: ["10.0.0.0/8", "::1"], port: "1-2", do: emulate', 'path: "/x", uid: 0, do: emulate',
        'to: "10.0.0.1", do: {redirect: "127.0.0.1:8443"}',
        'to: "10.0.0.2", do: {redirect: "@x"}', 'path: "/y", do: {redirect: "[::1]:4"}',
        'to: "10.0.0.3", do: {translate: "64:ff9b::/96"}',
        'to: "10.0.0.4", do: {translate: {prefix: "64:ff9b::/96", peername: asked}}',
        'abstract: "a*", do: {errno: ENOENT}',
        "family: unix, do: refuse, silent: true",
    )  # fmt: skip
    again = CompiledPolicy.from_json(json.loads(json.dumps(policy.to_json())))
    assert again == policy
    assert again.families["connect"].rules == policy.families["connect"].rules


def findings(*rules: str, otherwise: str = "refuse") -> list[str]:
    with pytest.raises(PolicyFindings) as caught:
        connect(*rules, otherwise=otherwise)
    return [finding.message for finding in caught.value.findings]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ('to: "10.0.0.1/8", do: emulate', "an address in 10.0.0.0/8"),
        ('to: "10.0.0", do: emulate', "no address and no network"),
        ("to: localhost, do: emulate", "no address and no network"),
        ("port: 65536, do: emulate", "no such ports"),
        ('port: "9-8", do: emulate', "no such ports"),
        ("family: inet4, do: emulate", "did you mean inet"),
        ('family: unix, to: "10.0.0.1", do: emulate', "to is for inet and inet6"),
        ('path: "/x", port: 80, do: emulate', "no socket has both"),
        ('path: "/x", abstract: y, do: emulate', "no socket has both"),
        ("do: {emulate: {realise: bind}}", "takes no settings but set and network"),
        ("do: {emulate: {set: {TCP_NODELY: 1}}}", "did you mean TCP_NODELAY"),
        ("do: {emulate: {set: {SO_LINGER: 1}}}", "no option that can be set"),
        ("do: {emulate: {set: {SO_MARK: 4294967296}}}", "a number of 32 bits"),
        ("do: {emulate: {set: {SO_MARK: eth0}}}", "a number of 32 bits"),
        ("do: {emulate: {set: {SO_BINDTODEVICE: abcdefghijklmnop}}}", "15 letters"),
        ("do: {emulate: {set: {}}}", "options by name"),
        ('to: "10.0.0.1", do: {redirect: localhost}', "no address to lead to"),
        ('to: "10.0.0.1", do: {redirect: "1.2.3.4:0"}', "no address to lead to"),
        ('to: "10.0.0.1", do: {redirect: "unix:x"}', "begins with /"),
        ('path: /x, do: {redirect: "1.2.3.4"}', "has no port"),
        ('to: "10.0.0.1", do: {translate: "64:ff9b::/90"}', "32, 40, 48, 56, 64 or 96 bits"),
        ('to: "10.0.0.1", do: {translate: "2001:db8:0:0:100::/96"}', "bits 64 to 71"),
        ('to: "10.0.0.1", do: {translate: "10.0.0.0/8"}', "takes an IPv6 prefix"),
        ('to: "::1", do: {translate: "64:ff9b::/96"}', "what goes to IPv4 addresses"),
        ('to: "10.0.0.1", do: {redirect: {to: "1.2.3.4", peername: x}}', "real or asked"),
        ('to: "10.0.0.1", do: {redirect: {peername: asked}}', "'to' is missing"),
        ('to: "10.0.0.1", do: {redirect: {too: "1.2.3.4", to: "::1"}}', "unknown setting"),
        ('family: inet, do: {translate: "64:ff9b::/96"}', "what goes to IPv4 addresses"),
        ('port: 80, do: {redirect: "1.2.3.4:8"}', "name them by `to`, `path`"),
        ("do: continue", "is a race"),
        ('to: "10.0.0.1", mode: audit, do: emulate', "is a race"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_rule(rule: str, said: str) -> None:
    (message,) = findings(rule, 'port: 1, do: {errno: EACCES}') if "race" not in said else findings(
        'to: "10.0.0.0/8", do: refuse', rule
    )
    assert said in message


def test_no_continue_beside_a_restriction() -> None:
    """All of an address lies in memory: whatever a rule asks of it can be changed."""
    assert "race" in findings('to: "10.0.0.1", do: refuse', otherwise="kernel")[0]
    assert "race" in findings("family: unix, do: continue", "family: inet, do: emulate")[0]
    assert connect('to: "10.0.0.1", do: continue', otherwise="kernel")
    assert connect('to: "10.0.0.1", do: continue, accept_race: true')


def test_rules_that_are_never_reached() -> None:
    policy = connect(
        'to: "10.0.0.0/8", do: emulate', 'to: "10.1.0.0/16", port: 80, do: refuse',
        'port: "1-100", do: emulate', "port: [5, 6], do: refuse", 'path: "/run/**", do: emulate',
        'path: "/run/x", do: refuse', 'to: "::a00:0/104", do: refuse',
    )  # fmt: skip
    found = {shadow.index: shadow.by for shadow in shadows(policy.families["connect"])}
    # a path may not be known: then what refuses matches, and what grants does not
    assert found == {1: (0,), 3: (2,)}


def test_the_filter() -> None:
    """What has no address as far as registers tell never leaves the kernel."""
    policy = connect('to: "10.0.0.1", do: emulate')

    def action(arch: int, nr: int, *args: int) -> str:
        return simulate.action_text(simulate.run(policy.filter, nr, arch, args).action)

    for arch, sendto in ((X86_64, 44), (I386, 369)):
        assert action(arch, sendto, 3, 9, 1, 0, 0, 0) == "allow"
        for length in (1, 2, 16, 28, 110, 128):
            assert action(arch, sendto, 3, 9, 1, 0, 9, length) == "notify"
    for arch, call in ((X86_64, 42), (X86_64, 46), (X86_64, 307), (I386, 362), (I386, 370),
                       (I386, 345)):
        assert action(arch, call, 3, 9, 16) == "notify"
    for which_socket in ((2, 1, 132), (10, 5, 0), (2, 0x80005, 0)):
        for arch, nr in ((X86_64, 41), (I386, 359)):
            assert action(arch, nr, *which_socket) == "errno EPROTONOSUPPORT"
    assert action(X86_64, 41, 2, 1, 6) == action(X86_64, 41, 1, 5, 0) == "allow"
    wanted = {2: "allow", 3: "notify", 9: "allow", 11: "notify", 16: "notify", 20: "notify"}
    for which, expected in wanted.items():
        assert action(I386, 102, which, 9) == expected
    assert action(X86_64, 425) == "errno ENOSYS"
    assert action(X86_64, 49, 3, 9, 16) == "allow"
    assert action(I386, 102, 1 << 31 | 3, 9) == "allow"
    for name, notified in (("real", False), ("asked", True)):
        policy = connect(f'to: "10.0.0.1", do: {{redirect: {{to: "::1", peername: {name}}}}}')
        for arch, nr, *args in ((X86_64, 52, 3), (I386, 368, 3), (I386, 102, 7)):
            assert action(arch, nr, *args) == ("notify" if notified else "allow")
    led: tuple[tuple[str, bool], ...] = (
        ('to: "10.0.0.1", do: {redirect: "::1"}', True),
        ('to: "10.0.0.1", do: {redirect: "127.0.0.1"}', False),
        ('to: "10.0.0.1", do: {redirect: /run/x}', True),
        ('path: /run/y, do: {redirect: /run/x}', False),
        ('to: ["10.0.0.1", "2001:db8::1"], do: {redirect: "127.0.0.1"}', True),
        ('to: "2001:db8::/32", do: {balance: ["::1", "::2"]}', False),
        ('to: "2001:db8::/32", do: {balance: ["::1", "127.0.0.1"]}', True),
        ('to: "0.0.0.0/0", do: {translate: "64:ff9b::/96"}', True),
        ('to: "10.0.0.1", do: emulate', False),
    )
    for rule, notified in led:
        policy = connect(rule)
        for arch, nr, *args in ((X86_64, 51, 3), (I386, 367, 3), (I386, 102, 6)):
            assert action(arch, nr, *args) == ("notify" if notified else "allow"), rule
    nothing = connect(otherwise="kernel")
    assert simulate.run(nothing.filter, 42, X86_64, (3, 9, 16)).action == bpf.RET_ALLOW


def test_why_and_what_would_allow_it() -> None:
    policy = connect('to: "10.0.0.0/8", port: 443, do: emulate')
    asked = parse(FAMILIES, "connect addr=10.0.0.1:80")
    found = explain(policy, asked)
    assert found.filtered == "notify"
    (tried,) = found.tried
    assert (tried.key, tried.objection) == ("port", "10.0.0.1 port 80 is not 443")
    other = connect('address: "10.0.0.0/8", do: emulate', family="bind")
    (tried,) = explain(other, parse(FAMILIES, "bind addr=11.0.0.1:80")).tried
    assert tried.key == "address"
    allowed = smallest(policy.families["connect"], asked, None, FAMILIES, "host")
    assert allowed == ('{to: "10.0.0.1", port: 80, do: emulate}', "")
    asked = parse(FAMILIES, 'connect(3, {sa_family=AF_UNIX, sun_path="/run/x"}, 110)')
    allowed = smallest(policy.families["connect"], asked, None, FAMILIES, "host")
    assert allowed == ('{path: "/run/x", do: emulate}', "")


ADDRESSES = ("10.0.0.1:80", "10.0.0.2:81", "[::1]:80", "/run/x", "/etc/x", "unix:x", "@x")
WHERE = (b"/run/x", b"/etc/x", None)
LED = "{redirect: '127.0.0.1:9'}"


@pytest.mark.parametrize("seed", range(300))
def test_connections_that_load_have_no_race(seed: int) -> None:
    """All of an address is memory; who calls is not. Held against every call of a small world."""
    rnd = random.Random(seed)
    keys = ("to: 10.0.0.0/31", "port: 80", "family: unix", "path: /run/**", "abstract: x")
    rules = []
    for _ in range(rnd.choice((1, 2, 3, 4))):
        rule = [rnd.choice(keys)] if rnd.random() < 0.6 else []
        rule += [f"uid: {rnd.choice((0, 1))}"] if rnd.random() < 0.4 else []
        verdict = rnd.choice(("continue", "emulate", "refuse", "{errno: EIO}", "{return: 0}", LED))
        rule += [f"do: {verdict}"] + (["mode: audit"] if rnd.random() < 0.3 else [])
        rules.append(", ".join(rule))
    otherwise = rnd.choice(("refuse", "kernel"))
    try:
        policy = connect(*rules, otherwise=otherwise)
    except PolicyFindings:
        return
    for uid in (0, 1):
        found = []
        for address in ADDRESSES:
            first = decide(policy, address)
            if not first.needs_facts:
                found.append(first)
                continue
            found += [decide(policy, address, Facts(path, uid, 0)) for path in WHERE]
        goes_on = any(one.audit or one.verdict is Verdict.CONTINUE for one in found)
        refused = (Verdict.REFUSE, Verdict.ERRNO, Verdict.RETURN)
        led = [one for one in found if getattr(one.settings, "redirect", b"")]
        held = any(not one.audit for one in (*led, *(x for x in found if x.verdict in refused)))
        assert not (goes_on and held), (rules, otherwise, uid)


@pytest.mark.parametrize(
    "do",
    [
        LED, "{translate: '64:ff9b::/96'}", "{balance: ['10.0.0.5']}",
        "{emulate: {set: {SO_MARK: 1}}}",
    ],
)
def test_what_leads_elsewhere_is_not_got_past(do: str) -> None:
    """Another thread would put the address there after it was looked at."""
    rule = f'to: "10.0.0.1", do: {do}'
    (found,) = findings(rule, otherwise="kernel")
    assert "`otherwise: kernel` beside a rule that leads elsewhere by to is a race with" in found
    assert "is a race" in findings(rule, "do: continue")[0]
    assert "is a race" in findings(rule, "port: 1, mode: audit, do: emulate")[0]
    assert connect(rule, "do: emulate")
    assert connect(rule, "do: continue, accept_race: true")
    assert connect(f"{rule}, mode: audit", otherwise="kernel")
    assert connect('to: "10.0.0.1", do: emulate', otherwise="kernel")


def test_an_audit_rule_that_asks_who_calls_is_not_passed_by() -> None:
    policy = connect("uid: 0, mode: audit, do: {errno: EIO}")
    first = decide(policy, "10.0.0.1:80")
    assert (first.verdict, first.needs_facts) == (EMULATE, True)
    assert decide(policy, "10.0.0.1:80", Facts(None, 0, 0)).audit
    other = decide(policy, "10.0.0.1:80", Facts(None, 5, 0))
    assert (other.verdict, other.audit) == (REFUSE, False)
