"""The values of a rule's keys, as pydantic reads them and as JSON Schema tells an editor of them.

A single value may stand for a list of one, and `$NAME` for the entries of a named list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from supervisor.kernel.addresses import FAMILIES
from supervisor.kernel.capabilities import NAMES as CAPABILITIES
from supervisor.kernel.filesystems import KNOWN
from supervisor.kernel.opening import ACCESS_WORDS
from supervisor.kernel.socket_options import LEVELS, named
from supervisor.model import Verdict
from supervisor.policy import directory_compile
from supervisor.policy.devices import NAMES, SERIES
from supervisor.policy.families import (
    AccessMatch,
    AddressMatch,
    CallerGlobMatch,
    CapabilityMatch,
    FamilySpec,
    IdMatch,
    KeyMatch,
    LevelMatch,
    NameMatch,
    NetworkMatch,
    NodeMatch,
    OptionMatch,
    PathMatch,
    PortMatch,
    SocketOptionMatch,
    SourceMatch,
    TypeMatch,
    XattrNameMatch,
    XattrValueMatch,
)
from supervisor.policy.match import IdRange, NodeRange
from supervisor.policy.mount_values import (
    FLAG_NAMES,
    HOW_MOUNTED,
    Options,
    parse_emulate,
    parse_options,
    parse_source,
    parse_type,
)
from supervisor.policy.open_values import FITTED, GRANTS, parse_access, parse_inject
from supervisor.policy.option_values import VALUE, parse_level, parse_option
from supervisor.policy.option_values import parse_emulate as parse_option_emulate
from supervisor.policy.options import Option
from supervisor.policy.socket_keys import LEADS, Schema, on_sockets
from supervisor.policy.socket_values import parse_emulate as parse_socket_emulate
from supervisor.policy.socket_values import (
    parse_family,
    parse_network,
    parse_nothing,
    parse_ports,
)
from supervisor.policy.sockets import Network, Ports
from supervisor.policy.values import (
    ERRNOS,
    REALISE,
    RETURN_MAX,
    WORDS,
    action_parser,
    filled,
    parse_capability,
    parse_glob,
    parse_ids,
    parse_node,
    parse_text,
)
from supervisor.policy.xattr_compile import WHO, parse_name, parse_value
from supervisor.policy.xattr_compile import parse_emulate as parse_xattr_emulate

_LONG, _MISTAKES = 1000, 100
LIST_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"
_LIST: Schema = {"type": "string", "pattern": rf"^\${LIST_NAME}$", "description": "a named list"}


def _entry(*kinds: Schema) -> Schema:
    return {"anyOf": [*kinds, _LIST]}


def one_or_many(entry: Schema) -> WithJsonSchema:
    """The JSON Schema of a list of such entries, or a single one of them."""
    return WithJsonSchema({"anyOf": [{"type": "array", "items": entry, "minItems": 1}, entry]})


def _many(kind: Any, parse: Callable[[Any], Any], *schemas: Schema) -> Any:
    """A list of values, or a single one of them."""

    def entries(value: object) -> object:
        """The list, and of a long one no more than its first mistakes: each costs a search."""
        value = filled(value)
        if isinstance(value, list) and len(value) > _LONG:
            wrong = 0
            for number, one in enumerate(value):
                try:
                    parse(one)
                except PydanticCustomError:
                    wrong += 1
                if wrong == _MISTAKES:
                    return value[: number + 1]
        return value

    return Annotated[
        list.__class_getitem__(Annotated[kind, BeforeValidator(parse)]),
        BeforeValidator(entries),
        one_or_many(_entry(*schemas)),
    ]


_DEVICE: Schema = {
    "type": "string",
    "pattern": rf"^((char|block) +[0-9*-]+:[0-9*-]+|({'|'.join(SERIES)})([0-9]+(-[0-9]+)?|\*))$",
    "examples": ["char 10:229", "block 7:0-7", "loop*"],
}
GLOB: Schema = {"type": "string", "pattern": r"^(/|\*\*)", "examples": ["/srv/**", "/dev/*"]}
ID: tuple[Schema, ...] = (
    {"type": "integer", "minimum": 0},
    {"type": "string", "pattern": "^[0-9]+-[0-9]+$", "examples": ["1000-1999"]},
)

DEVICES = _many(NodeRange, parse_node, {"enum": list(NAMES)}, _DEVICE)
GLOBS = _many(str, parse_glob, GLOB)
IDS = _many(IdRange, parse_ids, *ID)
CAPABILITY = _many(str, parse_capability, {"enum": list(CAPABILITIES)})
TYPES = _many(str, parse_type, {"enum": sorted(KNOWN)}, {"type": "string"})
SOURCES = _many(
    NodeRange | str,
    parse_source,
    {"type": "string", "examples": ["/images/*.img", "/dev/loop*", "block 7:0-7"]},
)
ADDRESSES = _many(str, parse_family, {"enum": list(FAMILIES)})
NETWORKS = _many(
    Network, parse_network, {"type": "string", "examples": ["10.0.0.0/8", "::1", "fe80::/10"]}
)
PORTS = _many(
    Ports,
    parse_ports,
    {"type": "integer", "minimum": 0, "maximum": 65535},
    {"type": "string", "pattern": "^[0-9]+-[0-9]+$", "examples": ["8000-8999"]},
)
NAMES_OF_SOCKETS = _many(str, parse_text, {"type": "string"})
ACCESS = _many(str, parse_access, {"enum": list(ACCESS_WORDS.values())})
SOCKET_LEVELS = _many(
    int, parse_level, {"enum": list(LEVELS)}, {"type": "integer", "minimum": 0}
)
SOCKET_OPTIONS = _many(
    tuple[Option, ...], parse_option, {"enum": sorted(named())},
    {"type": "string", "pattern": "^[0-9]+:[0-9]+$", "examples": ["17:5"]},
)
XATTR_NAMES = _many(
    str, parse_name, {"type": "string", "examples": ["user.*", "trusted.overlay.opaque"]}
)
XATTR_VALUES = _many(str, parse_value, {"type": "string"})
_WORD = _entry({"enum": list(FLAG_NAMES)}, {"type": "string"})
OPTIONS = Annotated[
    Options,
    BeforeValidator(parse_options),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {"allow": {
                "anyOf": [{"type": "array", "items": _WORD}, _WORD],
                "description": "flags by name, and globs for options: a call has no others",
            }, "require": {
                "anyOf": [
                    {"type": "array", "items": {"enum": list(FLAG_NAMES)}},
                    {"enum": list(FLAG_NAMES)},
                ],
                "description": "flags that a call has to have, and that its mount keeps",
            }},
            "minProperties": 1,
            "additionalProperties": False,
        }
    ),
]

_KINDS: Mapping[type, Any] = {
    NodeMatch: DEVICES,
    PathMatch: GLOBS,
    IdMatch: IDS,
    CapabilityMatch: CAPABILITY,
    CallerGlobMatch: GLOBS,
    TypeMatch: TYPES,
    SourceMatch: SOURCES,
    OptionMatch: OPTIONS,
    AddressMatch: ADDRESSES,
    NetworkMatch: NETWORKS,
    PortMatch: PORTS,
    NameMatch: NAMES_OF_SOCKETS,
    AccessMatch: ACCESS,
    LevelMatch: SOCKET_LEVELS,
    SocketOptionMatch: SOCKET_OPTIONS,
    XattrNameMatch: XATTR_NAMES,
    XattrValueMatch: XATTR_VALUES,
}


def type_of(key: KeyMatch) -> Any:
    """What pydantic is to make of a rule's key."""
    return _KINDS[type(key)]


def mounts(family: FamilySpec) -> bool:
    """Whether a family's `emulate` is that of mounts."""
    return any(isinstance(key, TypeMatch) for key in (family.keys or {}).values())


def sockets(family: FamilySpec) -> bool:
    """Whether a family is about sockets."""
    return any(isinstance(key, NetworkMatch) for key in (family.keys or {}).values())


def options_of_sockets(family: FamilySpec) -> bool:
    """Whether it is about options of sockets."""
    return any(isinstance(key, SocketOptionMatch) for key in (family.keys or {}).values())


def xattrs(family: FamilySpec) -> bool:
    """Whether a family is about extended attributes."""
    return any(isinstance(key, XattrNameMatch) for key in (family.keys or {}).values())


def _emulate_schema(family: FamilySpec) -> Schema:
    nodes = {"realise": {"enum": list(REALISE), "description": (
        "auto: a real node, else a bind mount; closed: one that nobody can open"
    )}}
    return {
        "type": "object",
        "properties": {} if not family.settles else
        dict(HOW_MOUNTED) if mounts(family) else on_sockets() if sockets(family) else
        VALUE if options_of_sockets(family) else
        _XATTR if xattrs(family) else nodes,
        "additionalProperties": False,
    }


_XATTR: Schema = {"as": {
    "enum": list(WHO), "description": "root: as the host's root, for trusted.* alone",
}}
_INJECT: Schema = {
    "type": "object",
    "properties": {
        "device": {
            "anyOf": [{"enum": list(NAMES)}, _DEVICE], "description": "the host's device",
        },
        "file": {"type": "string", "pattern": "^/", "description": "a file of the host's"},
        "directory": {
            "type": "string", "pattern": "^/",
            "description": "a directory of the host's, with what is below it",
        },
        "loops": {
            "anyOf": [
                {"type": "string", "pattern": "^[0-9]+(-[0-9]+)?$"},
                {"type": "integer", "minimum": 0},
            ],
            "description": "loop devices with these numbers, for losetup and mount -o loop",
        },
        "content": {"type": "string", "description": "a file that has this in it"},
        "fits": {
            "enum": list(FITTED),
            "description": "a file that says how big the caller's cgroup lets the machine be",
        },
        "access": {"enum": list(GRANTS), "description": "what the caller may do with it, at most"},
    },
    "description": "the call gets a descriptor that is opened for it",
    "additionalProperties": False,
}


def _leads(family: FamilySpec) -> Mapping[str, tuple[Callable[[object], Any], Schema]]:
    if not family.redirects:
        return {}
    return LEADS if sockets(family) else directory_compile.LEADS


def do_schema(family: FamilySpec) -> Schema:
    """What `do` may be, for an editor."""
    allowed = family.verdicts

    def one(key: str, schema: Schema) -> Schema:
        return {
            "type": "object",
            "properties": {key: schema},
            "required": [key],
            "additionalProperties": False,
        }

    schemas: dict[Verdict, Schema] = {
        Verdict.ERRNO: {"enum": list(ERRNOS), "description": "the call fails with this errno"},
        Verdict.RETURN: {
            "type": "integer", "minimum": 0, "maximum": RETURN_MAX,
            "description": "nothing is done, and the call returns this number",
        },
        Verdict.EMULATE: _emulate_schema(family) | {
            "description": "carried out for the caller, with settings",
        },
        Verdict.INJECT: _INJECT,
    }
    return {
        "anyOf": [
            {"enum": [word.value for word in WORDS if word in allowed]},
            *(one(key.value, schema) for key, schema in schemas.items() if key in allowed),
            *(one(name, schema) for name, (_, schema) in _leads(family).items()),
        ]
    }


def action_of(family: FamilySpec) -> Callable[[object], Any]:
    """The parser of a family's `do`."""
    settings: Callable[[Any], Any] | None = None
    if Verdict.INJECT in family.verdicts:
        settings = parse_inject
    elif mounts(family):
        settings = parse_emulate
    elif options_of_sockets(family):
        settings = parse_option_emulate
    elif sockets(family):
        settings = parse_socket_emulate if family.settles else parse_nothing
    elif family.name == "mkdir":
        settings = directory_compile.parse_emulate
    elif xattrs(family):
        settings = parse_xattr_emulate
    leads = {name: parse for name, (parse, _) in _leads(family).items()}
    return action_parser(family.verdicts, settings, leads)
