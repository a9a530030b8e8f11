"""Runs `seccompd` as a test's user would, and finds what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.people import Person, python

MARK = "SD_TEST_MARK"


def seccompd(person: Person, *words: str) -> list[str]:
    """The command line of `seccompd`. SECCOMPD_TEST_PROGRAM names an installed one to be tested."""
    program = os.environ.get("SECCOMPD_TEST_PROGRAM")
    start = shlex.split(program) if program else [python(person), "-m", "supervisor"]
    return person.argv([*start, *words])


def marked(mark: str) -> list[int]:
    """All processes with `mark` in their environment that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def names(look: Callable[[], list[int]]) -> dict[int, str]:
    """The names of seccompd's own among the processes that `look` gives. Who has just been forked
    has its parent's name for as long as it takes to change it: that is waited for.
    """
    end = time.monotonic() + 20
    while True:
        found: dict[int, str] = {}
        parents: dict[int, int] = {}
        for pid in look():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
                name = before.partition("(")[2]
                if name.startswith("seccompd-"):
                    found[pid], parents[pid] = name, int(after.split()[1])
        if all(found.get(parents[pid]) != name for pid, name in found.items()):
            return found
        assert time.monotonic() < end, f"one does not take its name: {found}"
        time.sleep(0.01)


class Started:
    """One `seccompd` that runs, with a mark in its environment that all its descendants carry."""

    def __init__(
        self,
        person: Person,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
        own_group: bool = True,
        lead: Sequence[str] = (),
    ) -> None:
        """`lead`: words that come before the command."""
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [*lead, *seccompd(person, *words)],
            env=person.environ({**(env or {}), MARK: self.mark}),
            cwd="/",
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            process_group=0 if own_group else None,
        )

    def finish(self, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Waits for the end; fails where it does not come."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return subprocess.CompletedProcess(
            self.process.args,
            self.process.returncode,
            (out or b"").decode(errors="replace"),
            (err or b"").decode(errors="replace"),
        )

    def processes(self) -> list[int]:
        """All processes that carry the mark, and have not ended."""
        return marked(self.mark)

    def wait_gone(self, timeout: float = 20) -> list[int]:
        """Waits until nobody is left, and gives who is (empty: nobody)."""
        end = time.monotonic() + timeout
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.02)
        return left

    def kill(self) -> None:
        """Ends it, whatever it does."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr, self.process.stdin):
            if stream is not None:
                stream.close()


def patient(folder: Path) -> str:
    """The policy `build`, but for a deadline that many calls at once on a busy machine may miss."""
    file = folder / "patient.yaml"
    file.write_text("version: 1\ninclude: build\nlimits: {path: 60s}\n")
    return str(file)


def run(
    person: Person, *command: str, options: Sequence[str] = (), timeout: float = 30,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`seccompd run OPTIONS -- COMMAND`, to its end. Nobody may be left behind."""
    started = Started(person, ["run", *options, "--", *command], env=env)
    done = started.finish(timeout)
    assert started.wait_gone() == []
    return done
