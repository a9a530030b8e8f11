"""The companion of connect: getpeername(2) of what was led elsewhere.

Where a rule wants so it shows the address that the caller asked for. All other sockets are the
kernel's to name. No policy names this family.
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


class PeerNames(Family):
    """The companion family "peer_names"."""

    name: ClassVar[str] = "peer_names"
    doc: ClassVar[str] = "what sockets that were led elsewhere are connected to"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call(
            "peer_names", "getpeername",
            ("sockfd", Kind.FD), ("addr", Kind.POINTER), ("addrlen", Kind.POINTER),
        ),
    )  # fmt: skip

    def serves(self, traits: Traits, needs: Needs) -> tuple[CallSpec, ...]:  # noqa: ARG002
        """The call, where a rule wants it to show what was asked for."""
        return self.calls if needs.peer_names else ()

    def plan(self, snapshot: Snapshot, decision: Decision) -> SocketCall:  # noqa: ARG002
        """Whose name is asked for, and where it is to be written."""
        args = Named(self.calls[0], snapshot.args)
        at = number(args, "addr"), number(args, "addrlen")
        return SocketCall("peer", number(args, "sockfd"), None, shown_at=at)
