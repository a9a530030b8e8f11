"""Options of hugetlbfs: uid= and gid= are ids of the caller's, and the kernel takes the host's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_Ranges = Sequence[tuple[int, int, int]]
_IDS: Final = (b"uid", b"gid")


def _outside(ranges: _Ranges, inside: int) -> int | None:
    for first, outside, count in ranges:
        if first <= inside < first + count:
            return outside + inside - first
    return None


def shifted(data: bytes, uids: _Ranges, gids: _Ranges) -> bytes:
    """`data` with its ids translated, and with root's where it names none.

    What is no number, or an id that is not mapped, stays: then the kernel says what is wrong, or
    the mount is nobody's.
    """
    maps = dict(zip(_IDS, (uids, gids), strict=True))
    missing = dict(maps)
    words = []
    for word in data.split(b",") if data else []:
        name, equals, value = word.partition(b"=")
        if name in maps and equals:
            missing.pop(name, None)
            outside = _outside(maps[name], int(value)) if value.isdigit() else None
            if outside is None:
                return data
            words.append(b"%s=%d" % (name, outside))
        else:
            words.append(word)
    for name, ranges in missing.items():
        root = _outside(ranges, 0)
        if root is not None:
            words.append(b"%s=%d" % (name, root))
    return b",".join(words)
