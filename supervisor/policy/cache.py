"""Compiled policies of earlier runs, in a directory that only its user can write.

An entry is a checksum and a line of JSON: what the policy was made from, and what was made. It
counts only if all that it was made from is the same, byte for byte; its name is only where to look.
Ownership and mode are checked on the open descriptors. Whatever looks odd is no entry.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from binascii import crc32
from pathlib import Path
from typing import Any, Final

_SIZE_MAX: Final = 64 << 20
_MOST: Final = 64
_PACKAGE: Final = Path(__file__).resolve().parent.parent
# The rooms that a compiled policy is made by: where their code changes, it counts no more.
_ROOMS: Final = ("policy", "handlers", "kernel")


def directory() -> Path:
    """Where compiled policies are kept for this user."""
    if os.geteuid() == 0:
        return Path("/var/cache/seccompd")
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "seccompd"


def made_from(file: Path, content: bytes, *more: object) -> list[Any]:
    """What a policy is made from, in JSON's types: its file, this program's own code, and `more`,
    which has to be of JSON's types."""
    code = []
    for room in _ROOMS:
        with os.scandir(_PACKAGE / room) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    code.append([room, entry.name, status.st_size, status.st_mtime_ns])
    return [str(file), content.decode("utf-8", "surrogateescape"), sorted(code), *more]


def get(origin: list[Any]) -> dict[str, Any] | None:
    """What was made from `origin`, where it is there."""
    try:
        inside = _open(create=False)
    except (OSError, RuntimeError):
        return None
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(_name(origin), flags, dir_fd=inside)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not (
                stat.S_ISREG(status.st_mode)
                and _safe(status)
                and status.st_nlink == 1
                and status.st_size <= _SIZE_MAX
            ):
                return None
            checksum, _, text = file.read(_SIZE_MAX).partition(b"\n")
        if int(checksum, 16) != crc32(text):
            return None
        data: Any = json.loads(text)
        return data["made"] if data["from"] == origin else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    finally:
        os.close(inside)


def put(origin: list[Any], made: dict[str, Any]) -> None:
    """Keeps what was made from `origin` for the next time. That it cannot is no error."""
    try:
        inside = _open(create=True)
    except (OSError, RuntimeError):
        return
    name = _name(origin)
    temporary = f".{name}.{os.getpid()}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=inside)
        try:
            with open(fd, "wb") as file:
                # dumps() is in C, dump() is not
                kept = {"from": origin, "made": made}
                text = json.dumps(kept, separators=(",", ":")).encode()
                file.write(b"%08x\n" % crc32(text) + text)
            os.rename(temporary, name, src_dir_fd=inside, dst_dir_fd=inside)
        except OSError:
            os.unlink(temporary, dir_fd=inside)
            return
        _prune(inside)
    except OSError:
        pass
    finally:
        os.close(inside)


def _name(origin: list[Any]) -> str:
    return f"{crc32(json.dumps(origin).encode()):08x}.json"


def _safe(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _open(*, create: bool) -> int:
    place = directory()
    if create:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.mkdir(place, 0o700)
        except FileExistsError:
            pass
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not _safe(os.fstat(fd)):
        os.close(fd)
        raise PermissionError(errno.EPERM, "others could write there", str(place))
    return fd


def _prune(inside: int) -> None:
    with os.scandir(inside) as entries:
        kept = [
            (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
            for entry in entries
            if entry.name.endswith(".json")
        ]
    for _, name in sorted(kept, reverse=True)[_MOST:]:
        os.unlink(name, dir_fd=inside)
