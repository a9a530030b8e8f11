"""A caller by its thread id: what /proc says of it, without a look at its memory or its files."""

from __future__ import annotations

import os
from typing import Any

PROC = "/proc"


def open_task(tid: int) -> int:
    """An O_PATH descriptor of /proc/TID: whatever is opened below it is of this very task."""
    return os.open(f"{PROC}/{tid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def status(tid: int) -> dict[str, str]:
    """The fields of /proc/TID/status; empty where the task has gone.

    Never read here: cmdline and environ, which are the task's own memory and may stall us.
    """
    try:
        fd = os.open(f"{PROC}/{tid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        text = os.read(fd, 8192)
    except OSError:
        return {}
    finally:
        os.close(fd)
    fields = (line.partition(":") for line in text.decode("utf-8", "surrogateescape").splitlines())
    return {name: value.strip() for name, _, value in fields}


def thread_group(tid: int) -> int | None:
    """The process that the thread belongs to; None where it has gone."""
    group = status(tid).get("Tgid")
    return int(group) if group else None


def signals(tid: int) -> tuple[int, int]:
    """(signals on their way to the thread, signals it blocks), each a mask; (0, 0) if it has gone.

    A handler that runs blocks its own signal: so a change of the second says that one has begun.
    """
    fields = status(tid)
    pending = int(fields.get("SigPnd", "0"), 16) | int(fields.get("ShdPnd", "0"), 16)
    blocked = int(fields.get("SigBlk", "0"), 16)
    return pending & ~blocked, blocked


def identity(tid: int) -> dict[str, Any]:
    """Who calls, for a record: ids as the reader's user namespace numbers them."""
    fields = status(tid)
    if "Tgid" not in fields:
        return {"tid": tid}
    return {
        "pid": int(fields["Tgid"]),
        "tid": tid,
        "ns_pid": int(fields.get("NSpid", str(tid)).split()[-1]),
        "comm": fields["Name"],
        "uid": int(fields["Uid"].split()[1]),
        "gid": int(fields["Gid"].split()[1]),
    }
