"""Constants by the names that strace(1) writes, which no other table has.

They are for calls that people ask about: no decision looks at them.
"""

from __future__ import annotations

import os
import socket
import termios
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from supervisor.kernel.bpf import FILTER_FLAG_NEW_LISTENER


def _of(module: ModuleType, *prefixes: str) -> dict[str, int]:
    return {
        name: int(value) for name, value in vars(module).items()
        if name.startswith(prefixes) and isinstance(value, int)
    }  # fmt: skip


CONSTANTS: Final[Mapping[str, int]] = {
    **_of(socket, "AF_", "SOCK_", "IPPROTO_", "MSG_", "NETLINK_"),
    **_of(termios, "TC", "TIO", "FIO"),
    **_of(os, "XATTR_"),
    # <linux/fs.h>
    "RENAME_NOREPLACE": 1,
    "RENAME_EXCHANGE": 2,
    "RENAME_WHITEOUT": 4,
    # <linux/mount.h>
    "FSOPEN_CLOEXEC": 1,
    "FSPICK_CLOEXEC": 1,
    "FSPICK_SYMLINK_NOFOLLOW": 2,
    "FSPICK_NO_AUTOMOUNT": 4,
    "FSPICK_EMPTY_PATH": 8,
    # <linux/seccomp.h>
    "SECCOMP_SET_MODE_STRICT": 0,
    "SECCOMP_SET_MODE_FILTER": 1,
    "SECCOMP_GET_ACTION_AVAIL": 2,
    "SECCOMP_GET_NOTIF_SIZES": 3,
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_NEW_LISTENER": FILTER_FLAG_NEW_LISTENER,
    "SECCOMP_FILTER_FLAG_TSYNC_ESRCH": 16,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
