"""Decides the calls of audit logs again, by another policy: what would come out otherwise?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.kernel.simulate import action_text
from supervisor.model import Decision, Facts, Verdict
from supervisor.policy.asked import Asked
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.explain import verdict_text
from supervisor.policy.learned import settings
from supervisor.policy.match import lexical
from supervisor.policy.said import settings_of

_KERNEL: Final = "the kernel decides"
_CARRIED_OUT: Final = (Verdict.EMULATE.value, Verdict.INJECT.value)
# Errors of a path, and of what it starts from.
_NOWHERE: Final = frozenset(("ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG", "EBADF", "EFAULT"))
_FLIPS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Flip:
    """A call that comes out otherwise. `sure`: the record had all that the new policy asks for."""

    call: str
    before: str
    rule_before: str
    after: str
    rule_after: str
    sure: bool


@dataclass(slots=True)
class Replay:
    """What came of it: how many calls were decided again, and which of them flip, with counts.

    `blind` counts calls that come out the same as far as can be told without what was not recorded.
    """

    calls: int = 0
    blind: int = 0
    flips: dict[Flip, int] = field(default_factory=dict)
    more: int = 0

    def sorted(self) -> list[tuple[Flip, int]]:
        """The flips, those of the most calls first."""
        return sorted(self.flips.items(), key=lambda pair: (-pair[1], pair[0].call))


def replay(policy: CompiledPolicy, calls: Iterable[tuple[Asked, int]]) -> Replay:
    """Decides each call again."""
    out = Replay()
    for asked, weight in calls:
        out.calls += weight
        before, rule = _before(asked.recorded or {})
        after, rule_after, sure, how = _after(policy, asked)
        said = settings(asked) if before.startswith(_CARRIED_OUT) else {}
        # Earlier versions have not written how something was mounted.
        if before == after and how != said and (said or asked.spec.family != "mount"):
            before, after = _with(before, said), _with(after, how)
        if before == after:
            out.blind += 0 if sure else weight
            continue
        flip = Flip(asked.text(), before, rule, after, rule_after, sure)
        if flip in out.flips or len(out.flips) < _FLIPS_MAX:
            out.flips[flip] = out.flips.get(flip, 0) + weight
        else:
            out.more += weight
    return out


def _before(record: Any) -> tuple[str, str]:
    verdict = str(record.get("verdict"))
    text = verdict
    recorded_only = record.get("mode") == "audit"
    if verdict == "errno":
        text = f"errno {record.get('would' if recorded_only else 'errno')}"
    elif verdict == "return":
        text = f"return {record.get('would' if recorded_only else 'result')}"
    elif verdict == "continue":
        text = _KERNEL
    if recorded_only:
        text += " (only recorded)"
    return text, str(record.get("rule"))


def _after(policy: CompiledPolicy, asked: Asked) -> tuple[str, str, bool, Mapping[str, Any]]:
    """(what comes out, by which rule, whether everything that was looked at had been recorded, how
    it is carried out).
    """
    action = action_text(asked.filtered(policy.filter).action)
    if action == "allow":
        return _KERNEL, "the filter", True, {}
    if action != "notify":
        return action, "the filter", True, {}
    if asked.spec.family not in policy.families:
        return _KERNEL, "companion", True, {}
    first = policy.decide(asked.spec.family, asked.snapshot)
    if first.needs_facts and _led_nowhere(asked):
        return _text(first), first.rule, "nowhere" in (asked.recorded or {}), settings(asked)
    decision, facts = asked.decided(policy)
    how = settings_of(decision) if decision.verdict.value in _CARRIED_OUT else {}
    return _text(decision), decision.rule, _known(policy, asked, facts), how


def _with(verdict: str, how: Mapping[str, Any]) -> str:
    """A verdict with how it is carried out, as a record has it."""
    return f"{verdict} {json.dumps(how, sort_keys=True) if how else 'as asked'}"


def _led_nowhere(asked: Asked) -> bool:
    """Whether nobody has looked at a call a second time, for it ended before, and nobody would now.
    Earlier versions have written no more of that than the error of its path, where it was granted.
    """
    record = asked.recorded or {}
    if "nowhere" in record:
        return True
    followed = asked.facts is not None or "resolved" in record
    granted = record.get("verdict") in _CARRIED_OUT and record.get("mode") != "audit"
    return granted and not followed and record.get("errno") in _NOWHERE


def _is_plain(path: bytes | None) -> bool:
    return path is not None and lexical(path) == path


def _text(decision: Decision) -> str:
    text = _KERNEL if decision.verdict is Verdict.CONTINUE else verdict_text(decision)
    return text + (" (only recorded)" if decision.audit else "")


def _known(policy: CompiledPolicy, asked: Asked, facts: Facts | None) -> bool:
    """Whether the record has all that the second look took; the first takes arguments alone."""
    if facts is None:
        return True
    if asked.facts is None:
        # A granted call whose path is plain led there; of who called nothing was written down.
        rules: Sequence[Any] = policy.families[asked.spec.family].rules
        record = asked.recorded or {}
        followed = "resolved" in record or (record.get("result") == 0 and _is_plain(asked.path))
        return followed and not any(rule.caller for rule in rules)
    return all(getattr(facts, name) is not None for name in policy.wants)
