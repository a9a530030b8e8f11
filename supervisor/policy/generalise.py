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
# What chance alone makes: UUIDs, long hexadecimal numbers, and the names of mktemp(1), Python's
# tempfile and mmdebstrap, whatever letters they got.
_CHANCE: Final = re.compile(
    rb"(?<![0-9A-Za-z])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,})(?![0-9A-Za-z])"
    rb"|(?<=\Atmp\.)[0-9A-Za-z]{10}(?=\.|\Z)"
    rb"|(?<=\Atmp)[0-9a-z_]{8}(?=\.|\Z)"
    rb"|(?<=\Ammdebstrap\.)[0-9A-Za-z_]{10}\Z"
)
_WORD: Final = re.compile(rb"(?<![0-9A-Za-z])[0-9A-Za-z]+")
# Words as people write them, with numbers: ubuntu2204, mips64el, SLES15; MyDisk, VMware, Win10x64.
# Most of what chance makes of letters and digits is not so.
_WRITTEN: Final = (
    re.compile(
        rb"(?=.*(?:[a-z]{3}|[A-Z]{3}))"
        rb"(?:[a-z]*[0-9]*[a-z]*[0-9]*|[A-Z]*[0-9]*[A-Z]*[0-9]*)"
    ),
    re.compile(
        rb"(?:[A-Z]?[a-z]*(?:[A-Z][a-z]{2,})+|[A-Z]{2,}[a-z]{3,}|[A-Z]?[a-z]{3,}[A-Z]{2,})[0-9]*"
        rb"(?:[a-z][0-9]+|[A-Z][a-z]{2,}[0-9]*)?"
    ),
)
# Where programs have mktemp(3) make names, less is taken for a word that somebody wrote.
_SHARED: Final = frozenset((b"/tmp/", b"/var/tmp/", b"/dev/shm/"))
_WRITTEN_THERE: Final = (re.compile(rb"[A-Z]?[a-z]+[0-9]*|[A-Z]+"),)
# How long the names are that programs have mktemp(3) make; longer ones are of other makers.
_MADE: Final = frozenset((6, 8))
_LONG: Final = 10
# A number of so many digits is a process or a time. Years, versions and ids of users have less.
_DIGITS: Final = 5
_TEMPORARY: Final = re.compile(rb"/proc/|/tmp/|/var/tmp/|/dev/shm/")


def _is_chance(word: bytes, above: bytes) -> bool:
    """Whether a word of a name (letters and digits) was made by chance, or is a number that will be
    another one the next time. `above` is the path before it, with a slash at its end.
    """
    if word.isdigit():
        return len(word) >= _DIGITS or above == b"/proc/" or (
            len(word) >= _DIGITS - 1 and _TEMPORARY.match(above) is not None
        )
    made = len(word) in _MADE or len(word) >= _LONG
    written = _WRITTEN_THERE if above in _SHARED else _WRITTEN
    return made and not any(words.fullmatch(word) for words in written)


def _name(name: bytes, above: bytes) -> str:
    """A name as a glob; what chance made of it are stars."""
    found = [match.span() for match in _CHANCE.finditer(name)]
    found += [
        (start, end) for start, end in (match.span() for match in _WORD.finditer(name))
        if _is_chance(name[start:end], above)
        and not any(start < last and first < end for first, last in found)
    ]  # fmt: skip
    out, position = "", 0
    for start, end in sorted(found):
        out += glob_of(name[position:start]) + "*"
        position = end
    return out + glob_of(name[position:])


def _glob(path: bytes) -> str:
    parts = path.split(b"/")[1:]
    above = [b"/" + b"".join(part + b"/" for part in parts[:at]) for at in range(len(parts))]
    return "/" + "/".join(map(_name, parts, above))


def globs_for(paths: Iterable[bytes]) -> list[str]:
    """Globs that match all of `paths` (absolute, without "." and ".."), few and readable."""
    globs = _folders(list(dict.fromkeys(map(_glob, sorted(set(paths))))))
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
            if len(folders) >= depth:
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
