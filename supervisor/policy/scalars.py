"""Plain scalars by the core schema of YAML 1.2 (chapter 10.3.2), which is not that of YAML 1.1."""

from __future__ import annotations

import re
from typing import Final

# How what is no text by the core schema begins: a number, null, true, false.
_NO_WORD: Final = frozenset(("", *"0123456789+-.~nNtTfF"))
_INT = re.compile(r"[-+]?[0-9]{1,19}|0o[0-7]{1,21}|0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def core_scalar(text: str) -> bool | int | float | str | None:
    """A plain scalar by the core schema of YAML 1.2."""
    if text[:1] not in _NO_WORD:
        return text
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INT.fullmatch(text):
        # Python reads 0o and 0x with base 0, and refuses there the leading zeros that YAML allows.
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if len(text) < 64 and (_FLOAT.fullmatch(text) or _INF.fullmatch(text)):
        return float(text.replace(".inf", "inf").replace(".nan", "nan")) if text else None
    return text
