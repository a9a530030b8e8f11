"""What an admin may ask for when giving a device; ids of a container, inside and outside."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.daemon.given import Wish, not_mapped, outside, wish_of
from supervisor.errors import SeccompdError

ASKED = {"device": "char 1:5", "path": "/my/zero"}
MAP = [(0, 100_000, 1000), (1000, 7, 1)]


def test_what_is_said_and_what_is_not() -> None:
    assert wish_of(ASKED) == Wish("c", 1, 5, b"/my/zero", 0o660, 0, 0)
    more = {"device": "loop3", "path": "/\udcff", "mode": "0604", "owner": "5:6"}
    assert wish_of(more) == Wish("b", 7, 3, b"/\xff", 0o604, 5, 6)
    assert wish_of(more).text == "block 7:3"
    assert wish_of({**ASKED, "mode": None, "owner": None}) == wish_of(ASKED)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"device": "char 1:*"}, "more than one"),
    ({"device": "flux"}, "unknown device"),
    ({"device": 5}, "a text"),
    ({"device": None}, "a text"),
    ({"path": "my/zero"}, "begins with"),
    ({"path": ""}, "a text"),
    ({"path": "/"}, "begins with"),
    ({"path": "/a/"}, "begins with"),
    ({"path": "//a"}, "begins with"),
    ({"path": "/a/../b"}, "begins with"),
    ({"path": "/./b"}, "begins with"),
    ({"path": "/a\0b"}, "begins with"),
    ({"path": "/" + "x" * 256}, "too long"),
    ({"path": "/x" * 2048}, "too long"),
    ({"mode": "0999"}, "octal"),
    ({"mode": "4755"}, "octal"),
    ({"mode": 0o660}, "a text"),
    ({"owner": "root"}, "UID:GID"),
    ({"owner": "1:2:3"}, "UID:GID"),
    ({"owner": "-1:0"}, "UID:GID"),
]


@pytest.mark.parametrize(("more", "why"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_meant(more: dict[str, Any], why: str) -> None:
    with pytest.raises(SeccompdError, match=why):
        wish_of({**ASKED, **more})


def test_ids_outside() -> None:
    assert [outside(MAP, one, "uid") for one in (0, 999, 1000)] == [100_000, 100_999, 7]
    assert outside(None, 5, "uid") == 5
    for ranges, number in ((MAP, 1001), ([], 0), (None, 0xFFFFFFFF)):
        with pytest.raises(SeccompdError, match=f"gid {number} is not mapped"):
            outside(ranges, number, "gid")


@pytest.mark.parametrize(
    ("ranges", "nobody"),
    [
        (MAP, 0), ([(0, 0, 10)], 10), ([(0, 0, 10), (10, 10, 5)], 15),
        # all ids there are, and then there is nobody
        ([(0, 0, 0xFFFFFFFF)], 0),
    ],
)  # fmt: skip
def test_an_id_that_is_nobodys(ranges: list[tuple[int, int, int]], nobody: int) -> None:
    assert not_mapped(ranges) == nobody
