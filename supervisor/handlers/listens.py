"""The companion of network: host: listen(2).

A container that has a socket of the host's network may listen on it where a rule has bound it, and
nowhere else: the kernel gives a socket that nobody has bound a port of its own choice.
"""

from __future__ import annotations

from typing import ClassVar

from supervisor.handlers.base import CallSpec, Family, Kind, Named, Needs, Traits, call, number
from supervisor.model import Decision, Snapshot
from supervisor.plans import SocketCall


class Listens(Family):
    """The companion family "listens"."""

    name: ClassVar[str] = "listens"
    doc: ClassVar[str] = "which sockets of the host's network may listen"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call("listens", "listen", ("sockfd", Kind.FD), ("backlog", Kind.INT)),
    )

    def serves(self, traits: Traits, needs: Needs) -> tuple[CallSpec, ...]:  # noqa: ARG002
        """The call, where a rule makes calls in the host's network."""
        return self.calls if needs.hosts else ()

    def plan(self, snapshot: Snapshot, decision: Decision) -> SocketCall:  # noqa: ARG002
        """What is to listen."""
        args = Named(self.calls[0], snapshot.args)
        return SocketCall("listen", number(args, "sockfd"), None, flags=number(args, "backlog"))
