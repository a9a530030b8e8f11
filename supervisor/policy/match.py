"""Pure predicates: globs over paths, ranges of ids and of devices.

A path comes from the caller, a glob from the admin: whatever the caller writes, a match takes time
linear in the path for each `**` of the glob, never more (no nested backtracking).
"""

from __future__ import annotations

import re
from functools import lru_cache

# (type, first major, last major, first minor, last minor); type is "c" or "b".
NodeRange = tuple[str, int, int, int, int]
IdRange = tuple[int, int]

NAME_MAX = 255

_PLAIN = re.compile(r"[^*?\[\\]+")
_CLASS = re.compile(r"\[(!|\^)?(\]?[^\]]*)\]")


class GlobError(ValueError):
    """A glob that means nothing."""


def _bracket(text: str) -> str:
    """The inside of [...] as a regular expression's class; ranges and single characters."""
    parts: list[str] = []
    position = 0
    while position < len(text):
        low = text[position]
        if position + 2 < len(text) and text[position + 1] == "-":
            high = text[position + 2]
            if low > high:
                raise GlobError(f"the range {low}-{high} is empty")
            position += 3
        else:
            high = low
            position += 1
        if not (low.isascii() and high.isascii()):
            raise GlobError("[...] takes ASCII characters only")
        parts.append(f"{re.escape(low)}-{re.escape(high)}" if low != high else re.escape(low))
    return "".join(parts)


def glob_tokens(glob: str, *, path: bool = True) -> list[tuple[str, str]]:
    """A glob as ("one", regex), ("star", ""), ("any", "") and ("under", "") for `**/`. Characters
    that stand for themselves may share a regex.

    In what is no path a slash is a character like others, and there are stars only.
    """
    out: list[tuple[str, str]] = []
    position = 0
    while position < len(glob):
        char = glob[position]
        if plain := _PLAIN.match(glob, position):
            out.append(("one", re.escape(plain[0])))
            position = plain.end()
        elif char == "*":
            end = position
            while end < len(glob) and glob[end] == "*":
                end += 1
            starts = position == 0 or glob[position - 1] == "/"
            if end - position == 1 or not path:
                out.append(("star", ""))
            elif starts and glob[end : end + 1] == "/":
                out.append(("under", ""))
                end += 1
            else:
                out.append(("any", ""))
            position = end
        elif char == "?":
            out.append(("one", "[^/]" if path else "."))
            position += 1
        elif char == "[":
            found = _CLASS.match(glob, position)
            if found is None or not found[2]:
                raise GlobError("a [ that no ] closes; write \\[ for the character itself")
            inside = _bracket(found[2])
            if path:
                out.append(("one", f"[^{inside}/]" if found[1] else f"(?!/)[{inside}]"))
            else:
                out.append(("one", f"[{'^' if found[1] else ''}{inside}]"))
            position = found.end()
        else:
            if position + 1 == len(glob):
                raise GlobError("a backslash at the end")
            out.append(("one", re.escape(glob[position + 1])))
            position += 2
    return out


def _segment(tokens: list[tuple[str, str]], *, last: bool) -> str:
    """A run without `**`. A star commits to the first place where what follows it fits; only the
    last star of the last run is held against the end of the path."""
    runs: list[str] = [""]
    for kind, text in tokens:
        if kind == "star":
            runs.append("")
        else:
            runs[-1] += text
    out = runs[0]
    for number, run in enumerate(runs[1:], 1):
        # No component that exists is longer, and the bound keeps a failing search linear.
        if last and number == len(runs) - 1:
            out += f"[^/]{{0,{NAME_MAX}}}{run}"
        else:
            out += f"(?>[^/]{{0,{NAME_MAX}}}?{run})"
    return out


def glob_pattern(glob: str) -> bytes:
    """A glob as a regular expression that has to match the whole path. Raises GlobError."""
    if not glob.startswith(("/", "**")):
        raise GlobError("a path glob begins with / (the caller's root directory) or with **")
    if "\0" in glob or len(glob) > 4096:
        raise GlobError("no path can be that")
    if re.search(r"(^|/)\.\.?(/|$)", glob):
        raise GlobError("a resolved path has no . and no .. in it")
    runs: list[tuple[str, list[tuple[str, str]]]] = [("", [])]
    for kind, text in glob_tokens(glob):
        if kind in ("any", "under"):
            runs.append((kind, []))
        else:
            runs[-1][1].append((kind, text))
    out = ""
    for number, (kind, tokens) in enumerate(runs):
        last = number == len(runs) - 1
        if last and kind == "any" and not tokens:
            out += ".*"  # all the rest: nothing to be looked for
            break
        body = _segment(tokens, last=last)
        if kind:
            body = ".*?" + ("(?<=/)" if kind == "under" else "") + body
        out += body if last or not kind else f"(?>{body})"
    # Characters are matched as the bytes of UTF-8; `?` and [...] take one byte then, see the docs.
    return out.encode("utf-8", "surrogateescape")


@lru_cache(maxsize=1024)
def glob_regex(*globs: str) -> re.Pattern[bytes]:
    """What any of the globs matches; to be used with fullmatch(). Raises GlobError."""
    return re.compile(b"|".join(b"(?:%s)" % glob_pattern(glob) for glob in globs), re.DOTALL)


def text_pattern(glob: str) -> str:
    """A glob over any text as a regular expression for the whole of it. Raises GlobError.

    `*` and `?` stand for any characters, `[a-z]` for one of a set, a backslash takes the next
    character for itself. Linear in the text: a star commits to the first place where what follows
    it fits, and only the last one is held against the end.
    """
    runs = [""]
    for kind, text in glob_tokens(glob, path=False):
        if kind == "star":
            runs.append("")
        else:
            runs[-1] += text
    middle = "".join(f"(?>.*?{run})" for run in runs[1:-1])
    return runs[0] + middle + (f".*{runs[-1]}" if len(runs) > 1 else "")


@lru_cache(maxsize=1024)
def _text_regex(glob: str) -> re.Pattern[str]:
    return re.compile(text_pattern(glob), re.DOTALL)


def text_matches(glob: str, text: str) -> bool:
    """Whether a text as a whole matches."""
    return _text_regex(glob).fullmatch(text) is not None


def glob_matches(glob: str, path: bytes) -> bool:
    """Whether an absolute path without . and .. matches."""
    return glob_regex(glob).fullmatch(path) is not None


def literal_prefix(glob: str) -> bytes:
    """The components of a glob before the first that has a wildcard ("/srv/a" of "/srv/a/*.img").

    The whole glob where it has none; b"" where the first component has one.
    """
    found = re.search(r"[*?\[\\]", glob)
    if found is None:
        return glob.rstrip("/").encode("utf-8", "surrogateescape")
    return glob[: max(glob.rfind("/", 0, found.start()), 0)].encode("utf-8", "surrogateescape")


_CLEAN = re.compile(rb"(?:/(?!\.{1,2}(?:/|\Z))[^/]+)+")


def lexical(path: bytes) -> bytes | None:
    """A written path cleaned of // and /./; None where only the file system knows where it leads.

    That is: where it is relative, or has a ".." in it.
    """
    if _CLEAN.fullmatch(path):
        return path
    if not path.startswith(b"/"):
        return None
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        return None
    return b"/" + b"/".join(parts)


def id_matches(ranges: tuple[IdRange, ...], value: int) -> bool:
    """Whether an id is in one of the ranges."""
    return any(low <= value <= high for low, high in ranges)


def node_matches(nodes: NodeRange, kind: str, major: int, minor: int) -> bool:
    """Whether a device is in a range."""
    return nodes[0] == kind and nodes[1] <= major <= nodes[2] and nodes[3] <= minor <= nodes[4]
