"""Who calls, for a record."""

from __future__ import annotations

from typing import Any

from supervisor.kernel.task import field, status
from supervisor.observe.text import printable


def identity(tid: int) -> dict[str, Any]:
    """Who calls, for a record: ids as the reader's user namespace numbers them."""
    text = status(tid)
    group = field(text, b"Tgid")
    if not group:
        return {"tid": tid}
    return {
        "pid": int(group),
        "tid": tid,
        "ns_pid": int((field(text, b"NSpid") or group).rpartition(b"\t")[2]),
        "comm": printable(text[len(b"Name:\t") : text.find(b"\n")]),
        "uid": int(field(text, b"Uid").split(b"\t", 2)[1]),
        "gid": int(field(text, b"Gid").split(b"\t", 2)[1]),
    }
