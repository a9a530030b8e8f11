"""Rules as text: quoted so that what a caller chose can be neither YAML nor a wildcard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from supervisor.policy.source import core_scalar

# What needs no quotes in a flow collection, whatever stands around it.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*|(?:char|block) [0-9]+:[0-9]+")


def quoted(text: str) -> str:
    """A text as a YAML scalar that is read as that very text."""
    if _PLAIN.fullmatch(text) and isinstance(core_scalar(text), str):
        return text
    # JSON's strings are YAML's: escapes stay within ASCII, and no character ends the scalar.
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else _escaped(text)


def _escaped(text: str) -> str:
    out = []
    for char in text:
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif char.isprintable():
            out.append(char)
        elif code < 0x100:
            out.append(f"\\x{code:02x}")
        elif code < 0x10000:
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\U{code:08x}")
    return f'"{"".join(out)}"'


def glob_of(path: bytes) -> str:
    """The glob that matches this path: every wildcard in it is a plain character.

    Bytes that are no UTF-8 cannot be written in a policy: for each of them stands a `?`.
    """
    text = path.decode("utf-8", "surrogateescape")
    out = re.sub(r"([\\*?\[])", r"\\\1", text)
    return re.sub("[\udc80-\udcff]", "?", out)


def text_glob_of(text: bytes) -> str:
    """The same for globs over texts (options, sources that are no path), which have no escapes."""
    shown = text.decode("utf-8", "surrogateescape")
    # A dollar in front would be a named list.
    out = re.sub(r"([*?\[]|\A\$)", r"[\1]", shown)
    return re.sub("[\udc80-\udcff]", "?", out)


def listed(values: Sequence[str]) -> str:
    """A list in flow style."""
    return f"[{', '.join(quoted(value) for value in values)}]"


def rule(pairs: Iterable[tuple[str, str]]) -> str:
    """A rule in flow style; the values are YAML already."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
