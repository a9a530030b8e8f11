"""Puts rules into the text of a policy, in front of its own, and touches nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from supervisor.errors import PolicyError
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.match import literal_prefix
from supervisor.policy.races import diverts, refuses
from supervisor.policy.sockets import AnyRule
from supervisor.policy.source import Node, Source
from supervisor.policy.write import NewRule, Section


def merged(
    name: str, text: str, rules: Mapping[str, Sequence[NewRule]],
    sections: Mapping[str, Section] | None = None,
) -> str:  # fmt: skip
    """The text of a policy with `rules` (by family) in front of those it has; of a family that is
    new in it, what `sections` has of that.

    Raises PolicyError where the text has a form that this cannot be done with.
    """
    for family, some in rules.items():
        if some:
            new = (sections or {}).get(family, Section(some))
            text = _with(name, text, family, list(some), new)
    return text


def overruled(old: CompiledPolicy, new: CompiledPolicy) -> set[str]:
    """The families in which rules that are new, and stand in front, may reach where a rule of the
    old policy refuses by path, or leads elsewhere."""
    added = {
        family: len(rules.rules)
        - (len(old.families[family].rules) if family in old.families else 0)
        for family, rules in new.families.items()
    }
    return reaching(new, added)


def reaching(policy: CompiledPolicy, added: Mapping[str, int]) -> set[str]:
    """The families of which the first so many rules may reach where one behind them refuses by
    path, or leads elsewhere."""
    found = set()
    for family, rules in policy.families.items():
        count = added.get(family, 0)
        held = [rule for rule in rules.rules[count:] if refuses(rule) or diverts(rule)]
        if any(_may_meet(one, other) for one in rules.rules[:count] for other in held):
            found.add(family)
    return found


def _may_meet(one: AnyRule, other: AnyRule) -> bool:
    """Whether some path may match both, as far as their beginnings say."""
    mine, theirs = (_starts(rule) for rule in (one, other))
    return any(f"{a}/".startswith(f"{b}/") or f"{b}/".startswith(f"{a}/")
               for a in mine for b in theirs)  # fmt: skip


def _starts(rule: AnyRule) -> list[str]:
    globs = getattr(rule, "globs", None) or getattr(rule, "targets", None) or ()
    return [literal_prefix(glob).decode("utf-8", "surrogateescape") for glob in globs]


def _with(name: str, text: str, family: str, rules: list[NewRule], new: Section) -> str:
    source = Source(name, text.encode())
    root = source.root
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if root.kind != "mapping":
        raise PolicyError("not a policy", where=name)
    if "syscalls" not in root.pairs:
        return "".join(lines) + "syscalls:\n" + _text(new.lines("  ", family))
    syscalls = root.pairs["syscalls"][1]
    if family not in syscalls.pairs:
        return _new_family(name, lines, syscalls, family, new)
    there = syscalls.pairs[family][1]
    if there.kind == "mapping":
        if "rules" not in there.pairs:
            raise PolicyError(f"{family} has no list of rules: add `rules: []` to it", where=name)
        there = there.pairs["rules"][1]
    return _into_list(name, lines, there, rules)


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _in_flow(start: str, rules: Sequence[NewRule], rest: str) -> str:
    """A list in flow style from its bracket on, each new rule on a line; `rest` ends the list."""
    margin = start[: len(start) - len(start.lstrip())]
    out = ["["]
    for number, rule in enumerate(rules):
        comma = "" if number + 1 == len(rules) and rest.startswith("]") else ","
        out += [f"{margin}    # {rule.why}"] if rule.why else []
        out.append(f"{margin}    {rule.flow()}{comma}")
    return _text(out) + f"{margin}    {rest}"


def _split(lines: list[str], node: Node) -> tuple[str, str, str]:
    """The text before a node's line, its line up to the node, and the rest of everything."""
    number, column = node.mark.line - 1, node.mark.column - 1
    line = lines[number]
    return "".join(lines[:number]), line[:column], line[column:] + "".join(lines[number + 1 :])


def _into_list(name: str, lines: list[str], there: Node, rules: list[NewRule]) -> str:
    before, start, rest = _split(lines, there)
    if rest.startswith("["):
        return before + start + _in_flow(start, rules, rest[1:].lstrip(" "))
    if not there.items:
        raise PolicyError("a list of rules that is empty is written []", where=name)
    before, start, rest = _split(lines, there.items[0])
    if start.strip() != "-":
        raise PolicyError("cannot tell where its rules begin", where=name)
    margin = start[: start.index("-")]
    return before + _text([line for rule in rules for line in rule.lines(margin)]) + start + rest


def _new_family(name: str, lines: list[str], syscalls: Node, family: str, new: Section) -> str:
    before, start, rest = _split(lines, syscalls)
    if rest.startswith("{"):
        comma = ", " if syscalls.pairs else ""
        extra = "otherwise: kernel, " if new.kernel else ""
        begun = f"{start}{{{family}: {{{extra}rules: "
        return before + begun + _in_flow(start, new.rules, f"]}}{comma}{rest[1:]}")
    first = next(iter(syscalls.pairs.values()), None)
    if first is None:
        raise PolicyError("syscalls that are empty are written {}", where=name)
    before, start, rest = _split(lines, first[0])
    if start.strip():
        raise PolicyError("cannot tell where its families begin", where=name)
    return before + _text(new.lines(start, family)) + start + rest
