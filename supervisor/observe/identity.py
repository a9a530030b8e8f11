"""Who calls, for a record."""

from __future__ import annotations

from functools import lru_cache

from supervisor.kernel.task import identify, identity_of
from supervisor.observe.text import members, printable


def identity(tid: int, *, by_pidfd: bool = False) -> str:
    """Who calls, as members of a JSON object: ids as the reader's user namespace numbers them.

    `by_pidfd`: the kernel has what the feature pidfd_info stands for.
    """
    found = identify(tid, by_pidfd=by_pidfd)
    return members({"tid": tid}) if found is None else _as_text(found)


@lru_cache(maxsize=256)
def _as_text(raw: bytes) -> str:
    """What was just read is nearly always what was read for the thread's last call."""
    who = identity_of(raw)
    return members(
        {
            "pid": who.tgid,
            "tid": who.tid,
            "ns_pid": who.own_tid,
            "comm": printable(who.comm),
            "uid": who.uid,
            "gid": who.gid,
        }
    )
