"""Boxes, held against the points in them."""

from __future__ import annotations

import itertools
import random

import pytest

from supervisor.policy import races
from supervisor.policy.boxes import Box, Budget, Index, meet, without
from supervisor.policy.source import PolicyFindings
from tests.support.policies import mknod

SIZE = 5
POINTS = list(itertools.product(range(SIZE), repeat=3))


def inside(box: Box, point: tuple[int, ...]) -> bool:
    return all(low <= value <= high for (low, high), value in zip(box, point, strict=True))


def box(rnd: random.Random) -> Box:
    out = []
    for _ in range(3):
        low = rnd.randrange(SIZE)
        out.append((low, rnd.choice((low, rnd.randrange(low, SIZE)))))
    return tuple(out)


@pytest.mark.parametrize("seed", range(50))
def test_they_are_the_sets_of_their_points(seed: int) -> None:
    rnd = random.Random(seed)
    some, holes = [box(rnd) for _ in range(3)], [box(rnd) for _ in range(rnd.randrange(4))]
    left = without(some, holes, Budget(10**9))
    for point in POINTS:
        wanted = any(inside(one, point) for one in some) and not any(
            inside(hole, point) for hole in holes
        )
        assert any(inside(one, point) for one in left) == wanted
    common = meet(some[0], some[1])
    for point in POINTS:
        both = inside(some[0], point) and inside(some[1], point)
        assert (common is not None and inside(common, point)) == both


@pytest.mark.parametrize("seed", range(30))
def test_the_index_forgets_nobody(seed: int) -> None:
    rnd = random.Random(seed)
    sets = [[box(rnd) for _ in range(rnd.choice((0, 1, 1, 2)))] for _ in range(20)]
    index = Index(sets)
    for _ in range(20):
        asked = box(rnd)
        near = index.near(asked, Budget(10**9))
        assert near == sorted(set(near))
        wanted = {n for n, one in enumerate(sets) if any(meet(asked, part) for part in one)}
        assert wanted <= set(near)


def test_the_index_looks_at_few() -> None:
    sets = [[((0, 0), (n, n), (0, 9))] for n in range(1000)]
    assert Index(sets).near(((0, 0), (5, 5), (0, 9)), Budget(99)) == [5]


def test_ranges_that_overlap_are_found_in_few_steps() -> None:
    """Also where some are wide: they hide none of those that are not."""
    sets = [[((0, 0), (10 * n, 10 * n + 25), (0, 9))] for n in range(1000)]
    sets += [[((0, 0), (0, 10**6), (n, n))] for n in range(1000)]
    found = Index(sets).near(((0, 0), (5000, 5004), (7, 7)), Budget(99))
    assert found == [498, 499, 500, 1007]
    assert Index(sets).near(((0, 0), (30_000, 40_000), (10, 10)), Budget(99)) == [1010]


def test_many_rules_on_ranges_that_overlap_can_be_held_against_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ids(low: int) -> str:
        return f'devices: zero, uid: "{low}-{low + 5000}"'

    spread = [(n * 7919) % 900_000 for n in range(3000)]
    rules = [f'{{{ids(low)}, path: "/x/*", do: continue}}' for low in spread]
    rules += [f'{{{ids(1_000_000 + low)}, path: "/x/*", do: refuse}}' for low in spread]
    mknod(*rules, "{do: emulate}")
    with pytest.raises(PolicyFindings, match=r"is a race with p\.yaml:6006"):
        mknod(*rules, f'{{{ids(spread[0])}, path: "/y", do: refuse}}', "{do: emulate}")
    monkeypatch.setattr(races, "_STEPS_MAX", 20_000)
    with pytest.raises(PolicyFindings, match="so many rules cannot be held against each other"):
        mknod(*rules, "{do: emulate}")
