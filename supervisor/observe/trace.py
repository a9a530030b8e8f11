"""--trace: each notified call as strace(1) would show it, and what became of it."""

from __future__ import annotations

import os
import stat

from supervisor.kernel.mounts import MS_MGC_MSK, MS_MGC_VAL, names_of, without_magic
from supervisor.kernel.syscalls import AT_FDCWD, CallSpec, Kind
from supervisor.model import Arg, Decision, Outcome, Snapshot, Verdict
from supervisor.observe.text import errno_name, printable
from supervisor.observe.writer import LineWriter

_TYPES = {
    stat.S_IFCHR: "S_IFCHR",
    stat.S_IFBLK: "S_IFBLK",
    stat.S_IFIFO: "S_IFIFO",
    stat.S_IFREG: "S_IFREG",
    stat.S_IFSOCK: "S_IFSOCK",
    stat.S_IFDIR: "S_IFDIR",
    stat.S_IFLNK: "S_IFLNK",
}
_BITS = ((stat.S_ISUID, "S_ISUID"), (stat.S_ISGID, "S_ISGID"), (stat.S_ISVTX, "S_ISVTX"))

_WORDS = {
    Verdict.CONTINUE: "continued",
    Verdict.REFUSE: "refused",
    Verdict.ERRNO: "refused",
    Verdict.RETURN: "answered",
    Verdict.EMULATE: "emulated",
    Verdict.INJECT: "injected",
    Verdict.KILL: "killed",
}


# The constants of mount flags whose name in a policy is another.
_MOUNT_FLAGS = {
    "ro": "RDONLY", "sync": "SYNCHRONOUS", "mand": "MANDLOCK", "iversion": "I_VERSION"
}  # fmt: skip


def _mount_flags(value: int) -> str:
    parts = ["MS_MGC_VAL"] if value & MS_MGC_MSK == MS_MGC_VAL else []
    for name in names_of(without_magic(value)):
        known = not name.startswith("0x")
        parts.append("MS_" + _MOUNT_FLAGS.get(name, name.upper()) if known else name)
    return "|".join(parts) or "0"


def _mode(value: int) -> str:
    kind = stat.S_IFMT(value)
    parts = [_TYPES.get(kind, f"{kind:#o}")] if kind else []
    parts += [name for bit, name in _BITS if value & bit]
    return "|".join([*parts, f"0{value & 0o777:03o}"])


def argument(value: Arg, kind: Kind) -> str:
    """One argument as strace writes it."""
    if isinstance(value, bytes):
        quoted = printable(value).replace('"', '\\"')
        return f'"{quoted}"'
    if kind.is_string:
        return errno_name(-value) if value else "NULL"
    if kind is Kind.MOUNT_FLAGS:
        return _mount_flags(value)
    if kind is Kind.FD:
        return "AT_FDCWD" if value == AT_FDCWD else str(value)
    if kind is Kind.MODE:
        return _mode(value)
    if kind is Kind.DEV:
        return f"makedev({os.major(value)}, {os.minor(value)})"
    if kind in (Kind.FLAGS, Kind.POINTER):
        return f"{value:#x}" if value else "0"
    return str(value)


def line(
    snapshot: Snapshot, spec: CallSpec | None, decision: Decision, outcome: Outcome
) -> str:
    """`mknod("dev/null", S_IFCHR|0666, makedev(1, 3)) = 0 [emulated: build.yaml:7]`."""
    params = spec.params if spec else ()
    args = ", ".join(
        argument(value, param.kind) for value, param in zip(snapshot.args, params, strict=False)
    )
    if outcome.errno:
        result = f"-1 {errno_name(outcome.errno)} ({os.strerror(outcome.errno)})"
    elif outcome.left_alone:
        result = "?"
    else:
        result = str(decision.value if decision.verdict is Verdict.RETURN else 0)
    word = _WORDS[decision.verdict]
    if outcome.left_alone:
        word = "refused by the kernel" if decision.verdict is Verdict.REFUSE else "the kernel's"
    notes = [f"{word}: {decision.rule}"]
    notes += [note for note in (decision.reason, outcome.how) if note]
    return f"{snapshot.name}({args}) = {result} [{'; '.join(notes)}]"


class Tracer:
    """Prints a line for each call; what the reader is too slow for is lost, and counted."""

    def __init__(self, fd: int) -> None:
        self._writer = LineWriter(fd)

    def show(
        self, snapshot: Snapshot, spec: CallSpec | None, decision: Decision, outcome: Outcome
    ) -> None:
        """Prints one call."""
        self._writer.line(line(snapshot, spec, decision, outcome))

    def close(self) -> None:
        """Says how many lines were lost, if any."""
        if self._writer.lost:
            self._writer.line(f"[{self._writer.lost} lines lost: the reader was too slow]")
        self._writer.close()
