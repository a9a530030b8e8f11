"""A call on a socket that is being carried out: the C structure, and what is put into it."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from errno import EOPNOTSUPP
from typing import Any, Final

from supervisor.engine.porters import Porter
from supervisor.kernel.address_text import written
from supervisor.kernel.addresses import address_of, family_of
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.socket_options import options as known_options
from supervisor.kernel.socket_options import packed
from supervisor.kernel.syscalls import X86_64
from supervisor.kernel.task import thread_group
from supervisor.model import Snapshot, Tcp
from supervisor.plans import SocketCall
from supervisor.policy.leads import led_to

_OPERATIONS: Final = {
    "connect": lib.SD_SOCKET_CONNECT, "bind": lib.SD_SOCKET_BIND, "send": lib.SD_SOCKET_SEND,
    "name": lib.SD_SOCKET_NAME, "peer": lib.SD_SOCKET_PEER, "listen": lib.SD_SOCKET_LISTEN,
    "accept": lib.SD_SOCKET_ACCEPT,
    "set-option": lib.SD_SOCKET_SET_OPTION, "get-option": lib.SD_SOCKET_GET_OPTION,
}  # fmt: skip
_OF_OPTIONS: Final = frozenset(("set-option", "get-option"))
_MSG_NOSIGNAL: Final = 0x4000
# Says of a message that it has 32 bits, in the kernel; no program of 64 bits may say so of its own.
_MSG_CMSG_COMPAT: Final = 0x80000000
_SOCK_STREAM: Final = 1
_SOCK_DGRAM: Final = 2
# The kernel's own, for a call that is to begin anew once the signal has been seen to: it knows
# whether the caller asked for that (SA_RESTART), and what to say where it did not. It does so only
# for the thread that will see to the signal.
ERESTARTSYS: Final = 512
# What is sent is a copy of ours: nobody could say when the caller's own may be changed again.
_MSG_ZEROCOPY: Final = 0x4000000
# What goes into the record of a call that was not made.
WHY: Final[Mapping[int, str]] = {
    lib.SD_SOCKET_DOMAIN: "socket: of a domain that is not served",
    lib.SD_SOCKET_LONG: "socket: a message of more than 128 KiB",
    lib.SD_SOCKET_NETLINK: "socket: a netlink message that may change something",
    lib.SD_SOCKET_CONTROL: "socket: a control message",
    lib.SD_SOCKET_OTHER: "socket: another one than was looked at",
    lib.SD_SOCKET_RIGHTS: "socket: the caller's descriptors or rights cannot be taken",
    lib.SD_SOCKET_KIND: "socket: of a kind that cannot be led to another family",
    lib.SD_SOCKET_NETWORK: "socket: none can be made in the caller's network namespace",
    lib.SD_SOCKET_CARRY: "socket: what is set on it cannot be set on another one",
    lib.SD_SOCKET_PLACE: "socket: another one cannot take its place",
    lib.SD_SOCKET_HOSTS: "socket: of the host's network, where no rule leads or binds it",
    lib.SD_SOCKET_SET: "socket: what the rule sets on it cannot be set",
}


class SocketError(Exception):
    """What the caller is told, and what goes into the audit record."""

    def __init__(self, errno: int, how: str = "") -> None:
        super().__init__(how)
        self.errno = errno
        self.how = how


class NobodyThere(SocketError):
    """There is no unix socket where a rule leads to."""


def _flags(plan: SocketCall, snapshot: Snapshot) -> int:
    """Those of the call, as a signed number; without one that the kernel takes no notice of."""
    flags = plan.flags
    if plan.operation == "send" and (snapshot.name == "sendto" or snapshot.arch != X86_64):
        flags &= ~_MSG_CMSG_COMPAT
    return (flags + (1 << 31)) % (1 << 32) - (1 << 31)


class SocketJob:
    """One call on its way. `porter` is who makes it, None before that. `certain`: it was
    interrupted for a signal that the calling thread itself will see to. `target` is the struct
    sockaddr that it is led to, b"" where it is left as it was asked for.
    """

    __slots__ = ("_kept", "call", "certain", "plan", "porter", "snapshot", "target")

    def __init__(
        self, plan: SocketCall, snapshot: Snapshot, *, by_thread: bool, target: bytes | None = None
    ) -> None:
        """`target`: one of several that the rule may lead to."""
        self.plan = plan
        self.snapshot = snapshot
        self.porter: Porter | None = None
        self.certain = False
        self._kept: list[Any] = []
        call = self.call = ffi.new("struct sd_socket *")
        call.listener, call.id, call.tid = snapshot.listener, snapshot.id, snapshot.tid
        call.number, call.by_thread = plan.fd, by_thread
        call.op, call.call_flags = _OPERATIONS[plan.operation], _flags(plan, snapshot)
        if plan.operation in _OF_OPTIONS:
            call.call_flags = plan.length
        call.task = call.path = call.watch = call.taken = -1
        call.level, call.option = plan.option
        if plan.address is None:
            call.flags = lib.SD_SOCKET_NO_ADDRESS
        else:
            call.address_length = len(plan.address)
            ffi.memmove(call.address, plan.address, len(plan.address))
            call.asked_family, call.asked_length = family_of(plan.address), plan.length
        self._set(plan.settings.options)
        if plan.settings.host:
            call.flags |= lib.SD_SOCKET_HOST
        if plan.unspecified:
            call.flags |= lib.SD_SOCKET_UNSPECIFIED
        if snapshot.arch != X86_64:
            call.flags |= lib.SD_SOCKET_NARROW
        if target is None:
            target = led_to(plan.settings, plan.address) if plan.address else b""
        self.target = target
        if self.target:
            call.flags |= lib.SD_SOCKET_REDIRECTED
            call.address_length = len(self.target)
            ffi.memmove(call.address, self.target, len(self.target))

    def _set(self, options: Sequence[tuple[str, int | str]]) -> None:
        """What is set on the socket first."""
        self.call.set_count = len(options)
        for one, (name, value) in zip(self.call.set, options, strict=False):
            what, data = known_options()[name], packed(value)
            one.level, one.number, one.length = what.level, what.number, len(data)
            ffi.memmove(one.value, data, len(data))

    def again(self, snapshot: Snapshot) -> None:
        """The same call once more."""
        self.snapshot, self.certain = snapshot, False
        call = self.call
        call.listener, call.id, call.tid = snapshot.listener, snapshot.id, snapshot.tid

    @property
    def is_datagrams(self) -> bool:
        """Whether the socket that was looked at has no connections."""
        return int(self.call.type) == _SOCK_DGRAM

    @property
    def target_path(self) -> bytes | None:
        """The path of the file system that it is led to."""
        return address_of(self.target, "connect").path if self.target else None

    @property
    def how(self) -> str:
        """What goes into the record of a call that was made."""
        said = [f"redirected to {written(self.target)}"] if self.target else []
        if self.call.replaced:
            said.append("by another socket")
        if self.call.hosted:
            said.append("in the host's network")
        return ", ".join(said)

    @property
    def tcp(self) -> Tcp | None:
        """What is known of the connection, where it is there."""
        call = self.call
        if not call.mss:
            return None
        return Tcp(int(call.mss), int(call.pmtu), int(call.rtt_us), int(call.retransmits))

    @property
    def filled(self) -> tuple[tuple[int, bytes], ...]:
        """What the caller is told of an option, and where."""
        if self.plan.operation != "get-option":
            return ()
        where, length_at = self.plan.shown_at
        value = ffi.buffer(self.call.value, self.call.value_length)[:]
        if self.plan.value is not None:
            value = self.plan.value[: self.plan.length]
        return (where, value), (length_at, len(value).to_bytes(4, "little"))

    def as_caller(self, task: int) -> None:
        """With the rights of the caller whose /proc/TID `task` is."""
        self.call.flags |= lib.SD_SOCKET_AS_CALLER
        self.call.task = task

    def watched(self, watch: int, mark: int, wait: float) -> None:
        """A connect that is given up after `wait` seconds; the epoll set `watch` is to know the
        socket by `mark`."""
        call = self.call
        call.flags |= lib.SD_SOCKET_WATCHED
        call.watch, call.mark, call.wait_ms = watch, mark, max(int(wait * 1000), 1)

    def break_pipe(self) -> None:
        """The signal that comes with EPIPE."""
        if self.plan.flags & _MSG_NOSIGNAL or self.call.type != _SOCK_STREAM:
            return
        tid = self.snapshot.tid
        group = thread_group(tid)
        if group is not None and lib.sd_id_valid(self.snapshot.listener, self.snapshot.id) == 0:
            lib.sd_signal_thread(group, tid, signal.SIGPIPE)

    def load(self) -> None:
        """Takes along what is sent. Raises SocketError."""
        message, call = self.plan.message, self.call
        if message is None:
            return
        if self.plan.flags & _MSG_ZEROCOPY:
            raise SocketError(EOPNOTSUPP, "socket: MSG_ZEROCOPY")
        if message.cut:
            call.flags |= lib.SD_SOCKET_CUT
        payload = message.payload
        if self.plan.value is not None:
            payload = self.plan.value
            call.call_flags = min(self.plan.length, 0) or len(payload)
        self._kept = [ffi.from_buffer(payload), ffi.from_buffer(message.control)]
        call.payload, call.control = self._kept
        call.payload_length, call.control_length = len(payload), len(message.control)
