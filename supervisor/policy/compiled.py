"""A compiled policy: what a session decides by, and what the cache holds.

Nothing here imports YAML, pydantic or libseccomp: a session and a start from the cache must not
pay for them.
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.kernel.syscalls import CallSpec, Kind, Param
from supervisor.model import Decision, Facts, Snapshot, Verdict
from supervisor.policy.match import NodeRange
from supervisor.policy.rules import RuleSet

# The layout of to_json(); another number is another cache entry.
FORMAT: Final = 3

_COMPANION: Final = Decision(Verdict.EMULATE, "companion")


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy, frozen.

    `source` is the file it came from, `digest` the sha256 of its content, in hexadecimal.
    `on_error` is the errno (> 0) of everything that goes wrong on the way to an answer.
    `filter` is a packed `struct sock_filter[]`, in host byte order.
    `calls` has, by (audit architecture, number), each call that the filter may notify.
    `ceiling` has the device ranges that any `emulate` rule may make.
    `families` has the rules by family; a family in `calls` that is not there is a companion.
    `match` (Applies.to_json) says whom the policy applies to; None: those it is chosen for by name.
    """

    name: str
    source: str
    digest: str
    on_error: int
    filter: bytes
    calls: Mapping[tuple[int, int], CallSpec]
    ceiling: tuple[NodeRange, ...]
    families: Mapping[str, RuleSet]
    match: Mapping[str, Any] | None = None
    # For each call the positions of mode, dev and path among its arguments.
    _where: dict[tuple[int, int], tuple[int | None, int | None, int | None]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        for key, spec in self.calls.items():
            path = next(
                (number for number, param in enumerate(spec.params) if param.kind is Kind.PATH),
                None,
            )
            self._where[key] = (spec.index("mode"), spec.index("dev"), path)

    def decide(self, family: str, snapshot: Snapshot, facts: Facts | None = None) -> Decision:
        """The policy's answer. Pure: no I/O, and the same answer for the same arguments.

        With `facts` None this is the first look, on what the caller wrote; a Decision whose
        `needs_facts` is set holds only if the second look, with Facts, grants as well.
        A companion's call is always EMULATE: what is none of ours the engine leaves to the kernel.
        """
        rules = self.families.get(family)
        if rules is None:
            return _COMPANION
        mode_at, dev_at, path_at = self._where[snapshot.arch, snapshot.nr]
        args = snapshot.args
        device: tuple[str, int, int] | None = None
        if mode_at is not None and dev_at is not None:
            mode, dev = args[mode_at], args[dev_at]
            if isinstance(mode, bytes) or isinstance(dev, bytes):
                raise TypeError("mode and dev are integers")
            kind = _TYPES.get(stat.S_IFMT(mode))
            if kind is None:
                return rules.otherwise
            # new_decode_dev of the kernel: 12 bits of major between two parts of the minor.
            device = (kind, (dev >> 8) & 0xFFF, (dev & 0xFF) | ((dev >> 12) & 0xFFF00))
        return rules.decide(device, args[path_at] if path_at is not None else 0, facts)

    def to_json(self) -> dict[str, Any]:
        """The policy as JSON's types."""
        specs = {(spec.family, spec.name): spec.params for spec in self.calls.values()}
        return {
            "format": FORMAT,
            "name": self.name,
            "source": self.source,
            "digest": self.digest,
            "on_error": self.on_error,
            "filter": base64.b64encode(self.filter).decode(),
            "specs": [
                [family, name, [[param.name, param.kind.value] for param in params]]
                for (family, name), params in specs.items()
            ],
            "calls": [
                [arch, nr, spec.family, spec.name] for (arch, nr), spec in self.calls.items()
            ],
            "ceiling": self.ceiling,
            "families": {name: rules.to_json() for name, rules in self.families.items()},
            "match": self.match,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CompiledPolicy:
        """The policy that to_json() wrote. Raises KeyError, TypeError, ValueError on others."""
        if data["format"] != FORMAT:
            raise ValueError("another format")
        specs = {
            (family, name): CallSpec(
                family, name, tuple(Param(text, Kind(kind)) for text, kind in params)
            )
            for family, name, params in data["specs"]
        }
        return cls(
            name=data["name"],
            source=data["source"],
            digest=data["digest"],
            on_error=data["on_error"],
            filter=base64.b64decode(data["filter"], validate=True),
            calls={(arch, nr): specs[family, name] for arch, nr, family, name in data["calls"]},
            ceiling=tuple((kind, a, b, c, d) for kind, a, b, c, d in data["ceiling"]),
            families={name: RuleSet.from_json(rows) for name, rows in data["families"].items()},
            match=data["match"],
        )


_TYPES: Final[Mapping[int, str]] = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
