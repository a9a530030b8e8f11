"""The values of a rule's keys as pydantic sees them: parsed, and with a JSON Schema each."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from supervisor.policy.devices import NAMES
from supervisor.policy.families import (
    KeyMatch,
    NodeMatch,
    OptionMatch,
    PathMatch,
    SourceMatch,
    TypeMatch,
)
from supervisor.policy.match import IdRange, NodeRange
from supervisor.policy.mount_values import (
    FLAG_NAMES,
    Options,
    parse_options,
    parse_source,
    parse_type,
)
from supervisor.policy.values import (
    ERRNOS,
    filled,
    parse_errno,
    parse_glob,
    parse_ids,
    parse_node,
)

TEXT = {"type": "string"}
Devices = Annotated[
    list[
        Annotated[
            NodeRange,
            BeforeValidator(parse_node),
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
    BeforeValidator(filled),
]
Globs = Annotated[
    list[Annotated[str, BeforeValidator(parse_glob), WithJsonSchema(TEXT)]],
    BeforeValidator(filled),
]
Ids = Annotated[
    list[
        Annotated[
            IdRange,
            BeforeValidator(parse_ids),
            WithJsonSchema({"anyOf": [{"type": "integer"}, TEXT]}),
        ]
    ],
    BeforeValidator(filled),
]
Types = Annotated[
    list[Annotated[str, BeforeValidator(parse_type), WithJsonSchema(TEXT)]],
    BeforeValidator(filled),
]
Sources = Annotated[
    list[Annotated[NodeRange | str, BeforeValidator(parse_source), WithJsonSchema(TEXT)]],
    BeforeValidator(filled),
]
_MANY_WORDS: dict[str, Any] = {
    "type": "array", "items": {"anyOf": [{"enum": list(FLAG_NAMES)}, TEXT]}
}  # fmt: skip
AllowedOptions = Annotated[
    Options,
    BeforeValidator(parse_options),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {"allow": _MANY_WORDS},
            "required": ["allow"],
            "additionalProperties": False,
        }
    ),
]
Errno = Annotated[int, BeforeValidator(parse_errno), WithJsonSchema({"enum": list(ERRNOS)})]


def key_type(key: KeyMatch) -> Any:
    """That of the values of `key`."""
    if isinstance(key, NodeMatch):
        return Devices
    if isinstance(key, TypeMatch):
        return Types
    if isinstance(key, SourceMatch):
        return Sources
    if isinstance(key, OptionMatch):
        return AllowedOptions
    return Globs if isinstance(key, PathMatch) else Ids
