"""Finds rules that never decide, and proves it: earlier rules decide all that they match.

A rule is taken apart into alternatives (one glob, one type), and what earlier rules match of each
is taken away from its boxes. Where nothing is left, no call can reach it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from supervisor.policy.boxes import Box, Index, meet, without
from supervisor.policy.mounts import MountRules
from supervisor.policy.rules import RuleSet
from supervisor.policy.shapes import Shape, Texts, shapes_of

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


class TooMany(Exception):
    """The rules are too many for each to be held against each."""


def shadows(rules: RuleSet | MountRules) -> Iterator[Shadow]:
    """Every rule that never decides. Raises TooMany after those that were found."""
    shapes = shapes_of(rules)[:-1]
    index = Index([shape.boxes if shape.exact else () for shape in shapes])
    steps = _STEPS_MAX
    for number, shape in enumerate(shapes):
        if not shape.boxes:
            yield Shadow(number, ())
            continue
        near = sorted({one for box in shape.boxes for one in index.near(box) if one < number})
        steps -= len(near) * max(1, len(shape.boxes))
        if steps < 0:
            raise TooMany
        parts = list(product(*(text.parts() for text in shape.texts)))
        # One rule that does it alone is said before several that do it together.
        for some in (*((one,) for one in near), tuple(near)):
            by: set[int] = set()
            if some and all(_covered(shape, part, some, shapes, by) for part in parts):
                yield Shadow(number, tuple(sorted(by)))
                break


def _covered(
    shape: Shape, parts: tuple[Texts, ...], near: Sequence[int], shapes: Sequence[Shape],
    by: set[int],
) -> bool:
    """Whether earlier rules match all of one alternative; they are added to `by`."""
    left: list[Box] = list(shape.boxes)
    for number in near:
        other = shapes[number]
        if not other.surely(shape):
            continue
        if not any(meet(box, hole) for box in left for hole in other.boxes):
            continue
        if not all(mine.covers(part) for mine, part in zip(other.texts, parts, strict=True)):
            continue
        by.add(number)
        left = without(left, other.boxes)
        if not left:
            return True
        if len(left) > _PIECES_MAX:
            return False
    return False
