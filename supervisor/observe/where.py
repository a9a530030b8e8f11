"""For a record: where a relative path begins, and where one leads without a symbolic link in it."""

from __future__ import annotations

import os
from functools import lru_cache
from socket import AF_UNIX
from typing import Final

from supervisor.kernel.syscalls import AT_FDCWD, CallSpec, Kind
from supervisor.model import Arg, Snapshot

_DELETED: Final = b" (deleted)"
_UNIX: Final = AF_UNIX.to_bytes(2, "little")


@lru_cache(maxsize=64)
def _places(spec: CallSpec) -> tuple[int | None, int | None, int | None]:
    """(the first path, the directory before it, the address) among a call's parameters."""
    kinds = [param.kind for param in spec.params]
    path = kinds.index(Kind.PATH) if Kind.PATH in kinds else None
    at = path - 1 if path and kinds[path - 1] is Kind.FD else None
    address = next((number for number, kind in enumerate(kinds) if kind.is_address), None)
    return path, at, address


def _path_of(args: tuple[Arg, ...], path: int | None, address: int | None) -> Arg:
    if path is not None:
        return args[path]
    named = args[address] if address is not None else 0
    # A name that begins with a NUL is none of the file system's.
    return named[2:] if isinstance(named, bytes) and named[:2] == _UNIX else 0


def directory(snapshot: Snapshot, spec: CallSpec | None) -> bytes | None:
    """The directory that a call's path is relative to, below the caller's root directory.

    None where the path is absolute, or nobody can tell.

    Two links of /proc/TID are read, so the caller has to wait still. Another thread may change the
    directory meanwhile: this is for people, and no decision goes by it.
    """
    if spec is None or not snapshot.args:
        return None
    path, at, address = _places(spec)
    written = _path_of(snapshot.args, path, address)
    if not isinstance(written, bytes) or written[:1] in (b"", b"/", b"\0"):
        return None
    fd = snapshot.args[at] if at is not None else AT_FDCWD
    name = "cwd" if fd == AT_FDCWD else f"fd/{fd!r}"
    try:
        found = os.readlink(f"/proc/{snapshot.tid}/{name}".encode())
        root = os.readlink(f"/proc/{snapshot.tid}/root".encode())
    except OSError:
        return None
    if not found.startswith(b"/") or found.endswith(_DELETED):
        return None
    if root == b"/":
        return found
    return found[len(root) :] or b"/" if (found + b"/").startswith(root + b"/") else None


def plainly(snapshot: Snapshot, spec: CallSpec, start: bytes | None) -> bytes | None:
    """Where the call's path leads if there is no symbolic link in it; `start` is its directory."""
    path = snapshot.args[_places(spec)[0] or 0]
    if not isinstance(path, bytes) or not (path.startswith(b"/") or start):
        return None
    parts: list[bytes] = []
    for part in (path if path.startswith(b"/") else (start or b"") + b"/" + path).split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/" + b"/".join(parts)
