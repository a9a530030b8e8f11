"""Whether one glob matches all that another one matches: the inclusion of regular languages.

A glob is a small automaton over bytes; the question is put to the product of two of them. What
would take too long to find out is answered by "no": a proof then does not go through, and nothing
is claimed. That a star takes at most 255 bytes is left out: no name in a file system is longer.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from supervisor.policy.boxes import Budget
from supervisor.policy.match import glob_regex, glob_tokens, literal_prefix

_EVERY: Final = (1 << 256) - 1
_SLASH: Final = 1 << ord("/")
_NO_SLASH: Final = _EVERY & ~_SLASH
_WORK_MAX: Final = 50_000
_LONG: Final = 512
# What a match, whose pattern may have to be compiled, and a proof cost in steps of a Budget.
_MATCH: Final = 100
_PROOF: Final = 1000
_WILD: Final = re.compile(r"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class _Automaton:
    """States are numbers, the last one accepts. `steps`: from a state, by a set of bytes (bits of a
    mask), to a state; `free`: without a byte, always to a higher one.
    """

    steps: tuple[tuple[tuple[int, int], ...], ...]
    free: tuple[int | None, ...]
    starts: frozenset[int]

    def close(self, states: Iterable[int]) -> frozenset[int]:
        """Those, and where they lead to without a byte."""
        out = set(states)
        for state in sorted(out):
            following = self.free[state]
            while following is not None and following not in out:
                out.add(following)
                following = self.free[following]
        return frozenset(out)


@lru_cache(maxsize=1024)
def _bytes_of(text: str) -> int:
    """The single bytes that a piece of a regular expression matches, as a mask."""
    pattern = re.compile(text.encode("utf-8", "surrogateescape"), re.DOTALL)
    return sum(1 << byte for byte in range(256) if pattern.fullmatch(bytes((byte,))))


def _masks(kind: str, text: str) -> list[int]:
    """The sets of bytes that one token takes, one after the other."""
    if kind != "one":
        return []
    if text.startswith(("[", "(?!")):
        return [_bytes_of(text)]
    plain = re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
    return [1 << byte for byte in plain.encode("utf-8", "surrogateescape")]


@lru_cache(maxsize=64)
def _automaton(glob: str) -> _Automaton:
    steps: list[list[tuple[int, int]]] = [[]]
    free: list[int | None] = [None]

    def state() -> int:
        steps.append([])
        free.append(None)
        return len(steps) - 1

    for kind, text in glob_tokens(glob):
        here = len(steps) - 1
        if kind == "star":
            steps[here].append((_NO_SLASH, here))
            free[here] = state()
        elif kind == "any":
            steps[here].append((_EVERY, here))
            free[here] = state()
        elif kind == "under":  # nothing where a slash stands before it, or anything and a slash
            inside, following = state(), state()
            steps[here] += [(_EVERY, inside), (_SLASH, following)]
            steps[inside] += [(_EVERY, inside), (_SLASH, following)]
            if here:
                free[here] = following
        else:
            for mask in _masks(kind, text):
                here = len(steps) - 1
                steps[here].append((mask, state()))
    out = _Automaton(tuple(map(tuple, steps)), tuple(free), frozenset())
    return _Automaton(out.steps, out.free, out.close({0}))


def _letters(masks: Iterable[int]) -> Iterator[int]:
    """One byte of each kind that no mask tells apart from others, as a mask."""
    kinds = [_EVERY]
    for mask in set(masks):
        kinds = [part for kind in kinds for part in (kind & mask, kind & ~mask) if part]
    return (kind & -kind for kind in kinds)


@lru_cache(maxsize=1024)
def _example(glob: str) -> bytes:
    """Some path that the glob matches, to see quickly that another one does not."""
    out = bytearray()
    for kind, text in glob_tokens(glob):
        if kind == "star" or kind == "any":
            out += b"\x01"
        elif kind == "under" and not out:
            out += b"\x01/"
        for mask in _masks(kind, text):
            out.append((mask & -mask).bit_length() - 1)
    return bytes(out)


def includes(outer: str, inner: str, budget: Budget | None = None) -> bool:
    """Whether every path that `inner` matches is matched by `outer`.

    False where that is not so, and where it would take too long to tell. Raises TooMany.
    """
    if outer == inner or outer in ("/**", "**"):
        return True
    if not _WILD.search(outer):
        return False
    start, other = literal_prefix(outer), literal_prefix(inner)
    if not (other + b"/").startswith(start + b"/"):
        return False
    if budget is not None:
        budget.spend(_MATCH)
    if not _WILD.search(inner):
        return glob_regex(outer).fullmatch(inner.encode("utf-8", "surrogateescape")) is not None
    if len(outer) + len(inner) > _LONG or not glob_regex(outer).fullmatch(_example(inner)):
        return False
    if budget is not None:
        budget.spend(_PROOF)
    return _proved(outer, inner)


@lru_cache(maxsize=4096)
def _proved(outer_glob: str, inner_glob: str) -> bool:
    outer, inner = _automaton(outer_glob), _automaton(inner_glob)
    letters = list(
        _letters(mask for one in (outer, inner) for row in one.steps for mask, _ in row)
    )
    todo = [(state, outer.starts) for state in inner.starts]
    seen = set(todo)
    work = 0
    while todo:
        state, others = todo.pop()
        work += len(letters) * len(others)
        if state == len(inner.steps) - 1 and len(outer.steps) - 1 not in others:
            return False
        for letter in letters:
            after = [to for mask, to in inner.steps[state] if mask & letter]
            if not after:
                continue
            reached = outer.close(
                to for one in others for mask, to in outer.steps[one] if mask & letter
            )
            for following in inner.close(after):
                if (following, reached) not in seen:
                    seen.add((following, reached))
                    todo.append((following, reached))
        if work > _WORK_MAX:
            return False
    return True


def text_includes(outer: str, inner: str, budget: Budget | None = None) -> bool:
    """The same for globs over texts (options, sources that are no path), where `*` takes anything.

    Only what is plain to see: equal globs, and stars alone. Raises TooMany.
    """
    if outer in ("*", inner):
        return True
    if "*" not in outer or len(outer) + len(inner) > _LONG:
        return False
    if budget is not None:
        budget.spend(_MATCH)
    if re.search(r"[?\[]", outer + inner):
        return False
    # A star of the inner one can only be taken by a star: as a letter that stands in neither.
    return fnmatch.fnmatchcase(inner.replace("*", "\0"), outer)
