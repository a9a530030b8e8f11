"""Finds a policy, and compiles it, or takes it from the cache.

A start from the cache imports neither YAML nor pydantic nor libseccomp. The cache is JSON in a
directory that only its user can write; ownership and mode are checked on the open descriptors, and
whatever looks odd is compiled afresh.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from supervisor.errors import PolicyError
from supervisor.kernel.syscalls import NATIVE_ARCHES
from supervisor.policy.compiled import FORMAT, CompiledPolicy, Included
from supervisor.policy.families import FamilySpec, Traits

SEARCH: Final = (
    Path("/run/seccompd/policies.d"),
    Path("/etc/seccompd/policies.d"),
    Path("/usr/lib/seccompd/policies.d"),
)
SIZE_MAX: Final = 1 << 20
_CACHED_SIZE_MAX: Final = 64 << 20
_CACHED_MOST: Final = 64
_PACKAGE: Final = Path(__file__).resolve().parent.parent


def shipped() -> Path:
    """The directory of the policies that come with seccompd, installed or in the source tree."""
    inside = _PACKAGE / "policies"
    return inside if inside.is_dir() else _PACKAGE.parent / "policies"


def search_path() -> tuple[Path, ...]:
    """Where a policy's name is looked for; the first directory that has it wins."""
    return (*SEARCH, shipped())


def available(search: Sequence[Path] | None = None) -> dict[str, Path]:
    """Every policy on the search path, by name."""
    out: dict[str, Path] = {}
    for directory in search if search is not None else search_path():
        for file in sorted(directory.glob("*.yaml")) if directory.is_dir() else ():
            if not file.name.endswith(".test.yaml"):
                out.setdefault(file.stem, file)
    return out


def find(name_or_path: str, search: Sequence[Path] | None = None) -> Path:
    """The file that NAME or FILE means: a file where it has a slash or ends in .yaml.

    Raises PolicyError where a name is nowhere on the search path.
    """
    if "/" in name_or_path or name_or_path.endswith(".yaml"):
        return Path(name_or_path)
    directories = tuple(search if search is not None else search_path())
    if name_or_path and not name_or_path.startswith("."):
        for directory in directories:
            file = directory / f"{name_or_path}.yaml"
            if file.exists():
                return file
    import difflib

    known = available(directories)
    near = difflib.get_close_matches(name_or_path, known, 1, 0.5)
    hint = (
        f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known)) or 'none'}."
    )
    raise PolicyError(
        f"no policy named {name_or_path!r} in {', '.join(map(str, directories))}",
        hint=f"{hint} A file is given with a slash or .yaml in its name",
    )


def read(file: Path, given: str | None = None) -> bytes:
    """The content of a policy file, at most SIZE_MAX + 1 bytes of it. Raises PolicyError.

    `given` is how the user named it: errors repeat that.
    """
    where = given or str(file)
    try:
        # O_NONBLOCK: a fifo in a policy's place must not hang the start.
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(fd, "rb") as opened:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise PolicyError("not a regular file", where=where)
            return opened.read(SIZE_MAX + 1)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        hint = None
        if isinstance(error, FileNotFoundError):
            hint = f"a name without a slash and .yaml is one of: {', '.join(sorted(available()))}."
        raise PolicyError(f"cannot read the policy: {text}", where=where, hint=hint) from None


def digest(content: bytes) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def included_file(given: str, folder: Path, search: Sequence[Path] | None = None) -> Path:
    """The file that an entry of `include` means: a path is one from the including file's folder.

    Raises PolicyError where a name is nowhere on the search path.
    """
    if "/" in given or given.endswith(".yaml"):
        return folder / given
    return find(given, search)


def _unchanged(included: Included, search: Sequence[Path] | None) -> bool:
    """Whether what a policy includes is what it was when that was compiled."""
    try:
        file = included_file(included.given, Path(included.folder), search)
        return str(file) == included.file and digest(read(file)) == included.digest
    except PolicyError:
        return False


def load(
    name_or_path: str,
    traits: Traits,
    *,
    search: Sequence[Path] | None = None,
    families: Mapping[str, FamilySpec],
) -> CompiledPolicy:
    """The policy that `name_or_path` means, compiled for `traits`.

    `families` is supervisor.handlers.registry.FAMILIES: policy is given it, for it lies above.
    Raises PolicyError (PolicyFindings with every error of the file), KernelError.
    """
    file = find(name_or_path, search)
    content = read(file, name_or_path if "/" in name_or_path else None)
    key = _key(file, content, traits)
    cached = _from_cache(key)
    if cached is not None and all(_unchanged(one, search) for one in cached.included):
        return cached
    from supervisor.policy.compile import compile_policy

    policy = compile_policy(file, content, traits, families, search=search)
    _to_cache(key, policy)
    return policy


def _key(file: Path, content: bytes, traits: Traits) -> str:
    """Everything that a compiled policy depends on, this program's own code included."""
    digest = hashlib.sha256()
    code = []
    for room in ("policy", "handlers", "kernel"):
        with os.scandir(_PACKAGE / room) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    code.append((room, entry.name, status.st_size, status.st_mtime_ns))
    about = (FORMAT, sorted(code), traits.nodes, traits.features, NATIVE_ARCHES, str(file))
    digest.update(json.dumps(about).encode())
    digest.update(content)
    return digest.hexdigest()


def cache_directory() -> Path:
    """Where compiled policies are kept for this user."""
    if os.geteuid() == 0:
        return Path("/var/cache/seccompd")
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "seccompd"


def _safe(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _open_cache(*, create: bool) -> int:
    directory = cache_directory()
    if create:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not _safe(os.fstat(fd)):
        os.close(fd)
        raise PermissionError(errno.EPERM, "others could write there", str(directory))
    return fd


def _from_cache(key: str) -> CompiledPolicy | None:
    try:
        directory = _open_cache(create=False)
    except (OSError, RuntimeError):
        return None
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(f"{key}.json", flags, dir_fd=directory)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not (
                stat.S_ISREG(status.st_mode)
                and _safe(status)
                and status.st_nlink == 1
                and status.st_size <= _CACHED_SIZE_MAX
            ):
                return None
            data: Any = json.loads(file.read(_CACHED_SIZE_MAX))
        return CompiledPolicy.from_json(data["policy"]) if data["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    finally:
        os.close(directory)


def _to_cache(key: str, policy: CompiledPolicy) -> None:
    """Keeps a compiled policy for the next time. That it cannot is no error."""
    try:
        directory = _open_cache(create=True)
    except (OSError, RuntimeError):
        return
    temporary = f".{key}.{os.getpid()}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                json.dump({"key": key, "policy": policy.to_json()}, file, separators=(",", ":"))
            os.rename(temporary, f"{key}.json", src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(temporary, dir_fd=directory)
            return
        _prune(directory)
    except OSError:
        pass
    finally:
        os.close(directory)


def _prune(directory: int) -> None:
    with os.scandir(directory) as entries:
        kept = [
            (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
            for entry in entries
            if entry.name.endswith(".json")
        ]
    for _, name in sorted(kept, reverse=True)[_CACHED_MOST:]:
        os.unlink(name, dir_fd=directory)
