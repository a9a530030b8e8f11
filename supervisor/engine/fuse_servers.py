"""The FUSE programs of a session: their start, their messages, their end.

A program ends when its mount does, or with this process. What it says until then is kept, to some
length, for the audit record.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from supervisor.engine.fuse_spare import Spare
from supervisor.kernel import fuse_programs
from supervisor.kernel.mounts import MS_RDONLY
from supervisor.kernel.shim import check, ffi, lib
from supervisor.model import Mount, MountSettings

if TYPE_CHECKING:
    from supervisor.engine.mount_call import Look, MountCall
    from supervisor.engine.mount_makers import FuseNodes

MEMORY: Final = 2 << 30
_MOST_WORDS: Final = 1000
_LAST_BREATH: Final = 1.0
_LAST_WRITES: Final = 2.0
UMOUNT_DEADLINE: Final = 120.0
# Past what any caller waits for: one that still writes would leave a broken image behind.
PATIENCE: Final = 600.0
_BEAT: Final = 0.1
_STAGES: Final = {
    lib.SD_PROGRAM_CLONE: "clone",
    lib.SD_PROGRAM_ROOT: "its root directory",
    lib.SD_PROGRAM_DEVICE: "/dev/fuse",
    lib.SD_PROGRAM_RIGHTS: "its rights",
    lib.SD_PROGRAM_FILTER: "its filter",
    lib.SD_PROGRAM_EXEC: "exec",
}


class Server:
    """One program that starts, runs, or has ended and is not reaped yet. `program` is a started
    struct sd_program, `image` the device and the inode of what it serves.
    """

    def __init__(self, program: Any, what: str, image: tuple[int, int]) -> None:
        self.pid: int = program.pid
        self.pidfd: int = program.pidfd
        self.starting: int = program.started
        self.what = what
        self.image = image
        self.status = 0
        # Of its mount: the watch that tells when it is nowhere any more (-1: none), and the device.
        self.watch = -1
        self.device = 0
        self.unmounted = False
        # For its /dev/fuse; it must have a name until the program has mounted it. -1: none.
        self.node = -1
        self.gone = trio.Event()
        self.program = program
        self._messages: int = program.messages
        self._reaped = False
        self._words = b""

    def started(self) -> bool:
        """Whether it runs; where that is not known yet, `starting` becomes readable.

        OSError where it does not.
        """
        there = lib.sd_program_started(self.program)
        if there < 0:
            check(there, f"{self.what}: {_STAGES.get(self.program.stage, 'start')}")
        return bool(there)

    def deaf(self) -> None:
        """Lets go of the listener: a mount(2) of the program's is answered elsewhere, or not."""
        if self.program.listener >= 0:
            os.close(self.program.listener)
        self.program.listener = -1

    def ended(self) -> bool:
        """Whether it has; then it is reaped, and `status` is there."""
        if not self._reaped:
            with contextlib.suppress(ChildProcessError):
                pid, self.status = os.waitpid(self.pid, os.WNOHANG)
                if pid == 0:
                    return False
            self._reaped = True
        return True

    def kill(self) -> None:
        """Takes all with it that it has forked: it is pid 1 of its namespace."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def words(self) -> str:
        """What it said, its last words first to go."""
        with contextlib.suppress(BlockingIOError):
            while len(self._words) < _MOST_WORDS and (more := os.read(self._messages, 4096)):
                self._words += more
        text = self._words[:_MOST_WORDS].decode("utf-8", "backslashreplace")
        return "; ".join(line.strip() for line in text.splitlines() if line.strip())

    def ending(self) -> str:
        """How it ended, in words."""
        if os.WIFSIGNALED(self.status):
            return signal.Signals(os.WTERMSIG(self.status)).name
        return f"status {os.WEXITSTATUS(self.status)}"

    def close(self) -> None:
        """Lets go of it."""
        self.deaf()
        for fd in (self.pidfd, self._messages, self.starting):
            os.close(fd)


class FuseServers:
    """All of a session. `report` gets an event for the audit log, by name and fields. `patience`:
    how many seconds a program may go on without its mount.
    """

    def __init__(
        self, report: Callable[..., None] | None = None, patience: float = PATIENCE
    ) -> None:
        self._report = report
        self.patience = patience
        self._all: list[Server] = []
        self._watches = -1
        self.spare = Spare()

    @property
    def any(self) -> bool:
        """Whether one may serve a mount."""
        return bool(self._all)

    def watches(self) -> int:
        """The inotify descriptor for the mounts of them all."""
        if self._watches < 0:
            self._watches = check(lib.sd_watch_new(), "inotify_init1")
            trio.lowlevel.spawn_system_task(self._look_always, name="fuse umounts")
        return self._watches

    def devices(self) -> list[int]:
        """Those of their mounts. One that is mounted nowhere may be another's now."""
        self._look()
        return [server.device for server in self._all if not server.unmounted]

    def _look(self) -> None:
        while (watch := lib.sd_watch_next(self._watches)) >= 0:
            for server in self._all:
                if server.watch == watch and not server.unmounted:
                    server.unmounted = True
                    trio.lowlevel.spawn_system_task(self._outlive, server, name="fuse end")

    async def _look_always(self) -> None:
        """A mount may go with nobody asking: with its namespace, or with what it stands on."""
        while True:
            await trio.lowlevel.wait_readable(self._watches)
            self._look()

    async def _outlive(self, server: Server) -> None:
        """Ends a program that does not end with its mount: a hostile image may have taken it."""
        with trio.move_on_after(self.patience):
            await server.gone.wait()
            return
        server.kill()

    async def written(
        self, device: int, valid: Callable[[], bool], on_wait: Callable[[], None], *, force: bool
    ) -> None:
        """Its mount was unmounted: waits until the program has written all and ended, as long as
        somebody wants to know. Where it is mounted elsewhere too there is nothing to wait for.
        `force`: the caller says that the program may hang.
        """
        served = [server for server in self._all if server.device == device]
        self._look()
        if not served or not served[-1].unmounted:
            return
        on_wait()
        until = trio.current_time() + (_LAST_WRITES if force else UMOUNT_DEADLINE)
        while not served[-1].gone.is_set() and valid() and trio.current_time() < until:
            with trio.move_on_after(_BEAT):
                await served[-1].gone.wait()

    @property
    def count(self) -> int:
        """How many serve a mount."""
        return sum(not server.ended() for server in self._all)

    async def released(self, image: tuple[int, int]) -> bool:
        """Waits for programs that still write to `image` (device, inode) after their umount, which
        does not wait for them. False: one of them goes on, so its mount is still in use.
        """
        with trio.move_on_after(_LAST_WRITES):
            while theirs := [server for server in self._all if server.image == image]:
                await theirs[0].gone.wait()
            return True
        return False

    async def start(
        self, plan: Mount, settings: MountSettings, look: Look, call: MountCall, nodes: FuseNodes
    ) -> Server:
        """Starts the program on the source that `look` opened, with the spare beginning where there
        is one. `nodes`: for its /dev/fuse.

        OSError, MountError, or ValueError for a template that is wrong.
        """
        seen = look.seen
        options = [word for word in (plan.data or b"").decode("utf-8", "surrogateescape").split(",")
                   if word]  # fmt: skip
        if (plan.flags | settings.force) & MS_RDONLY:
            options.append("ro")
        words = fuse_programs.argv(settings.program, options)
        kept = [ffi.new("char[]", word.encode("utf-8", "surrogateescape")) for word in words]
        argv = ffi.new("char *[]", [*kept, ffi.NULL])
        program: Any = ffi.new("struct sd_program *")
        program.argv = argv
        program.image, program.memory = look.source, MEMORY
        program.mount_ns, program.root = look.mount_ns, look.root if settings.inside else -1
        program.uid, program.gid, program.caps = seen.fsuid, seen.fsgid, seen.caps
        node = -1
        if settings.inside or not self.spare.start(program):
            program.fuse = node = await nodes.get(call)
            try:
                check(lib.sd_program_start(program), words[0])
            except OSError:
                nodes.forget(node)
                raise
        server = Server(program, words[0], (seen.source_dev, seen.source_ino))
        server.node = node
        return server

    async def ended(self, server: Server) -> bool:
        """Whether it has ended, or does so now: of one that is ending /proc shows no mounts."""
        with trio.move_on_after(_LAST_BREATH):
            while not server.ended():
                await trio.lowlevel.wait_readable(server.pidfd)
            return True
        return False

    def keep(self, server: Server) -> None:
        """Its mount is in place."""
        self._all.append(server)
        trio.lowlevel.spawn_system_task(self._watch, server, name=f"fuse {server.pid}")

    async def _watch(self, server: Server) -> None:
        """Waits for its end; nobody else lets go of it."""
        try:
            await trio.lowlevel.wait_readable(server.pidfd)
        finally:
            self._all.remove(server)
            server.ended()
            server.gone.set()
            words = server.words()
            if self._report is not None and (words or server.status):
                self._report(
                    "fuse", program=server.what, pid=server.pid, status=server.status, says=words
                )
            server.close()

    async def end(self, server: Server) -> str:
        """Ends one that is of no use, and gives what it said."""
        server.kill()
        with trio.CancelScope(shield=True):
            await self.ended(server)
        words = server.words()
        if server.ended():
            server.close()
        else:  # a path of the container's that hangs holds it; until it is gone, it counts
            self.keep(server)
        return words

    def close(self) -> None:
        """Ends them all: their mounts are of no use any more."""
        for server in self._all:
            server.kill()
        self.spare.close()
        if self._watches >= 0:
            os.close(self._watches)
