"""Paths as a person would write them in a rule: names that chance made become a star, several names
in one folder become all of that folder, and many folders become what is below all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from supervisor.policy.globs import includes
from supervisor.policy.write import glob_of

# So many names in one folder are that folder's; so many globs are one rule's.
_NAMES_MAX: Final = 2
_GLOBS_MAX: Final = 6
# What mktemp(3) and its like put at the end of a name, or a name is made of.
_CHANCE: Final = (
    re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
    # All of mktemp(1)'s, mmdebstrap's and Python's, whatever letters they got.
    re.compile(rb"(?<=\Atmp\.)[0-9A-Za-z]{10}\Z"),
    re.compile(rb"(?<=\Ammdebstrap\.)[0-9A-Za-z_]{10}\Z"),
    re.compile(rb"(?<=\Atmp)[0-9a-z_]{8}\Z"),
    re.compile(rb"(?<![0-9A-Za-z])(?=[0-9A-Za-z_]*[0-9])(?=[0-9A-Za-z_]*[a-z])[0-9A-Za-z_]{6,}\Z"),
    # Letters alone: as long as they are made, and not as people write words.
    re.compile(rb"(?<![0-9A-Za-z])(?=[A-Za-z]*[a-z][A-Z])(?:[A-Za-z]{6}|[A-Za-z]{8}|[A-Za-z]{10})\Z"),
    re.compile(rb"[0-9a-f]{16,}"),
    re.compile(rb"[0-9]{4,}"),
)  # fmt: skip


def _name(name: bytes) -> str:
    """A name as a glob; what chance made of it is a star."""
    for pattern in _CHANCE:
        found = pattern.search(name)
        if found:
            return glob_of(name[: found.start()]) + "*" + glob_of(name[found.end() :])
    return glob_of(name)


def globs_for(paths: Iterable[bytes]) -> list[str]:
    """Globs that match all of `paths` (absolute, without "." and ".."), few and readable."""
    found: dict[str, None] = {}
    for path in sorted(set(paths)):
        found["/" + "/".join(_name(name) for name in path.split(b"/")[1:])] = None
    globs = _folders(list(found))
    while len(globs) > _GLOBS_MAX:
        globs = _shorter(globs)
    return _without_needless(globs)


def _folders(globs: list[str]) -> list[str]:
    """Several names of one folder as all of it."""
    folders: dict[str, list[str]] = {}
    for glob in globs:
        folders.setdefault(glob.rpartition("/")[0], []).append(glob)
    out: list[str] = []
    for folder, names in folders.items():
        out += names if len(names) <= _NAMES_MAX else [f"{folder}/*"]
    return out


def _shorter(globs: list[str]) -> list[str]:
    """Those that share most of their folders, as what is below that folder."""
    parts = [glob.split("/")[1:-1] for glob in globs]
    deepest = max(len(folders) for folders in parts)
    for depth in range(max(deepest - 1, 0), -1, -1):
        below: dict[tuple[str, ...], list[str]] = {}
        for glob, folders in zip(globs, parts, strict=True):
            if len(folders) >= depth and not glob.endswith("/**"):
                below.setdefault(tuple(folders[:depth]), []).append(glob)
        start, some = max(below.items(), key=lambda pair: len(pair[1]), default=((), []))
        if len(some) > 1 or depth == 0:
            rest = [glob for glob in globs if glob not in some]
            return [*rest, "/" + "/".join((*start, "**"))] if depth else ["/**"]
    return ["/**"]


def _without_needless(globs: list[str]) -> list[str]:
    return [
        glob
        for number, glob in enumerate(globs)
        if not any(
            includes(other, glob) and (not includes(glob, other) or at < number)
            for at, other in enumerate(globs)
            if at != number
        )
    ]
