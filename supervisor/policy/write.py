"""Rules as text: quoted so that what a caller chose can be neither YAML nor a wildcard."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from supervisor.policy.scalars import core_scalar

_WIDTH: Final = 100
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
    """The same for globs over texts: names, options, sources that are no path. In some of them a
    backslash is itself, and in others it takes the next character for itself; in a set it is one.
    """
    shown = text.decode("utf-8", "surrogateescape")
    # A dollar in front would be a named list.
    out = re.sub(r"([*?\[\\]|\A\$)", r"[\1]", shown)
    return re.sub("[\udc80-\udcff]", "?", out)


def listed(values: Sequence[int | str]) -> str:
    """A list in flow style."""
    return f"[{', '.join(map(_scalar, values))}]"


def one_or_list(values: Sequence[int | str]) -> str:
    """One value as it is, several as a list in flow style."""
    return _scalar(values[0]) if len(values) == 1 else listed(values)


def _scalar(value: int | str) -> str:
    return quoted(value) if isinstance(value, str) else str(value)


def rule(pairs: Iterable[tuple[str, str]]) -> str:
    """A rule in flow style; the values are YAML already."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"


@dataclass(frozen=True, slots=True)
class NewRule:
    """A rule that was made of calls: keys with values, and `why`, a comment of one line or none.

    A value is YAML already, or a list of texts.
    """

    pairs: Sequence[tuple[str, str | Sequence[str]]]
    why: str = ""

    def flow(self) -> str:
        """On one line, without the comment."""
        return rule((key, _value(value)) for key, value in self.pairs)

    def lines(self, indent: str) -> list[str]:
        """As an item of a list in block style: on one line where it is short enough."""
        why = [f"{indent}# {self.why}"] if self.why else []
        line = f"{indent}- {self.flow()}"
        if len(line) <= _WIDTH:
            return [*why, line]
        out: list[str] = []
        for key, value in self.pairs:
            start = f"{indent}  {key}:" if out else f"{indent}- {key}:"
            if isinstance(value, str) or len(f"{start} {_value(value)}") <= _WIDTH:
                out.append(f"{start} {_value(value)}")
            else:
                out += [start, *(f"{indent}    - {quoted(one)}" for one in value)]
        return why + out


@dataclass(frozen=True, slots=True)
class Section:
    """A family of a policy: its rules, and whether what none of them matches is the kernel's; `why`
    is a comment about that, of one line or none."""

    rules: Sequence[NewRule]
    kernel: bool = False
    why: str = ""

    def without(self, numbers: Collection[int]) -> Section:
        """The same without some rules."""
        rules = [rule for at, rule in enumerate(self.rules) if at not in numbers]
        return Section(rules, self.kernel, self.why)

    def lines(self, indent: str, family: str) -> list[str]:
        """As an entry of `syscalls` in block style."""
        start = f"{indent}{family}:"
        why = [f"{indent}  # {self.why}"] if self.why else []
        if not self.rules:
            empty = " {otherwise: kernel}" if self.kernel else " []"
            return [*(f"{indent}# {self.why}" for _ in why), start + empty]
        if not self.kernel or family == _ALWAYS_KERNEL:
            return [start, *(line for rule in self.rules for line in rule.lines(indent + "  "))]
        rules = [line for rule in self.rules for line in rule.lines(indent + "    ")]
        return [start, *why, f"{indent}  otherwise: kernel", f"{indent}  rules:", *rules]


# Of these all else is the kernel's, whatever is said.
_ALWAYS_KERNEL: Final = "open"


def policy(name: str, sections: Mapping[str, Section]) -> str:
    """A whole policy."""
    lines = ["version: 1", f"name: {quoted(name)}"]
    lines.append("description: learned, to be read before it is used")
    lines.append("syscalls:" if sections else "syscalls: {}")
    for family, section in sections.items():
        lines += section.lines("  ", family)
    return "\n".join(lines) + "\n"


def value(said: object) -> str:
    """What a policy says under a key, in flow style."""
    if isinstance(said, Mapping):
        return rule((key, value(one)) for key, one in said.items())
    if isinstance(said, list | tuple):
        return f"[{', '.join(map(value, said))}]"
    if isinstance(said, bool):
        return str(said).lower()
    return quoted(said) if isinstance(said, str) else json.dumps(said)


def _value(said: str | Sequence[str]) -> str:
    return said if isinstance(said, str) else one_or_list(said)
