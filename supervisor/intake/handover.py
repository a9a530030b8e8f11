"""Hand-overs of listeners as they arrive: JSON in pieces, and the state of a container in it.

Nothing here waits or reads: bytes go in, and a message comes out or Malformed. How a runtime cuts
its message into pieces, and whether it closes afterwards, makes no difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

DEPTH_MAX: Final = 64
_SPACE: Final = b" \t\r\n"
_MARKS: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'["\\]')
_QUOTE, _BACKSLASH = b'"\\'
_TEXT_MAX: Final = 1024


class Malformed(Exception):
    """A message that is none of those that the protocol has; the text says why."""


class Reading:
    """Collects one JSON object of at most `most` bytes, however it is cut."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._data = bytearray()
        self._depth = 0
        self._quoted = False
        self._at = 0  # all before it has been looked at, and is not looked at again

    def feed(self, data: bytes) -> bytes | None:
        """The whole object once its last byte is there. Raises Malformed."""
        self._data += data
        if len(self._data) > self._most:
            raise Malformed(f"more than {self._most} bytes")
        if not self._depth and not self._begins():
            return None
        while True:
            found = (_IN_STRING if self._quoted else _MARKS).search(self._data, self._at)
            if found is None:
                self._at = len(self._data)
                return None
            mark = self._data[found.start()]
            self._at = found.end()
            if mark == _BACKSLASH:
                if self._at == len(self._data):
                    self._at -= 1  # what it stands before is still to come
                    return None
                self._at += 1
            elif mark == _QUOTE:
                self._quoted = not self._quoted
            else:
                self._depth += 1 if mark in b"{[" else -1
                if self._depth > DEPTH_MAX:
                    raise Malformed(f"nested deeper than {DEPTH_MAX}")
                if not self._depth:
                    if self._data[self._at :].strip(_SPACE):
                        raise Malformed("something follows the object")
                    return bytes(self._data[: self._at])

    def _begins(self) -> bool:
        start = self._at
        while start < len(self._data) and self._data[start] in _SPACE:
            start += 1
        self._at = start
        if start == len(self._data):
            return False
        if self._data[start] != ord("{"):
            raise Malformed("not a JSON object")
        return True


@dataclass(frozen=True, slots=True)
class State:
    """A container process state of the OCI runtime specification, as far as we look at it.

    `fds` names the descriptors that came along. `pid` is the process that has the filter, 0 where
    the runtime does not say.
    """

    fds: tuple[str, ...]
    container: str
    pid: int = 0
    metadata: str | None = None
    status: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


def parse_state(message: bytes) -> State:
    """The state in a message. Fields that nobody knows are left alone. Raises Malformed."""
    try:
        data = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Malformed("not a JSON object")
    state = _get(data, "state", dict, {})
    names = _get(data, "fds", list, [])
    if not all(isinstance(name, str) for name in names):
        raise Malformed("fds is a list of names")
    container = _get(state, "id", str, "")
    if not 0 < len(container) <= _TEXT_MAX:
        raise Malformed("state.id is missing, or too long")
    annotations = _get(state, "annotations", dict, {})
    if not all(isinstance(value, str) for value in annotations.values()):
        raise Malformed("an annotation is a text")
    return State(
        fds=tuple(names),
        container=container,
        pid=_pid(data) or _pid(state),
        metadata=_get(data, "metadata", str, None),
        status=_get(state, "status", str, ""),
        annotations=annotations,
    )


def _get(data: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """A field; one that is null is one that is not there, as Go writes empty ones."""
    value = data.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Malformed(f"{name} is not a {kind.__name__}")
    return value


def _pid(data: Mapping[str, Any]) -> int:
    pid: int = _get(data, "pid", int, 0)
    if not 0 <= pid < 1 << 31:
        raise Malformed("no such pid")
    return pid
