"""A call on a socket that is being carried out: the C structure, and what is put into it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from errno import EBADF, EINVAL, EOPNOTSUPP, EPERM
from typing import Any, Final

from supervisor.engine.porters import Porter
from supervisor.kernel.addresses import AF_INET, AF_INET6, AF_NETLINK, AF_UNIX
from supervisor.kernel.shim import ffi, lib
from supervisor.model import Snapshot, SocketCall

_OPERATIONS: Final = {
    "connect": lib.SD_SOCKET_CONNECT, "bind": lib.SD_SOCKET_BIND, "send": lib.SD_SOCKET_SEND,
}  # fmt: skip
_SOL_SOCKET: Final = 1
_SCM_RIGHTS: Final = 1
_SCM_CREDENTIALS: Final = 2
_CMSG = struct.Struct("=Qii")
_UCRED = struct.Struct("=iII")
_ALIGN: Final = 8
# What is sent is a copy of ours: nobody could say when the caller's own may be changed again.
_MSG_ZEROCOPY: Final = 0x4000000


class SocketError(Exception):
    """What the caller is told, and what goes into the audit record."""

    def __init__(self, errno: int, how: str = "") -> None:
        super().__init__(how)
        self.errno = errno
        self.how = how


class SocketJob:
    """One call on its way. `porter` is who makes it, None before and after that."""

    __slots__ = ("_kept", "call", "plan", "porter", "snapshot")

    def __init__(self, plan: SocketCall, snapshot: Snapshot, *, by_thread: bool) -> None:
        self.plan = plan
        self.snapshot = snapshot
        self.porter: Porter | None = None
        self._kept: list[Any] = []
        call = self.call = ffi.new("struct sd_socket *")
        call.listener, call.id, call.tid = snapshot.listener, snapshot.id, snapshot.tid
        call.number, call.by_thread = plan.fd, by_thread
        call.op, call.call_flags = _OPERATIONS[plan.operation], plan.flags
        call.task = call.path = call.pidfd = call.sock = -1
        if plan.address is None:
            call.flags = lib.SD_SOCKET_NO_ADDRESS
        else:
            call.address_length = len(plan.address)
            ffi.memmove(call.address, plan.address, len(plan.address))

    def without_address(self) -> None:
        """It goes where the socket is connected to."""
        self.call.flags |= lib.SD_SOCKET_NO_ADDRESS
        self.call.address_length = 0

    def as_caller(self, task: int) -> None:
        """With the rights of the caller whose /proc/TID `task` is."""
        self.call.flags |= lib.SD_SOCKET_AS_CALLER
        self.call.task = task

    def load(self) -> None:
        """Takes along what is sent. Raises SocketError."""
        message, call = self.plan.message, self.call
        if message is None:
            return
        if message.cut and call.type != _SOCK_STREAM:
            raise SocketError(_EMSGSIZE, "socket: a message of more than 128 KiB")
        if self.plan.flags & _MSG_ZEROCOPY:
            raise SocketError(EOPNOTSUPP, "socket: MSG_ZEROCOPY")
        self._kept += [payload := ffi.from_buffer(message.payload)]
        call.payload, call.payload_length = payload, len(message.payload)
        if call.domain == AF_UNIX:
            self._load_unix(message.control)
        elif call.domain in (AF_INET, AF_INET6):
            self._kept += [control := ffi.from_buffer(message.control)]
            call.control, call.control_length = control, len(message.control)

    def _load_unix(self, control: bytes) -> None:
        call = self.call
        for level, kind, data in _controls(control):
            if level != _SOL_SOCKET:
                continue  # as the kernel does
            if kind == _SCM_RIGHTS:
                for (number,) in struct.iter_unpack("=i", data[: len(data) // 4 * 4]):
                    self._take_right(number)
            elif kind == _SCM_CREDENTIALS and len(data) == _UCRED.size:
                _, call.uid, call.gid = _UCRED.unpack(data)
                call.flags |= lib.SD_SOCKET_CREDENTIALS
            else:
                raise SocketError(EINVAL)

    def _take_right(self, number: int) -> None:
        call = self.call
        if call.right_count >= lib.SD_RIGHTS_MAX:
            raise SocketError(EINVAL, "socket: too many descriptors at once")
        fd = lib.sd_socket_right(call, number)
        if fd < 0:
            raise SocketError(EBADF if fd == -EBADF else EPERM)
        call.rights[call.right_count] = fd
        call.right_count += 1

    def close(self) -> None:
        """Lets go of the caller's descriptors."""
        lib.sd_socket_close(self.call)
        self._kept.clear()


_SOCK_STREAM: Final = 1
_EMSGSIZE: Final = 90


def _controls(control: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each control message as (level, type, data). Raises SocketError where one is malformed."""
    at = 0
    while len(control) - at >= _CMSG.size:
        length, level, kind = _CMSG.unpack_from(control, at)
        if not _CMSG.size <= length <= len(control) - at:
            raise SocketError(EINVAL)
        yield level, kind, control[at + _CMSG.size : at + length]
        at += -(-length // _ALIGN) * _ALIGN


# -- netlink: what is asked of the kernel is done by whoever sends it

_NETLINK_ROUTE: Final = 0
_NETLINK_SOCK_DIAG: Final = 4
_NETLINK_AUDIT: Final = 9
_NETLINK_GENERIC: Final = 16
_NLMSG = struct.Struct("=IHHII")
_SOCK_DIAG_BY_FAMILY: Final = 20
_GENL_ID_CTRL: Final = 0x10
_RTM_BASE: Final = 16
_RTM_GET: Final = 2  # of each four types: new, delete, get, set
_RTM_MAX: Final = 128


def only_asks(protocol: int, payload: bytes) -> bool:
    """Whether netlink messages only ask for what is there.

    What changes something may name descriptors, processes and namespaces, which would be ours.
    """
    at = 0
    while len(payload) - at >= _NLMSG.size:
        length, kind, _, _, _ = _NLMSG.unpack_from(payload, at)
        if length < _NLMSG.size:
            return False
        if protocol == _NETLINK_ROUTE:
            asks = _RTM_BASE <= kind < _RTM_MAX and kind & 3 == _RTM_GET
        elif protocol == _NETLINK_SOCK_DIAG:
            asks = kind == _SOCK_DIAG_BY_FAMILY
        else:
            asks = protocol == _NETLINK_GENERIC and kind == _GENL_ID_CTRL
        if not asks:
            return False
        at += -(-length // 4) * 4
    return True


def objection(job: SocketJob) -> SocketError | None:
    """Why a call on this socket cannot be made for another one; None where it can.

    Where an address means something else to this kind of socket than was decided on, it is taken
    away, or the call refused.
    """
    call, plan = job.call, job.plan
    if call.domain not in (AF_INET, AF_INET6, AF_UNIX, AF_NETLINK):
        return SocketError(EOPNOTSUPP, f"socket: of domain {call.domain}, which is not served")
    if plan.unspecified and call.domain == AF_INET6:
        if plan.operation != "send" or call.type != _SOCK_DGRAM or call.protocol not in _UDP:
            return SocketError(EINVAL)
        job.without_address()
    if call.domain == AF_NETLINK and plan.operation == "send":
        payload = b"" if plan.message is None else plan.message.payload
        if not only_asks(call.protocol, payload):
            return SocketError(EPERM, "socket: a netlink message that may change something")
    return None


_SOCK_DGRAM: Final = 2
_UDP: Final = (17, 136)  # and UDP-Lite
