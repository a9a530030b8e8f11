"""The shape of a policy file, made from the families by pydantic.

What a value means beyond its shape (devices, globs, ids, actions) is parsed here as well, so that
all that is wrong with a file is found in one pass. Errors come back with the place they are at.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError

from supervisor.kernel.fuse_programs import PROGRAMS
from supervisor.model import Verdict
from supervisor.policy.families import (
    FamilySpec,
    TypeMatch,
)
from supervisor.policy.key_types import TEXT, Errno, key_type
from supervisor.policy.match_section import MatchSection, Strict
from supervisor.policy.mount_values import (
    FORCE_NAMES,
    SHIFTS,
    VIAS,
    parse_emulate,
)
from supervisor.policy.mounts import MAX_MOUNTS, MOST_MOUNTS
from supervisor.policy.source import Node, Source
from supervisor.policy.values import (
    ERRNOS,
    REALISE,
    REFUSALS,
    WORDS,
    Action,
    action_parser,
    near,
)


def _emulate_schema(*, mounts: bool) -> dict[str, Any]:
    nodes = {"realise": {"enum": list(REALISE)}}
    mount = {
        "via": {"enum": list(VIAS)},
        "shift": {"enum": [*SHIFTS, True, False]},
        "force": {"type": "array", "items": {"enum": list(FORCE_NAMES)}},
        "program": {"anyOf": [{"enum": list(PROGRAMS)}, {"type": "array", "items": TEXT}]},
        "from": {"enum": ["host", "container"]},
        "devices": {"type": "boolean"},
    }
    return {
        "type": "object",
        "properties": mount if mounts else nodes,
        "additionalProperties": False,
    }


def _do_schema(allowed: frozenset[Verdict], *, mounts: bool) -> dict[str, Any]:
    def one(key: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {key: schema},
            "required": [key],
            "additionalProperties": False,
        }

    emulate = _emulate_schema(mounts=mounts)
    return {
        "anyOf": [
            {"enum": [word.value for word in WORDS if word in allowed]},
            one("errno", {"enum": list(ERRNOS)}),
            one("return", {"type": "integer", "minimum": 0}),
            one("emulate", emulate),
        ]
    }


def _of_a_refusal(silent: bool, info: ValidationInfo) -> bool:
    action = info.data.get("do")
    if silent and isinstance(action, Action) and action.verdict not in REFUSALS:
        text = "silent is for refusals (refuse, errno, kill): a grant is always recorded"
        raise PydanticCustomError("policy_key", "{text}", {"text": text})
    return silent


def _family_model(family: FamilySpec) -> Any:
    fields: dict[str, Any] = {
        name: (key_type(key) | None, Field(None, description=key.doc))
        for name, key in (family.keys or {}).items()
    }
    mounts = any(isinstance(key, TypeMatch) for key in (family.keys or {}).values())
    fields["do"] = (
        Annotated[
            Action,
            BeforeValidator(action_parser(family.verdicts, parse_emulate if mounts else None)),
            WithJsonSchema(_do_schema(family.verdicts, mounts=mounts)),
        ],
        Field(description="what becomes of a call that the rule matches"),
    )
    # After `do`: it looks at that.
    fields["silent"] = (
        Annotated[bool, AfterValidator(_of_a_refusal)],
        Field(False, description="a refusal that is not recorded"),
    )
    fields["accept_race"] = (
        bool,
        Field(False, description="continue although the caller can change what was looked at"),
    )
    rule: Any = create_model(f"{family.name}_rule", __base__=Strict, **fields)
    parts: dict[str, Any] = {
        "otherwise": (
            Literal["refuse", "kernel"],
            Field("refuse", description="what becomes of a call that no rule matches"),
        ),
        "rules": (list.__class_getitem__(rule), Field(default_factory=list)),
    }
    if mounts:
        parts["max_mounts"] = (
            int,
            Field(MAX_MOUNTS, ge=0, le=MOST_MOUNTS, description="at a time, in one session"),
        )
    section: Any = create_model(f"{family.name}_section", __base__=Strict, **parts)
    return Annotated[
        section,
        BeforeValidator(lambda value: {"rules": value} if isinstance(value, list) else value),
    ]


def model_of(families: Mapping[str, FamilySpec]) -> type[BaseModel]:
    """The model of a policy file, for the families that a policy may name."""
    sections = {
        name: (_family_model(family) | None, Field(None, description=family.doc))
        for name, family in families.items()
        if family.keys is not None
    }
    syscalls = create_model("syscalls", __base__=Strict, **sections)  # type: ignore[call-overload]
    model: type[BaseModel] = create_model(
        "policy",
        __base__=Strict,
        version=(Literal[1], Field(description="the version of the policy language")),
        name=(
            str | None,
            Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
        ),
        description=(str, Field("", max_length=1000)),
        match=(MatchSection | None, None),
        on_error=(Errno, Field(errno.EPERM, description="the errno of all that goes wrong")),
        syscalls=(syscalls, Field(description="the rules, by family; nothing else is looked at")),
    )
    return model


def json_schema(families: Mapping[str, FamilySpec]) -> dict[str, Any]:
    """The JSON Schema of a policy file, for editors."""
    out = model_of(families).model_json_schema()
    # A list of rules is the short form of a section.
    for name, family in families.items():
        if family.keys is not None:
            section = out["$defs"].pop(f"{name}_section")
            rules = section["properties"]["rules"]
            out["$defs"][f"{name}_section"] = {"anyOf": [dict(rules), section]}
    out["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    _loosen(out)
    return out


_LISTS = frozenset(
    ("devices", "path", "uid", "gid", "door", "runtime", "container", "metadata", "cookie",
     "namespace", "pod", "fstype", "source", "target", "peer_uid", "peer_gid", "cgroup",
     "user_namespace")
)  # fmt: skip


def _is_list(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "array"


def _loosen(node: Any) -> None:
    """A single value may stand for a list of one."""
    if isinstance(node, dict):
        for key, value in list(node.items()):
            if key in _LISTS and "anyOf" in value:
                lists = [one for one in value["anyOf"] if one.get("type") == "array"]
                value["anyOf"] = lists + [one["items"] for one in lists]
                value.pop("default", None)
            elif key in (*_LISTS, "additionalProperties") and _is_list(value):
                node[key] = {"anyOf": [value, value["items"]]}
            _loosen(value)
    elif isinstance(node, list):
        for value in node:
            _loosen(value)


def validate(source: Source, model: type[BaseModel]) -> Any:
    """The policy as an instance of `model`; every error becomes a finding of the source.

    Where there are errors the instance is what can be read in spite of them, for the checks that
    follow: what is wrong is replaced or left out so that nothing is found which is not there.
    Raises PolicyFindings where that cannot be done.
    """
    if source.root.kind != "mapping":
        source.add(source.root.mark, "a policy is a mapping: version, name, syscalls ...")
        source.fail()
    known = {finding.mark for finding in source.findings}
    wrong: list[tuple[int | str, ...]] = []
    try:
        return model.model_validate(source.root.value())
    except ValidationError as error:
        for found in error.errors(include_url=False, include_context=True, include_input=False):
            where = tuple(found["loc"])
            kind = found["type"]
            node = source.root.at(where, key=kind in ("extra_forbidden", "policy_key"))
            wrong.append(where)
            # An alias, say, is wrong already: that it is no list either is no news.
            if kind == "missing" or node.mark not in known:
                source.add(node.mark, _message(kind, where, found, model, node))
    try:
        return model.model_validate(_mended(source.root.value(), wrong))
    except ValidationError:
        source.fail()
        raise


# What a key of a rule becomes where it cannot be read, so that no race is found by it: a path is a
# path, whatever it says. Without its devices or its action nothing can be said of a rule.
_STAND_INS: Mapping[str, object] = {
    "path": "/**",
    "uid": 0,
    "gid": 0,
    "silent": False,
    "accept_race": True,
}


def _mended(value: Any, wrong: list[tuple[int | str, ...]]) -> Any:
    """The values of a policy without what is wrong in them."""
    for where in wrong:
        match where:
            case ("syscalls", family, "rules", int(index), str(key), *_) if key in _STAND_INS:
                section = value["syscalls"].get(family)
                if section is not None:
                    rules = section["rules"] if isinstance(section, dict) else section
                    rules[index][key] = _STAND_INS[key]
            case ("syscalls", family, *_):
                value["syscalls"].pop(family, None)
            case ("version",):
                value["version"] = 1
            case ("syscalls",):
                value["syscalls"] = {}
            case (key, *_):
                value.pop(key, None)
    return value


def _message(
    kind: str,
    where: tuple[int | str, ...],
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
    text = str(found["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
    return f"{name} should be {text}"


def _model_at(model: type[BaseModel], where: tuple[int | str, ...]) -> type[BaseModel]:
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
