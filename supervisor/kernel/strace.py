"""Arguments as strace(1) writes them, for traces. strace_read.py reads what a person gives."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final

from supervisor.kernel.address_text import as_strace
from supervisor.kernel.mounts import MS_MGC_MSK, MS_MGC_VAL, names_of, without_magic
from supervisor.kernel.opening import FLAGS, O_ACCMODE, RESOLVE, unpack_how
from supervisor.kernel.opening import names_of as open_names
from supervisor.kernel.socket_options import level_text, option_name, room_of
from supervisor.kernel.syscalls import AT_FDCWD, Kind, Param
from supervisor.kernel.text import errno_name, printable
from supervisor.model import Arg

TYPES = {
    stat.S_IFCHR: "S_IFCHR",
    stat.S_IFBLK: "S_IFBLK",
    stat.S_IFIFO: "S_IFIFO",
    stat.S_IFREG: "S_IFREG",
    stat.S_IFSOCK: "S_IFSOCK",
    stat.S_IFDIR: "S_IFDIR",
    stat.S_IFLNK: "S_IFLNK",
}
BITS = ((stat.S_ISUID, "S_ISUID"), (stat.S_ISGID, "S_ISGID"), (stat.S_ISVTX, "S_ISVTX"))

# The constants of mount flags whose name in a policy is another.
MOUNT_FLAGS = {
    "ro": "RDONLY", "sync": "SYNCHRONOUS", "mand": "MANDLOCK", "iversion": "I_VERSION"
}  # fmt: skip


def _mount_flags(value: int) -> str:
    parts = ["MS_MGC_VAL"] if value & MS_MGC_MSK == MS_MGC_VAL else []
    for name in names_of(without_magic(value)):
        known = not name.startswith("0x")
        parts.append("MS_" + MOUNT_FLAGS.get(name, name.upper()) if known else name)
    return "|".join(parts) or "0"


# An address that stands in a message.
_WRAPPED: Final = {
    Kind.MESSAGE: "{{msg_name={}}}", Kind.MESSAGES: "[{{msg_hdr={{msg_name={}}}}}]",
}  # fmt: skip


def _open_flags(value: int) -> str:
    names = open_names(value, FLAGS)
    return "|".join(names if value & O_ACCMODE else ["O_RDONLY", *names])


def _how(value: bytes) -> str:
    flags, mode, resolve = unpack_how(value)
    parts = [f"flags={_open_flags(flags)}"]
    if mode:
        parts.append(f"mode=0{mode:03o}")
    if resolve:
        parts.append(f"resolve={'|'.join(open_names(resolve, RESOLVE))}")
    return f"{{{', '.join(parts)}}}"


def _mode(value: int) -> str:
    kind = stat.S_IFMT(value)
    parts = [TYPES.get(kind, f"{kind:#o}")] if kind else []
    parts += [name for bit, name in BITS if value & bit]
    return "|".join([*parts, f"0{value & 0o777:03o}"])


def argument(value: Arg, kind: Kind) -> str:
    """One argument as strace writes it."""
    if isinstance(value, bytes) and kind is Kind.HOW:
        return _how(value)
    if kind.is_address and value != 0:
        text = as_strace(value) if isinstance(value, bytes) else errno_name(-value)
        return _WRAPPED.get(kind, "{}").format(text)
    if isinstance(value, bytes) and kind is Kind.ROOM:
        return f"[{room_of(value)[1]}]"
    if kind in (Kind.VALUE, Kind.ROOM) and (isinstance(value, bytes) or not value):
        return "[...]"  # nobody has looked, or nobody is to see it: it may be a key (TCP_MD5SIG)
    if isinstance(value, bytes):
        quoted = printable(value).replace('"', '\\"')
        return f'"{quoted}"'
    if kind.is_string:
        return _WRAPPED.get(kind, "{}").format(errno_name(-value) if value else "NULL")
    if kind is Kind.MOUNT_FLAGS:
        return _mount_flags(value)
    if kind is Kind.OPEN_FLAGS:
        return _open_flags(value)
    if kind is Kind.LEVEL:
        return level_text(value)
    if kind is Kind.FD:
        return "AT_FDCWD" if value == AT_FDCWD else str(value)
    if kind is Kind.MODE:
        return _mode(value)
    if kind is Kind.DEV:
        return f"makedev({os.major(value)}, {os.minor(value)})"
    if kind in (Kind.FLAGS, Kind.POINTER, Kind.BUFFER):
        return f"{value:#x}" if value else "0"
    return str(value)


def arguments(values: Sequence[Arg], params: Sequence[Param]) -> str:
    """The arguments of a call as strace writes them."""
    out: list[str] = []
    level = 0
    for value, param in zip(values, params, strict=False):
        name = ""
        if isinstance(value, int) and param.kind is Kind.LEVEL:
            level = value
        elif isinstance(value, int) and param.kind is Kind.SIZE and out and out[-1].endswith('"'):
            before = values[len(out) - 1]
            if isinstance(before, bytes) and len(before) < value:
                out[-1] += "..."  # of the value of an attribute no more is known
        elif isinstance(value, int) and param.kind is Kind.OPTION:
            name = option_name(level, value)
        out.append(name or argument(value, param.kind))
    return ", ".join(out)
