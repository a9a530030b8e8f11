"""A device that an admin gives: what is asked for, and what a container has of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from supervisor.errors import SeccompdError
from supervisor.kernel.giver import Node
from supervisor.kernel.target import IdMap, Target
from supervisor.policy.devices import DeviceError, parse_device

_PATH_MAX: Final = 4096
_NAME_MAX: Final = 255
# No id: setting one to it changes nothing.
_NO_ID: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Wish:
    """One device: its type ("c" or "b") and numbers, where it is to be in the container, and its
    permissions and owner there."""

    kind: str
    major: int
    minor: int
    path: bytes
    mode: int
    uid: int
    gid: int

    @property
    def text(self) -> str:
        """As a policy writes it."""
        return f"{'char' if self.kind == 'c' else 'block'} {self.major}:{self.minor}"

    def node(self, uid: int, gid: int) -> Node:
        """With an owner as we number ids."""
        return Node(self.kind, self.major, self.minor, self.mode, uid, gid, self.path)


@dataclass(slots=True)
class Given:
    """A device that a container has. `by` is a uid, `at` seconds since the epoch, `device` and
    `place` as giver.Answer has them, `home` a descriptor of its tmpfs. `taken`: nobody in the
    container may open it any more, and some mount of it could not be reached."""

    wish: Wish
    by: int
    at: float
    home: int
    device: int
    place: tuple[int, int]
    notes: list[str]
    taken: bool = False

    def to_json(self) -> dict[str, Any]:
        """The values as JSON's types; the descriptor goes elsewhere."""
        row = asdict(self)
        del row["home"]
        row["wish"]["path"] = os.fsdecode(self.wish.path)
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any], home: int) -> Given:
        """What `to_json` gave, with that descriptor. KeyError and TypeError where it did not."""
        wish = Wish(**{**row["wish"], "path": os.fsencode(row["wish"]["path"])})
        first, second = row["place"]
        return cls(**{**row, "wish": wish, "home": home, "place": (first, second)})


def wish_of(request: Mapping[str, Any]) -> Wish:
    """What a request says. SeccompdError where it cannot be meant so."""
    values: dict[str, str] = {"mode": "0660", "owner": "0:0"}
    for name in ("device", "path", "mode", "owner"):
        value = request.get(name) or values.get(name)
        if not isinstance(value, str):
            raise SeccompdError(f"{name} is a text")
        values[name] = value
    try:
        kind, low, high, first, last = parse_device(values["device"])
    except DeviceError as error:
        raise SeccompdError(str(error)) from None
    if (low, first) != (high, last):
        raise SeccompdError(f"{values['device']!r} is more than one device")
    if not re.fullmatch("[0-7]{3,4}", values["mode"]) or int(values["mode"], 8) > 0o777:
        raise SeccompdError(f"mode {values['mode']!r}: permissions are three octal digits, as 0660")
    owner = re.fullmatch("([0-9]{1,10}):([0-9]{1,10})", values["owner"])
    if owner is None:
        raise SeccompdError(f"owner {values['owner']!r}: an owner is UID:GID, both numbers")
    path, mode = _path(values["path"]), int(values["mode"], 8)
    return Wish(kind, low, first, path, mode, int(owner[1]), int(owner[2]))


def _path(text: str) -> bytes:
    path = os.fsencode(text)
    names = path.split(b"/")
    if names[0] or len(names) < 2 or {b"", b".", b".."} & set(names[1:]) or b"\0" in path:
        raise SeccompdError(f'path {text!r}: it begins with "/" and has no empty name, "." or ".."')
    if len(path) >= _PATH_MAX or max(map(len, names)) > _NAME_MAX:
        raise SeccompdError("the path is too long")
    return path


def outside(ranges: IdMap | None, number: int, what: str) -> int:
    """An id of the container as we number it; None: they are the same ones. SeccompdError where it
    has none."""
    if ranges is None and number < _NO_ID:
        return number
    for first, there, count in ranges or ():
        if first <= number < first + count:
            return there + number - first
    raise SeccompdError(f"{what} {number} is not mapped in the container's user namespace")


def nobodys(wish: Wish, target: Target) -> Node:
    """The node as it is once it is taken away: it belongs to nobody in the container."""
    return wish.node(not_mapped(target.uids), not_mapped(target.gids))


def not_mapped(ranges: IdMap | None) -> int:
    """An id, as we number it, that is nobody's in the container; 0 where all are somebody's."""
    taken: Sequence[tuple[int, int, int]] = ranges or ()
    for one in (0, *(there + count for _, there, count in taken)):
        if one < _NO_ID and not any(there <= one < there + count for _, there, count in taken):
            return one
    return 0
