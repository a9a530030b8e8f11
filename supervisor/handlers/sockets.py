"""connect, bind, and what sends to an address: sendto, sendmsg, sendmmsg.

Where a call leads to lies in the caller's memory, so that none of these can be let go on once rules
refuse some of them: each is made on the caller's own socket, fetched from its table of descriptors,
with the address that was read. Nothing is decided by what that descriptor was before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from errno import EFAULT
from functools import lru_cache
from typing import ClassVar, Final

from supervisor.handlers.base import (
    CALLER_KEYS,
    AddressMatch,
    CallSpec,
    Condition,
    Family,
    KeyMatch,
    Kind,
    Match,
    NameMatch,
    NetworkMatch,
    PathMatch,
    PortMatch,
    UnreadableArgument,
    call,
)
from supervisor.kernel.addresses import address_of
from supervisor.model import Arg, Decision, Snapshot, SocketSettings
from supervisor.plans import SocketCall
from supervisor.policy.sockets import OPERATIONS

_LENGTH_AT: Final = 5
# An address has 1 to 128 bytes; with any other length there is none, or the kernel says EINVAL.
_WITH_ADDRESS: Final[Sequence[Match]] = tuple(
    (Condition(_LENGTH_AT, 1 << bit, 1 << bit),) for bit in range(8)
)


def _keys(where: str, doc: str) -> Mapping[str, KeyMatch]:
    return {
        "family": AddressMatch(
            "inet, inet6, unix, netlink; an IPv4 address is inet however it is written"
        ),
        where: NetworkMatch(doc),
        "port": PortMatch('ports of inet and inet6: 443, "8000-8999"'),
        "path": PathMatch(
            "a unix socket's path, as a glob below the caller's root directory", path="address"
        ),
        "abstract": NameMatch("a unix socket's abstract name, as a glob, without the NUL in front"),
        **CALLER_KEYS,
    }


class _Sockets(Family):
    """What both families have in common."""

    io_uring: ClassVar[bool] = True

    def plan(self, snapshot: Snapshot, decision: Decision) -> SocketCall:
        """The call with an address that can be understood in one way alone."""
        message = snapshot.message
        if message is None:
            return _plan(snapshot.name, snapshot.args, decision.settings)
        if message.errno:
            raise UnreadableArgument(message.errno)
        plan = _plan(snapshot.name, snapshot.args, decision.settings)
        return replace(plan, message=message)


@lru_cache(maxsize=1024)
def _plan(name: str, args: tuple[Arg, ...], settings: object) -> SocketCall:
    """The same call comes again and again."""
    address_at, flags_at = _PLACES[name]
    operation = OPERATIONS[name]
    fd, address = args[0], args[address_at]
    flags = args[flags_at] if flags_at is not None else 0
    if not isinstance(fd, int) or not isinstance(flags, int):
        raise TypeError(f"{name}: a number is a string")
    if isinstance(address, int) and address:
        raise UnreadableArgument(-address)
    several = name == "sendmmsg"
    if isinstance(address, int):
        if operation != "send":
            raise UnreadableArgument(EFAULT)
        return SocketCall(operation, fd, None, flags=flags, several=several)
    found = address_of(address, operation)
    return SocketCall(
        operation, fd, found.raw, found.path, flags, several=several,
        unspecified=found.unspecified, length=len(address),
        settings=settings if isinstance(settings, SocketSettings) else SocketSettings(),
    )  # fmt: skip


class Connects(_Sockets):
    """The family "connect" of a policy."""

    name: ClassVar[str] = "connect"
    doc: ClassVar[str] = "where sockets connect to, and send to"
    redirects: ClassVar[bool] = True
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call(
            "connect", "connect",
            ("sockfd", Kind.FD), ("addr", Kind.ADDRESS), ("addrlen", Kind.INT),
        ),
        call(
            "connect", "sendto",
            ("sockfd", Kind.FD), ("buf", Kind.BUFFER), ("len", Kind.SIZE), ("flags", Kind.FLAGS),
            ("dest_addr", Kind.DESTINATION), ("addrlen", Kind.INT),
        ),
        call(
            "connect", "sendmsg",
            ("sockfd", Kind.FD), ("msg", Kind.MESSAGE), ("flags", Kind.FLAGS),
        ),
        call(
            "connect", "sendmmsg",
            ("sockfd", Kind.FD), ("msgvec", Kind.MESSAGES), ("vlen", Kind.INT),
            ("flags", Kind.FLAGS),
        ),
    )  # fmt: skip
    keys: ClassVar[Mapping[str, KeyMatch] | None] = _keys(
        "to", 'where it leads to: "10.0.0.0/8", "::1"; IPv4 addresses count as such however written'
    )

    def always(self, spec: CallSpec, rules: object) -> Sequence[Match]:  # noqa: ARG002
        """All but what is sent without an address, as far as registers tell."""
        return _WITH_ADDRESS if spec.name == "sendto" else ((),)


class Binds(_Sockets):
    """The family "bind" of a policy."""

    name: ClassVar[str] = "bind"
    doc: ClassVar[str] = "the addresses that sockets take"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call(
            "bind", "bind",
            ("sockfd", Kind.FD), ("addr", Kind.ADDRESS), ("addrlen", Kind.INT),
        ),
    )  # fmt: skip
    keys: ClassVar[Mapping[str, KeyMatch] | None] = _keys(
        "address", 'its own address: "127.0.0.0/8", "::1"; "0.0.0.0" and "::" stand for all'
    )


# Where the address and the flags stand among the arguments of each call.
_PLACES: Final = {
    spec.name: (
        next(at for at, param in enumerate(spec.params) if param.kind.is_address),
        spec.index("flags"),
    )
    for family in (Connects, Binds)
    for spec in family.calls
}
