"""Inclusion of globs, held against what the globs match."""

from __future__ import annotations

import itertools
import random

import pytest

from supervisor.policy.globs import includes, text_includes
from supervisor.policy.match import GlobError, glob_matches

# Every path of up to three short components over a small alphabet.
NAMES = ["".join(word) for n in (1, 2) for word in itertools.product("ab.", repeat=n)]
PATHS = [
    ("/" + "/".join(names)).encode()
    for n in (1, 2, 3)
    for names in itertools.product(NAMES, repeat=n)
    if not {".", ".."} & set(names)
]


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("/**", "/a/*/[a-z]"),
        ("**", "**/x"),
        ("/dev/*", "/dev/null"),
        ("/dev/*", "/dev/n?l*"),
        ("/dev/**", "/dev/*/x"),
        ("/dev/**", "/dev/**/x/**"),
        ("/a/**/b", "/a/b"),
        ("/a/**/b", "/a/*/b"),
        ("/a/**/b", "/a/x/**/y/b"),
        ("/**/b", "/**/a/b"),
        ("/[a-c]x", "/[ab]x"),
        ("/[!d]x", "/[ab]x"),
        ("/*é", "/aé"),
        ("/*é*", "/é"),
        ("/**a**", "/*a*"),
        (r"/a\*", r"/a[*]"),
    ],
)
def test_what_is_included(outer: str, inner: str) -> None:
    assert includes(outer, inner)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("/dev/*", "/dev/**"),
        ("/dev/*", "/dev/*/*"),
        ("/dev/**/x", "/dev/**x"),
        ("/a/**/b", "/a/**"),
        ("/a", "/*"),
        ("/[ab]x", "/[a-c]x"),
        ("/?é", "/é"),
        (r"/a\*", "/a*"),
        ("/a/**/b/c", "/a/**/c"),
        ("/*a", "/a*"),
        ("/tmp/**", "/tmpx/**"),
    ],
)
def test_what_is_not(outer: str, inner: str) -> None:
    assert not includes(outer, inner)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_what_the_paths_say(seed: int) -> None:
    rnd = random.Random(seed)
    parts = ("a", "b", "*", "**", "?", "[ab]", "[!a]", "a*", "*b", "**a", "a**", ".*", r"\*")

    def glob() -> str:
        return "/" + "/".join(rnd.choice(parts) for _ in range(rnd.choice((1, 2, 3))))

    found = 0
    for _ in range(150):
        outer, inner = glob(), glob()
        matched = [path for path in PATHS if glob_matches(inner, path)]
        inside = all(glob_matches(outer, path) for path in matched)
        if includes(outer, inner):
            found += 1
            assert inside, (outer, inner)
    assert found


def test_what_takes_too_long_is_not_claimed() -> None:
    many = "/**" + "a?" * 18 + "**"
    assert not includes(many, "/**a**" + "?" * 40 + "b**")


def test_texts() -> None:
    for outer, inner in (("*", "x"), ("a*", "a*b"), ("*:/srv/*", "host:/srv/x*"), ("x?", "x?")):
        assert text_includes(outer, inner)
    for outer, inner in (("a", "a*"), ("a*b", "a*"), ("a*", "b"), ("[a-z]", "a"), ("**x", "x*")):
        assert not text_includes(outer, inner)


def test_globs_that_mean_nothing_are_no_matter_here() -> None:
    with pytest.raises(GlobError):
        includes("/[", "/a")
