"""The rows of mknod_table.py, with mkdir and mkdirat in the place of mknod and mknodat.

    mkdir_table.py DIRECTORY

The same paths, callers and scenes: the kernel looks at no type of a file and at no device here.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

table: Any = importlib.import_module("mknod_table")
MKDIR, MKDIRAT = 83, 258


def directory(
    path: bytes | str | int, mode: int = 0o777, dev: int = 0, dirfd: int | None = None,
    look: str | None = None,
) -> str:  # fmt: skip
    """The call, and what is there afterwards."""
    del dev
    written = path.encode() if isinstance(path, str) else path
    text: object = ctypes.c_char_p(written) if isinstance(written, bytes) else written
    error = (
        table.raw(MKDIR, text, mode) if dirfd is None else table.raw(MKDIRAT, dirfd, text, mode)
    )
    if error:
        return str(table.name_of(error))
    where = look if look is not None else written
    assert not isinstance(where, int)
    relative = look is None and dirfd is not None and dirfd >= 0
    return str(table.seen(where, dirfd if relative else None))


def main() -> None:
    table.node = directory
    for mode in (0, 0o7777, 0o40755, 0o1777, 0o2755):
        table.simple(f"mode {mode:o}", f"mode{mode:o}", mode)
        table.simple(f"mode {mode:o}, default acl", f"acl/mode{mode:o}", mode)
    table.simple("a slash behind", "slash/", 0o755)
    table.simple("slashes behind", "slashes///", 0o755)
    table.simple("below what was made", "slash/below/", 0o700)
    table.main()


if __name__ == "__main__":
    main()
