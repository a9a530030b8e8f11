"""setsockopt and getsockopt: which options of sockets programs may set and ask for.

Level and option are registers: what rules say of those the filter does by itself. What is carried
out is made for the caller, of the value that was read. By way of socketcall all of it lies in
memory: what is let go on is made there as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Final

from supervisor.handlers.base import (
    CALLER_KEYS,
    UNREADABLE,
    CallSpec,
    Family,
    KeyMatch,
    Kind,
    LevelMatch,
    Named,
    SocketOptionMatch,
    UnreadableArgument,
    call,
    number,
)
from supervisor.kernel.socket_options import packed, room_of
from supervisor.kernel.syscalls import is_wrapped
from supervisor.model import Arg, Decision, Message, OptionSettings, Snapshot, Verdict
from supervisor.plans import AskCaller, SocketCall
from supervisor.policy.options import option_of

_KEYS: Final[Mapping[str, KeyMatch]] = {
    "level": LevelMatch("the protocol whose option it is: SOL_SOCKET, IPPROTO_TCP, or its number"),
    "optname": SocketOptionMatch('options: SO_MARK, TCP_NODELAY, or as LEVEL:NUMBER, "17:5"'),
    **CALLER_KEYS,
}


class _Options(Family):
    """What both families have in common."""

    keys: ClassVar[Mapping[str, KeyMatch] | None] = _KEYS
    # SOCKET_URING_OP_SETSOCKOPT, since Linux 6.7
    io_uring: ClassVar[bool] = True

    def plan(self, snapshot: Snapshot, decision: Decision) -> AskCaller:
        """Who calls is asked, and what is carried out is made."""
        if decision.verdict is not Verdict.EMULATE:
            return AskCaller()
        try:
            made = self._made(snapshot)
        except UnreadableArgument as error:
            asks = decision.needs_facts and not is_wrapped(snapshot.nr)
            if asks and error.errno in UNREADABLE:
                return AskCaller(errno=error.errno)  # it may be decided otherwise
            raise
        return AskCaller(with_value(made, decision))

    def _made(self, snapshot: Snapshot) -> SocketCall:
        raise NotImplementedError


class SetOptions(_Options):
    """The family "setsockopt" of a policy."""

    name: ClassVar[str] = "setsockopt"
    doc: ClassVar[str] = "the options that are set on sockets"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call(
            "setsockopt", "setsockopt",
            ("sockfd", Kind.FD), ("level", Kind.LEVEL), ("optname", Kind.OPTION),
            ("optval", Kind.VALUE), ("optlen", Kind.INT),
        ),
    )  # fmt: skip

    def _made(self, snapshot: Snapshot) -> SocketCall:
        args = Named(self.calls[0], snapshot.args)
        return SocketCall(
            "set-option", number(args, "sockfd"), None, option=option_of(snapshot),
            length=number(args, "optlen"), message=Message(b"", _read(args["optval"])),
        )


class GetOptions(_Options):
    """The family "getsockopt" of a policy."""

    name: ClassVar[str] = "getsockopt"
    doc: ClassVar[str] = "the options that sockets are asked for"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call(
            "getsockopt", "getsockopt",
            ("sockfd", Kind.FD), ("level", Kind.LEVEL), ("optname", Kind.OPTION),
            ("optval", Kind.POINTER), ("optlen", Kind.ROOM),
        ),
    )  # fmt: skip

    def _made(self, snapshot: Snapshot) -> SocketCall:
        args = Named(self.calls[0], snapshot.args)
        length_at, length = room_of(_read(args["optlen"]))
        return SocketCall(
            "get-option", number(args, "sockfd"), None, option=option_of(snapshot),
            length=length, shown_at=(number(args, "optval"), length_at),
        )


def _read(argument: Arg) -> bytes:
    if isinstance(argument, int):
        raise UnreadableArgument(-argument)
    return argument


def with_value(made: SocketCall, decision: Decision) -> SocketCall:
    """The call with the value that the rule says, where it says one."""
    how = decision.settings
    value = how.value if isinstance(how, OptionSettings) else None
    return replace(made, value=None if value is None else packed(value))
