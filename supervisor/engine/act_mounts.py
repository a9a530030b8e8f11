"""Carrying out mounts: a resolver looks, a maker or a FUSE program mounts, the resolver attaches.

A mount takes milliseconds, so unlike path work it is put together here. Whatever of it can be
stalled by the target, its image or its program happens in a helper and under a deadline. When the
answer is given no descriptor of the mount is held any more, or the caller's umount would be busy.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from errno import EBUSY, EINVAL, ENODEV, ENOSPC, EPERM
from typing import Any, Final

import trio

from supervisor.engine import mount_makers
from supervisor.engine.act_programs import Programs
from supervisor.engine.fuse_servers import FuseServers
from supervisor.engine.helpers import MOST_MOUNTING, Makers, Resolvers
from supervisor.engine.limits import DEFAULT, Limits
from supervisor.engine.mount_call import Look, MountCall, MountError
from supervisor.engine.mount_makers import fill, why
from supervisor.engine.remounts import remount
from supervisor.engine.waiting import Waiting
from supervisor.kernel.hugetlbfs import shifted
from supervisor.kernel.mounts import attr_of
from supervisor.kernel.procfs import block_device_name, loop_is_bound, mounted_devices
from supervisor.kernel.shim import ffi, lib
from supervisor.model import Decision, Facts, MountSettings, Outcome, Snapshot, Source, Verdict
from supervisor.plans import Mount, Remount

_ATTEMPTS: Final = 3
_MOST_KNOWN: Final = 64
_SHIFT: Final = {
    "false": lib.SD_SHIFT_FALSE, "auto": lib.SD_SHIFT_AUTO, "true": lib.SD_SHIFT_TRUE,
}  # fmt: skip
_KIND: Final = {
    "device": lib.SD_NEW_DEVICE, "image": lib.SD_NEW_IMAGE, "text": lib.SD_NEW_TEXT,
}  # fmt: skip


class Mounter:
    """Carries out the mounts of one session. `uids` and `gids` are the maps of the target's user
    namespace (None: it has none, and nothing can be mounted for it).
    """

    def __init__(
        self,
        resolvers: Resolvers,
        makers: Makers,
        servers: FuseServers,
        *,
        on_error: int,
        uids: Sequence[tuple[int, int, int]] | None,
        gids: Sequence[tuple[int, int, int]] | None,
        most: int,
        limits: Limits = DEFAULT,
    ) -> None:
        self._resolvers = resolvers
        self._makers = makers
        self._servers = servers
        self.programs = Programs(servers, makers, uids, gids)
        self._on_error = on_error
        self._uids = uids
        self._gids = gids
        self._limits = limits
        self._most = most
        # Of the filesystems that makers mounted, with whether their source is no path.
        self._devices: dict[tuple[int, int], bool] = {}
        self._times: Counter[tuple[int, int]] = Counter()  # how often each of them
        self._underway = self._calls = 0
        self._turns = trio.Semaphore(MOST_MOUNTING)
        self._starting: list[tuple[tuple[int, int], str]] = []  # of those that are under way
        self._known: dict[tuple[bytes, int, bytes | None, MountSettings], Any] = {}
        self.on_wait: Callable[[], None] = lambda: None

    def take(self, *, on_error: int, most: int, limits: Limits) -> None:
        """Goes by another policy's settings from now on."""
        self._on_error, self._most, self._limits = on_error, most, limits

    @property
    def any(self) -> bool:
        """Whether the kernel may have mounted something."""
        return bool(self._devices)

    @property
    def _limit(self) -> str:
        return f"mount: {self._most} mounts are the limit of a session"

    def devices(self) -> list[int]:
        """Those of what it mounted and can be asked for without anybody who may not answer."""
        return [os.makedev(*device) for device, text in self._devices.items() if not text]

    async def perform(
        self,
        plan: Mount | Remount,
        task: int,
        snapshot: Snapshot,
        valid: Waiting,
        redecide: Callable[[Facts], Decision] | None,
        *,
        probe_only: bool,
    ) -> Outcome:
        """Carries `plan` out for the caller whose /proc/TID `task` is. HelperError as path work."""
        call = MountCall(
            task, snapshot.tid, (snapshot.listener, snapshot.id), valid,
            on_error=self._on_error, on_wait=self.on_wait, limits=self._limits,
            alone=not self._calls,
        )  # fmt: skip
        self._calls += 1
        try:
            if self._uids is None and isinstance(plan, Remount):
                return Outcome(0, left_alone=True)  # it cannot be one of ours
            if self._uids is None:
                raise MountError(EPERM, "mount: the target has no user namespace of its own")
            try:
                self._turns.acquire_nowait()
            except trio.WouldBlock:
                await self._turn(call)
            try:
                return await self._by_resolver(call, plan, redecide, probe_only)
            finally:
                self._turns.release()
        except MountError as error:
            return Outcome(error.errno, error.how, call.path, decision=call.decision)
        finally:
            self._calls -= 1
            call.let_go()

    async def _turn(self, call: MountCall) -> None:
        """Waits: so many others are under way that the path work of other calls would wait."""
        self.on_wait()
        with trio.move_on_after(self._limits.mount):
            await self._turns.acquire()
            return
        raise call.failed("mount: deadline, others are under way")

    async def _by_resolver(
        self,
        call: MountCall,
        plan: Mount | Remount,
        redecide: Callable[[Facts], Decision] | None,
        probe_only: bool,
    ) -> Outcome:
        for _ in range(_ATTEMPTS):
            helper = self._resolvers.idle() or await self._resolvers.take(self.on_wait)
            call.use(helper)
            try:
                look = call.glance(plan)
                if look is None:
                    call.ask(plan)
                new = self._prepared_early(plan)
                look = look or await call.look()
                if look is None:
                    continue
                try:
                    return await self._with(call, look, plan, new, redecide, probe_only)
                finally:
                    look.close()
            finally:
                call.done_with(self._resolvers, helper)
        raise call.failed("path: the caller's groups cannot be taken")

    async def _with(
        self,
        call: MountCall,
        look: Look,
        plan: Mount | Remount,
        new: Any,
        redecide: Callable[[Facts], Decision] | None,
        probe_only: bool,
    ) -> Outcome:
        if isinstance(plan, Remount):
            return await self._remount(call, look, plan)
        source = _source(call, look, plan)
        settings = plan.settings
        if redecide is not None:
            seen = look.seen
            decision = redecide(Facts(call.path, seen.fsuid, seen.fsgid, source, call.path))
            call.decision = decision
            if decision.verdict is not Verdict.EMULATE:
                return Outcome(EPERM, path=call.path, decision=decision)
            settings = _same_look(call, settings, decision)
        if probe_only:
            raise MountError(EPERM)
        if self._live(call) >= self._most:
            raise MountError(ENOSPC, self._limit)
        image = (look.seen.source_dev, look.seen.source_ino)
        others = source.kind != "text" and (self._starting or self._servers.count)
        if others and not await self._alone(call, image, settings.via):
            # two programs, or a program and the kernel, would write to the same blocks
            raise MountError(EBUSY, "mount: a FUSE program serves this image")
        call.check()
        self._underway += 1
        self._starting.append((image, settings.via))
        try:
            if settings.via == "fuse":
                how = await self.programs.mount(call, look, plan, settings)
            else:
                if new is None or settings is not plan.settings:
                    new = self._prepared(plan, settings)
                how = await self._by_kernel(call, look, new, source)
        finally:
            self._underway -= 1
            self._starting.remove((image, settings.via))
        return Outcome(0, how, call.path, decision=call.decision)

    async def _alone(self, call: MountCall, image: tuple[int, int], via: str) -> bool:
        """Whether no program serves the image or the device, or is about to."""
        if self._servers.count:
            call.on_wait()
            if not await self._servers.released(image):
                return False
        return not any(one == image and "fuse" in (via, other) for one, other in self._starting)

    def _live(self, call: MountCall) -> int:
        """How many mounts there may be. What went by an umount nobody has told us of."""
        known = self._times.total() + self._servers.count + self._underway
        if known >= self._most:
            shown = mounted_devices(call.task)
            for device, times in self._times.items():
                self._times[device] = min(times, max(shown[device], loop_is_bound(*device)))
            self._times = +self._times
            self._devices = {d: text for d, text in self._devices.items() if self._times[d]}
            known = self._times.total() + self._servers.count + self._underway
        return known

    # -- the kernel's own drivers

    def _prepared_early(self, plan: Mount | Remount) -> Any:
        """While the resolver looks; None where that is of no use. Errors come after the look's."""
        if not isinstance(plan, Mount) or plan.settings.via != "kernel":
            return None
        try:
            return self._prepared(plan, plan.settings)
        except MountError:
            return None

    def _prepared(self, plan: Mount, settings: MountSettings) -> Any:
        """A struct sd_new_mount with all that is known before the source is: of equal calls it is a
        copy.
        """
        key = (plan.fstype, plan.flags, plan.data, settings)
        first = self._known.get(key)
        if first is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            first = self._known[key] = self._filled(plan, settings)
        return ffi.new("struct sd_new_mount *", first[0])

    def _filled(self, plan: Mount, settings: MountSettings) -> Any:
        new = ffi.new("struct sd_new_mount *")
        new.shift = _SHIFT[settings.shift]
        new.flags = plan.flags | settings.force
        new.force, new.set = attr_of(settings.force), attr_of(plan.flags)
        data = plan.data
        if plan.fstype == b"hugetlbfs" and self._uids is not None and settings.shift != "true":
            # instead of an idmapped mount, which would shift them once more
            data = shifted(data or b"", self._uids, self._gids or self._uids)
            new.shift = lib.SD_SHIFT_FALSE
        new.data_length = -1 if data is None else len(data)
        fill(new.fstype, plan.fstype, lib.SD_FSTYPE_MAX, ENODEV)
        fill(new.data, data or b"", lib.SD_PATH_MAX, EINVAL)
        return new

    async def _by_kernel(self, call: MountCall, look: Look, new: Any, source: Source) -> str:
        if source.kind == "image" and look.seen.flags & lib.SD_SEEN_FOREIGN:
            # its server could stop the host's writeback for as long as it wants
            raise MountError(EPERM, "mount: an image where somebody may not answer, for the kernel")
        new.kind = _KIND[source.kind]
        if source.device is not None:
            new.major, new.minor = source.device
        if source.kind == "text":
            fill(new.source, source.name, lib.SD_PATH_MAX, EINVAL)
        # in namespaces that nobody sees here there may be more than were counted
        new.most = max(0, self._most - self._servers.count - self._underway + 1)
        mounted, error = await mount_makers.mounted(self._makers, call, look, new)
        if mounted.flags & lib.SD_MOUNTED_FULL:
            raise MountError(ENOSPC, self._limit)
        if mounted.error:
            raise MountError(-mounted.error, why(mounted))
        if error:
            raise MountError(error)
        device = (mounted.major, mounted.minor)
        self._devices[device] = source.kind == "text"
        self._times[device] += 1
        call.valid.succeed()
        return "kernel, idmapped" if mounted.flags & lib.SD_MOUNTED_SHIFTED else "kernel"

    # -- again

    async def _remount(self, call: MountCall, look: Look, plan: Remount) -> Outcome:
        seen = look.seen
        device = (seen.target_major, seen.target_minor)
        if not seen.flags & lib.SD_SEEN_ROOT or device not in self._devices:
            return Outcome(0, left_alone=True)
        if plan.refusal:
            raise MountError(plan.error, f"remount: {plan.refusal}")
        if not await remount(self._makers, call, look, plan):
            # ours has gone, and the number is another's now
            self._devices.pop(device, None)
            del self._times[device]
            return Outcome(0, left_alone=True)
        return Outcome(0, "remounted", call.path)


def _same_look(call: MountCall, first: MountSettings, decision: Decision) -> MountSettings:
    """The settings of the second decision, for which the look of the first must have been right."""
    settings = decision.settings
    if not isinstance(settings, MountSettings):
        raise TypeError("a mount without settings of a mount")
    # Who looked for a program has opened the source, a device too: that does for the kernel.
    unopened = settings.via == "fuse" and first.via != "fuse"
    if settings.text != first.text or unopened:
        raise call.failed("mount: rules disagree on how a source is looked at")
    return settings


def _source(call: MountCall, look: Look, plan: Mount) -> Source:
    """What it is mounted from. The errors are those of mount(2)."""
    seen = look.seen
    if plan.settings.text:
        return Source("text", plan.source or b"")
    if not plan.source:
        raise MountError(EINVAL)
    if seen.source_error:
        raise call.refused(-seen.source_error)
    if seen.flags & lib.SD_SEEN_DEVICE:
        device = (seen.major, seen.minor)
        return Source("device", block_device_name(*device), device)
    name = look.source_path()
    if name is None:
        raise MountError(EPERM, "mount: an image without a name below the caller's root")
    return Source("image", name)
