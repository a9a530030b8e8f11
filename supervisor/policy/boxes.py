"""Sets of what can be counted (device numbers, ids) as boxes: one range for each dimension.

A proof about rules is arithmetic on them: what one rule matches, less what others decide before it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
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


class Index:
    """Finds who may overlap a box, without a look at everybody.

    Each box stands in the dimension in which the fewest others have the same single value; one that
    is wide in all of them is a candidate always.
    """

    def __init__(self, sets: Sequence[Sequence[Box]]) -> None:
        shared: Counter[tuple[int, int]] = Counter()
        for boxes in sets:
            for box in boxes:
                shared.update((at, low) for at, (low, high) in enumerate(box) if low == high)
        points: dict[int, dict[tuple[int, int], None]] = {}
        wide: dict[int, None] = {}
        for owner, boxes in enumerate(sets):
            for box in boxes:
                single = [(shared[at, low], at, low) for at, (low, high) in enumerate(box)
                          if low == high]  # fmt: skip
                if single:
                    _, at, value = min(single)
                    points.setdefault(at, {})[value, owner] = None
                else:
                    wide[owner] = None
        self._wide = list(wide)
        self._points = {
            at: ([value for value, _ in sorted(pairs)], [owner for _, owner in sorted(pairs)])
            for at, pairs in points.items()
        }

    def near(self, box: Box, budget: Budget) -> list[int]:
        """The numbers of all sets that may have something in common with `box`, in order.

        Raises TooMany.
        """
        found = set(self._wide)
        budget.spend(1 + len(found))
        for at, (values, owners) in self._points.items():
            low, high = box[at]
            start, end = bisect_left(values, low), bisect_right(values, high)
            budget.spend(end - start)
            found.update(owners[start:end])
        return sorted(found)
