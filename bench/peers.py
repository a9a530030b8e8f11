"""The two sides of a comparison: the caller below the floor, and the caller below seccompd."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

BENCH = Path(__file__).resolve().parent
REPOSITORY = BENCH.parent
BUILT = REPOSITORY / "build" / "bench"
OUTSIDE = 1_000_000_000  # what the callers' root is outside, when we are real root
ID_MAP = f"0:{OUTSIDE}:65536"


class BenchError(Exception):
    """Something does not run, or answers other than it has to: there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One round as bench/caller.c measured it. Times are microseconds for one call."""

    median_us: float
    p99_us: float
    per_second: float
    calls: int
    errno: int


def build() -> None:
    """Compile the C programs where they are older than their sources."""
    BUILT.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CC", "cc"))
    for name in ("floor", "caller", "lxc_proxy"):
        program, sources = BUILT / name, sorted(BENCH.glob(f"{name}*.[ch]"))
        newest = max(source.stat().st_mtime for source in sources)
        if program.exists() and program.stat().st_mtime > newest:
            continue
        flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
        files = [str(source) for source in sources if source.suffix == ".c"]
        subprocess.run([*compiler, *flags, "-o", str(program), *files], check=True)


def one_processor() -> list[str]:
    """The words before a command that is to have one processor."""
    return ["taskset", "-c", str(max(os.sched_getaffinity(0)))]


def two_processors() -> tuple[list[str], list[str]]:
    """The words before two commands that are to have a processor each, if there are two."""
    there = os.sched_getaffinity(0)
    return ["taskset", "-c", str(min(there))], ["taskset", "-c", str(max(there))]


def floor(mode: str) -> list[str]:
    """The command line that runs what follows it below the floor."""
    return [str(BUILT / "floor"), mode, *([ID_MAP] if os.geteuid() == 0 else [])]


def default_seccompd() -> list[str]:
    """The installed command beside this interpreter, else the package in the source tree."""
    installed = Path(sys.executable).with_name("seccompd")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "supervisor"]


def seccompd(command: Sequence[str], policy: Path, *options: str) -> list[str]:
    """The command line that runs what follows it below seccompd, with the floor's id map."""
    ids = ["--map", ID_MAP] if os.geteuid() == 0 else []
    return [*command, "run", "--policy", str(policy), *ids, *options, "--"]


def environment(cache: Path) -> dict[str, str]:
    """Ours, with the source tree importable and a policy cache of the benchmark's own."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache)}


class Asked:
    """A module of the benchmark's that runs below `prefix`: for every number that it reads it does
    its work so many times, and prints how many microseconds each took."""

    def __init__(
        self, env: dict[str, str], prefix: Sequence[str], words: Sequence[str]
    ) -> None:
        """`words`: the module, and what it is told."""
        self._words = words
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=env, text=True,
        )  # fmt: skip

    def ask(self, count: int) -> float:
        """The median time of one in microseconds, of so many."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{count}\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"{' '.join(self._words)}: {process.stderr.read().strip()}")
        times: list[float] = json.loads(line)
        return statistics.median(times)

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


class Peer:
    """A caller that runs below one supervisor and makes calls when asked."""

    def __init__(
        self, prefix: Sequence[str], env: dict[str, str], program: Sequence[str] | None = None
    ) -> None:
        """`program`: what comes after the prefix, which is the caller where nothing is said."""
        self._prefix = list(prefix)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close())
        self._process = subprocess.Popen(
            [*prefix, *([str(BUILT / "caller")] if program is None else program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=env,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: str, expect: int) -> Sample:
        """Have one round made; `expect` is the errno every call must come to (0: success)."""
        self.tell(request)
        return self.hear(request, expect)

    def tell(self, request: str) -> None:
        """Have one round begun."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `hear` says why
            stdin.write(request + "\n")
            stdin.flush()

    def hear(self, request: str, expect: int) -> Sample:
        """The round that `request` has begun."""
        stdout = self._process.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise BenchError(f"{shlex.join(self._prefix)} ended: {self._complaint()}")
        sample = Sample(**json.loads(line))
        if sample.errno != expect:
            raise BenchError(
                f"{shlex.join(self._prefix)}: {request!r}: errno {sample.errno}"
                f" (-1: several), not {expect}; {self._complaint()}"
            )
        return sample

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _complaint(self) -> str:
        self._errors.seek(0)
        text = self._errors.read()[-2000:].decode(errors="replace").strip()
        return text or "nothing on standard error"


@dataclass(frozen=True, slots=True)
class Memory:
    """Private and proportional memory of one process in kB (proc_pid_smaps(5), smaps_rollup)."""

    name: str
    private_kb: int
    pss_kb: int


def memory_below(root: int) -> dict[int, Memory]:
    """The processes from `root` downward, without the caller itself, by process id."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue  # it has just ended
        names[int(entry.name)] = stat[stat.index("(") + 1 : stat.rindex(")")]
        parents[int(entry.name)] = int(stat[stat.rindex(")") + 2 :].split()[1])
    below = [root]
    for pid in below:  # grows while it is walked
        below += [child for child, parent in parents.items() if parent == pid]
    found: dict[int, Memory] = {}
    for pid in below:
        if names.get(pid) == "caller":
            continue
        try:
            size = _sizes(pid)
        except OSError:
            continue
        found[pid] = Memory(names.get(pid, "?"), _private(size), size["Pss"])
    return found


def private_kb(pid: int) -> int:
    """Private memory of one process in kB. OSError where it has ended."""
    return _private(_sizes(pid))


def _private(size: dict[str, int]) -> int:
    return size["Private_Clean"] + size["Private_Dirty"]


def _sizes(pid: int) -> dict[str, int]:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {key: int(value.split()[0]) for key, value in (row.split(":", 1) for row in rows)}
