"""Tables of calls that a program makes in one place after the other, a JSON row for each."""

from __future__ import annotations

import json
import os
from pathlib import Path

Rows = dict[str, str]


def a_scene(place: Path, name: str, owner: int) -> str:
    """A directory to make them in and its parent, both owned by `owner`."""
    top = place / name
    (top / "scene").mkdir(parents=True)
    os.chown(top, owner, owner)
    os.chown(top / "scene", owner, owner)
    return str(top / "scene")


def rows(text: str) -> Rows:
    """What each came to, by its name."""
    return dict(json.loads(line) for line in text.splitlines())
