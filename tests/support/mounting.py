"""A session's mounts without a session: an actor, in the user namespace of a target of its own.

Run as a program it takes plans as JSON lines and answers each with its outcome.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EBUSY, EINTR, EINVAL, EIO, EPERM
from pathlib import Path
from typing import Any

from tests.support.inside import wait_for

START = 400_000
MAP = [(0, START, 65536)]
# A user and a mount namespace (CLONE_NEWUSER | CLONE_NEWNS), and root's ids in it.
_INSIDE = """
import ctypes, os, sys
assert ctypes.CDLL(None).unshare(0x10020000) == 0
os.write(int(sys.argv[1]), b"1")
os.read(int(sys.argv[2]), 1)
os.setgroups([])
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
os.execvp("bash", ["bash"])
"""


class Target:
    """A shell in a user and mount namespace, whose root is START on the host."""

    def __init__(self) -> None:
        ready, go = os.pipe(), os.pipe()
        self.shell = subprocess.Popen(
            [sys.executable, "-c", _INSIDE, str(ready[1]), str(go[0])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=(ready[1], go[0]), cwd="/",
        )  # fmt: skip
        os.read(ready[0], 1)
        self.pid = self.shell.pid
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{self.pid}/{name}").write_text(f"0 {START} 65536")
        os.write(go[1], b"\n")
        for fd in (*ready, *go):
            os.close(fd)
        self.run("mount --make-rprivate /")

    def run(self, command: str) -> tuple[int, str]:
        """The status and the output of a command inside."""
        assert self.shell.stdin
        assert self.shell.stdout
        self.shell.stdin.write(f"{{ {command}\n}} </dev/null; s=$?; echo; echo END $s\n".encode())
        self.shell.stdin.flush()
        lines: list[str] = []
        while True:
            line = self.shell.stdout.readline().decode(errors="replace")
            if not line:
                raise EOFError("".join(lines))
            if line.startswith("END "):
                return int(line.split()[1]), "".join(lines).rstrip("\n")
            lines.append(line)

    def start(self, command: str) -> int:
        """The pid of a command in the background, once it is `sleep`, as its last word but one
        has to be: what stands before has been done then."""
        text = self.run(
            f"{command} & echo $!; until [ $(cat /proc/$!/comm) = sleep ]; do sleep 0.02; done"
        )[1]
        return int(text)

    def close(self) -> None:
        """Ends the shell."""
        self.shell.kill()
        self.shell.wait()
        for stream in (self.shell.stdin, self.shell.stdout):
            if stream is not None:
                stream.close()


@functools.cache
def _refusing() -> dict[str, Any]:
    """A compiled policy for a call that waits; to make one takes longer than all else here."""
    from tests.support.policies import mknod

    return mknod("{do: {errno: ENODEV}}").to_json()


class Actor:
    """The program below, and one plan at a time for it."""

    def __init__(
        self,
        target: Target,
        *,
        ceiling: Sequence[dict[str, Any]] | None,
        most: int = 64,
        deadline: float = 20.0,
        idleness: float = 5.0,
        patience: float = 600.0,
        ready_made: Sequence[str] | None = None,
    ) -> None:
        self._target = target
        self.events: list[dict[str, Any]] = []
        config = {
            "pid": target.pid, "ceiling": ceiling, "most": most, "deadline": deadline,
            "idleness": idleness, "patience": patience, "ready_made": ready_made,
            "policy": _refusing(),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.mounting", json.dumps(config)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip

    def send(self, **plan: Any) -> None:
        """Gives it a plan."""
        assert self.process.stdin
        for key in ("source", "target", "data"):
            if isinstance(plan.get(key), bytes):
                plan[key] = plan[key].decode()
        self.process.stdin.write(json.dumps({"tid": self._target.pid, **plan}).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> tuple[int, str]:
        """The errno of the outcome, and how it came about."""
        while "errno" not in (line := self._line()):
            self.events.append(line)
        self.last = line
        return self.last["errno"], self.last["how"]

    def event(self) -> dict[str, Any]:
        """The next record that is about no call."""
        return self.events.pop(0) if self.events else self._line()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise EOFError
        found: dict[str, Any] = json.loads(line)
        return found

    def mount(self, **plan: Any) -> tuple[int, str]:
        """Both."""
        self.send(**plan)
        return self.hear()

    def close(self) -> None:
        """Ends it as a session ends."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@contextmanager
def mounting(
    *,
    ceiling: Sequence[dict[str, Any]] | None,
    **more: Any,
) -> Iterator[tuple[Target, Actor]]:
    """A target and its actor. `ceiling` None: there is no maker, as for an ordinary user."""
    target = Target()
    actor = Actor(target, ceiling=ceiling, **more)
    try:
        yield target, actor
    finally:
        actor.close()
        target.close()


def _serve(config: dict[str, Any]) -> None:
    from supervisor.kernel.shim import check, lib
    from supervisor.kernel.spawn import maker_ceiling, spawn_maker
    from supervisor.model import MountCeiling
    from supervisor.policy.compiled import CompiledPolicy
    from tests.support.listener import Waiting

    # Who waits for an answer is somebody else than whom the plans are carried out for.
    policy = CompiledPolicy.from_json(config["policy"])
    waiting = Waiting(policy, ["mknod", "/nowhere/null", "c", "1", "3"])
    userns = os.open(f"/proc/{config['pid']}/ns/user", os.O_RDONLY)
    makers = []
    if config["ceiling"] is not None:
        rules = [
            MountCeiling(
                fstype=rule["fstype"].encode(), force=rule.get("force", 0),
                flags=rule.get("flags", 0xFFFFFFFF), shift=rule.get("shift", True),
                options=tuple(glob.encode() for glob in rule.get("options", ("*",))),
                names=tuple(
                    name.encode() for name in rule.get("names", ("*",) if rule.get("text") else ())
                ),
                devices=tuple(tuple(numbers) for numbers in rule.get("devices", ())),
                images=rule.get("images", True), text=rule.get("text", False),
            )
            for rule in config["ceiling"]
        ]  # fmt: skip
        fuse = [("c", 10, 10, 229, 229, False)]
        ceiling = maker_ceiling(fuse, MAP, MAP, rules, userns)
        makers = [spawn_maker(ceiling).sock for _ in range(2)]
    # before we are somebody who may not read what root can
    import trio

    from supervisor.engine.act import Actor as RealActor
    from supervisor.engine.limits import DEFAULT
    from supervisor.engine.waiting import Waiting as RealWaiting
    from supervisor.kernel.fuse_programs import PROGRAMS
    from supervisor.model import Decision, Facts, MountSettings, Snapshot, Verdict
    from supervisor.plans import Mount, Place, Remount

    check(lib.sd_join_user_namespace(userns, 0, 0), "join")
    os.close(userns)

    class Said:
        nodes = "private"
        on_error = 1
        max_mounts = config["most"]
        lent = ()

    actor = RealActor(
        userns=True, traits=Said(), policy=Said(), maker_socks=makers,
        uids=MAP, gids=MAP,
        report=lambda name, **k: print(json.dumps({"event": name, **k}), flush=True),
        limits=DEFAULT._replace(mount=config["deadline"]),
    )  # fmt: skip
    actor.rare.servers.idleness = config["idleness"]
    actor.rare.servers.patience = config["patience"]
    if config["ready_made"]:
        assert isinstance(PROGRAMS, dict)
        PROGRAMS["ready-made"] = tuple(config["ready_made"])

    def text(value: str | None) -> bytes | None:
        return None if value is None else value.encode()

    def decide(facts: Facts, granted: list[str] | None, settings: MountSettings) -> Decision:
        known = facts.source is not None and facts.source.name.decode()
        if granted is not None and known not in granted:
            return Decision(Verdict.ERRNO, "test", f"source {known}", 1)
        return Decision(Verdict.EMULATE, "test", settings=settings)

    class Waits(RealWaiting):
        def __init__(self, tid: int) -> None:
            self._tid = tid

        def __call__(self) -> bool:
            try:
                return "State:\tZ" not in Path(f"/proc/{self._tid}/status").read_text()
            except OSError:
                return False

        def succeed(self) -> None:
            pass  # nobody waits for it

    async def one(words: dict[str, Any]) -> None:
        settings = MountSettings(
            via=words.get("via", "kernel"), program=tuple(words.get("program", ())),
            shift=words.get("shift", "auto"), force=words.get("force", 0),
            text=words.get("text", False), inside=words.get("inside", False),
        )  # fmt: skip
        place = Place(-100, words["target"].encode())
        plan: Mount | Remount
        if words.get("remount"):
            plan = Remount(place, words.get("flags", 0), text(words.get("data")))
        else:
            plan = Mount(
                text(words.get("source")), place, words.get("fstype", "ext4").encode(),
                words.get("flags", 0), text(words.get("data")), settings,
            )  # fmt: skip
        snapshot = Snapshot(waiting.id, words["tid"], 0, 0, 0, "mount", (), waiting.listener)
        try:
            task = os.open(f"/proc/{words['tid']}", os.O_PATH)
        except FileNotFoundError:
            print(json.dumps({"errno": 1, "how": "the caller has gone"}), flush=True)
            return
        start = time.monotonic()
        outcome = await actor.perform(
            plan, snapshot, task, Waits(words["tid"]),
            lambda facts: decide(facts, words.get("granted"), settings),
        )  # fmt: skip
        os.close(task)
        print(json.dumps({
            "target": (outcome.path or b"").decode(), "errno": outcome.errno,
            "how": outcome.how, "left_alone": outcome.left_alone,
            "ms": (time.monotonic() - start) * 1e3,
        }), flush=True)  # fmt: skip
        await actor.do_more()
        actor.rest()  # as a session does where nobody calls

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            buffer = b""
            while True:
                await trio.lowlevel.wait_readable(0)
                more = os.read(0, 65536)
                if not more:
                    nursery.cancel_scope.cancel()
                    return
                buffer += more
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    nursery.start_soon(one, json.loads(line))

    trio.run(main)
    actor.close()
    waiting.close()


def loops(place: Path) -> list[str]:
    """The files below `place` that loop devices are still attached to."""
    shown = subprocess.run(
        ["losetup", "-n", "-O", "BACK-FILE"], capture_output=True, text=True, check=True
    )
    return [line for line in shown.stdout.splitlines() if line.startswith(f"{place}/")]


def no_loops(place: Path) -> None:
    """Waits until there are none: makers let go of a device after their answer, or after their
    session's end, whenever it is their turn."""
    wait_for(lambda: loops(place), lambda found: not found)


# What may come of a mount whose caller is killed on the way.
_CUT_SHORT = (0, EPERM, EBUSY, EINVAL, EINTR)


def may_be_cut_short(errno: int, how: str) -> bool:
    """Whether that may be the outcome of a mount whose caller is killed on the way. fuse2fs dies of
    a fault of its own where its mount goes while one of its threads begins: another one has closed
    the image by then.
    """
    fault = errno == EIO and how.startswith("fuse: the program ended (SIGSEGV)")
    return fault or errno in _CUT_SHORT


def _of_another_run(pid: int) -> bool:
    """Whether tests that are not ours have started a process, and are there still: those of another
    worker, or of somebody else on this machine. What nobody has any more may be ours.
    """
    while pid > 1 and pid != os.getpid():
        if b"pytest" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def abandoned(text: str) -> list[str]:
    """The processes that have `text` in their command line, and those of them that are ending; but
    for those that other tests have."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = os.fsdecode((entry / "cmdline").read_bytes().replace(b"\0", b" "))
                if not line:
                    line = _ending(entry, text)
                if text in line and not _of_another_run(int(entry.name)):
                    found.append(line)
            except OSError:
                continue
    return found


def _ending(entry: Path, text: str) -> str:
    """`text` where this is such a process, which has no memory any more, but its descriptors yet:
    the kernel takes them later than the memory that holds a command line."""
    name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
    state, threads = rest.split()[0], int(rest.split()[17])
    ended = state == "X" or (state == "Z" and threads <= 1)
    return text if name and name in text and not ended else ""


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _serve(json.loads(sys.argv[1]))
