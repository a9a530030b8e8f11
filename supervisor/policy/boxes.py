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


def without(boxes: Iterable[Box], holes: Iterable[Box]) -> list[Box]:
    """What is in `boxes` and in none of `holes`."""
    left = list(boxes)
    for hole in holes:
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
        points: dict[int, list[tuple[int, int]]] = {}
        wide: dict[int, None] = {}
        for owner, boxes in enumerate(sets):
            for box in boxes:
                single = [(shared[at, low], at, low) for at, (low, high) in enumerate(box)
                          if low == high]  # fmt: skip
                if single:
                    _, at, value = min(single)
                    points.setdefault(at, []).append((value, owner))
                else:
                    wide[owner] = None
        self._wide = list(wide)
        self._points = {
            at: ([value for value, _ in sorted(pairs)], [owner for _, owner in sorted(pairs)])
            for at, pairs in points.items()
        }

    def near(self, box: Box) -> list[int]:
        """The numbers of all sets that may have something in common with `box`, in order."""
        found = set(self._wide)
        for at, (values, owners) in self._points.items():
            low, high = box[at]
            found.update(owners[bisect_left(values, low) : bisect_right(values, high)])
        return sorted(found)
