"""What records say of what was asked for: the calls that a policy is learned from, and all others,
each with a reason why it is not. What is the host's own (devices.py: PROTECTED) is never learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from supervisor.errors import PolicyError
from supervisor.kernel.bpf import RET_ALLOW, RET_USER_NOTIF
from supervisor.model import Inject, Verdict
from supervisor.policy.asked import Asked
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.devices import parse_device, protected
from supervisor.policy.draft import NO_RULE
from supervisor.policy.explain import device_of
from supervisor.policy.grants import PANIC
from supervisor.policy.match import glob_matches
from supervisor.policy.mounts import split_options
from supervisor.policy.opens import OpenRule
from supervisor.policy.said import settings_of
from supervisor.policy.xattrs import OPAQUE, call_of

_CALLS_MAX: Final = 100_000
# A connect or a send that comes to one of these has not failed: it is under way, or was too early.
_UNDER_WAY: Final = frozenset(("EINPROGRESS", "EALREADY", "EAGAIN", "EINTR"))
_SOCKETS: Final = ("connect", "bind", "accept")
# Where a rule lets a call go on, that is a grant: no pointer makes another call of it.
_OPTIONS: Final = ("setsockopt", "getsockopt")
# The families that rules are made for.
LEARNED: Final = frozenset(("mknod", "mkdir", "mount", "open", "xattr", *_SOCKETS, *_OPTIONS))
# Settings of mounts that no rule has.
_NOT_TAKEN_OVER: Final = frozenset(("devices",))
Counted = dict[str, tuple[Asked, int]]


def settings(asked: Asked) -> Mapping[str, Any]:
    """How the call was carried out, by the keys of `emulate`; what was given, by those of `inject`.
    """
    record = asked.recorded or {}
    return record.get("inject") or record.get("emulate") or {}


def briefly(asked: Asked) -> Mapping[str, Any]:
    """The same, with the rule's place for a content, which may be long."""
    found = settings(asked)
    return {"content": (asked.recorded or {}).get("rule")} if "content" in found else found


def with_content(asked: Asked, rules: Mapping[str, OpenRule]) -> Asked:
    """A call that was given a content, with that: it is in no record, but in the rule that gave it.

    `rules`: those of the policy that the record was written under, by their places.
    """
    record = asked.recorded or {}
    rule = rules.get(str(record.get("rule")))
    if not nameless(asked) or rule is None or rule.inject is None or rule.globs is None:
        return asked
    places = asked.places()
    if not places or not all(any(glob_matches(glob, one) for glob in rule.globs) for one in places):
        return asked  # the policy is another one, or was
    return replace(asked, recorded={**record, "inject": {"content": rule.inject.content}})


def nameless(asked: Asked) -> bool:
    """Whether an open was given something that its record does not name: a content."""
    record = asked.recorded or {}
    return record.get("verdict") == "inject" and not record.get("inject")


def conditions(asked: Asked) -> Mapping[str, Sequence[int | str]]:
    """What the rule asked of the caller, by its own keys."""
    return (asked.recorded or {}).get("caller") or {}


def protects(asked: Asked) -> str:
    """What of the host's a call is about, so that it is never learned; "" for all others."""
    if asked.spec.family == "mknod":
        closed = settings(asked).get("realise") == "closed"
        return "" if closed else protected(*device_of(asked))
    if asked.spec.family == "open":
        return _lends(settings(asked))
    if asked.spec.family == "xattr":
        name = call_of(asked.snapshot.name, asked.snapshot.args).text
        by_root = settings(asked).get("as") == "root" and name != OPAQUE
        return "what the host's root alone may say of a file" if by_root else ""
    if asked.spec.family != "mount":
        return ""
    source = asked.facts.source if asked.facts else None
    if source is not None and source.device is not None:
        return "the host's block devices"
    data = asked.snapshot.args[-1]
    stops = isinstance(data, bytes) and PANIC in split_options(data)
    return "the whole host, which a broken image would stop" if stops else ""


def _lends(given: Mapping[str, Any]) -> str:
    if "device" in given:
        kind, major, _, minor, _ = parse_device(given["device"])
        return protected(kind, major, minor)
    name = str(given.get("file", "")) or str(given.get("directory", "")).rstrip("/") + "/"
    of_kernel = name.startswith(("/proc/", "/sys/", "/dev/"))
    return "what the host's kernel has in files" if of_kernel else ""


@dataclass(slots=True)
class Learned:
    """What was found in the records: calls to be granted, and with counts calls that were refused,
    that were granted and failed all the same, that were left to the kernel, and that were granted
    but nobody wrote down where they led. `left_mounts`: some mounts were left to the kernel.
    """

    granted: dict[str, Asked] = field(default_factory=dict)
    refused: Counted = field(default_factory=dict)
    failed: Counted = field(default_factory=dict)
    left: Counted = field(default_factory=dict)
    unknown: Counted = field(default_factory=dict)
    left_mounts: bool = False
    calls: int = 0

    def add(self, asked: Asked, weight: int) -> None:
        """One recorded decision. PolicyError where there are too many different ones."""
        record = asked.recorded or {}
        self.left_mounts |= asked.spec.family == "mount" and record.get("verdict") == "continue"
        often = record.get("rule") == "filter" or asked.spec.family not in LEARNED - {"open"}
        if often and record.get("verdict") == "continue":
            return  # a filter of ours would not have notified it; of the others there are many
        self.calls += weight
        # What came of it is part of what is learned: the same call at two places are two.
        how = json.dumps([briefly(asked), conditions(asked)], sort_keys=True)
        key = f"{asked.text()} {asked.places()} {how}"
        others = self._others(asked)
        if others is None:
            self.granted.setdefault(key, asked)
        else:
            others[key] = (asked, others.get(key, (asked, 0))[1] + weight)
        different = len(self.granted) + len(self.refused) + len(self.failed)
        if different + len(self.left) + len(self.unknown) > _CALLS_MAX:
            raise PolicyError(f"more than {_CALLS_MAX} different calls: learn from less at a time")

    def _others(self, asked: Asked) -> Counted | None:
        """Where a call belongs that no rule is made of; None: one is."""
        record = asked.recorded or {}
        verdict = record.get("verdict")
        if verdict == "continue":
            let_go = asked.spec.family in _OPTIONS and record.get("mode") != "audit"
            return None if let_go else self.left
        if verdict not in ("emulate", "inject") or record.get("mode") == "audit" or protects(asked):
            return self.refused
        if "errno" in record and not _is_under_way(asked):
            return self.failed
        known = settings(asked) or verdict == "emulate"
        if asked.spec.family not in LEARNED or not known:
            return self.unknown
        # A rule about a socket without a path has none either; all others are of one place.
        somewhere = asked.path is not None or asked.spec.family not in (*_SOCKETS, *_OPTIONS)
        return self.unknown if somewhere and not asked.places() else None

    def refuses(self, family: str) -> bool:
        """Whether a rule has refused some of a family that the kernel might have let pass."""
        return any(
            asked.spec.family == family and not protects(asked) and not _is_audit(asked)
            for asked, _ in self.refused.values()
        )

    @property
    def held(self) -> set[str]:
        """The families of which something was refused, and not only to be recorded."""
        return {asked.spec.family for asked, _ in self.refused.values() if not _is_audit(asked)}

    @property
    def refusing(self) -> set[str]:
        """The places of the rules that refused something."""
        return {str((asked.recorded or {}).get("rule")) for asked, _ in self.refused.values()}

    @property
    def unmatched(self) -> set[str]:
        """The families of which what no rule matched was left to the kernel."""
        every = [*self.granted.values(), *(asked for asked, _ in self.left.values())]
        records = ((asked.spec.family, asked.recorded or {}) for asked in every)
        return {
            family for family, record in records
            if record.get("verdict") == "continue" and record.get("reason") == NO_RULE
        }  # fmt: skip

    def missing(self, policy: CompiledPolicy) -> dict[str, Asked]:
        """The granted calls that a policy does not grant."""
        return {key: one for key, one in self.granted.items() if not one.granted(policy)}

    def changed(self, policy: CompiledPolicy) -> dict[str, Asked]:
        """Those that a policy grants in another way: led elsewhere, given something else."""
        granted = self.granted.items()
        return {key: one for key, one in granted if one.granted(policy) and _changed(one, policy)}

    def beyond(self, policy: CompiledPolicy) -> set[str]:
        """The refused calls that a policy grants, by their keys."""
        return {key for key, (one, _) in self.refused.items() if one.granted(policy)}

    def loose(self, policy: CompiledPolicy) -> set[str]:
        """The refused calls that a policy leaves to the kernel, by their keys."""
        return {key for key, (one, _) in self.refused.items() if goes_on(one, policy)}

    def taken(self, policy: CompiledPolicy) -> set[str]:
        """The calls that were left to the kernel, and that a policy does not leave to it."""
        return {key for key, (one, _) in self.left.items() if not goes_on(one, policy)}


def _is_audit(asked: Asked) -> bool:
    return (asked.recorded or {}).get("mode") == "audit"


def _is_under_way(asked: Asked) -> bool:
    errno = (asked.recorded or {}).get("errno")
    return asked.spec.family in _SOCKETS and errno in _UNDER_WAY


def _changed(asked: Asked, policy: CompiledPolicy) -> bool:
    said = settings(asked)
    if asked.filtered(policy.filter).action != RET_USER_NOTIF:
        return bool(said)
    decision, _ = asked.decided(policy)
    if "content" in said:
        how = decision.settings
        return not isinstance(how, Inject) or how.content != said["content"]
    done = settings_of(decision)
    if asked.spec.family == "mount":  # earlier versions have written less of it
        return any(done.get(key) != said[key] for key in said.keys() - _NOT_TAKEN_OVER)
    return done != said


def goes_on(asked: Asked, policy: CompiledPolicy) -> bool:
    """Whether a policy lets the call go on, by its filter or by a decision."""
    action = asked.filtered(policy.filter).action
    if action != RET_USER_NOTIF:
        return action == RET_ALLOW
    if asked.spec.family not in policy.families:
        return True
    decision, _ = asked.decided(policy)
    return decision.verdict is Verdict.CONTINUE or decision.audit
