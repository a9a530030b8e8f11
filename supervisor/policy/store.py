"""Finds a policy, and compiles it, or takes it from the cache.

A start from the cache imports neither YAML nor pydantic nor libseccomp, nor what decides calls: a
front has no need of that.
"""

from __future__ import annotations

import os
import stat
from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from supervisor.errors import PolicyError
from supervisor.policy import cache
from supervisor.policy.traits import Traits

if TYPE_CHECKING:
    from supervisor.policy.compiled import CompiledPolicy
    from supervisor.policy.families import FamilySpec

SEARCH: Final = (
    Path("/run/seccompd/policies.d"),
    Path("/etc/seccompd/policies.d"),
    Path("/usr/lib/seccompd/policies.d"),
)
SIZE_MAX: Final = 1 << 20
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


def is_folder(word: str) -> bool:
    """Whether an argument means a folder. A policy's name comes first, whatever stands around."""
    return os.path.isdir(word) and ("/" in word or word not in available())


def read(file: Path, given: str | None = None, *, what: str = "policy") -> bytes:
    """The content of a policy file, at most SIZE_MAX + 1 bytes of it. Raises PolicyError.

    `given` is how the user named it: errors repeat that. `what` is what else it may be.
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
        if isinstance(error, FileNotFoundError) and what == "policy":
            hint = f"a name without a slash and .yaml is one of: {', '.join(sorted(available()))}."
        raise PolicyError(f"cannot read the {what}: {text}", where=where, hint=hint) from None


def digest(content: bytes) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    import hashlib  # which loads OpenSSL

    return hashlib.sha256(content).hexdigest()


def included_file(given: str, folder: Path, search: Sequence[Path] | None = None) -> Path:
    """The file that an entry of `include` means: a path is one from the including file's folder.

    Raises PolicyError where a name is nowhere on the search path.
    """
    if "/" in given or given.endswith(".yaml"):
        return folder / given
    return find(given, search)


class Kept(NamedTuple):
    """A compiled policy, as far as a front needs it, and a function that has all of it.

    `filter`, `on_error` and `limits` are as in CompiledPolicy.
    """

    filter: bytes
    on_error: int
    limits: Mapping[str, float]
    policy: Callable[[], CompiledPolicy]


def keep(
    name_or_path: str,
    traits: Traits,
    *,
    search: Sequence[Path] | None = None,
    families: Callable[[], Mapping[str, FamilySpec]],
) -> Kept:
    """The policy that `name_or_path` means, compiled for `traits`.

    `families` has supervisor.handlers.registry.FAMILIES, for the policy that is to be compiled:
    this room is given it, for it lies above. Raises PolicyError (PolicyFindings with every error
    of the file), KernelError.
    """
    file = find(name_or_path, search)
    content = read(file, name_or_path if "/" in name_or_path else None)
    origin = cache.made_from(file, content, traits.nodes, list(traits.features))
    cached = cache.get(origin)
    if cached is not None and all(_unchanged(one, search) for one in cached["included"]):
        return _from_json(cached)
    import gc

    from supervisor.policy.compile import compile_policy

    collecting = gc.isenabled()
    gc.disable()  # a third of the time would go into looking for garbage, of which there is little
    try:
        policy = compile_policy(file, content, traits, families(), search=search)
        cache.put(origin, policy.to_json())
    finally:
        if collecting:
            gc.enable()
    return Kept(policy.filter, policy.on_error, policy.limits, lambda: policy)


def load(
    name_or_path: str,
    traits: Traits,
    *,
    search: Sequence[Path] | None = None,
    families: Mapping[str, FamilySpec],
) -> CompiledPolicy:
    """All of the policy that `keep` finds."""
    return keep(name_or_path, traits, search=search, families=lambda: families).policy()


def _unchanged(included: Sequence[str], search: Sequence[Path] | None) -> bool:
    """Whether what a policy includes (the fields of an Included) is what it was then."""
    given, folder, file, content = included
    try:
        found = included_file(given, Path(folder), search)
        return str(found) == file and digest(read(found)) == content
    except PolicyError:
        return False


def _from_json(data: Mapping[str, Any]) -> Kept:
    """What CompiledPolicy.to_json() gave."""

    def policy() -> CompiledPolicy:
        from supervisor.policy.compiled import CompiledPolicy

        return CompiledPolicy.from_json(data)

    return Kept(a2b_base64(data["filter"]), data["on_error"], data["limits"], policy)
