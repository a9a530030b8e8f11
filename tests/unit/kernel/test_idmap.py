"""Id maps: what may be mapped, and what is understood."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import UsageError
from supervisor.kernel import idmap
from supervisor.kernel.idmap import IdMaps, Range


def test_subordinate_by_name_and_number(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("root:5000:10\n0:7000:5\nother:1:1\n0x0:9:9\nroot:abc:1\n\n#c\nroot:1:0\n")
    assert idmap.subordinate(str(file), 0) == [(5000, 10), (7000, 5)]


def test_subordinate_without_a_file(tmp_path: Path) -> None:
    assert idmap.subordinate(str(tmp_path / "none"), 0) == []


def test_subordinate_that_overlap(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("0:100:50\n0:120:50\n0:100:50\n0:130:5\n")
    assert idmap.subordinate(str(file), 0) == [(100, 50), (150, 20)]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=8))
def test_disjoint_has_each_id_once(ranges: list[tuple[int, int]]) -> None:
    found = idmap._disjoint(ranges)
    ids = [n for start, count in found for n in range(start, start + count)]
    assert ids == sorted({n for start, count in ranges for n in range(start, start + count)})


def test_without_own_id() -> None:
    assert idmap._without([(10, 5), (20, 1)], 12) == [(10, 2), (13, 2), (20, 1)]
    assert idmap._without([(10, 5), (20, 1)], 20) == [(10, 5)]


def test_parse() -> None:
    maps = idmap.parse(["0:1000:1", "u:1:5:2", "g:1:7:2"])
    assert maps.uids == (Range(0, 1000, 1), Range(1, 5, 2))
    assert maps.gids == (Range(0, 1000, 1), Range(1, 7, 2))
    assert maps.identity == (0, 0)
    assert maps.outside_gid() == 1000


@pytest.mark.parametrize(
    "specs",
    [
        ["1:2"], ["a:b:c"], ["-1:0:1"], ["0:0:0"], ["0:4294967290:10"], ["u:0:0:1"], ["0:1:1:1"],
        ["0:10:5", "4:20:5"], ["0:10:5", "5:14:5"], [""],
    ],
)  # fmt: skip
def test_parse_refuses(specs: list[str]) -> None:
    with pytest.raises(UsageError):
        idmap.parse(specs)


def test_identity_without_zero() -> None:
    maps = IdMaps((Range(7, 1, 1), Range(5, 2, 1)), (Range(9, 3, 2),))
    assert maps.identity == (5, 9)
    assert maps.outside_gid() == 3


def test_automatic_for_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = {"/etc/subuid": [(100000, 10), (300000, 10)], "/etc/subgid": [(200000, 10)]}
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1001)
    monkeypatch.setattr(idmap, "subordinate", lambda path, _uid: ranges[path])
    monkeypatch.setattr(idmap, "find_helper", lambda name: f"/usr/bin/{name}")
    maps, missing = idmap.automatic()
    assert missing is None
    assert maps.helpers
    assert maps.uids == (Range(0, 1000, 1), Range(1, 100000, 10), Range(11, 300000, 10))
    assert maps.gids == (Range(0, 1001, 1), Range(1, 200000, 10))


@pytest.mark.parametrize("lacking", ["helper", "range"])
def test_automatic_with_less(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1001)
    ranges = [] if lacking == "range" else [(100000, 10)]
    monkeypatch.setattr(idmap, "subordinate", lambda _path, _uid: ranges)
    helper = None if lacking == "helper" else "/usr/bin/true"
    monkeypatch.setattr(idmap, "find_helper", lambda _name: helper)
    maps, missing = idmap.automatic()
    assert missing is not None
    assert maps == idmap.single(1000, 1001)


def test_automatic_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(idmap, "own_namespace", lambda: (Range(0, 5000, 100),))
    maps, missing = idmap.automatic()
    assert missing is None
    assert maps.uids == (Range(0, 0, 100),)
