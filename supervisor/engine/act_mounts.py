"""Carrying out mounts: a resolver looks, a maker or a FUSE program mounts, the resolver attaches.

A mount takes milliseconds, so unlike path work it is put together here. Whatever of it can be
stalled by the target, its image or its program happens in a helper and under a deadline. When the
answer is given no descriptor of the mount is held any more, or the caller's umount would be busy.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from errno import EINTR, EINVAL, EIO, ENODEV, ENOSPC, ENOTBLK, EPERM, ESRCH, ETIMEDOUT
from typing import Any, Final

import trio

from supervisor.engine.fuse_servers import FuseServers, Server
from supervisor.engine.helpers import Maker, Makers, Resolvers
from supervisor.kernel.hugetlbfs import shifted
from supervisor.kernel.mounts import MS_RDONLY, attr_of
from supervisor.kernel.shim import ffi, lib
from supervisor.kernel.spawn import Helper
from supervisor.kernel.task import signals
from supervisor.model import (
    Decision,
    Facts,
    Mount,
    MountSettings,
    Outcome,
    Place,
    Remount,
    Source,
    Verdict,
)

PATH_DEADLINE: Final = 2.0
MOUNT_DEADLINE: Final = 20.0
MOST_MOUNTS: Final = 64
_ATTEMPTS: Final = 3
_BEAT: Final = 0.1  # how often a long wait looks after its caller
_SHIFT: Final = {
    "false": lib.SD_SHIFT_FALSE, "auto": lib.SD_SHIFT_AUTO, "true": lib.SD_SHIFT_TRUE,
}  # fmt: skip


class MountError(Exception):
    """What the caller is told, and what goes into the audit record."""

    def __init__(self, errno: int, how: str = "") -> None:
        super().__init__(how)
        self.errno = errno
        self.how = how


class _Look:
    """What a resolver saw, and the descriptors that it gave: closed with this, at the latest."""

    def __init__(self, seen: Any, fds: Sequence[int]) -> None:
        self.seen = seen
        self.target, self.mount_ns, self.source = fds

    def text(self, which: str) -> bytes | None:
        length = getattr(self.seen, f"{which}_length")
        return ffi.buffer(getattr(self.seen, which), length)[:] if length > 0 else None

    def close(self) -> None:
        for fd in (self.target, self.mount_ns, self.source):
            if fd >= 0:
                os.close(fd)
        self.target = self.mount_ns = self.source = -1


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
        most: int = MOST_MOUNTS,
    ) -> None:
        self._resolvers = resolvers
        self._makers = makers
        self._servers = servers
        self._on_error = on_error
        self._uids = uids
        self._gids = gids
        self._most = most
        self._devices: list[tuple[int, int]] = []  # of the filesystems that makers mounted
        self._underway = 0
        self.on_wait: Callable[[], None] = lambda: None

    async def perform(
        self,
        plan: Mount | Remount,
        task: int,
        tid: int,
        valid: Callable[[], bool],
        redecide: Callable[[Facts], Decision] | None,
        *,
        probe_only: bool,
    ) -> Outcome:
        """Carries `plan` out for the caller whose /proc/TID `task` is. HelperError as path work."""
        job = _Job(task, tid, valid)
        try:
            if self._uids is None:
                raise MountError(EPERM, "mount: the target has no user namespace of its own")
            for _ in range(_ATTEMPTS):
                with self._resolver(await self._resolvers.take(self.on_wait)) as job.resolver:
                    look = await self._look(job, plan)
                    if look is None:
                        continue
                    try:
                        return await self._with(job, look, plan, redecide, probe_only)
                    finally:
                        look.close()
            raise MountError(self._on_error, "path: the caller's groups cannot be taken")
        except MountError as error:
            return Outcome(error.errno, error.how, job.path, decision=job.decision)

    # -- helpers

    @contextlib.contextmanager
    def _resolver(self, helper: Helper) -> Iterator[_Resolver]:
        """A resolver that still owes an answer at the end, or cannot be used, is left behind."""
        held = _Resolver(helper)
        try:
            yield held
        finally:
            if held.owes:
                self._resolvers.abandon(helper)
            else:
                self._resolvers.give(helper)

    async def _readable(self, fd: int, job: _Job, deadline: float, *, long: bool = False) -> bool:
        """False at the deadline. A long wait ends with the caller, or with a signal for it."""
        self.on_wait()
        until = trio.current_time() + deadline
        while True:
            now = trio.current_time()
            with trio.move_on_at(min(until, now + _BEAT) if long else until):
                await trio.lowlevel.wait_readable(fd)
                return True
            if trio.current_time() >= until:
                return False
            if not job.valid():
                raise MountError(self._on_error, "the caller has gone")
            if signals(job.tid)[0]:
                raise MountError(EINTR, "mount: a signal for the caller")

    async def _asked(self, job: _Job, sent: int, deadline: float, *, long: bool = False) -> int:
        """The resolver's answer to a question just sent: an errno, or 0."""
        resolver = job.resolver
        resolver.owes = True
        if sent < 0:
            raise MountError(self._on_error, "path: the resolver has gone")
        if not await self._readable(resolver.sock, job, deadline, long=long):
            raise MountError(self._on_error, "path: deadline")
        answer = lib.sd_mount_answer(resolver.sock)
        if answer == -32:  # EPIPE: no answer of these questions
            raise MountError(self._on_error, "path: the resolver has gone")
        resolver.owes = False
        return -int(answer)

    async def _look(self, job: _Job, plan: Mount | Remount) -> _Look | None:
        """None: this resolver cannot become that caller, another one can."""
        source = plan.source if isinstance(plan, Mount) else None
        flags = 0
        if isinstance(plan, Mount) and source is not None and not plan.settings.text:
            flags |= lib.SD_LOOK_SOURCE
            if not (plan.flags | plan.settings.force) & MS_RDONLY:
                flags |= lib.SD_LOOK_WRITE
            if plan.settings.via == "fuse":
                flags |= lib.SD_LOOK_DEVICE
        target = _path(plan.target)
        text = source if source is not None and flags else b""
        resolver = job.resolver
        resolver.owes = True
        error = lib.sd_mount_look(
            resolver.sock, job.task, flags, target, len(target), text, len(text)
        )
        if error == -36:  # ENAMETOOLONG, said before anything was sent
            resolver.owes = False
            raise MountError(36)
        if error < 0 or not await self._readable(resolver.sock, job, PATH_DEADLINE):
            raise MountError(self._on_error, "path: deadline")
        seen = ffi.new("struct sd_seen *")
        fds = ffi.new("int[3]")
        if lib.sd_mount_seen(resolver.sock, seen, fds) < 0:
            raise MountError(self._on_error, "path: the resolver has gone")
        if seen.flags & lib.SD_SEEN_RETIRE:
            return None  # and it is left behind
        resolver.owes = False
        look = _Look(seen, list(fds))
        if seen.error:
            look.close()
            if seen.error == -ESRCH:
                raise MountError(self._on_error, "the caller has gone")
            raise MountError(-seen.error)
        job.path = look.text("target")
        return look

    # -- one mount

    async def _with(
        self,
        job: _Job,
        look: _Look,
        plan: Mount | Remount,
        redecide: Callable[[Facts], Decision] | None,
        probe_only: bool,
    ) -> Outcome:
        if isinstance(plan, Remount):
            return await self._remount(job, look, plan)
        source = _source(look, plan)
        settings = plan.settings
        if redecide is not None:
            seen = look.seen
            decision = redecide(Facts(job.path, seen.fsuid, seen.fsgid, source, job.path))
            job.decision = decision
            if decision.verdict is not Verdict.EMULATE:
                return Outcome(EPERM, path=job.path, decision=decision)
            if not isinstance(decision.settings, MountSettings):
                raise TypeError("a mount without settings of a mount")
            if (decision.settings.via, decision.settings.text) != (settings.via, settings.text):
                raise MountError(self._on_error, "mount: rules disagree on how to look at sources")
            settings = decision.settings
        if probe_only:
            raise MountError(EPERM)
        if self._live(job) >= self._most:
            raise MountError(ENOSPC, f"mount: {self._most} mounts are the limit of a session")
        if not job.valid():
            raise MountError(self._on_error, "the caller has gone")
        self._underway += 1
        try:
            if settings.via == "fuse":
                how = await self._by_program(job, look, plan, settings)
            else:
                how = await self._by_kernel(job, look, plan, settings, source)
        finally:
            self._underway -= 1
        return Outcome(0, how, job.path, decision=job.decision)

    def _live(self, job: _Job) -> int:
        """How many there may be. What has gone by an umount nobody told us of."""
        known = len(self._devices) + self._servers.count + self._underway
        if known >= self._most:
            shown = _shown_devices(job.task)
            self._devices = [d for d in self._devices if d in shown or _loop_is_bound(d)]
            known = len(self._devices) + self._servers.count + self._underway
        return known

    # -- the kernel's own drivers

    async def _by_kernel(
        self, job: _Job, look: _Look, plan: Mount, settings: MountSettings, source: Source
    ) -> str:
        new = ffi.new("struct sd_new_mount *")
        new.kind = {
            "device": lib.SD_NEW_DEVICE, "image": lib.SD_NEW_IMAGE, "text": lib.SD_NEW_TEXT,
        }[source.kind]  # fmt: skip
        if source.kind == "image" and look.seen.flags & lib.SD_SEEN_FUSE:
            # its server could stop the host's writeback for as long as it wants
            raise MountError(EPERM, "mount: an image on a FUSE filesystem, for the kernel")
        new.shift = _SHIFT[settings.shift]
        if source.device is not None:
            new.major, new.minor = source.device
        new.flags = plan.flags | settings.force
        new.force, new.set = attr_of(settings.force), attr_of(plan.flags)
        _fill(new.fstype, plan.fstype, lib.SD_FSTYPE_MAX, ENODEV)
        _fill(new.source, source.name if source.kind == "text" else b"", lib.SD_PATH_MAX, EINVAL)
        data = plan.data
        if plan.fstype == b"hugetlbfs" and self._uids is not None:
            data = shifted(data or b"", self._uids, self._gids or self._uids)
        new.data_length = -1 if data is None else len(data)
        _fill(new.data, data or b"", lib.SD_PATH_MAX, EINVAL)
        mounted, tree = await self._made(job, new, look.source)
        try:
            if mounted.error:
                raise MountError(-mounted.error, _why(mounted))
            device = (mounted.major, mounted.minor)
            sent = lib.sd_mount_attach(job.resolver.sock, look.mount_ns, look.target, tree)
            error = await self._asked(job, sent, PATH_DEADLINE)
            if error:
                raise MountError(error)
            self._devices.append(device)
        finally:
            if tree >= 0:
                os.close(tree)
        return "kernel, idmapped" if mounted.flags & lib.SD_MOUNTED_SHIFTED else "kernel"

    async def _maker(self, job: _Job) -> Maker:
        """The last maker: all mounts of a session are one's, so that it knows them again."""
        until = trio.current_time() + MOUNT_DEADLINE
        while self._makers.all and self._makers.all[-1].busy[0]:
            self.on_wait()
            if trio.current_time() > until or not job.valid():
                raise MountError(self._on_error, "maker: deadline")
            with trio.move_on_after(_BEAT):
                await self._makers.wait()
        if not self._makers.all:
            raise MountError(self._on_error, "mount: no maker, for seccompd is not root")
        return self._makers.all[-1]

    @contextlib.asynccontextmanager
    async def _borrowed(self, job: _Job) -> Any:
        """A maker, which is lost if it still owes an answer at the end."""
        maker = await self._maker(job)
        maker.busy[0] = 1
        answered = False

        def done() -> None:
            nonlocal answered
            answered = True

        try:
            yield maker, done
        finally:
            if answered:
                maker.busy[0] = 0
                self._makers.done()
            else:
                self._makers.lose(maker)

    async def _made(self, job: _Job, new: Any, fd: int) -> tuple[Any, int]:
        """The maker's answer, and the detached mount or -1."""
        mounted = ffi.new("struct sd_mounted *")
        tree = ffi.new("int *", -1)
        try:
            async with self._borrowed(job) as (maker, done):
                there = lib.sd_mount_make(maker.sock, new, fd)
                while there == 0:
                    if not await self._readable(maker.sock, job, MOUNT_DEADLINE):
                        raise MountError(self._on_error, "maker: deadline")
                    there = lib.sd_mount_made(maker.sock, mounted, tree)
                if there < 0:
                    raise MountError(self._on_error, "maker: lost")
                done()
        except BaseException:
            if tree[0] >= 0:
                os.close(tree[0])
            raise
        return mounted, tree[0]

    # -- FUSE

    async def _by_program(
        self, job: _Job, look: _Look, plan: Mount, settings: MountSettings
    ) -> str:
        if look.source < 0:
            raise MountError(ENOTBLK if plan.source else EINVAL)
        node = await self._fuse_node(job)
        try:
            server = self._servers.start(plan, settings, look.source, node)
        except (OSError, ValueError) as error:
            errno = EIO if isinstance(error, ValueError) else error.errno or EIO
            raise MountError(errno, f"fuse: {error}") from error
        finally:
            if node >= 0:
                self._forget_node(node)
        try:
            await self._adopt(job, look, plan, settings, server)
        except BaseException as error:
            words = await self._servers.end(server)
            if isinstance(error, MountError) and words and error.errno != EINTR:
                raise MountError(error.errno, f"{error.how}: {words}") from error
            raise
        self._servers.keep(server)
        return f"fuse, pid {server.pid}"

    async def _adopt(
        self, job: _Job, look: _Look, plan: Mount, settings: MountSettings, server: Server
    ) -> None:
        task = os.open(f"/proc/{server.pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sent = lib.sd_mount_adopt(
                job.resolver.sock, look.mount_ns, look.target, task, server.pidfd,
                attr_of(settings.force), attr_of(plan.flags & ~settings.force),
            )  # fmt: skip
        finally:
            os.close(task)
        try:
            error = await self._asked(job, sent, MOUNT_DEADLINE, long=True)
        except MountError as failed:
            if failed.how == "path: deadline":
                raise MountError(ETIMEDOUT, "fuse: the program did not mount in time") from failed
            raise
        if error == EIO and server.ended():
            # the usual reason is an image that is not what the caller says: EINVAL, as of mount(2)
            status = server.status
            raise MountError(
                EIO if os.WIFSIGNALED(status) else EINVAL,
                f"fuse: the program ended ({_status(status)})",
            )
        if error:
            raise MountError(error, "fuse: not attached")

    async def _fuse_node(self, job: _Job) -> int:
        """A mount of a node for /dev/fuse, where the target cannot open the host's; or -1."""
        if os.access("/dev/fuse", os.R_OK | os.W_OK) or not self._makers.all:
            return -1
        uids, gids = self._uids or ((0, 0, 1),), self._gids or ((0, 0, 1),)
        tree = ffi.new("int *", -1)
        async with self._borrowed(job) as (maker, done):
            there = lib.sd_mount_fuse_node(maker.sock, min(uids)[0], min(gids)[0])
            while there == 0:
                if not await self._readable(maker.sock, job, PATH_DEADLINE):
                    raise MountError(self._on_error, "maker: deadline")
                there = lib.sd_mount_fuse_made(maker.sock, tree)
            if there == -32:  # EPIPE
                raise MountError(self._on_error, "maker: lost")
            done()
            if there < 0:
                raise MountError(-there, "fuse: no node for /dev/fuse")
        return int(tree[0])

    def _forget_node(self, node: int) -> None:
        """Its name is not needed once it is mounted; only its own maker knows it."""
        found = os.fstat(node)
        os.close(node)
        for maker in self._makers.all:
            lib.sd_maker_tell(maker.sock, lib.SD_WAS_UNBOUND, found.st_dev, found.st_ino)

    # -- again

    async def _remount(self, job: _Job, look: _Look, plan: Remount) -> Outcome:
        seen = look.seen
        device = (seen.target_major, seen.target_minor)
        if not seen.flags & lib.SD_SEEN_ROOT or device not in self._devices:
            return Outcome(0, left_alone=True)
        wanted = attr_of(plan.flags)
        # The kernel's order is the superblock first; but what is locked must stop the whole.
        sent = lib.sd_mount_change(
            job.resolver.sock, look.mount_ns, look.target, wanted, attr_of(0xFFFF) & ~wanted
        )
        error = await self._asked(job, sent, PATH_DEADLINE)
        if error:
            raise MountError(error, "remount: against what is forced" if error == EPERM else "")
        new = ffi.new("struct sd_new_mount *")
        new.kind, new.flags = lib.SD_NEW_AGAIN, plan.flags
        _fill(new.data, plan.data or b"", lib.SD_PATH_MAX, EINVAL)
        mounted, _ = await self._made(job, new, look.target)
        if mounted.error:
            raise MountError(-mounted.error, "remount")
        return Outcome(0, "remounted", job.path)


class _Resolver:
    """A resolver in use, and whether it owes an answer."""

    def __init__(self, helper: Helper) -> None:
        self.sock = helper.sock
        self.owes = False


class _Job:
    """One call on its way."""

    def __init__(self, task: int, tid: int, valid: Callable[[], bool]) -> None:
        self.task = task
        self.tid = tid
        self.valid = valid
        self.path: bytes | None = None
        self.decision: Decision | None = None
        self.resolver: _Resolver


def _path(place: Place) -> bytes:
    return place.path if place.path is not None else b""


def _fill(field: Any, text: bytes, size: int, errno: int) -> None:
    """Never cut: what does not fit is an error."""
    if len(text) >= size or b"\0" in text:
        raise MountError(errno, f"mount: more than {size - 1} bytes")
    ffi.memmove(field, text, len(text))


def _source(look: _Look, plan: Mount) -> Source:
    """What it is mounted from. The errors are those of mount(2)."""
    seen = look.seen
    if plan.settings.text:
        return Source("text", plan.source or b"")
    if plan.source is None:
        raise MountError(EINVAL)
    if seen.source_error:
        raise MountError(-seen.source_error)
    if seen.flags & lib.SD_SEEN_DEVICE:
        device = (seen.major, seen.minor)
        return Source("device", _device_name(device), device)
    name = look.text("source")
    if name is None:
        raise MountError(EPERM, "mount: an image without a name below the caller's root")
    return Source("image", name)


def _device_name(device: tuple[int, int]) -> bytes:
    """The kernel's own name: no container can choose it."""
    try:
        with open(f"/sys/dev/block/{device[0]}:{device[1]}/uevent", "rb") as lines:
            for line in lines:
                if line.startswith(b"DEVNAME="):
                    return b"/dev/" + line.removeprefix(b"DEVNAME=").strip()
    except OSError:
        pass  # no such device, or no sysfs: rules with numbers may know it
    return b""


def _shown_devices(task: int) -> set[tuple[int, int]]:
    """The filesystems that the caller's mount namespace shows."""
    found = set()
    with contextlib.suppress(OSError):
        fd = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=task)
        with open(fd, "rb") as lines:
            for line in lines:
                major, _, minor = line.split(b" ", 3)[2].partition(b":")
                found.add((int(major), int(minor)))
    return found


def _loop_is_bound(device: tuple[int, int]) -> bool:
    return device[0] == 7 and os.path.exists(f"/sys/dev/block/7:{device[1]}/loop/backing_file")


def _why(mounted: Any) -> str:
    for flag, text in (
        (lib.SD_MOUNTED_CEILING, "beyond what the policy's rules can grant"),
        (lib.SD_MOUNTED_NO_SHIFT, "the filesystem cannot be idmapped, and shift is true"),
        (lib.SD_MOUNTED_LOOP, "no loop device"),
        (lib.SD_MOUNTED_LOCK, "its flags could not be locked"),
    ):
        if mounted.flags & flag:
            return f"mount: {text}"
    return ""


def _status(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"status {os.WEXITSTATUS(status)}"
