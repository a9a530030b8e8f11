"""Holds a policy's tree against its schema: every error becomes a finding with a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from supervisor.policy.source import Mark, Node
from supervisor.policy.values import mistakes_of, near

Where = tuple[int | str, ...]
_RULES_MAX: Final = 12_000


def validate(root: Node, model: type[BaseModel]) -> tuple[Any, frozenset[str]]:
    """The policy as an instance of `model`; every error becomes a finding where it stands.

    Where there are errors the instance is what can be read in spite of them, for the checks that
    follow: what is wrong is replaced or left out so that nothing is found which is not there. The
    names are those of families of which too much was left out to hold their rules against each
    other. Raises PolicyFindings where that cannot be done.
    """
    source = root.source
    if root.kind != "mapping":
        source.at(root, "a policy is a mapping: version, name, syscalls ...")
        source.fail()
    known = {(finding.file, finding.mark) for finding in source.everything()}

    def note(error: ValidationError, prefix: Where) -> list[Where]:
        wrong: list[Where] = []
        for found in error.errors(include_url=False, include_context=True, include_input=False):
            where = (*prefix, *found["loc"])
            kind = found["type"]
            node = root.at(where, key=kind in ("extra_forbidden", "policy_key"))
            wrong.append(where)
            if kind == "policy":
                for inner, text in mistakes_of(found.get("ctx")):
                    _note(root, (*where, *inner), text, known)
                continue
            # An alias, say, is wrong already: that it is no list either is no news.
            if kind == "missing" or (node.source.file, node.mark) not in known:
                source.at(node, _message(kind, where, found, model, node))
        return wrong

    wrong: list[Where] = []
    try:
        document: Any = model.model_validate(_without_rules(root))
    except ValidationError as error:
        wrong = note(error, ())
    partly: set[str] = set()
    if wrong:
        # What is wrong may be what the rules of a family are to be held against.
        partly = {str(where[1]) for where in wrong if len(where) > 1 and where[0] == "syscalls"}
        try:
            document = model.model_validate(_mended(_without_rules(root), wrong))
        except ValidationError:
            source.fail()
            raise
    every = _rules(root)
    rules = [node for nodes in every.values() for node in nodes]
    if len(rules) > _RULES_MAX:
        source.at(rules[_RULES_MAX], f"more than {_RULES_MAX} rules")
        source.fail()
    for family, nodes in every.items():
        section = getattr(document.syscalls, family, None)
        if section is not None and not _rules_of(section, nodes, ("syscalls", family), note):
            partly.add(family)
            if len(section.rules) < len(nodes):
                setattr(document.syscalls, family, None)
    return document, frozenset(partly)


def _note(root: Node, where: Where, text: str, known: set[tuple[str, Mark]]) -> None:
    """One mistake within a value; at the key where it is the key that nobody knows."""
    node = root.at(where, key=text.startswith("unknown setting"))
    if (node.source.file, node.mark) not in known:
        node.source.at(node, text)


def _rules(root: Node) -> dict[str, list[Node]]:
    """The rules of each family, where they are a list."""
    families = root.pairs["syscalls"][1].pairs if "syscalls" in root.pairs else {}
    out = {}
    for family, (_, section) in families.items():
        rules = section.pairs["rules"][1] if "rules" in section.pairs else section
        if rules.kind == "list":
            out[family] = rules.items
    return out


def _without_rules(root: Node) -> dict[str, Any]:
    """The values of a policy, its rules left out: there may be very many of them."""
    out = {key: value.value() for key, (_, value) in root.pairs.items() if key != "syscalls"}
    if "syscalls" not in root.pairs:
        return out
    families = root.pairs["syscalls"][1]
    if families.kind != "mapping":
        return out | {"syscalls": families.value()}
    rules = _rules(root)
    out["syscalls"] = {
        family: [] if section.kind == "list" else (
            {
                key: [] if key == "rules" and family in rules else value.value()
                for key, (_, value) in section.pairs.items()
            }
            if section.kind == "mapping"
            else section.value()
        )
        for family, (_, section) in families.pairs.items()
    }  # fmt: skip
    return out


def _rules_of(
    section: Any, nodes: Sequence[Node], where: Where,
    note: Callable[[ValidationError, Where], list[Where]],
) -> bool:
    """Reads the rules of a section into it, one after the other. False: too much is wrong to hold
    them against each other; fewer than there are: even to look at each.
    """
    model: type[BaseModel] = _model_at(type(section), ("rules",))
    rules: list[Any] = []
    whole = True
    for index, node in enumerate(nodes):
        prefix = (*where, "rules", index)
        value = node.value()
        try:
            rules.append(model.model_validate(value))
        except ValidationError as error:
            keys = {one[len(prefix)] for one in note(error, prefix) if len(one) > len(prefix)}
            known = bool(keys) and keys <= _STAND_INS.keys()
            whole = whole and known
            rest = value if isinstance(value, dict) else {}
            mended = {key: one for key, one in rest.items() if key not in keys}
            mended |= {key: _STAND_INS[key] for key in keys if key in _STAND_INS}
            if not known:
                # a place for what is wrong, so that the others keep their numbers
                mended["do"] = "refuse"
            try:
                rules.append(model.model_validate(mended))
            except ValidationError:
                whole = False
                rules.append(model.model_validate({"do": "refuse"}))
            if node.source.full:
                whole = False
                break
    section.rules = rules
    return whole


# What a key of a rule becomes where it cannot be read, so that no race is found by it: a path is a
# path, whatever it says. Without its devices or its action nothing can be said of a rule.
_STAND_INS: Mapping[int | str, object] = {
    "path": "/**",
    "uid": 0,
    "gid": 0,
    "host_uid": 0,
    "host_gid": 0,
    "capability": "sys_admin",
    "executable": "/**",
    "cgroup": "/**",
    "mode": "enforce",
    "silent": False,
    "accept_race": True,
}


def _mended(value: Any, wrong: Sequence[Where]) -> Any:
    """The values of a policy without what is wrong in them."""
    for where in wrong:
        match where:
            case ("syscalls", family, key, *_) if isinstance(value["syscalls"].get(family), dict):
                value["syscalls"][family].pop(key, None)
            case ("syscalls", family, *_):
                value["syscalls"].pop(family, None)
            case ("version",):
                value["version"] = 1
            case ("syscalls",):
                value["syscalls"] = {}
            case (key, *_):
                value.pop(key, None)
    return value


_TYPES: Final[Mapping[str, str]] = {
    "string_type": "a text: in quotes, where YAML would read a number or something else",
    "int_type": "a whole number",
    "list_type": "a list",
    "dict_type": "a mapping",
}


def _message(
    kind: str,
    where: Where,
    found: Mapping[str, Any],
    model: type[BaseModel],
    node: Node,
) -> str:
    name = where[-1] if where else "a policy"
    if isinstance(name, int):
        name = f"an entry of {where[-2]}" if len(where) > 1 else "an entry"
    if kind == "extra_forbidden":
        known = list(_model_at(model, where[:-1]).model_fields)
        return f"unknown key {name}" + near(str(name), known)
    if kind == "missing":
        return f"the key {name} is missing"
    if kind == "literal_error" and where == ("version",):
        said = f"version {node.scalar}" if node.scalar and node.plain else "such a version"
        return f"{said} is not known; this seccompd reads version 1"
    if kind == "literal_error":
        return f"{name} is {found['ctx']['expected']}"
    if kind in ("policy", "policy_key"):
        return str(found["msg"])
    if kind == "bool_type":
        return f"{name} is true or false"
    if kind == "model_type":
        return f"{name} is a mapping of keys to values"
    if kind == "string_pattern_mismatch":
        return f"{name} is made of letters, digits, '.', '_' and '-', 64 at most"
    if kind in _TYPES:
        return f"{name} is {_TYPES[kind]}"
    text = str(found["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
    return f"{name} should be {text}"


def _model_at(model: type[BaseModel], where: Where) -> type[BaseModel]:
    for step in where:
        if isinstance(step, str) and step in model.model_fields:
            inner = _inner(model.model_fields[step].annotation)
            model = inner or model
    return model


def _inner(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner(argument)
        if found is not None:
            return found
    return None
