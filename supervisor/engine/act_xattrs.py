"""Extended attributes that are set or removed for callers: by a resolver as the caller, or, where a
rule says so, by a maker as the host's root.

The file is found once. What is decided on and what is changed is the same descriptor, whatever the
path leads to meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import ENAMETOOLONG, EPERM, ESRCH
from typing import Any, Final

from supervisor.engine.helpers import HelperError, Makers, Resolvers
from supervisor.engine.maker_calls import MakerCalls, Refused
from supervisor.kernel.shim import ffi, lib
from supervisor.model import Decision, Facts, Outcome, Snapshot, Verdict, XattrSettings
from supervisor.plans import ChangeXattr
from supervisor.policy.xattrs import ACCESS_LIST

_ALONE: Final = Outcome(0, left_alone=True)


class _Asking:
    """One call on its way to resolvers; `file` is what its path leads to, once that is known."""

    __slots__ = ("file", "plan", "task", "valid", "waiting", "xattr")

    def __init__(
        self, plan: ChangeXattr, snapshot: Snapshot, task: int, valid: Callable[[], bool]
    ) -> None:
        self.plan = plan
        self.task = task
        self.valid = valid
        self.file = -1
        self.waiting = ffi.new("struct sd_waiting *", (snapshot.listener, snapshot.id))
        xattr = self.xattr = ffi.new("struct sd_xattr *")
        xattr.fd = xattr.pending = xattr.length = -1
        xattr.dirfd, xattr.call_flags, xattr.name = plan.place.dirfd, plan.flags, plan.name
        path, value = plan.place.path, plan.value
        if path is not None:
            if len(path) >= lib.SD_PATH_MAX:
                raise Refused(ENAMETOOLONG)
            xattr.length = len(path)
            ffi.memmove(xattr.path, path, len(path))
        if value is not None:
            xattr.size = len(value)
            ffi.memmove(xattr.value, value, len(value))

    def how(self, flag: int = 0) -> int:
        """What a resolver is told: SD_XATTR_* of the call, and `flag`."""
        follow = 0 if self.plan.follow else lib.SD_XATTR_NOFOLLOW
        removes = lib.SD_XATTR_REMOVES if self.plan.value is None else 0
        return int(follow | removes | flag)

    @property
    def path(self) -> bytes | None:
        """Where its path leads."""
        length = self.xattr.resolved_length
        return ffi.buffer(self.xattr.resolved, length)[:] if length > 0 else None

    def take(self) -> int:
        """The file that a resolver has given back, kept until the end."""
        fd = int(self.xattr.fd)
        self.xattr.fd = -1
        if fd < 0:
            raise Refused(EPERM, "path: no file came")
        if self.file >= 0:
            os.close(self.file)
        self.file = fd
        return fd

    def close(self) -> None:
        """Lets go of everything."""
        for fd in (self.xattr.fd, self.xattr.pending, self.file):
            if fd >= 0:
                os.close(fd)
        self.xattr.fd = self.xattr.pending = self.file = -1


class Xattrs:
    """Changes extended attributes for the callers of one session. `calls`: who is to hear of it
    before somebody goes to sleep; `nodes`: there may be nodes of ours that are bind mounts.
    """

    def __init__(
        self, resolvers: Resolvers, makers: Makers, on_error: int, deadline: float
    ) -> None:
        self._resolvers = resolvers
        self.calls = MakerCalls(makers, on_error=on_error, deadline=deadline)
        self.nodes = False

    def take(self, on_error: int, deadline: float) -> None:
        """Goes by another policy from now on."""
        self.calls.on_error, self.calls.deadline = on_error, deadline

    async def perform(
        self, plan: ChangeXattr, snapshot: Snapshot, task: int, valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None, *, probe_only: bool,
    ) -> Outcome:
        """Sets or removes the attribute for the caller whose /proc/TID `task` is. `probe_only`:
        what the kernel says where the caller has no right to it.
        """
        asking: _Asking | None = None
        try:
            asking = _Asking(plan, snapshot, task, valid)
            if redecide is not None:
                return await self._decided(asking, redecide)
            if probe_only and not plan.settings.nodes:
                await self._ask(asking, lib.SD_XATTR_REFUSE)
                raise Refused(EPERM)
            return await self._change(asking, plan.settings)
        except Refused as error:
            return Outcome(error.errno, error.how)
        except HelperError as error:
            return Outcome(self.calls.on_error, str(error))
        finally:
            if asking is not None:
                asking.close()

    async def _decided(
        self, asking: _Asking, redecide: Callable[[Facts], Decision]
    ) -> Outcome:
        await self._ask(asking, lib.SD_XATTR_LOOK)
        asking.take()
        path, xattr = asking.path, asking.xattr
        decision = redecide(Facts(path, xattr.fsuid, xattr.fsgid))
        settings = decision.settings
        found: Outcome
        try:
            if not asking.valid():
                raise Refused(self.calls.on_error, "the caller has gone")
            if decision.audit or decision.verdict is Verdict.CONTINUE:
                found = await self._change(asking, XattrSettings(nodes=True))
                if not found.left_alone:  # it does not go on after all: the answer is ours
                    return found._replace(path=path)
            elif decision.verdict is Verdict.EMULATE and isinstance(settings, XattrSettings):
                found = await self._change(asking, settings)
            else:
                await self._ask(asking, lib.SD_XATTR_REFUSE)
                raise Refused(EPERM)
        except Refused as error:
            found = Outcome(error.errno, error.how)
        return found._replace(path=path, decision=decision)

    async def _change(self, asking: _Asking, settings: XattrSettings) -> Outcome:
        if settings.nodes:
            if not self.nodes or asking.plan.name != ACCESS_LIST:
                return _ALONE
            await self._ask(asking, lib.SD_XATTR_NODES)
            return _ALONE if asking.xattr.left_alone else Outcome(0, "bind")
        if not settings.root:
            await self._ask(asking, 0)
            return Outcome(0, "as the caller")
        await self._ask(asking, lib.SD_XATTR_ROOT)
        if asking.xattr.foreign:
            raise Refused(EPERM, "as root: on no file system that somebody may serve")
        await self._order(asking, asking.take())
        return Outcome(0, "as root")

    # -- helpers

    async def _ask(self, asking: _Asking, flag: int) -> None:
        """Raises Refused with what the kernel says, or with a failure of ours."""
        asking.xattr.flags = asking.how(flag)
        await self._resolvers.ask(
            lambda helper: self._ask_one(helper.sock, asking), self.calls.on_wait
        )
        error = -asking.xattr.error
        if error == ESRCH:  # no answer of any of these calls: the caller is exiting
            raise Refused(self.calls.on_error, "the caller has gone")
        if error:
            raise Refused(error)

    async def _ask_one(self, sock: int, asking: _Asking) -> bool:
        """False: this resolver cannot become that caller."""
        xattr = asking.xattr
        result = lib.sd_xattr_ask(sock, asking.waiting, asking.task, asking.file, xattr)
        if result == 0:
            result = await self.calls.answer(
                sock, lambda linger: lib.sd_xattr_told(sock, xattr, linger)
            )
        if result < 0:
            raise Refused(self.calls.on_error, "path: the resolver has gone")
        if result == 0:
            raise Refused(self.calls.on_error, "path: deadline")
        return not xattr.retire

    async def _order(self, asking: _Asking, file: int) -> None:
        maker = await self.calls.borrow()
        if not asking.valid():
            raise Refused(self.calls.on_error, "the caller has gone")
        none: Any = ffi.new("int *", -1)
        result = await self.calls.asked(
            maker, lib.sd_xattr_order(maker.sock, asking.xattr, file),
            lambda linger: lib.sd_xattr_ordered(maker.sock, linger), none,
        )  # fmt: skip
        if result < 0:
            raise Refused(-result)
