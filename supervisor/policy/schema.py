"""The shape of a policy file, made from the families by pydantic.

What a value means beyond its shape (devices, globs, ids, actions) is parsed here as well, so that
all that is wrong with a file is found in one pass.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence
from functools import cache, lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError

from supervisor.model import Verdict
from supervisor.policy import keys
from supervisor.policy.asked import CALLER
from supervisor.policy.families import FamilySpec
from supervisor.policy.match_section import MatchSection, Strict
from supervisor.policy.mounts import MAX_MOUNTS, MOST_MOUNTS
from supervisor.policy.socket_keys import SECONDS
from supervisor.policy.values import (
    ERRNOS,
    REFUSALS,
    Action,
    listed,
    parse_errno,
    parse_seconds,
)

Errno = Annotated[int, BeforeValidator(parse_errno), WithJsonSchema({"enum": list(ERRNOS)})]
Mode = Literal["enforce", "audit"]
Otherwise = Literal["refuse", "kernel"]
Seconds = Annotated[float, BeforeValidator(parse_seconds), WithJsonSchema(SECONDS)]
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_AUDIT = "decide and record, and let the call go as it would have gone without seccompd"


class LimitsSection(Strict):
    """How long what may take; what is left out is as docs/policies.md has it."""

    snapshot: Annotated[Seconds | None, Field(description="reading one caller's memory")] = None
    path: Annotated[Seconds | None, Field(description="the path work of one call")] = None
    mount: Annotated[Seconds | None, Field(description="a mount, also by a program")] = None


def _of_a_refusal(silent: bool, info: ValidationInfo) -> bool:
    action = info.data.get("do")
    if silent and isinstance(action, Action) and action.verdict not in REFUSALS:
        text = "silent is for refusals (refuse, errno, kill): a grant is always recorded"
        raise PydanticCustomError("policy_key", "{text}", {"text": text})
    if silent and info.data.get("mode") == "audit":
        text = "silent beside mode: audit leaves nothing at all of the rule"
        raise PydanticCustomError("policy_key", "{text}", {"text": text})
    return silent


@cache
def _family_model(family: FamilySpec) -> Any:
    fields: dict[str, Any] = {
        name: (keys.type_of(key) | None, Field(None, description=key.doc))
        for name, key in (family.keys or {}).items()
    }
    fields["do"] = (
        Annotated[
            Action,
            BeforeValidator(keys.action_of(family)),
            WithJsonSchema(keys.do_schema(family)),
        ],
        Field(description="what becomes of a call that the rule matches"),
    )
    fields["mode"] = (Mode, Field("enforce", description=f"audit: {_AUDIT}"))
    # After `do` and `mode`: it looks at those.
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
            Literal.__getitem__(family.otherwise),
            Field(family.otherwise[0], description="what becomes of a call that no rule matches"),
        ),
        "rules": (
            list.__class_getitem__(rule),
            Field(default_factory=list, description="the first one that matches decides"),
        ),
    }
    if keys.mounts(family):
        parts["max_mounts"] = (
            int,
            Field(MAX_MOUNTS, ge=0, le=MOST_MOUNTS, description="at a time, in one session"),
        )
    section: Any = create_model(f"{family.name}_section", __base__=Strict, **parts)
    return Annotated[
        section,
        BeforeValidator(lambda value: {"rules": value} if isinstance(value, list) else value),
    ]


# A process that reads one policy needs models of what that one names, and making those of the
# others takes longer than all else. One that reads many gets by with one model of all: models for
# each of them would be made, and would leave the heap in pieces, without end.
_ONES_OWN: Final = 1


@lru_cache(maxsize=_ONES_OWN + 1)
def _model(families: tuple[tuple[str, FamilySpec], ...]) -> type[BaseModel]:
    sections = {
        name: (_family_model(family) | None, Field(None, description=family.doc))
        for name, family in families
        if family.keys is not None
    }
    syscalls = create_model("syscalls", __base__=Strict, **sections)  # type: ignore[call-overload]
    model: type[BaseModel] = create_model(
        "policy",
        __base__=Strict,
        version=(Literal[1], Field(description="the version of the policy language")),
        name=(
            str | None,
            Field(
                None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="for the records"
            ),
        ),
        description=(str, Field("", max_length=1000, description="for people")),
        include=(
            Annotated[list[str], BeforeValidator(listed)],
            Field(
                default_factory=list,
                description="policies whose lists can be used here, and whose rules come after "
                "those of this file",
            ),
        ),
        lists=(
            dict[str, list[Any]],
            Field(default_factory=dict, description="named lists: $NAME stands for the entries"),
        ),
        match=(MatchSection | None, Field(None, description="whom it applies to")),
        mode=(Mode, Field("enforce", description=f"audit, for all rules: {_AUDIT}")),
        otherwise=(
            Otherwise,
            Field(
                "refuse",
                description="what becomes of a call that no family is about, where a container's "
                "runtime has it notified by a filter of its own",
            ),
        ),
        on_error=(Errno, Field(errno.EPERM, description="the errno of all that goes wrong")),
        limits=(LimitsSection, Field(LimitsSection(), description="deadlines")),
        syscalls=(syscalls, Field(description="the rules, by family; nothing else is looked at")),
    )
    return model


def model_of(
    families: Mapping[str, FamilySpec], named: Collection[str] | None = None
) -> type[BaseModel]:
    """The model of a policy file, for the families that a policy may name; `named`: those that it
    does name, where that is known.
    """
    if named is not None and _model.cache_info().currsize < _ONES_OWN:
        families = {name: family for name, family in families.items() if name in named}
    return _model(tuple(families.items()))


def json_schema(families: Mapping[str, FamilySpec]) -> dict[str, Any]:
    """The JSON Schema of a policy file, for editors."""
    out = model_of(families).model_json_schema()
    # A list of rules is the short form of a section.
    for name, family in families.items():
        if family.keys is not None:
            section = out["$defs"].pop(f"{name}_section")
            rules = section["properties"]["rules"]
            out["$defs"][f"{name}_section"] = {"anyOf": [dict(rules), section]}
    out["$schema"] = _DIALECT
    out["title"] = "seccompd policy"
    out["required"] = ["version"]
    out["anyOf"] = [{"required": [key]} for key in ("syscalls", "include", "lists")]
    properties = out["properties"]
    properties["lists"] |= {"propertyNames": {"pattern": f"^{keys.LIST_NAME}$"}}
    many = properties["include"]
    properties["include"] = {
        "anyOf": [many, many["items"]], "description": many.pop("description", ""),
    }  # fmt: skip
    return out


def cases_schema(calls: Sequence[str]) -> dict[str, Any]:
    """The JSON Schema of a file of test cases, for editors; `calls` are those it can be about."""
    text = {"type": "string"}
    case = {
        "name": text | {"description": "for people; the call itself if left out"},
        "call": {
            "anyOf": [{"enum": sorted(calls)}, {"pattern": "[^A-Za-z0-9_]"}],
            "description": "the system call, or all of it as strace prints it",
        },
        "args": {"type": "object", "description": "its arguments, named as the manual page does"},
        "arch": {"enum": ["x86_64", "i386"], "description": "the caller's architecture"},
        "caller": {
            "type": "object",
            "properties": {name: {"description": doc} for name, doc in CALLER.items()},
            "additionalProperties": False,
            "description": "who calls, and what its memory leads to",
        },
        "verdict": {
            "anyOf": [
                {"enum": [*(verdict.value for verdict in Verdict), "allow"]},
                {"enum": [f"errno {name}" for name in ERRNOS]},
            ],
            "description": "what becomes of it; allow: the filter lets it go to the kernel",
        },
        "rule": {"type": ["integer", "string"], "description": "the rule's line, or FILE:LINE"},
        "errno": {"enum": list(ERRNOS), "description": "the errno that it gets"},
        "return": {"type": "integer", "description": "the number that it returns"},
        "audit": {"type": "boolean", "description": "true: it is only recorded"},
        "leads_to": text | {"description": "the address, or directory, that a call is led to"},
    }
    return {
        "$schema": _DIALECT,
        "title": "cases of a seccompd policy",
        "type": "object",
        "properties": {
            "nodes": {"enum": ["host", "private", "none"], "description": "for whom it is"},
            "cases": {
                "type": "array",
                "minItems": 1,
                "description": "calls, and what must become of them",
                "items": {
                    "type": "object",
                    "properties": case,
                    "required": ["call", "verdict"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["cases"],
        "additionalProperties": False,
    }


