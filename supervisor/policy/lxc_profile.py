"""The seccomp profile that LXC has to load for a policy (lxc.seccomp.profile, version 2).

Of i386's calls on sockets LXC knows socketcall(2) alone. The others (connect is number 362) have no
name that it would take, so that no rule can be about them. Where a policy is about sockets, the
profile is a list of what is allowed, therefore: they are not on it, and ENOSYS.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from supervisor.errors import PolicyError
from supervisor.kernel import bpf
from supervisor.kernel.bpf import FilterRule
from supervisor.kernel.syscalls import SOCKETCALLS, Condition, Match
from supervisor.policy.profile import MASKED, OPTION_CALLS, ask_for_options, by_name, left_over

_ALLOWLISTS: Final = ("allowlist", "whitelist")
_REFUSED: Final = f"errno {errno.ENOSYS}"
# LXC has a word for that: umount2 with MNT_FORCE is EACCES.
_NO_FORCE: Final = "reject_force_umount"
_FORCED: Final = FilterRule("umount2", bpf.ret_errno(errno.EACCES), (Condition(1, 1, 1),))


def lxc(rules: Iterable[FilterRule], base: str | None) -> str:
    """The profile; `base` is one whose rules come after the policy's. Raises PolicyError where it
    is none, or the two cannot be put together.
    """
    lines = (base if base is not None else "2\ndenylist\n").splitlines()
    if len(lines) < 2 or lines[0].strip() != "2":
        raise PolicyError("the base is no LXC profile of version 2")
    ours = by_name(rules)
    allows = lines[1].split()[:1] in ([word] for word in _ALLOWLISTS)
    closes = not allows and not SOCKETCALLS.keys().isdisjoint(ours)
    ask_for_options(ours, _words(lines[2:], allows=allows, closes=closes))
    out = [lines[0], f"allowlist {_REFUSED}" if closes else lines[1], "[all]"]
    named = set()

    def add(name: str, action: str, match: Match) -> None:
        # libseccomp takes no rule that says what is so without it
        if not closes or action != _REFUSED:
            out.append(_line(name, action, match))

    for name, those in ours.items():
        for rule in those:
            add(name, _action(rule.action), rule.match)
    for line in lines[2:]:
        words = line.partition("#")[0].split()
        if words and closes:
            _check_whole(words)
        if not words or (words[0] not in ours and (not closes or words[0].startswith("["))):
            out.append(line)
            continue
        name, action = words[0], " ".join(words[1:]) or ("allow" if allows else "kill")
        if name == _NO_FORCE:
            out.append(line)
            continue
        if "[" in line:
            raise PolicyError(f"the base looks at arguments of {name}: write that rule without")
        named.add(name)
        for match in left_over(ours.get(name, ())):
            add(name, action, match)
    if closes:
        forced = any(line.split()[:1] == [_NO_FORCE] for line in lines)
        out += _all_others(ours, named, forced=forced)
    return "\n".join(out) + "\n"


def _words(lines: Iterable[str], *, allows: bool, closes: bool) -> list[tuple[str, str]]:
    """The calls that a base is about, with what becomes of them."""
    entries = [words for line in lines if (words := line.partition("#")[0].split())]
    said = [(name, (rest or ["allow" if allows else "kill"])[0]) for name, *rest in entries]
    missing = set(OPTION_CALLS).difference(name for name, _ in said) if closes else ()
    return said + [(name, "allow") for name in missing]


def _check_whole(words: Sequence[str]) -> None:
    if words[0].startswith("[") and words[0] != "[all]":
        raise PolicyError(
            f"the base has rules of {words[0]} alone, and the policy is about sockets",
            hint="have all rules of the base below [all]",
        )


def _all_others(
    ours: Mapping[str, Sequence[FilterRule]], named: set[str], *, forced: bool
) -> Iterator[str]:
    """What a list of what is refused would not name: it is allowed."""
    for name in bpf.known_calls():
        if name in named:
            continue
        rules = [*ours.get(name, ()), *([_FORCED] if forced and name == _FORCED.name else [])]
        for match in left_over(rules):
            yield _line(name, "allow", match)


def _line(name: str, action: str, match: Match) -> str:
    tests = [f"[{test.arg},{test.value},{MASKED},{test.mask}]" for test in match]
    return " ".join([name, action, *tests])


def _action(action: int) -> str:
    if action == bpf.RET_USER_NOTIF:
        return "notify"
    if action == bpf.RET_KILL_PROCESS:
        return "kill"
    return "allow" if action == bpf.RET_ALLOW else f"errno {action & 0xFFFF}"
