"""Puts rules into the text of a policy, in front of its own, and touches nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from supervisor.errors import PolicyError
from supervisor.policy.source import Node, Source


def merged(name: str, text: str, rules: Mapping[str, Sequence[str]]) -> str:
    """The text of a policy with `rules` (by family, in flow style) in front of those it has.

    Raises PolicyError where the text has a form that this cannot be done with.
    """
    for family, some in rules.items():
        if some:
            text = _with(name, text, family, list(some))
    return text


def _with(name: str, text: str, family: str, rules: list[str]) -> str:
    source = Source(name, text.encode())
    root = source.root
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if root.kind != "mapping":
        raise PolicyError("not a policy", where=name)
    if "syscalls" not in root.pairs:
        body = "".join(f"    - {rule}\n" for rule in rules)
        return "".join(lines) + f"syscalls:\n  {family}:\n{body}"
    syscalls = root.pairs["syscalls"][1]
    if family not in syscalls.pairs:
        return _new_family(name, lines, syscalls, family, rules)
    section = syscalls.pairs[family][1]
    if section.kind == "mapping":
        if "rules" not in section.pairs:
            raise PolicyError(f"{family} has no list of rules: add `rules: []` to it", where=name)
        section = section.pairs["rules"][1]
    return _into_list(name, lines, section, rules)


def _split(lines: list[str], node: Node) -> tuple[str, str, str]:
    """The text before a node's line, its line up to the node, and the rest of everything."""
    number, column = node.mark.line - 1, node.mark.column - 1
    line = lines[number]
    return "".join(lines[:number]), line[:column], line[column:] + "".join(lines[number + 1 :])


def _into_list(name: str, lines: list[str], section: Node, rules: list[str]) -> str:
    before, start, rest = _split(lines, section)
    if rest.startswith("["):
        comma = ", " if section.items else ""
        return f"{before}{start}[{', '.join(rules)}{comma}{rest[1:]}"
    if not section.items:
        raise PolicyError("a list of rules that is empty is written []", where=name)
    before, start, rest = _split(lines, section.items[0])
    if start.strip() != "-":
        raise PolicyError("cannot tell where its rules begin", where=name)
    return before + "".join(f"{start}{rule}\n" for rule in rules) + start + rest


def _new_family(
    name: str, lines: list[str], syscalls: Node, family: str, rules: list[str]
) -> str:
    extra = "otherwise: kernel, " if family == "mount" else ""
    flow = f"{{{extra}rules: [{', '.join(rules)}]}}"
    before, start, rest = _split(lines, syscalls)
    if rest.startswith("{"):
        comma = ", " if syscalls.pairs else ""
        return f"{before}{start}{{{family}: {flow}{comma}{rest[1:]}"
    first = next(iter(syscalls.pairs.values()), None)
    if first is None:
        raise PolicyError("syscalls that are empty are written {}", where=name)
    before, start, rest = _split(lines, first[0])
    if start.strip():
        raise PolicyError("cannot tell where its families begin", where=name)
    body = [f"{start}{family}:\n"]
    indent = start + "  "
    if extra:
        body += [f"{indent}otherwise: kernel\n", f"{indent}rules:\n"]
        indent += "  "
    body += [f"{indent}- {rule}\n" for rule in rules]
    return before + "".join(body) + start + rest
