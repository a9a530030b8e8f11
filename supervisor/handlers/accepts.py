"""accept and accept4: which peers a listener of the container's takes connections of.

Who connects is known once there is a connection, and what was taken cannot be put back. So where a
rule looks at that each is accepted by seccompd, decided on, and handed over, or closed. What rules
before it settle, which look at no more than who calls, is settled before anybody is accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from supervisor.handlers.base import (
    CALLER_KEYS,
    AddressMatch,
    CallSpec,
    Family,
    KeyMatch,
    Kind,
    Named,
    NetworkMatch,
    PortMatch,
    call,
    number,
)
from supervisor.model import Decision, Snapshot
from supervisor.plans import AskCaller, SocketCall


class Accepts(Family):
    """The family "accept" of a policy."""

    name: ClassVar[str] = "accept"
    doc: ClassVar[str] = "whose connections listeners take"
    io_uring: ClassVar[bool] = True
    settles: ClassVar[bool] = False
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call(
            "accept", "accept",
            ("sockfd", Kind.FD), ("addr", Kind.POINTER), ("addrlen", Kind.POINTER),
        ),
        call(
            "accept", "accept4",
            ("sockfd", Kind.FD), ("addr", Kind.POINTER), ("addrlen", Kind.POINTER),
            ("flags", Kind.FLAGS),
        ),
    )  # fmt: skip
    keys: ClassVar[Mapping[str, KeyMatch] | None] = {
        "family": AddressMatch("inet, inet6, unix; an IPv4 peer is inet at an IPv6 listener, too"),
        "from": NetworkMatch('who connects: "10.0.0.0/8", "::1"'),
        "port": PortMatch("the port that the connection comes from: \"1-1023\""),
        **CALLER_KEYS,
    }

    def plan(self, snapshot: Snapshot, decision: Decision) -> SocketCall | AskCaller:
        """Which listener it is, and where the peer's address is to be written."""
        spec = next(spec for spec in self.calls if spec.name == snapshot.name)
        args = Named(spec, snapshot.args)
        flags = number(args, "flags") if "flags" in args else 0
        at = number(args, "addr"), number(args, "addrlen")
        made = SocketCall("accept", number(args, "sockfd"), None, flags=flags, shown_at=at)
        return AskCaller(made) if decision.asks_caller else made
