"""The shape of a policy file, made from the families by pydantic.

What a value means beyond its shape (devices, globs, ids, actions) is parsed here as well, so that
all that is wrong with a file is found in one pass. Errors come back with the place they are at.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError

from supervisor.model import Verdict
from supervisor.policy.devices import NAMES, DeviceError, parse_device
from supervisor.policy.families import FamilySpec, KeyMatch, NodeMatch, PathMatch
from supervisor.policy.match import GlobError, IdRange, NodeRange, glob_pattern
from supervisor.policy.source import Source

ERRNOS: Mapping[str, int] = {name: value for value, name in errno.errorcode.items()} | {
    "EWOULDBLOCK": errno.EWOULDBLOCK,
    "ENOTSUP": errno.ENOTSUP,
}
_REALISE = ("auto", "node", "bind")
_DOORS = Literal["run", "oci", "lxc", "attach"]
_ID_MAX = 0xFFFFFFFE
_WORDS = (Verdict.EMULATE, Verdict.CONTINUE, Verdict.REFUSE, Verdict.KILL)
_RETURN_MAX = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Action:
    """What `do` says."""

    verdict: Verdict
    value: int = 0
    realise: str = "auto"


def _wrong(text: str) -> PydanticCustomError:
    # A brace in the text would be read as a field of pydantic's template.
    return PydanticCustomError("policy", "{text}", {"text": text})


def _near(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1, 0.6)
    return f": did you mean {near[0]}?" if near else f": one of {', '.join(known[:12])}"


def parse_errno(value: object) -> int:
    """The errno (> 0) of a name such as EPERM."""
    if isinstance(value, str):
        if value in ERRNOS:
            return ERRNOS[value]
        near = difflib.get_close_matches(value.upper(), ERRNOS, 1, 0.6)
        raise _wrong(f"unknown errno {value!r}" + (f": did you mean {near[0]}?" if near else ""))
    raise _wrong("an errno is written by its name, such as EPERM")


def _device(value: object) -> NodeRange:
    if value is None:
        raise _wrong('an unquoted null is YAML for "nothing": write "null" in quotes')
    if not isinstance(value, str):
        raise _wrong('a device is a name or a text such as "char 10:229"')
    try:
        return parse_device(value)
    except DeviceError as error:
        raise _wrong(str(error)) from None


def _glob(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("a path is a text, in quotes where YAML would read it as something else")
    try:
        value.encode()
        glob_pattern(value)
    except (GlobError, UnicodeEncodeError) as error:
        raise _wrong(f"{value!r}: {error}") from None
    return value


def _ids(value: object) -> IdRange:
    if isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    elif isinstance(value, str) and (found := re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", value)):
        low, high = int(found[1]), int(found[2])
    else:
        raise _wrong('an id is a number, or a range such as "1000-1999"')
    if not 0 <= low <= high <= _ID_MAX:
        raise _wrong(f"no such ids: from 0 to {_ID_MAX}, the lower one first")
    return low, high


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _filled(value: object) -> object:
    if value == []:
        raise _wrong("an empty list matches nothing: leave the key out for any")
    return _listed(value)


def _action(allowed: frozenset[Verdict]) -> Callable[[object], Action]:
    words = [word.value for word in _WORDS if word in allowed]

    def parse(value: object) -> Action:
        if isinstance(value, str):
            if value not in words:
                raise _wrong(f"unknown action {value!r}" + _near(value, words))
            return Action(Verdict(value))
        if not isinstance(value, dict) or len(value) != 1:
            raise _wrong(
                f"an action is one of {', '.join(words)}, or a mapping with one of errno, return, "
                "emulate"
            )
        ((key, setting),) = value.items()
        if key == "errno" and Verdict.ERRNO in allowed:
            return Action(Verdict.ERRNO, parse_errno(setting))
        if key == "return" and Verdict.RETURN in allowed:
            if not isinstance(setting, int) or isinstance(setting, bool):
                raise _wrong("return takes a number")
            if not 0 <= setting <= _RETURN_MAX:
                raise _wrong(f"return takes 0 to {_RETURN_MAX}; errnos are written errno: NAME")
            return Action(Verdict.RETURN, setting)
        if key == "emulate" and Verdict.EMULATE in allowed:
            return _emulate(setting)
        raise _wrong(f"unknown action {key!r}" + _near(key, ["errno", "return", "emulate"]))

    return parse


def _emulate(setting: object) -> Action:
    if not isinstance(setting, dict):
        raise _wrong("emulate takes settings, such as emulate: {realise: bind}")
    for key in setting:
        if key != "realise":
            raise _wrong(f"unknown setting {key!r} of emulate" + _near(str(key), ["realise"]))
    realise = setting.get("realise", "auto")
    if realise not in _REALISE:
        raise _wrong(f"unknown realise {realise!r}" + _near(str(realise), list(_REALISE)))
    return Action(Verdict.EMULATE, realise=str(realise))


_TEXT = {"type": "string"}
Devices = Annotated[
    list[
        Annotated[
            NodeRange,
            BeforeValidator(_device),
            WithJsonSchema(
                {
                    "anyOf": [
                        {"enum": list(NAMES)},
                        {
                            "type": "string",
                            "pattern": r"^((char|block) +[0-9*-]+:[0-9*-]+|[A-Za-z]+[0-9*-]+)$",
                        },
                    ]
                }
            ),
        ]
    ],
    BeforeValidator(_filled),
]
Globs = Annotated[
    list[Annotated[str, BeforeValidator(_glob), WithJsonSchema(_TEXT)]], BeforeValidator(_filled)
]
Ids = Annotated[
    list[
        Annotated[
            IdRange,
            BeforeValidator(_ids),
            WithJsonSchema({"anyOf": [{"type": "integer"}, _TEXT]}),
        ]
    ],
    BeforeValidator(_filled),
]
Errno = Annotated[int, BeforeValidator(parse_errno), WithJsonSchema({"enum": list(ERRNOS)})]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)


class MatchSection(_Strict):
    """Whom a policy applies to where no --policy names one."""

    door: Annotated[list[_DOORS], BeforeValidator(_listed)] | None = None
    metadata: str | None = None


def _do_schema(allowed: frozenset[Verdict]) -> dict[str, Any]:
    def one(key: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {key: schema},
            "required": [key],
            "additionalProperties": False,
        }

    emulate = {
        "type": "object",
        "properties": {"realise": {"enum": list(_REALISE)}},
        "additionalProperties": False,
    }
    return {
        "anyOf": [
            {"enum": [word.value for word in _WORDS if word in allowed]},
            one("errno", {"enum": list(ERRNOS)}),
            one("return", {"type": "integer", "minimum": 0}),
            one("emulate", emulate),
        ]
    }


def _key_type(key: KeyMatch) -> Any:
    if isinstance(key, NodeMatch):
        return Devices
    return Globs if isinstance(key, PathMatch) else Ids


def _family_model(family: FamilySpec) -> Any:
    fields: dict[str, Any] = {
        name: (_key_type(key) | None, Field(None, description=key.doc))
        for name, key in (family.keys or {}).items()
    }
    fields["do"] = (
        Annotated[
            Action,
            BeforeValidator(_action(family.verdicts)),
            WithJsonSchema(_do_schema(family.verdicts)),
        ],
        Field(description="what becomes of a call that the rule matches"),
    )
    fields["silent"] = (bool, Field(False, description="a refusal that is not recorded"))
    fields["accept_race"] = (
        bool,
        Field(False, description="continue although the caller can change what was looked at"),
    )
    rule: Any = create_model(f"{family.name}_rule", __base__=_Strict, **fields)
    parts: dict[str, Any] = {
        "otherwise": (
            Literal["refuse", "kernel"],
            Field("refuse", description="what becomes of a call that no rule matches"),
        ),
        "rules": (list.__class_getitem__(rule), Field(default_factory=list)),
    }
    section: Any = create_model(f"{family.name}_section", __base__=_Strict, **parts)
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
    syscalls = create_model("syscalls", __base__=_Strict, **sections)  # type: ignore[call-overload]
    model: type[BaseModel] = create_model(
        "policy",
        __base__=_Strict,
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


def _loosen(node: Any) -> None:
    """A single value may stand for a list of one."""
    if isinstance(node, dict):
        for key, value in list(node.items()):
            if key in ("devices", "path", "uid", "gid", "door") and "anyOf" in value:
                lists = [one for one in value["anyOf"] if one.get("type") == "array"]
                value["anyOf"] = lists + [one["items"] for one in lists]
                value.pop("default", None)
            _loosen(value)
    elif isinstance(node, list):
        for value in node:
            _loosen(value)


def validate(source: Source, model: type[BaseModel]) -> Any:
    """The policy as an instance of `model`; every error becomes a finding of the source.

    Raises PolicyFindings where there is any.
    """
    if source.root.kind != "mapping":
        source.add(source.root.mark, "a policy is a mapping: version, name, syscalls ...")
        source.fail()
    try:
        return model.model_validate(source.root.value())
    except ValidationError as error:
        for found in error.errors(include_url=False, include_context=True, include_input=False):
            where = tuple(found["loc"])
            kind = found["type"]
            mark = source.root.at(where, key=kind == "extra_forbidden").mark
            source.add(mark, _message(kind, where, found, model))
    source.fail()
    raise AssertionError("a validation error without a finding")


def _message(
    kind: str, where: tuple[int | str, ...], found: Mapping[str, Any], model: type[BaseModel]
) -> str:
    name = where[-1] if where else "a policy"
    if isinstance(name, int):
        name = f"an entry of {where[-2]}" if len(where) > 1 else "an entry"
    if kind == "extra_forbidden":
        known = list(_model_at(model, where[:-1]).model_fields)
        return f"unknown key {name}" + _near(str(name), known)
    if kind == "missing":
        return f"the key {name} is missing"
    if kind == "literal_error":
        return f"{name} is {found['ctx']['expected']}"
    if kind == "policy":
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
