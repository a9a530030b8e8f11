"""Sets of what can be counted (device numbers, ids) as boxes: one range for each dimension.

A proof about rules is arithmetic on them: what one rule matches, less what others decide before it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

# (lowest, highest) of each dimension, both inclusive.
Range = tuple[int, int]
Box = tuple[Range, ...]


def joined(ranges: Sequence[Range]) -> Sequence[Range]:
    """The same numbers in as few ranges as they can be in, from the lowest on."""
    if len(ranges) == 1:
        return ranges
    out: list[Range] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = out[-1][0], max(high, out[-1][1])
        else:
            out.append((low, high))
    return out


def meet(one: Box, other: Box) -> Box | None:
    """What is in both, None where nothing is."""
    out = []
    for (a, b), (c, d) in zip(one, other, strict=True):
        low, high = max(a, c), min(b, d)
        if low > high:
            return None
        out.append((low, high))
    return tuple(out)


def less(box: Box, hole: Box) -> Iterator[Box]:
    """What is in `box` and not in `hole`, in boxes that do not overlap."""
    common = meet(box, hole)
    if common is None:
        yield box
        return
    rest = list(box)
    for number, ((low, high), (first, last)) in enumerate(zip(box, common, strict=True)):
        for start, end in ((low, first - 1), (last + 1, high)):
            if start <= end:
                yield (*rest[:number], (start, end), *rest[number + 1 :])
        rest[number] = (first, last)


class TooMany(Exception):
    """The rules are too many for each to be held against each."""


class Budget:
    """So many steps a proof may take: there are policies for which each would take for ever."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Raises TooMany where there are not so many left."""
        self.left -= steps
        if self.left < 0:
            raise TooMany


def without(boxes: Iterable[Box], holes: Iterable[Box], budget: Budget) -> list[Box]:
    """What is in `boxes` and in none of `holes`. Raises TooMany."""
    left = list(boxes)
    for hole in holes:
        budget.spend(len(left))
        left = [piece for box in left for piece in less(box, hole)]
        if not left:
            break
    return left


class _Ranges:
    """Ranges of one dimension, by which those are found that overlap a range: a tree of the highest
    ends over the ranges in the order of their beginnings.
    """

    def __init__(self, pairs: Iterable[tuple[Range, int]]) -> None:
        """`pairs`: ranges, each with the number that is to be found."""
        ordered = sorted(pairs)
        self._lows = [low for (low, _), _ in ordered]
        self._numbers = [number for _, number in ordered]
        highs = [high for (_, high), _ in ordered]
        self._size = 1 << max(0, len(highs) - 1).bit_length()
        self._ends = [-1] * self._size + highs + [-1] * (self._size - len(highs))
        for at in range(self._size - 1, 0, -1):
            self._ends[at] = max(self._ends[2 * at], self._ends[2 * at + 1])

    def overlap(self, wanted: Range, budget: Budget) -> Iterator[int]:
        """The numbers of those that have something in common with `wanted`. Raises TooMany."""
        low, high = wanted
        count = bisect_right(self._lows, high)  # those behind them begin later than it ends
        nodes = [(1, 0, self._size)]
        while nodes:
            at, first, width = nodes.pop()
            budget.spend(1)
            if first >= count or self._ends[at] < low:
                continue
            if at >= self._size:
                yield self._numbers[first]
                continue
            half = width // 2
            nodes += ((2 * at + 1, first + half, half), (2 * at, first, half))


class Index:
    """Finds who may overlap a box, without a look at everybody.

    Each box stands in the dimension in which it overlaps the fewest others.
    """

    def __init__(self, sets: Sequence[Sequence[Box]]) -> None:
        every = [(box, owner) for owner, boxes in enumerate(sets) for box in boxes]
        crowds = [_crowds([box[at] for box, _ in every]) for at in range(len(every[0][0]))
                  ] if every else []  # fmt: skip
        chosen: dict[int, dict[tuple[Range, int], None]] = {}
        for box, owner in every:
            at = min(range(len(box)), key=lambda at: crowds[at][box[at]])
            chosen.setdefault(at, {})[box[at], owner] = None
        self._ranges = {at: _Ranges(pairs) for at, pairs in chosen.items()}

    def near(self, box: Box, budget: Budget) -> list[int]:
        """The numbers of all sets that may have something in common with `box`, in order.

        Raises TooMany.
        """
        found: set[int] = set()
        for at, ranges in self._ranges.items():
            found.update(ranges.overlap(box[at], budget))
        return sorted(found)


def _crowds(ranges: Sequence[Range]) -> dict[Range, int]:
    """How many of `ranges` overlap each of them, itself counted."""
    lows, highs = sorted(low for low, _ in ranges), sorted(high for _, high in ranges)
    return {
        one: bisect_right(lows, one[1]) - bisect_left(highs, one[0])
        for one in dict.fromkeys(ranges)
    }
