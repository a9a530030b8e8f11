"""The companions of connect: getsockname(2) and getpeername(2) of what was led elsewhere.

Where a rule leads to another family, a socket has an address of the family that it was made of all
the same; where one wants so, it is connected to what the caller asked for. All other sockets are
the kernel's to name. No policy names this family.
"""

from __future__ import annotations

from typing import ClassVar

from supervisor.handlers.base import (
    CallSpec,
    Family,
    Kind,
    Named,
    Needs,
    Traits,
    call,
    number,
)
from supervisor.model import Decision, Snapshot
from supervisor.plans import SocketCall


class SocketNames(Family):
    """The companion family "socket_names"."""

    name: ClassVar[str] = "socket_names"
    doc: ClassVar[str] = "what sockets that were led elsewhere are called"
    calls: ClassVar[tuple[CallSpec, ...]] = tuple(
        call(
            "socket_names", name,
            ("sockfd", Kind.FD), ("addr", Kind.POINTER), ("addrlen", Kind.POINTER),
        )
        for name in ("getsockname", "getpeername")
    )  # fmt: skip

    def serves(self, traits: Traits, needs: Needs) -> tuple[CallSpec, ...]:  # noqa: ARG002
        """The calls, where the kernel's own answer is not to be theirs."""
        wanted = {"getsockname": needs.own_names, "getpeername": needs.peer_names}
        return tuple(spec for spec in self.calls if wanted[spec.name])

    def plan(self, snapshot: Snapshot, decision: Decision) -> SocketCall:  # noqa: ARG002
        """Whose name is asked for, and where it is to be written."""
        own, _ = self.calls
        args = Named(own, snapshot.args)
        at = number(args, "addr"), number(args, "addrlen")
        operation = "name" if snapshot.name == own.name else "peer"
        return SocketCall(operation, number(args, "sockfd"), None, shown_at=at)
