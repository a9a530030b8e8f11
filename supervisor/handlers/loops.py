"""The companion of open: ioctls of loop devices, where a rule gives those.

All of them are notified, and none is left to the kernel: what a descriptor is of another thread may
change between our look and the kernel's. No policy names this family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from supervisor.handlers.base import (
    CallSpec,
    Condition,
    Family,
    Kind,
    Match,
    Named,
    Needs,
    Traits,
    UnreadableArgument,
    call,
    number,
)
from supervisor.kernel.loops import COMMANDS, COMMANDS_MASK
from supervisor.model import Decision, Snapshot
from supervisor.plans import LoopCall


class Loops(Family):
    """The companion family "loops"."""

    name: ClassVar[str] = "loops"
    doc: ClassVar[str] = "what is done with loop devices that are given"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call("loops", "ioctl", ("fd", Kind.FD), ("op", Kind.FLAGS), ("argp", Kind.LOOP)),
    )

    def serves(self, traits: Traits, needs: Needs) -> tuple[CallSpec, ...]:  # noqa: ARG002
        """The call, where a rule gives loop devices."""
        return self.calls if needs.loops else ()

    def always(self, spec: CallSpec, rules: object) -> Sequence[Match]:  # noqa: ARG002
        """Theirs alone: these numbers are of no other driver."""
        return ((Condition(1, COMMANDS_MASK, COMMANDS),),)

    def plan(self, snapshot: Snapshot, decision: Decision) -> LoopCall:  # noqa: ARG002
        """What is asked of which descriptor."""
        args = Named(_IOCTL, snapshot.args)
        taken = args["argp"]
        if isinstance(taken, int):
            raise UnreadableArgument(-taken)
        return LoopCall(number(args, "fd"), number(args, "op"), taken)


_IOCTL: Final = Loops.calls[0]
