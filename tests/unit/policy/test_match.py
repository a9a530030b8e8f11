"""Globs and lexical paths."""

from __future__ import annotations

import re

import pytest

from supervisor.policy.match import (
    GlobError,
    glob_matches,
    glob_pattern,
    glob_regex,
    lexical,
    literal_prefix,
)


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("/dev/null", ["/dev/null"], ["/dev/nul", "/dev/null2", "/x/dev/null", "/dev/null/"]),
        ("/dev/*", ["/dev/null", "/dev/.x"], ["/dev/a/b", "/dev", "/devx/a"]),
        ("/dev/**", ["/dev/null", "/dev/a/b/c"], ["/dev", "/devx/a"]),
        ("/**/null", ["/null", "/dev/null", "/a/b/null"], ["/anull", "/null/x"]),
        ("**/null", ["/null", "/a/b/null"], ["/a/bnull"]),
        ("**", ["/", "/a/b"], []),
        ("/srv/*/dev/*", ["/srv/a/dev/b"], ["/srv/a/b/dev/c", "/srv/dev/b"]),
        ("/a/**/b/**/c", ["/a/b/c", "/a/x/b/y/z/c", "/a/b/b/c"], ["/a/c", "/a/b/xc"]),
        ("/a/**/x*y/z", ["/a/xy/z", "/a/xq/xy/z", "/a/x/x1y/z"], ["/a/x/y/z"]),
        ("/a?c", ["/abc"], ["/a/c", "/ac", "/abbc"]),
        ("/[a-c]x[!0-9]", ["/axb", "/cx-"], ["/dxb", "/ax1", "/ax/"]),
        ("/[]x]", ["/]", "/x"], ["/y"]),
        ("/[!a]b", ["/xb"], ["//b", "/ab"]),
        (r"/a\*b", ["/a*b"], ["/axb"]),
        ("/a.b+(c)", ["/a.b+(c)"], ["/axb+(c)"]),
        ("/a**b", ["/ab", "/ax/yb"], ["/ax/yc"]),
        ("/*a*a*b", ["/aab", "/xaxaxb"], ["/ab", "/aa/b"]),
        ("/é*", ["/éa"], ["/e"]),
    ],
)
def test_globs(glob: str, yes: list[str], no: list[str]) -> None:
    for path in yes:
        assert glob_matches(glob, path.encode()), path
    for path in no:
        assert not glob_matches(glob, path.encode()), path


def test_a_newline_is_a_character() -> None:
    assert glob_matches("/dev/*", b"/dev/a\nb")
    assert not glob_matches("/dev/a", b"/dev/a\n")


@pytest.mark.parametrize(
    "glob", ["dev/*", "", "*x", "/a/[b", "/a\\", "/a/[z-a]", "/a/../b", "/a\0b"]
)
def test_globs_that_mean_nothing(glob: str) -> None:
    with pytest.raises(GlobError):
        glob_regex(glob)


def repeats(pattern: str) -> list[list[str]]:
    """The repetitions of a regular expression, by the atomic groups that they stand in."""
    out: list[list[str]] = [[]]
    stack = [out[0]]
    for token in re.findall(r"\(\?>|\(\?<=/\)|\)|\.\*\??|\[\^/\]\{0,255\}\??|[ab/]", pattern):
        if token == "(?>":
            out.append([])
            stack.append(out[-1])
        elif token == ")":
            stack.pop()
        elif token[0] in ".[":
            stack[-1].append(token[0])
    return out


@pytest.mark.parametrize(
    "glob", ["/**/a*a*a*a*b", "/**a**a**a**a**b", "/" + "*a" * 20 + "b", "/**/a/**/a/**/a/**/b"]
)
def test_a_hostile_path_is_not_gone_over_again(glob: str) -> None:
    """What a group found it does not give back: one search each, of a component or of the path."""
    pattern = glob_pattern(glob).decode()
    groups = repeats(pattern)
    assert sum(map(len, groups)) == len(re.findall(r"\*+", glob))
    for group in groups:
        assert len(group) == len(set(group))
    # With any search inside another these would not end.
    for path in (b"/" + b"a" * 4094, b"/a" * 2047, b"/" + b"a" * 255 + b"/" + b"a" * 3800):
        assert not glob_matches(glob, path)


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        (b"/dev/null", b"/dev/null"),
        (b"//dev/./null", b"/dev/null"),
        (b"/dev/null/", b"/dev/null"),
        (b"/dev/null/.", b"/dev/null"),
        (b"/", b"/"),
        (b"/dev/...", b"/dev/..."),
        (b"/dev/..x", b"/dev/..x"),
        (b"/dev/../x", None),
        (b"/dev/..", None),
        (b"dev/null", None),
        (b"", None),
        (b".", None),
    ],
)
def test_lexical(path: bytes, cleaned: bytes | None) -> None:
    assert lexical(path) == cleaned


@pytest.mark.parametrize(
    ("glob", "prefix"),
    [
        ("/a/b", b"/a/b"),
        ("/a/b*", b"/a"),
        ("/a/*/c", b"/a"),
        ("/*", b""),
        ("**/x", b""),
        ("/a/**", b"/a"),
    ],
)
def test_literal_prefix(glob: str, prefix: bytes) -> None:
    assert literal_prefix(glob) == prefix
