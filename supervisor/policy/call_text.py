"""A call as a person gives it: as strace prints it, by the names of its arguments, or as a line of
an audit log.
"""

from __future__ import annotations

import json
import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from errno import EFAULT
from typing import Any, Final

from supervisor.kernel.address_text import from_strace, written
from supervisor.kernel.strace_read import leads_to, read_argument, split_call
from supervisor.kernel.syscalls import X86_64, CallSpec, Kind, Param
from supervisor.model import Arg
from supervisor.policy.argument_names import own_name
from supervisor.policy.asked import Asked, asked_of, named, spec_of
from supervisor.policy.families import FamilySpec
from supervisor.policy.recorded import recorded
from supervisor.policy.sockets import OPERATIONS

_CALL: Final = re.compile(r"[^\s=]*[a-z_][a-z0-9_]*\s*\(|[\[0-9]")
_PAIR: Final = re.compile(r"[a-z_]+=")
_POINTERS: Final = (Kind.PATH, Kind.NAME, Kind.ADDRESS)


def parse_words(
    families: Mapping[str, FamilySpec], words: Sequence[str], arch: int = X86_64
) -> Asked:
    """The call that the words of a command line are: NAME ARGUMENT=VALUE ..., where a value may
    have blanks, or any text that parse() takes. ValueError.
    """
    if len(words) > 1 and all(_PAIR.match(word) for word in words[1:]):
        return _by_names(families, words[0], words[1:], arch)
    return parse(families, " ".join(words), arch)


def parse(families: Mapping[str, FamilySpec], text: str, arch: int = X86_64) -> Asked:
    """The call that a text is. ValueError says what cannot be read."""
    text = text.strip()
    if text.startswith("{"):
        found = recorded(families, record_of(text))
        if found is None:
            raise ValueError("this record is not about a call of a policy")
        return found
    if _CALL.match(text):
        name, words = split_call(text)
        return _as_strace(spec_of(families, name), words, arch)
    try:
        name, *pairs = shlex.split(text) or [""]
    except ValueError:
        raise ValueError(f"a quote is open: {text[:40]}") from None
    return _by_names(families, name, pairs, arch)


def record_of(text: str | bytes) -> dict[str, Any]:
    """A line of an audit log. ValueError where it is none."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"no JSON from column {error.colno} on"
        raise ValueError(f"no record of an audit log: {where}") from None
    except UnicodeDecodeError:
        raise ValueError("no record of an audit log: not UTF-8") from None
    except RecursionError:
        raise ValueError("no record of an audit log: nested too deep") from None
    except ValueError:
        raise ValueError("no record of an audit log: a number has too many digits") from None
    if not isinstance(record, dict):
        raise ValueError("no record of an audit log: no mapping")
    return record


def _as_strace(spec: CallSpec, words: Sequence[str], arch: int) -> Asked:
    params = spec.params
    values = [_argument(word, param) for word, param in zip(words, params, strict=False)]
    if len(words) == len(params) - 1 and _is_left_out(params[-1].kind, values):
        values.append(0)
    if len(values) != len(params) or len(words) > len(params):
        names = ", ".join(param.name for param in params)
        raise ValueError(f"{spec.name} has {len(params)} arguments: {names}")
    said = {"cwd": _start(spec, words), "peer": _peer(spec, words)}
    caller = {key: value for key, value in said.items() if value is not None}
    asked = asked_of(spec, tuple(values), arch)
    return replace(asked, caller=caller) if caller else asked


def _argument(word: str, param: Param) -> Arg:
    if word == "...":
        raise ValueError(f"{param.name} and what follows is left out: write all of the call")
    try:
        return read_argument(word, param.kind)
    except ValueError as error:
        raise ValueError(f"{param.name}: {error}") from None


def _is_left_out(kind: Kind, before: Sequence[Arg]) -> bool:
    """Whether strace leaves out the last argument: it means nothing beside those before it."""
    mode = before[-1]
    if kind is Kind.DEV:
        return isinstance(mode, int) and not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode))
    # Of an open that makes no file, and of an ioctl that takes none.
    return kind in (Kind.MODE, Kind.BUFFER)


def _start(spec: CallSpec, words: Sequence[str]) -> str | None:
    """Where a relative path starts from, if `strace -y` has said it of the descriptor before it."""
    at = next((at for at, param in enumerate(spec.params) if param.kind is Kind.PATH), 0)
    return leads_to(words[at - 1]) if at and spec.params[at - 1].kind is Kind.FD else None


def _peer(spec: CallSpec, words: Sequence[str]) -> str | None:
    """Who has connected, if the call is one that accepts, and has come to that."""
    if OPERATIONS.get(spec.name) != "accept" or not words[1].startswith("{"):
        return None
    peer = from_strace(words[1])
    return None if peer is None else written(peer)


def _by_names(
    families: Mapping[str, FamilySpec], name: str, pairs: Sequence[str], arch: int
) -> Asked:
    spec = spec_of(families, name)
    args: dict[str, object] = {}
    kinds = {param.name: param.kind for param in spec.params}
    for at, pair in enumerate(pairs):
        key, equals, value = pair.partition("=")
        if not equals:
            quoted = f"{pairs[at - 1]} {pair}".replace("=", '="', 1) + '"' if at else ""
            hint = f"; a value with blanks is quoted: {quoted}" if "=" in quoted else ""
            raise ValueError(f"{pair}: an argument is written NAME=VALUE{hint}")
        key = own_name(spec, key)
        if key in args:
            raise ValueError(f"{key} is given twice")
        kind = kinds.get(key)
        null = value == "NULL" and kind is not None and kind.is_string
        bad = -EFAULT if kind in (Kind.PATH, Kind.NAME) else None
        args[key] = bad if null else value
    for param in spec.params:
        if param.kind in _POINTERS and param.name not in args:
            raise ValueError(f"{name} needs {param.name}=...")
    return named(families, name, args, arch)
