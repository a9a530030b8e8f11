"""Decisions, remembered: a policy is a pure function of what the caller passed.

A call that equals an earlier one to the bit gets the earlier decision without a look at the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from errno import EFAULT, EINVAL
from typing import Final

from supervisor.engine.limits import DEFAULT, Limits
from supervisor.engine.snapshot import PROCEED, Reply
from supervisor.handlers.base import UnreadableArgument
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel import bpf, simulate
from supervisor.kernel.shim import lib
from supervisor.kernel.syscalls import NATIVE_ARCHES, CallSpec, as_filtered, numbers
from supervisor.model import Arg, Decision, Facts, Outcome, Snapshot, Verdict, XattrSettings
from supervisor.plans import Plan
from supervisor.policy.compiled import CompiledPolicy

COMPANIONS = frozenset({"node_files", "umounts", "socket_names", "loops"})
_MOUNT = "mount"
_MKDIR: Final = "mkdir"
OPEN: Final = "open"
ACCEPT: Final = "accept"
# A caller is given what it has once its call is answered: answer and descriptor are one.
GIVES: Final = frozenset({OPEN, ACCEPT})
# Nobody asks for records of what goes on in these: there is a lot of it.
_QUIET: Final = frozenset({OPEN, "xattr"})
# What a container does all the time, and is the kernel's where no rule is about it.
_EVERYDAY: Final = ("node_files", "umounts", OPEN, _MKDIR)
# In a user namespace the kernel would grant some of what a policy refuses: these are refused here.
_REFUSED_HERE = frozenset(
    {_MOUNT, "connect", "bind", ACCEPT, OPEN, _MKDIR, "setsockopt", "getsockopt", "xattr"}
)
_LENGTH: Final = 4  # bytes of a string's length in a key
_LONG: Final = 1024  # bytes of a key of which nothing else is kept


def reply_to(decision: Decision) -> Reply:
    """The answer to a call that is settled by its decision.

    CONTINUE stands for a refusal only where the kernel refuses by itself (see Judge).
    """
    if decision.verdict in (Verdict.CONTINUE, Verdict.REFUSE):
        return PROCEED
    if decision.verdict is Verdict.RETURN:
        return (decision.value, 0, 0)
    return (0, -decision.value, 0)


def reply_of(decision: Decision, outcome: Outcome) -> Reply:
    """The answer to a call that was carried out, or was to be."""
    if outcome.errno:
        return (0, -outcome.errno, 0)
    if outcome.left_alone:
        return PROCEED
    if decision.verdict is Verdict.RETURN and not decision.audit:
        return (decision.value, 0, 0)
    return (outcome.value, 0, 0)


def once_named(outcome: Outcome, errno: int, on_error: int) -> Outcome:
    """What a call came to whose address was written to its caller's memory, or was not: `errno`."""
    # all else is a failure of ours
    known = errno in (0, EFAULT, EINVAL)
    if outcome.give is None:  # of a name that the kernel knows, too
        return outcome._replace(errno=errno if known else 0, left_alone=not known)
    if not errno:
        return outcome
    lib.sd_socket_lose(outcome.give.fd)  # as with the kernel
    return outcome._replace(errno=errno if known else on_error, give=None)


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
    call is notified only for the sake of nodes that are bind mounts of ours, or of our programs.
    `refuses`: the caller does not get what it asked for. `quiet`: it is recorded only where it does
    not go on as it would have gone without us. `args` and `plan`: what the call passed, and what is
    to be carried out, where that is kept: both follow from the call's key, as the decision does.
    """

    decision: Decision
    spec: CallSpec | None
    reply: Reply | None
    companion: bool = False
    args: tuple[Arg, ...] | None = None
    plan: Plan | None = None
    refuses: bool = field(init=False)
    quiet: bool = field(init=False)

    def __post_init__(self) -> None:
        decision = self.decision
        quiet = self.companion or (self.spec is not None and self.spec.family in _QUIET)
        object.__setattr__(self, "quiet", quiet and not decision.audit)
        object.__setattr__(self, "refuses", not decision.verdict.grants and not decision.audit)


# A filter cannot be changed: it still notifies what the first policy was to hear. To refuse that
# would be the end of a container, which could open and remove no file any more.
_LEFT: Final = Decision(Verdict.CONTINUE, "companion", "an earlier policy's: the kernel's now")


def _left_over(heard: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Those among `heard` that a policy need not name, as (architecture, number)."""
    names = {spec.name for family in _EVERYDAY for spec in FAMILIES[family].calls}
    for name in names.intersection(heard):
        for arch in NATIVE_ARCHES:
            yield from ((arch, nr) for nr in numbers(name, arch))


def _planned(ruling: Ruling, spec: CallSpec, snapshot: Snapshot) -> Ruling:
    """With the plan made, for this call and those that equal it."""
    try:
        plan = FAMILIES[spec.family].plan(snapshot, ruling.decision)
    except UnreadableArgument:
        return ruling  # whoever carries it out says so
    return replace(ruling, args=snapshot.args, plan=plan)


class Judge:
    """Decides calls by one policy.

    `kernel_refuses`: the callers are outside the initial user namespace, so that the kernel itself
    refuses what a REFUSE is about, with the errno and the precedence that are its own. `foreign`:
    the filter is not ours, and may notify what ours would settle in the kernel: then that is the
    decision. `heard`: calls that the filter notifies for the sake of an earlier policy.
    """

    def __init__(
        self, policy: CompiledPolicy, *, kernel_refuses: bool, foreign: bool = False,
        limits: Limits = DEFAULT, heard: Iterable[str] = (),
    ) -> None:
        self._policy = policy
        self._left_over = frozenset(_left_over(heard)) if kernel_refuses else frozenset()
        self._foreign = foreign
        self._by_action: dict[int, Decision | None] = {}
        self.kernel_refuses = kernel_refuses
        # Rulings on earlier calls by their keys.
        self.memo: dict[bytes, Ruling] = {}
        # Second looks at mounts, whose rules take longest, and which are the same again and again.
        self._mounts: dict[tuple[tuple[Arg, ...], Facts], Decision] = {}
        self._most = limits.memo
        self._rulings: dict[tuple[int, int], Ruling] = {}
        # For calls with one string: what is left of the policy once their registers are known.
        self._narrowed: dict[bytes, tuple[CallSpec, Callable[[bytes], Decision]]] = {}

    def take(self, policy: CompiledPolicy) -> None:
        """Goes by another policy from now on."""
        self._policy = policy
        for remembered in (self.memo, self._mounts, self._rulings, self._narrowed):
            remembered.clear()

    def by_string(self, key: bytes, head: int) -> Ruling | None:
        """The ruling on a call that differs from earlier ones in its string alone.

        `key` is its registers, `head` bytes of them, then the string's length and the string. None
        where there was no such call before: then `rule` has to be asked.
        """
        narrowed = self._narrowed.get(key[:head])
        if narrowed is None:
            return None
        spec, decide = narrowed
        return self._remember(key, self._ruling(decide(key[head + _LENGTH :]), spec))

    def rule(self, key: bytes, snapshot: Snapshot, head: int = 0) -> Ruling:
        """The ruling on a call that was not seen before. With `head`, as above, `by_string` will
        know the next one that is like it."""
        spec = self.spec(snapshot)
        if spec is None:
            left = (snapshot.arch, snapshot.nr) in self._left_over
            decision = _LEFT if left else self._policy.unnamed(snapshot.arch, snapshot.nr)
            return self._remember(key, Ruling(decision, None, reply_to(decision), companion=left))
        if self._foreign and (settled := self._settled(snapshot)) is not None:
            return self._remember(key, self._ruling(settled, spec))
        if head and sum(param.kind.is_string for param in spec.params) == 1:
            narrowed = self._policy.narrowed(spec.family, snapshot)
            if callable(narrowed):
                if len(self._narrowed) >= self._most:
                    self._narrowed.clear()
                self._narrowed[key[:head]] = spec, narrowed
        decision = self._policy.decide(spec.family, snapshot, None)
        ruling = self._ruling(decision, spec)
        if spec.family == _MOUNT and ruling.reply is None and len(key) <= _LONG:
            ruling = _planned(ruling, spec, snapshot)
        return self._remember(key, ruling)

    def spec(self, snapshot: Snapshot) -> CallSpec | None:
        """What the policy knows of the call; None where no rule is about it."""
        return self._policy.calls.get((snapshot.arch, snapshot.nr))

    def _settled(self, snapshot: Snapshot) -> Decision | None:
        """What our own filter would have answered; None where it would have asked us.

        It looks at registers alone, which a caller cannot change any more.
        """
        registers: Sequence[int] = [0 if isinstance(arg, bytes) else arg for arg in snapshot.args]
        nr, registers = as_filtered(snapshot.nr, registers)
        action = simulate.run(self._policy.filter, nr, snapshot.arch, registers).action
        if action not in self._by_action:
            self._by_action[action] = _decision(action)
        return self._by_action[action]

    def _ruling(self, decision: Decision, spec: CallSpec) -> Ruling:
        # A policy has few decisions, and gives the same object each time.
        same = (id(decision), id(spec))
        ruling = self._rulings.get(same)
        if ruling is None:
            if len(self._rulings) >= self._most:
                self._rulings.clear()
            ruling = self._rulings[same] = Ruling(
                decision,
                spec,
                None if decision.needs_facts else self._immediate(decision, spec),
                companion=spec.family in COMPANIONS,
            )
        return ruling

    def _remember(self, key: bytes, ruling: Ruling) -> Ruling:
        if len(self.memo) >= self._most:
            self.memo.clear()
        self.memo[key] = ruling
        return ruling

    def again(self, snapshot: Snapshot, spec: CallSpec, facts: Facts) -> Decision:
        """The decision with all that path work has found out."""
        if spec.family != _MOUNT:
            return self._policy.decide(spec.family, snapshot, facts)
        key = (snapshot.args, facts)
        decision = self._mounts.get(key)
        if decision is None:
            decision = self._policy.decide(spec.family, snapshot, facts)
            if len(self._mounts) >= self._most:
                self._mounts.clear()
            self._mounts[key] = decision
        return decision

    def leaves_refusals(self, spec: CallSpec) -> bool:
        """Whether a REFUSE of this call is the kernel's to do."""
        return self.kernel_refuses and spec.family not in _REFUSED_HERE

    def _immediate(self, decision: Decision, spec: CallSpec) -> Reply | None:
        verdict = decision.verdict
        # on a node of ours it does not go on, be it only to be recorded
        if isinstance(decision.settings, XattrSettings) and decision.settings.nodes:
            return None
        if decision.audit:
            return PROCEED
        if verdict in (Verdict.EMULATE, Verdict.INJECT, Verdict.KILL):
            return None
        if verdict is Verdict.REFUSE and not self.leaves_refusals(spec):
            return None
        return reply_to(decision)
