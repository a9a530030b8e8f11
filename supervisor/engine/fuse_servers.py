"""The FUSE programs of a session.

A program ends when its mount does, or with this process. What it says goes into the audit log as it
says it, in pieces of bounded length and number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from supervisor.engine.fuse_server import Server
from supervisor.engine.fuse_spare import Spare
from supervisor.kernel import fuse_programs
from supervisor.kernel.mounts import MS_RDONLY
from supervisor.kernel.procfs import work_of
from supervisor.kernel.shim import check, ffi, lib
from supervisor.model import MountSettings
from supervisor.plans import Mount

if TYPE_CHECKING:
    from supervisor.engine.mount_call import Look, MountCall
    from supervisor.engine.mount_makers import FuseNodes

MEMORY: Final = 2 << 30
_LAST_BREATH: Final = 1.0
_LAST_WRITES: Final = 2.0
UMOUNT_DEADLINE: Final = 120.0
# How long a program may go on without its mount: while it does nothing, and at all. One that still
# writes would leave a broken image behind.
IDLENESS: Final = 5.0
PATIENCE: Final = 600.0
_LOOK: Final = 0.5
_MOST_KNOWN: Final = 64
_BEAT: Final = 0.1
# The rest of a sentence comes within the first, and the next record after the second.
_SENTENCE: Final = 0.05
_PAUSE: Final = 1.0


class _Command:
    """A command line, and what is known of the program. ValueError for a template that is wrong."""

    __slots__ = ("_words", "alone", "argv", "what")

    def __init__(self, program: tuple[str, ...], data: bytes | None, read_only: bool) -> None:
        text = (data or b"").decode("utf-8", "surrogateescape")
        options = [word for word in text.split(",") if word]
        if read_only:
            options.append("ro")
        words = fuse_programs.argv(program, options)
        self._words = [ffi.new("char[]", word.encode("utf-8", "surrogateescape")) for word in words]
        self.argv = ffi.new("char *[]", [*self._words, ffi.NULL])
        self.what = words[0]
        self.alone = fuse_programs.makes_no_process(program)


class FuseServers:
    """All of a session. `report` gets an event for the audit log, by name and fields. `idleness`
    and `patience`: how many seconds a program may go on without its mount, while it neither reads
    nor writes and in all.
    """

    def __init__(
        self,
        report: Callable[..., None] | None = None,
        *,
        idleness: float = IDLENESS,
        patience: float = PATIENCE,
    ) -> None:
        self._report = report
        self.idleness, self.patience = idleness, patience
        self._all: list[Server] = []
        self._watches = -1
        self._known: dict[tuple[tuple[str, ...], bytes | None, bool], _Command] = {}
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
        """Ends a program that does not end with its mount: it hangs, or a hostile image has it."""
        began = busy = trio.current_time()
        before = None
        while True:
            with trio.move_on_after(_LOOK):
                await server.gone.wait()
                return
            now = trio.current_time()
            done = work_of(server.pid)
            if done is None or done != before:
                before, busy = done, now
            if now - busy >= self.idleness or now - began >= self.patience:
                server.kill()
                return

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
        command = self._command(plan, settings)
        program: Any = ffi.new("struct sd_program *")
        program.argv, program.alone = command.argv, command.alone
        program.image, program.memory = look.source, MEMORY
        program.mount_ns, program.root = look.mount_ns, look.root if settings.inside else -1
        program.uid, program.gid, program.caps = seen.fsuid, seen.fsgid, seen.caps
        node = -1
        if settings.inside or not self.spare.start(program):
            program.fuse = node = await nodes.get(call)
            try:
                check(lib.sd_program_start(program), command.what)
            except OSError:
                nodes.forget(node)
                raise
        server = Server(program, command.what, (seen.source_dev, seen.source_ino))
        server.node = node
        return server

    def _command(self, plan: Mount, settings: MountSettings) -> _Command:
        """The same one for equal calls."""
        read_only = bool((plan.flags | settings.force) & MS_RDONLY)
        key = (settings.program, plan.data, read_only)
        command = self._known.get(key)
        if command is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            command = self._known[key] = _Command(*key)
        return command

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

    def watch(self, server: Server) -> None:
        """Hears what it says, and lets go of it when it has ended."""
        trio.lowlevel.spawn_system_task(self._watch, server, name=f"fuse {server.pid}")

    async def _watch(self, server: Server) -> None:
        """Waits for its end; nobody else lets go of it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, server)
                await trio.lowlevel.wait_readable(server.pidfd)
                nursery.cancel_scope.cancel()
        finally:
            self._all.remove(server)
            server.ended()
            server.gone.set()
            words = server.words()
            if words or server.status:
                self._say(server, words, status=server.status)
            server.close()

    async def _listen(self, server: Server) -> None:
        """Passes on what it says, and not more of it than a reader can be expected to want."""
        while await server.speaks():
            await trio.sleep(_SENTENCE)
            self._say(server, server.words())
            await trio.sleep(_PAUSE)

    def _say(self, server: Server, words: str, **more: Any) -> None:
        if self._report is not None:
            self._report("fuse", program=server.what, pid=server.pid, **more, says=words)

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
            self.watch(server)
        return words

    def close(self) -> None:
        """Ends them all: their mounts are of no use any more."""
        for server in self._all:
            server.kill()
        self.spare.close()
        if self._watches >= 0:
            os.close(self._watches)
