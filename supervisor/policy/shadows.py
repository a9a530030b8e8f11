"""Finds rules that never decide, and proves it: earlier rules decide all that they match.

A rule is taken apart into alternatives (one glob, one type), and what earlier rules match of each
is taken away from its boxes. Where nothing is left, no call can reach it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Final

from supervisor.policy.boxes import Box, Budget, Index, TooMany, meet, without
from supervisor.policy.shapes import Shape, Texts, shapes_of
from supervisor.policy.sockets import AnyRules

__all__ = ["Shadow", "TooMany", "shadows"]

# Policies of a size that people write are proved through; of larger ones as much as this allows.
_STEPS_MAX: Final = 2_000_000
_PIECES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Shadow:
    """Rule `index` never decides: those of `by` do, all of them earlier.

    `by` is empty where it matches nothing that the filter ever notifies.
    """

    index: int
    by: tuple[int, ...]


def shadows(rules: AnyRules) -> Iterator[Shadow]:
    """Every rule that never decides. Raises TooMany after those that were found."""
    budget = Budget(_STEPS_MAX)
    shapes = shapes_of(rules, budget)[:-1]
    index = Index([shape.boxes if shape.exact else () for shape in shapes])
    for number, shape in enumerate(shapes):
        if not shape.boxes:
            yield Shadow(number, ())
            continue
        near = sorted(
            {one for box in shape.boxes for one in index.near(box, budget) if one < number}
        )
        alternatives = [text.parts() for text in shape.texts]
        budget.spend(prod(map(len, alternatives)))
        parts = list(product(*alternatives))
        # One rule that does it alone is said before several that do it together.
        for some in (*((one,) for one in near), tuple(near)):
            by: set[int] = set()
            if some and all(_covered(shape, part, some, shapes, by, budget) for part in parts):
                yield Shadow(number, tuple(sorted(by)))
                break


def _covered(
    shape: Shape, parts: tuple[Texts, ...], near: Sequence[int], shapes: Sequence[Shape],
    by: set[int], budget: Budget,
) -> bool:
    """Whether earlier rules match all of one alternative; they are added to `by`.

    Raises TooMany.
    """
    left: list[Box] = list(shape.boxes)
    for number in near:
        other = shapes[number]
        budget.spend(1 + len(left) * len(other.boxes))
        if not other.surely(shape):
            continue
        if not any(meet(box, hole) for box in left for hole in other.boxes):
            continue
        texts = zip(other.texts, parts, strict=True)
        if not all(mine.covers(part, budget) for mine, part in texts):
            continue
        by.add(number)
        left = without(left, other.boxes, budget)
        if not left:
            return True
        if len(left) > _PIECES_MAX:
            return False
    return False
