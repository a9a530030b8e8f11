"""A program inside a container that makes nodes when it is told to, and seccompd's processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.support.people import Person, python
from tests.support.program import Started, names

_T = TypeVar("_T")
_CODE = """
import errno, os, stat, sys
made = 0
for line in sys.stdin:
    said = []
    for _ in range(int(line)):
        made += 1
        try:
            os.mknod(f"n{made}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            said.append("OK")
        except OSError as error:
            said.append(errno.errorcode[error.errno])
    print(*said, flush=True)
"""


class Asker:
    """`seccompd run` of a program that makes nodes n1, n2, ... in `place` when it is told to."""

    def __init__(
        self, person: Person, place: Path, options: Sequence[str], *, below: str = ""
    ) -> None:
        """`below`: "; :" makes it a child of the command instead of the command itself."""
        script = f'cd {place}; "$0" -c "$1"{below}'
        self.started = Started(
            person,
            ["run", *options, "--", "sh", "-ec", script, python(person), _CODE],
            stdin=subprocess.PIPE,
        )
        self.front = self.started.process.pid

    def ask(self, count: int) -> None:
        """Lets it make nodes; `told` gives what came of it."""
        stdin = self.started.process.stdin
        assert stdin is not None
        stdin.write(b"%d\n" % count)
        stdin.flush()

    def told(self) -> list[str]:
        """ "OK" or the errno's name for each node of the last `ask`."""
        stdout = self.started.process.stdout
        assert stdout is not None
        return stdout.readline().decode().split()

    def make(self, count: int = 1) -> list[str]:
        """What came of `count` nodes."""
        self.ask(count)
        return self.told()

    def ours(self) -> dict[str, list[int]]:
        """seccompd's own processes, by what they are: front, zygote, session, path, make, init."""
        found: dict[str, list[int]] = {"front": [self.front]}
        for pid, name in names(self.started.processes).items():
            # the kernel keeps 15 letters
            kind = name.removeprefix("seccompd-")
            found.setdefault("session" if kind == "sessio" else kind, []).append(pid)
        return found

    def session(self) -> int:
        """The session's process, once there is one."""
        (pid,) = wait_for(lambda: self.ours().get("session", []), lambda found: len(found) == 1)
        return pid

    def end(self) -> subprocess.CompletedProcess[str]:
        """Lets the program end, and seccompd; nobody may be left behind."""
        done = self.started.finish()
        assert self.started.wait_gone() == []
        return done


def wait_for(look: Callable[[], _T], good: Callable[[_T], bool], seconds: float = 20) -> _T:
    """What `look` gives once it is `good`."""
    end = time.monotonic() + seconds
    while not good(found := look()):
        assert time.monotonic() < end, f"did not come: {found!r}"
        time.sleep(0.02)
    return found


def in_mknod(init: int) -> list[int]:
    """The processes in the user namespace of process `init` that wait in mknod."""
    own = os.readlink(f"/proc/{init}/ns/user")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            same = os.readlink(entry / "ns/user") == own
            if same and (entry / "syscall").read_text().split()[0] in ("133", "259"):
                found.append(int(entry.name))
    return found


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def links(pid: int) -> list[str]:
    """What the descriptors of a process are."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(fd))
    return found
