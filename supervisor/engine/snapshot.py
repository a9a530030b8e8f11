"""Receives calls: one C call polls, receives, reads the caller's memory and validates the id.

Nothing of a caller is ever read a second time: what is decided and what is carried out both come
from the Snapshot.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from errno import ENOENT
from operator import itemgetter
from typing import Any

from supervisor.engine.limits import DEFAULT, Limits
from supervisor.kernel.shim import check, ffi, lib, new_large
from supervisor.kernel.syscalls import CallSpec, Kind
from supervisor.model import Arg, Given, Message, Outcome, Snapshot

# What the kernel is told: the call's result, or the negative errno, or 1: CONTINUE.
Reply = tuple[int, int, int]
PROCEED: Reply = (0, 0, 1)

# Looked up once: the loop of a session calls them for each call.
_receive = lib.sd_receive
_answer_last = lib.sd_answer_last
_settle = lib.sd_settle
_NULL = ffi.NULL
_UNREAD: int = lib.SD_UNREAD
_NULL_POINTER: int = lib.SD_NULL

# A key begins with these, and each of its strings with the last one.
_CALL = struct.Struct("=Ii")
_LENGTH = struct.Struct("=i")
_NUMBER = struct.Struct("=I")

_READ = {
    Kind.PATH: lib.SD_STRING, Kind.TEXT: lib.SD_TEXT, Kind.DATA: lib.SD_DATA, Kind.HOW: lib.SD_HOW,
    Kind.LOOP: lib.SD_LOOP, Kind.ADDRESS: lib.SD_ADDRESS, Kind.DESTINATION: lib.SD_DESTINATION,
    Kind.VALUE: lib.SD_VALUE, Kind.ROOM: lib.SD_ROOM, Kind.NAME: lib.SD_NAME,
    Kind.XATTR: lib.SD_XATTR,
    Kind.MESSAGE: lib.SD_MESSAGE, Kind.MESSAGES: lib.SD_MESSAGES, Kind.BUFFER: lib.SD_BUFFER,
}  # fmt: skip
_SENT = frozenset((Kind.MESSAGE, Kind.MESSAGES, Kind.BUFFER, Kind.XATTR))

_WIDTH = {0: lib.SD_LONG, 16: lib.SD_U16, 32: lib.SD_U32}


def reads_table(calls: Mapping[tuple[int, int], CallSpec]) -> Any:
    """The C table that says which arguments of which calls are what."""
    table = ffi.new("struct sd_reads[]", max(len(calls), 1))
    for entry, ((arch, nr), spec) in zip(table, calls.items(), strict=False):
        entry.arch = arch
        entry.nr = nr
        for i, param in enumerate(spec.params):
            entry.kind[i] = _READ.get(param.kind) or _WIDTH[param.kind.bits]
    return table


class _Shape:
    """How the key of one system call is taken apart: its numbers, and then its strings."""

    __slots__ = ("in_order", "name", "numbers", "sends", "strings")

    def __init__(self, spec: CallSpec) -> None:
        self.name = spec.name
        kinds = [param.kind for param in spec.params]
        self.strings = sum(kind.is_string for kind in kinds)
        self.sends = not _SENT.isdisjoint(kinds)
        # In 64 bits each, of which the shim has already cut off what the type has not.
        numbers = ["i4x" if kind.signed else "Q" for kind in kinds if not kind.is_string]
        self.numbers = struct.Struct("".join(["=8x", *numbers]))
        found = sorted(range(len(kinds)), key=lambda i: kinds[i].is_string)
        # one item alone would not be a tuple
        self.in_order: Callable[[list[Arg]], tuple[Arg, ...]] = (
            itemgetter(*(found.index(i) for i in range(len(kinds)))) if len(kinds) > 1 else tuple
        )

    def args(self, key: bytes) -> tuple[Arg, ...]:
        """The arguments in the order of the registers."""
        values: list[Arg] = list(self.numbers.unpack_from(key))
        at = self.numbers.size
        for _ in range(self.strings):
            length: int = _LENGTH.unpack_from(key, at)[0]
            at += _LENGTH.size
            if length < 0:
                values.append(0 if length == _NULL_POINTER else length)
            else:
                values.append(key[at : at + length])
                at += length
        return self.in_order(values)


def _message(found: Any) -> Message:
    return Message(
        ffi.buffer(found.control, found.control_length)[:],
        ffi.buffer(found.payload, found.payload_length)[:],
        bool(found.cut), -found.error, found.told_at,
    )  # fmt: skip


def _delivered(result: int) -> bool:
    if result == -ENOENT:  # the caller died, or was interrupted: both are routine
        return False
    check(result, "NOTIF_SEND")
    return True


class Receiver:
    """The listener's one reader."""

    def __init__(
        self,
        listener: int,
        timer: int,
        watch: Any,
        calls: Mapping[tuple[int, int], CallSpec],
        limits: Limits = DEFAULT,
        proxy: int = -1,
    ) -> None:
        """`proxy`: calls come by this connection of LXC's monitor, and `listener`, which becomes
        that of each call, is only asked whether its caller still waits."""
        self.listener = listener
        self.proxied = proxy >= 0
        self.fd = proxy if self.proxied else listener
        self.call = new_large("struct sd_call *")
        self.unread = False
        self._also = _NULL
        self._also_count = 0
        self._keys = ffi.buffer(self.call.key)
        self._key = b""
        self._know(calls)
        self._watch = watch
        pointer = lib.sd_receiver_new(
            listener, proxy, timer, watch, reads_table(calls), len(calls),
            int(limits.snapshot * 1e9),
        )  # fmt: skip
        if pointer == ffi.NULL:
            raise OSError("the kernel's notifications are larger than this version knows")
        self._pointer = ffi.gc(pointer, lib.sd_receiver_free)

    def take(self, calls: Mapping[tuple[int, int], CallSpec], limits: Limits) -> None:
        """From the next call on other arguments are read, of other calls. Raises MemoryError."""
        deadline = int(limits.snapshot * 1e9)
        if lib.sd_receiver_reads(self._pointer, reads_table(calls), len(calls), deadline) < 0:
            raise MemoryError
        self._know(calls)

    def _know(self, calls: Mapping[tuple[int, int], CallSpec]) -> None:
        self._shapes = {_CALL.pack(*call): _Shape(spec) for call, spec in calls.items()}
        # Where that is asked, each connect is to be noted.
        self._names_peers = any(spec.name == "getpeername" for spec in calls.values())

    def refused(self) -> None:
        """Counts a call that does not get what it asked for, for whoever watches."""
        self._watch.refused += 1

    def alive(self) -> None:
        """Says so to the watchdog, where no call is looked for."""
        self._watch.turns += 1

    def receive(self, linger_us: int) -> bytes | None:
        """The key of the next call, None where none came within `linger_us`.

        The key is all that a decision about the call may depend on. `unread` says then whether the
        caller's memory was left alone, because an earlier reading of it never ended. Raises
        ENOTCONN once no caller is left, ENOBUFS while too many calls are unanswered.
        """
        found = _receive(self._pointer, self.call, linger_us, self._also, self._also_count)
        if found <= 0:
            check(found, "NOTIF_RECV")
            return None
        self.unread = found >= _UNREAD
        key: bytes = self._keys[: found & (_UNREAD - 1)]
        self._key = key
        return key

    @property
    def settled(self) -> int:
        """How many calls the last `receive` has answered by itself."""
        return int(self.call.settled)

    def settle(self, reply: Reply, *, refuses: bool) -> None:
        """From now on `receive` answers calls that are equal to the last one by itself."""
        _settle(self._pointer, self.call, *reply, refuses)

    def settle_errand(self, errand: Any) -> None:
        """The same for calls that a porter makes as it made `errand`, the last one."""
        if not self._names_peers:
            lib.sd_settle_errand(self._pointer, self.call, errand)

    def settle_no_more(self) -> None:
        """Every call is given to `receive`'s caller again, until more are settled."""
        lib.sd_settle_no_more(self._pointer)

    def watch_also(self, fds: Sequence[int]) -> None:
        """From now on `receive` does not linger while one of `fds` is readable."""
        self._also = ffi.new("int[]", list(fds))
        self._also_count = len(fds)

    def snapshot(self, args: tuple[Arg, ...] | None = None) -> Snapshot:
        """The received call as a value of its own, which outlives the next one. `args`: those that
        its key stands for, where somebody knows them.
        """
        call, key, listener = self.call, self._key, self.listener
        arch, nr = _CALL.unpack_from(key)
        shape = self._shapes.get(key[: _CALL.size])
        if shape is None:
            name = f"syscall_{nr:#x}"
            return Snapshot(call.id, call.tid, arch, nr, call.ip, name, (), listener)
        return Snapshot(
            call.id, call.tid, arch, nr, call.ip, shape.name, args or shape.args(key), listener,
            _message(call.message) if shape.sends else None, bool(call.begun),
        )  # fmt: skip

    def answer_last(self, reply: Reply) -> bool:
        """Answers the call received last; False where the caller has gone."""
        return _delivered(_answer_last(self._pointer, *reply))

    def answer(self, id_: int, slot: int, reply: Reply) -> bool:
        """Answers a call received earlier; False where the caller has gone."""
        return _delivered(lib.sd_answer(self._pointer, id_, slot, *reply))

    def write(self, id_: int, tid: int, address: int, value: int) -> int:
        """Writes a 32-bit number to a waiting caller's memory: 0 or an errno."""
        return self.fill(id_, tid, address, _NUMBER.pack(value & 0xFFFFFFFF))

    def fill(self, id_: int, tid: int, address: int, data: bytes) -> int:
        """Writes bytes there: 0 or an errno."""
        return -int(
            lib.sd_receiver_write(self._pointer, id_, tid, address, data, len(data))
        )

    def name(self, id_: int, tid: int, address: int, length_at: int, data: bytes) -> int:
        """Writes a struct sockaddr and its length to a waiting caller's memory, as getpeername(2)
        does: 0 or an errno."""
        return -int(lib.sd_receiver_write_address(
            self._pointer, id_, tid, address, length_at, data, len(data)
        ))  # fmt: skip

    def give(
        self, id_: int, slot: int, outcome: Outcome, given: Given, *, again: bool
    ) -> tuple[bool, Outcome]:
        """Answers with what is given: whether the caller was there, and what the call came to. The
        caller's own limit of descriptors is the kernel's to say. `again`: it is the call received
        last, and from now on `receive` gives the same to equal ones by itself.
        """
        try:
            number = lib.sd_give(self._pointer, id_, slot, given.fd, given.flags & os.O_CLOEXEC)
        except BaseException:
            os.close(given.fd)
            raise
        if number < 0:
            lib.sd_socket_lose(given.fd)
        else:
            os.close(given.fd)
        if again:
            by = ffi.new("struct sd_gift_from *", (given.node or _NULL, *(given.opener or (0, 0))))
            lib.sd_settle_gift(
                self._pointer, self.call, by, given.flags, given.path, len(given.path)
            )
        delivered = number != -ENOENT
        return delivered, outcome._replace(errno=-min(number, 0) if delivered else 0, give=None)

    def valid(self, id_: int) -> bool:
        """Whether the caller is still waiting for the answer to this id."""
        return bool(lib.sd_id_valid(self.listener, id_) == 0)
