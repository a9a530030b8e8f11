"""What an OCI runtime has to load for a policy: a seccomp profile (lxc_profile.py has that of LXC).

It is a list of rules for libseccomp, which takes an unconditional rule of a call as the end of
the matter: conditional rules of the same call, before it or after it, count for nothing then. So
where the base says of a call of ours that it is allowed, say, ours come first, and the base's is
narrowed to what ours leave over.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from supervisor.errors import PolicyError
from supervisor.kernel import bpf
from supervisor.kernel.bpf import FilterRule, ret_errno
from supervisor.kernel.syscalls import X86_64, Condition, Match, number

MASKED: Final = "SCMP_CMP_MASKED_EQ"
_EQUAL: Final = "SCMP_CMP_EQ"
_NOT_EQUAL: Final = "SCMP_CMP_NE"
_ALLOWING: Final = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
_WIDE: Final = (1 << 64) - 1
_X32: Final = "SCMP_ARCH_X32"
_ARCHITECTURES: Final = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")
WAIT_KILLABLE: Final = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"

# As bpf.NO_LISTENER, with one condition less: what is not to be refused is then one rule and not
# some thirty, and other operations of seccomp(2) take no such flag.
_NO_LISTENER: Final = FilterRule(
    "seccomp",
    ret_errno(errno.EBUSY),
    (Condition(1, bpf.FILTER_FLAG_NEW_LISTENER, bpf.FILTER_FLAG_NEW_LISTENER),),
)


def oci(
    rules: Iterable[FilterRule],
    base: Mapping[str, Any] | None,
    *,
    listener: str,
    metadata: str | None,
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """A profile for OCI runtimes (linux.seccomp of their configuration).

    `base` is one of that form, or of the form that podman and Docker have; it is kept apart from
    what the policy is about. `listener` is the path of the daemon's socket. Raises PolicyError
    where `base` is none, or the two cannot be put together.
    """
    out: dict[str, Any] = dict(base or {})
    if base is None:
        out["defaultAction"] = "SCMP_ACT_ALLOW"
    if "archMap" not in out:
        known = out.get("architectures") or []
        out["architectures"] = [*known, *(one for one in _ARCHITECTURES if one not in known)]
    out["listenerPath"] = listener
    if metadata is not None:
        out["listenerMetadata"] = metadata
    if flags:
        out["flags"] = [*dict.fromkeys([*(out.get("flags") or []), *flags])]
    ours = by_name(rules)
    ask_for_options(ours, _oci_words(out))
    entries = [
        {"names": [name], **_oci_action(rule.action), **_oci_args(rule.match)}
        for name, those in ours.items()
        for rule in those
    ]
    try:
        _agree(out.get("syscalls") or [], ours)
        for entry in out.get("syscalls") or []:
            entries += _narrowed(entry, ours)
        if any(number(name, X86_64) is None for name in ours):
            _drop_x32(out)
    except (TypeError, KeyError, AttributeError) as error:
        raise PolicyError(f"the base is no seccomp profile: {error!r}") from None
    if not isinstance(out.get("defaultAction"), str):
        raise PolicyError("the base is no seccomp profile: it has no defaultAction")
    out["syscalls"] = entries
    return out


def _drop_x32(profile: dict[str, Any]) -> None:
    """Makes x32 an architecture that the filter knows nothing of: its calls are refused then.

    Where x32 is there and a rule is about a call that x86_64 lacks (umount), libseccomp 2.5 may
    forget to load the number of the call: nothing is notified then, and the base's rules do not
    hold either.
    """
    if "archMap" in profile:
        profile["archMap"] = [
            {**one, "subArchitectures": [
                sub for sub in one.get("subArchitectures") or [] if sub != _X32
            ]}
            for one in profile["archMap"]
        ]  # fmt: skip
    else:
        profile["architectures"] = [one for one in profile["architectures"] if one != _X32]


def by_name(rules: Iterable[FilterRule]) -> dict[str, list[FilterRule]]:
    """The rules of each call, with those that every profile has."""
    ours: dict[str, list[FilterRule]] = {}
    for rule in (*rules, _NO_LISTENER):
        ours.setdefault(rule.name, []).append(rule)
    return ours


# Options of sockets are told apart by their arguments. For i386 libseccomp makes of a rule for one
# of these calls another one for socketcall, whose arguments are none of theirs: what a base allows
# would be allowed there, whatever our own rule for socketcall says.
OPTION_CALLS: Final = ("setsockopt", "getsockopt")
_REFUSING: Final = ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP", "errno", "kill", "trap")


def ask_for_options(ours: dict[str, list[FilterRule]], base: Iterable[tuple[str, str]]) -> None:
    """Notifies all calls of that kind which the base allows: sessions know what the filter would
    have settled. `base`: names of calls, with its action."""
    said = [(name, action.startswith(_REFUSING)) for name, action in base]
    for name in OPTION_CALLS:
        refuses = {refused for other, refused in said if other == name}
        if name not in ours or not refuses:
            continue
        if len(refuses) > 1:
            raise PolicyError(
                f"the base allows {name} and refuses it, and the policy looks at its arguments",
                hint="take one of these entries out of the base",
            )
        if refuses == {False}:
            ours[name] = [FilterRule(name, bpf.RET_USER_NOTIF)]


# -- what rules leave over


def left_over(rules: Iterable[FilterRule]) -> list[Match]:
    """The calls that no rule is about, as conditions that do not overlap."""
    left: list[dict[int, tuple[int, int]]] = [{}]
    for rule in rules:
        hole = {test.arg: (test.mask, test.value) for test in rule.match}
        left = [part for cube in left for part in _without(cube, hole)]
    return [
        tuple(Condition(arg, mask, value) for arg, (mask, value) in sorted(cube.items()) if mask)
        for cube in left
    ]


def _without(
    cube: Mapping[int, tuple[int, int]], hole: Mapping[int, tuple[int, int]]
) -> Iterable[dict[int, tuple[int, int]]]:
    """`cube` less `hole`. Both are (mask, value) by argument."""
    for arg, (mask, value) in hole.items():
        own_mask, own = cube.get(arg, (0, 0))
        if mask & own_mask & (value ^ own):
            yield dict(cube)
            return
    rest = dict(cube)
    for arg, (mask, value) in sorted(hole.items()):
        own_mask, own = rest.get(arg, (0, 0))
        for bit in (1 << place for place in range(31, -1, -1)):
            if not mask & ~own_mask & bit:
                continue
            own_mask |= bit
            yield {**rest, arg: (own_mask, own | (~value & bit))}
            own |= value & bit
        rest[arg] = (own_mask, own)


# -- OCI


def _oci_words(profile: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The calls that its entries are about, with what becomes of them."""
    try:
        return [
            (name, entry["action"])
            for entry in profile.get("syscalls") or []
            for name in entry.get("names") or [entry["name"]]
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise PolicyError(f"the base is no seccomp profile: {error!r}") from None


def _oci_action(action: int) -> dict[str, Any]:
    if action == bpf.RET_USER_NOTIF:
        return {"action": "SCMP_ACT_NOTIFY"}
    if action == bpf.RET_KILL_PROCESS:
        return {"action": "SCMP_ACT_KILL_PROCESS"}
    if action == bpf.RET_ALLOW:
        return {"action": "SCMP_ACT_ALLOW"}
    return {"action": "SCMP_ACT_ERRNO", "errnoRet": action & 0xFFFF}


def _oci_args(match: Match) -> dict[str, Any]:
    if not match:
        return {}
    args = [
        {"index": test.arg, "value": test.mask, "valueTwo": test.value, "op": MASKED}
        for test in match
    ]
    return {"args": args}


def _narrowed(
    entry: Mapping[str, Any], ours: Mapping[str, Sequence[FilterRule]]
) -> Iterable[dict[str, Any]]:
    """An entry of the base, for what ours leave over."""
    names = [*(entry.get("names") or [entry["name"]])]
    others = [name for name in names if name not in ours]
    if len(others) == len(names):
        yield dict(entry)
        return
    rest = {key: value for key, value in entry.items() if key not in ("names", "name", "args")}
    if others:
        yield {**rest, "names": others, "args": entry.get("args") or []}
    for name in names:
        if name not in ours:
            continue
        looked: dict[int, int] = {}
        for test in (test for rule in ours[name] for test in rule.match):
            looked[test.arg] = looked.get(test.arg, 0) | test.mask
        for match in left_over(ours[name]):
            for args in _both(match, entry, name, looked):
                yield {**rest, "names": [name], **args}


def _both(
    match: Match, entry: Mapping[str, Any], name: str, looked: Mapping[int, int]
) -> Iterable[dict[str, Any]]:
    """What an entry of the base says, for the calls of `match` alone. libseccomp takes one
    condition on each argument: where both have one, one is made of the two. `looked`: the bits
    of each argument that any rule of ours looks at."""
    tests: Sequence[Mapping[str, Any]] = entry.get("args") or ()
    parts: list[dict[int, tuple[int, int]]] = [{}]
    parts[0].update((test.arg, (test.mask, test.value)) for test in match)
    own = set(parts[0])
    once = len({test["index"] for test in tests}) == len(tests)  # else any one of them is enough
    for test in tests if once else ():
        arg, op = test["index"], test.get("op")
        if arg not in own:
            continue
        if op == _NOT_EQUAL and entry["action"] in _ALLOWING:
            # By the low bits, up to the last one that anybody looks at: each bit is a rule. What
            # differs in others alone is not allowed then.
            bits = (1 << (looked[arg] | test["value"]).bit_length()) - 1
            hole = {arg: (bits, test["value"])}
            parts = [rest for part in parts for rest in _without(part, hole)]
        elif op in (_EQUAL, MASKED):
            asked = _asked(test)
            parts = [{**part, arg: both} for part in parts if (both := _within(part[arg], asked))]
        else:
            once = False
    if not once:
        raise PolicyError(
            f"the base looks at arguments of {name}, and so does the policy",
            hint="take that entry out of the base, or let it stand without args",
        )
    kept = [dict(test) for test in tests if test["index"] not in own]
    for part in parts:
        ours = [Condition(arg, mask, value) for arg, (mask, value) in sorted(part.items())]
        yield {"args": [*_oci_args(tuple(ours)).get("args", ()), *kept]}


def _asked(test: Mapping[str, Any]) -> tuple[int, int]:
    """(mask, value) of a condition. libseccomp looks at no bits that are not in the mask."""
    if test["op"] == _EQUAL:
        return _WIDE, test["value"]
    return test["value"], test["valueTwo"] & test["value"]


def _agree(entries: Iterable[Mapping[str, Any]], ours: Mapping[str, Any]) -> None:
    """Raises PolicyError where a base says two things of one call. Which of them libseccomp goes by
    depends on the conditions of both, and those change where they are put together with ours.
    """
    said: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        for name in entry.get("names") or [entry["name"]]:
            if name in ours:
                said.setdefault(name, []).append(entry)
    for name, those in said.items():
        for one, other in itertools.combinations(those, 2):
            if (
                (one.get("args") or other.get("args"))
                and (one["action"], one.get("errnoRet")) != (other["action"], other.get("errnoRet"))
                and not _apart(one, other)
            ):
                raise PolicyError(
                    f"the base says two things of the same calls of {name}, which the policy is "
                    "about, too",
                    hint="take one of these entries out of the base",
                )


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether no container, or no call, has to do with both."""
    for here, there in ((one, other), (other, one)):
        needed = (here.get("includes") or {}).get("caps") or ()
        if set(needed) & {*((there.get("excludes") or {}).get("caps") or ())}:
            return True
    return any(
        mine["index"] == theirs["index"] and _differ(mine, theirs)
        for mine in one.get("args") or () for theirs in other.get("args") or ()
    )  # fmt: skip


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether no number is what both conditions say."""
    known = [test for test in (one, other) if test.get("op") in (_EQUAL, MASKED)]
    if len(known) == 2:
        return _within(_asked(one), _asked(other)) is None
    equal = [test for test in known if test["op"] == _EQUAL]
    unequal = [test for test in (one, other) if test.get("op") == _NOT_EQUAL]
    return bool(equal and unequal) and equal[0]["value"] == unequal[0]["value"]


def _within(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int] | None:
    """What both (mask, value) say; None: no number is both."""
    if one[0] & other[0] & (one[1] ^ other[1]):
        return None
    return one[0] | other[0], one[1] | other[1]
