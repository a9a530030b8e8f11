"""Loop devices of a container's own: what their ioctls come to.

What a caller opens is an empty file of ours for as long as the device is not attached to anything:
the kernel's own could be attached to somebody else's image at any moment. When it is attached, a
descriptor of the device takes that file's place. csrc/loops.c has why it stays that device.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from errno import (
    EBADF,
    EBUSY,
    EEXIST,
    EINVAL,
    ENOSYS,
    ENOTBLK,
    ENOTTY,
    ENXIO,
    EPERM,
    ESRCH,
)
from typing import Any, Final

from supervisor.engine.helpers import HelperError, Resolvers
from supervisor.engine.maker_calls import MakerCalls, Refused
from supervisor.kernel import loops
from supervisor.kernel.opening import O_ACCMODE, O_CLOEXEC, O_PATH, O_RDONLY, O_RDWR, O_TRUNC
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.spawn import Helper
from supervisor.model import Inject, Outcome, Snapshot
from supervisor.plans import LoopCall

_EMPTY: Final = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_CONTROL: Final = -1  # in place of a device's number
_GONE: Final = "the caller has gone"
_EXITING: Final = frozenset((ESRCH, EBADF))


class Loops:
    """The loop devices of one session, with numbers that `lent` has. `deadline`: for what takes
    reading or writing.
    """

    def __init__(
        self, resolvers: Resolvers, calls: MakerCalls, lent: Sequence[Inject], deadline: float
    ) -> None:
        self._resolvers = resolvers
        self._calls = calls
        # The files in place of what is not attached, by what they stand for; and by which they are.
        self._empty: dict[int, int] = {}
        self._stands_for: dict[tuple[int, int], int] = {}
        # Devices that are to stay attached though nobody uses them, and what callers call images.
        self._held: dict[int, int] = {}
        self._names: dict[int, bytes] = {}
        self.take(lent, deadline)

    def take(self, lent: Sequence[Inject], deadline: float) -> None:
        """Goes by another policy from now on."""
        self._ranges = [one.loops for one in lent if one.loops is not None]
        self._deadline = deadline

    def close(self) -> None:
        """Lets go of all of them: those that nobody uses are no longer attached then."""
        for fd in (*self._empty.values(), *self._held.values()):
            os.close(fd)
        self._empty.clear()
        self._held.clear()

    def _is_given(self, number: int) -> bool:
        return any(low <= number <= high for low, high in self._ranges)

    # -- opens

    async def open(self, path: bytes, flags: int) -> int:
        """A descriptor of what `path`, /dev/loop-control or /dev/loop7, is in a container. Raises
        Refused.
        """
        name = path.rpartition(b"/")[2]
        digits = name.removeprefix(b"loop")
        if not self._calls.makers.all:
            raise Refused(EPERM, "no maker to give it, for seccompd is not root")
        if name == b"loop-control":
            return self._opened(_CONTROL, flags)
        if digits == name or not digits.isdigit() or not self._is_given(int(digits)):
            raise Refused(ENXIO, "loop: a number that is not given")
        number = int(digits)
        errno, _, fd = await self._ask(lib.SD_LOOP_OPEN, number, flags)
        if errno == ENXIO:
            return self._opened(number, flags)
        if errno:
            raise Refused(errno, "opening what is given")
        return fd

    def _opened(self, what: int, flags: int) -> int:
        if what not in self._empty:
            fd = os.memfd_create("loop", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _EMPTY)
            found = os.fstat(fd)
            self._empty[what] = fd
            self._stands_for[found.st_dev, found.st_ino] = what
        fd = lib.sd_open_again(self._empty[what], flags & ~(O_TRUNC | os.O_DIRECT))
        if fd < 0:
            raise Refused(-fd, "opening what is given")
        return int(fd)

    # -- ioctls

    async def perform(
        self, plan: LoopCall, snapshot: Snapshot, task: int, valid: Callable[[], bool]
    ) -> Outcome:
        """Does what the caller, whose /proc/TID `task` is, asks of one of its descriptors."""
        waiting = ffi.new("struct sd_waiting *", (snapshot.listener, snapshot.id))
        try:
            held = self._look(waiting, snapshot.tid, plan.fd)
            what = self._stands_for.get((held.device, held.inode))
            if what == _CONTROL:
                return await self._control(plan)
            if what is not None:
                call = _Attaching(plan, snapshot, task, waiting, held)
                return await self._attach(call, what, valid)
            device = held.block_device
            if not device or os.major(device) != loops.MAJOR:
                return Outcome(ENOTTY)
            if not self._is_given(os.minor(device)):
                return Outcome(EPERM, "loop: a number that is not given")
            return await self._attached(plan, os.minor(device))
        except Refused as error:
            return Outcome(error.errno, error.how)
        except HelperError as error:
            return Outcome(self._calls.on_error, str(error))

    def _look(self, waiting: Any, tid: int, number: int) -> Any:
        held = ffi.new("struct sd_held_file *")
        error = -lib.sd_held_look(waiting, tid, number, held)
        if error == ESRCH:
            raise Refused(self._calls.on_error, _GONE)
        if error or held.flags & O_PATH:
            raise Refused(error or EBADF)
        return held

    async def _control(self, plan: LoopCall) -> Outcome:
        if plan.command == loops.CTL_GET_FREE:
            errno, number, _ = await self._ask(lib.SD_LOOP_FREE, 0, 0)
            return Outcome(errno, value=number)
        if plan.command == loops.CTL_ADD:
            given = self._is_given(loops.value_of(plan.data))
            return Outcome(EEXIST if given else EPERM)
        return Outcome(EPERM if plan.command == loops.CTL_REMOVE else ENOSYS)

    async def _attach(self, call: _Attaching, number: int, valid: Callable[[], bool]) -> Outcome:
        """What is not attached can be; anything else takes one that is."""
        plan, held = call.plan, call.held
        if plan.command == loops.CONFIGURE:
            config = loops.config_of(plan.data)
        elif plan.command == loops.SET_FD:
            config = loops.Config(loops.signed(loops.value_of(plan.data)), 0, loops.EMPTY)
        else:
            return Outcome(ENXIO)
        image = await self._image(call, config.image)
        try:
            if not valid():
                raise Refused(self._calls.on_error, _GONE)
            errno, _, fd = await self._ask(
                lib.SD_LOOP_ATTACH, number, held.flags, config.info, config.block_size, image
            )
        finally:
            os.close(image)
        if errno:
            return Outcome(errno)
        try:
            errno = await self._keep(
                number, autoclear=bool(loops.flags_of(config.info) & loops.AUTOCLEAR)
            )
            if not errno:
                closes = bool(held.flags & O_CLOEXEC)
                errno = -lib.sd_held_put(call.waiting, plan.fd, fd, closes)
        finally:
            os.close(fd)
        if errno:
            self._let_go(number)
            return Outcome(self._calls.on_error if errno == ESRCH else errno)
        self._names[number] = loops.name_of(config.info)
        return Outcome(0, f"attached: loop{number}")

    async def _keep(self, number: int, *, autoclear: bool) -> int:
        """Holds it attached, or lets it go with its last user. By an open of our own: with the
        caller's we would hold its locks as well, after it has closed it. An errno, or 0."""
        errno, fd = 0, -1
        if not autoclear:
            errno, _, fd = await self._ask(lib.SD_LOOP_OPEN, number, O_RDONLY)
        self._let_go(number)
        if not autoclear and not errno:
            self._held[number] = fd
        return errno

    def _let_go(self, number: int) -> None:
        if number in self._held:
            os.close(self._held.pop(number))

    async def _attached(self, plan: LoopCall, number: int) -> Outcome:
        match plan.command:
            case loops.CLR_FD:
                self._let_go(number)
                return Outcome(0, f"detached: loop{number}")
            case loops.SET_FD | loops.CONFIGURE:
                return Outcome(EBUSY)
            case loops.GET_STATUS64:
                status = ffi.new("struct sd_loop_answer *")
                errno, _, _ = await self._ask(lib.SD_LOOP_STATUS, number, O_RDONLY, status=status)
                if errno:
                    return Outcome(errno)
                info = loops.shown(
                    ffi.buffer(status.info)[:], self._names.get(number, b""),
                    autoclear=number not in self._held,
                )  # fmt: skip
                return Outcome(0, filled=((loops.value_of(plan.data), info),))
            case loops.SET_STATUS64:
                return await self._change(plan.data, number)
            case loops.SET_CAPACITY:
                errno, _, _ = await self._ask(lib.SD_LOOP_CAPACITY, number, O_RDONLY)
                return Outcome(errno)
        return Outcome(EINVAL, "loop: an operation that is not served")

    async def _change(self, info: bytes, number: int) -> Outcome:
        errno, _, _ = await self._ask(lib.SD_LOOP_CHANGE, number, O_RDONLY, info)
        if errno:
            return Outcome(errno)
        self._names[number] = loops.name_of(info)
        autoclear = bool(loops.flags_of(info) & loops.AUTOCLEAR)
        if autoclear != (number not in self._held):
            errno = await self._keep(number, autoclear=autoclear)
        return Outcome(errno)

    # -- helpers

    async def _ask(
        self, what: int, number: int, flags: int, info: bytes = b"", block_size: int = 0,
        image: int = -1, *, status: Any = None,
    ) -> tuple[int, int, int]:
        """A maker's answer: the errno or 0, a number, and a descriptor or -1. Raises Refused."""
        order = ffi.new("struct sd_loop_order *")
        order.what, order.number, order.flags = what, number, flags
        order.block_size = block_size
        ffi.memmove(order.info, info, len(info))
        answer = status or ffi.new("struct sd_loop_answer *")
        fd = ffi.new("int *", -1)
        maker = await self._calls.borrow()
        await self._calls.asked(
            maker, lib.sd_loop_ask(maker.sock, order, image),
            lambda linger: lib.sd_loop_told(maker.sock, answer, fd, linger), fd, self._deadline,
        )  # fmt: skip
        return -int(answer.error), int(answer.number), int(fd[0])

    async def _image(self, call: _Attaching, number: int) -> int:
        """The image that the caller's descriptor `number` is of, opened anew with the caller's own
        rights, no further than that one is. Raises Refused.
        """
        held = self._look(call.waiting, call.snapshot.tid, number)
        device = self._stands_for.get((held.device, held.inode))
        if device is not None:  # one that is not attached either: as the kernel says
            own = self._stands_for.get((call.held.device, call.held.inode))
            raise Refused(EBADF if device == own else EINVAL)
        flags = held.flags
        writes = flags & O_ACCMODE == O_RDWR
        seen, _ = await self._seen(call, number, writes=writes)
        if not seen.flags & lib.SD_SEEN_IMAGE:
            raise Refused(EINVAL)
        if seen.flags & lib.SD_SEEN_FOREIGN:
            # its server could stop the host's writeback for as long as it wants
            raise Refused(EPERM, "loop: an image where somebody may not answer, for the kernel")
        seen, fd = await self._seen(call, number, writes=writes, device=seen.source_dev)
        if fd < 0:
            raise Refused(EINVAL, "loop: another image than was looked at")
        return fd

    async def _seen(
        self, call: _Attaching, number: int, *, writes: bool, device: int = 0
    ) -> tuple[Any, int]:
        """What a resolver sees, and the image where it is on `device`, or -1. Raises Refused."""
        seen, fds = ffi.new("struct sd_seen *"), ffi.new("int[4]")

        async def ask(helper: Helper) -> bool:
            sock, there = helper.sock, 0
            sent = lib.sd_look_at_image(sock, call.waiting, call.task, number, writes, device)
            if sent == 0:
                there = await self._calls.answer(sock, lambda us: lib.sd_mount_wait(sock, -1, us))
            if there <= 0 or lib.sd_mount_seen(sock, seen, fds) < 0:
                raise Refused(self._calls.on_error, "path: deadline, or the resolver has gone")
            return not seen.flags & lib.SD_SEEN_RETIRE

        await self._resolvers.ask(ask, self._calls.on_wait)
        errno = -int(seen.error)
        if errno in _EXITING:
            raise Refused(self._calls.on_error, _GONE)
        if errno:
            raise Refused(EINVAL if errno == ENOTBLK else errno)
        return seen, int(fds[0])


class _Attaching:
    """An ioctl on what is not attached, and who makes it."""

    __slots__ = ("held", "plan", "snapshot", "task", "waiting")

    def __init__(
        self, plan: LoopCall, snapshot: Snapshot, task: int, waiting: Any, held: Any
    ) -> None:
        self.plan = plan
        self.snapshot = snapshot
        self.task = task
        self.waiting = waiting
        self.held = held
