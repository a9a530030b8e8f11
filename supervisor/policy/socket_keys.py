"""What `do` may be in the rules of sockets, as JSON Schema tells an editor of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from supervisor.kernel.socket_options import MOST_SET, options
from supervisor.policy.socket_values import (
    METHODS,
    MOST_BACKENDS,
    parse_balance,
    parse_redirect,
    parse_translate,
)

Schema = dict[str, Any]
SECONDS: Schema = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": "^[0-9.]+(ms|s|m)$", "examples": ["100ms", "2s"]},
    ]
}

def on_sockets() -> Schema:
    """The settings that all ways to carry a call out have."""
    return {"set": _set_schema(), "network": {
        "enum": ["host"], "description": "the call is made in the host's network",
    }}


def _set_schema() -> Schema:
    numbers, texts = {"type": ["integer", "boolean"]}, {"type": "string"}
    return {
        "type": "object",
        "properties": {
            name: {**(texts if option.text else numbers), "description": f"see {option.manual}"}
            for name, option in options().items()
        },
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": MOST_SET,
        "description": "options of the socket that are set before",
    }


def _lead_schema(key: str, schema: Schema, more: Schema | None = None) -> Schema:
    """The setting itself, or a mapping with that and with more."""
    alike: Schema = {"peername": {
        "enum": ["real", "asked"], "description": "what getpeername(2) of such a socket shows",
    }, **on_sockets()}
    return {
        "description": schema["description"],
        "anyOf": [
            schema,
            {
                "type": "object",
                "properties": {key: schema, **(more or {}), **alike},
                "required": [key],
                "additionalProperties": False,
            },
        ]
    }


_TARGET: Schema = {
    "type": "string",
    "examples": ["127.0.0.1:8443", "[::1]:8443", "10.0.0.5", "/run/a.sock", "@abstract"],
}
# The ways to lead a call elsewhere: who parses the setting, and what it may be.
LEADS: Final[Mapping[str, tuple[Callable[[object], Any], Schema]]] = {
    "redirect": (parse_redirect, _lead_schema("to", _TARGET | {
        "description": "the call is carried out with this address",
    })),
    "translate": (parse_translate, _lead_schema("prefix", {
        "type": "string", "examples": ["64:ff9b::/96"],
        "description": "an IPv4 address is looked for below this IPv6 prefix (RFC 6052)",
    })),
    "balance": (parse_balance, _lead_schema("to", {
        "type": "array", "items": _TARGET, "minItems": 1, "maxItems": MOST_BACKENDS,
        "uniqueItems": True, "description": "the call is carried out with one of these addresses",
    }, {
        "by": {"enum": list(METHODS), "description": "whose turn it is"},
        "rest": SECONDS | {"description": "how long a backend is left out that has failed"},
        "wait": SECONDS | {"description": "after how long without an answer it has failed"},
    })),
}  # fmt: skip
