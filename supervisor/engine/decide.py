"""Decisions, remembered: a policy is a pure function of what the caller passed.

A call that equals an earlier one to the bit gets the earlier decision without a look at the rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.engine.limits import DEFAULT, Limits
from supervisor.engine.snapshot import PROCEED, Reply
from supervisor.kernel import bpf, simulate
from supervisor.kernel.syscalls import CallSpec
from supervisor.model import Decision, Facts, Snapshot, Verdict
from supervisor.policy.compiled import CompiledPolicy

COMPANION = "node_files"


def reply_to(decision: Decision) -> Reply:
    """The answer to a call that is settled by its decision.

    CONTINUE stands for a refusal only where the kernel refuses by itself (see Judge).
    """
    if decision.verdict in (Verdict.CONTINUE, Verdict.REFUSE):
        return PROCEED
    if decision.verdict is Verdict.RETURN:
        return (decision.value, 0, 0)
    return (0, -decision.value, 0)


def _decision(action: int) -> Decision | None:
    """An action of our filter as a decision; None for a notification."""
    if action == bpf.RET_USER_NOTIF:
        return None
    reason = "settled by registers"
    if action == bpf.RET_ALLOW:
        return Decision(Verdict.CONTINUE, "filter", reason)
    if action == bpf.RET_KILL_PROCESS:
        return Decision(Verdict.KILL, "filter", reason)
    return Decision(Verdict.ERRNO, "filter", reason, action & 0xFFFF)


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision with what the session needs to act on it.

    `reply` is the answer where registers and strings alone settle it, else None. `companion`: the
    call is notified only for the sake of nodes that are bind mounts of ours.
    """

    decision: Decision
    spec: CallSpec | None
    reply: Reply | None
    companion: bool = False

    @property
    def refuses(self) -> bool:
        """Whether the caller does not get what it asked for."""
        return not self.decision.verdict.grants


class Judge:
    """Decides calls by one policy.

    `kernel_refuses`: the callers are outside the initial user namespace, so that the kernel itself
    refuses what a REFUSE is about, with the errno and the precedence that are its own. `foreign`:
    the filter is not ours, and may notify what ours would settle in the kernel: then that is the
    decision.
    """

    def __init__(
        self, policy: CompiledPolicy, *, kernel_refuses: bool, foreign: bool = False,
        limits: Limits = DEFAULT,
    ) -> None:
        self._policy = policy
        self._foreign = foreign
        self.kernel_refuses = kernel_refuses
        # Rulings on earlier calls by their keys.
        self.memo: dict[bytes, Ruling] = {}
        self._most = limits.memo
        self._rulings: dict[tuple[int, int], Ruling] = {}
        self._by_action: dict[int, Decision | None] = {}

    def spec(self, snapshot: Snapshot) -> CallSpec | None:
        """What the policy knows of the call; None where no rule is about it."""
        return self._policy.calls.get((snapshot.arch, snapshot.nr))

    def rule(self, key: bytes, snapshot: Snapshot) -> Ruling:
        """The ruling on a call that was not seen before."""
        spec = self.spec(snapshot)
        if spec is None:
            reason = "the filter notified a call that no rule is about"
            decision = Decision(Verdict.ERRNO, self._policy.source, reason, self._policy.on_error)
            return Ruling(decision, None, reply_to(decision))
        decision = (self._foreign and self._settled(snapshot)) or self._policy.decide(
            spec.family, snapshot, None
        )
        # A policy has few decisions, and gives the same object each time.
        same = (id(decision), id(spec))
        ruling = self._rulings.get(same)
        if ruling is None:
            if len(self._rulings) >= self._most:
                self._rulings.clear()
            ruling = self._rulings[same] = Ruling(
                decision,
                spec,
                None if decision.needs_facts else self._immediate(decision),
                companion=spec.family == COMPANION,
            )
        if len(self.memo) >= self._most:
            self.memo.clear()
        self.memo[key] = ruling
        return ruling

    def _settled(self, snapshot: Snapshot) -> Decision | None:
        """What our own filter would have answered; None where it would have asked us.

        It looks at registers alone, which a caller cannot change any more.
        """
        registers = [0 if isinstance(arg, bytes) else arg for arg in snapshot.args]
        action = simulate.run(self._policy.filter, snapshot.nr, snapshot.arch, registers).action
        if action not in self._by_action:
            self._by_action[action] = _decision(action)
        return self._by_action[action]

    def again(self, snapshot: Snapshot, spec: CallSpec, facts: Facts) -> Decision:
        """The decision with all that path work has found out."""
        return self._policy.decide(spec.family, snapshot, facts)

    def _immediate(self, decision: Decision) -> Reply | None:
        verdict = decision.verdict
        if verdict in (Verdict.EMULATE, Verdict.INJECT, Verdict.KILL):
            return None
        if verdict is Verdict.REFUSE and not self.kernel_refuses:
            return None
        return reply_to(decision)
