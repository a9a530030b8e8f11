"""The part of a rule that is about who calls. It is known at the second look alone.

A rule that grants matches only a caller that is known to be what the rule asks for; one that
refuses matches a caller of whom nobody knows better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from supervisor.model import Facts
from supervisor.policy.match import IdRange, glob_matches, id_matches


@dataclass(frozen=True, slots=True)
class CallerMatch:
    """What a rule asks of the caller; None is "any", and each of several values will do.

    `uids` and `gids` are file system ids as the caller's user namespace numbers them, `host_uids`
    and `host_gids` as that of seccompd does. `capabilities` are effective ones. `executables` and
    `cgroups` are globs.
    """

    uids: tuple[IdRange, ...] | None = None
    gids: tuple[IdRange, ...] | None = None
    host_uids: tuple[IdRange, ...] | None = None
    host_gids: tuple[IdRange, ...] | None = None
    capabilities: tuple[str, ...] | None = None
    executables: tuple[str, ...] | None = None
    cgroups: tuple[str, ...] | None = None

    @property
    def wants(self) -> frozenset[str]:
        """The names of the Facts that it looks at, but uid and gid, which always come along."""
        return frozenset(fact for name, fact in _FACTS.items() if getattr(self, name) is not None)

    def matches(self, facts: Facts, *, unknown: bool) -> bool:
        """Whether the caller is one of those asked for; `unknown` counts where nobody knows."""
        return self.objection(facts, unknown=unknown) == ""

    def objection(self, facts: Facts, *, unknown: bool) -> str:
        """The name of the first condition that does not hold, as in YAML; "" where all hold."""
        for name, ids, value in (
            ("uid", self.uids, facts.uid),
            ("gid", self.gids, facts.gid),
            ("host_uid", self.host_uids, facts.host_uid),
            ("host_gid", self.host_gids, facts.host_gid),
        ):
            if ids is not None and not (unknown if value is None else id_matches(ids, value)):
                return name
        if self.capabilities is not None:
            held = facts.capabilities
            if not (unknown if held is None else any(name in held for name in self.capabilities)):
                return "capability"
        for name, globs, path in (
            ("executable", self.executables, facts.executable),
            ("cgroup", self.cgroups, facts.cgroup),
        ):
            if globs is not None and not (
                unknown if path is None else any(glob_matches(glob, path) for glob in globs)
            ):
                return name
        return ""

    def said(self) -> tuple[tuple[str, tuple[int | str, ...]], ...]:
        """The entries of each key that is there, as a policy has them."""
        return tuple(
            (key, tuple(_entry(one) for one in values))
            for key, name in KEYS.items()
            if (values := getattr(self, name)) is not None
        )

    def to_json(self) -> dict[str, Any]:
        """The conditions as JSON's types."""
        return {name: getattr(self, name) for name in _NAMES if getattr(self, name) is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Sequence[Any]]) -> CallerMatch:
        """The conditions that to_json() wrote."""
        found: dict[str, Any] = {
            name: tuple(one if isinstance(one, str) else tuple(one) for one in values)
            for name, values in data.items()
        }
        return cls(**found)


_NAMES: Final = tuple(field.name for field in fields(CallerMatch))
_FACTS: Final[Mapping[str, str]] = {
    "host_uids": "host_uid",
    "host_gids": "host_gid",
    "capabilities": "capabilities",
    "executables": "executable",
    "cgroups": "cgroup",
}
# By their names in YAML.
KEYS: Final[Mapping[str, str]] = {
    "uid": "uids",
    "gid": "gids",
    "host_uid": "host_uids",
    "host_gid": "host_gids",
    "capability": "capabilities",
    "executable": "executables",
    "cgroup": "cgroups",
}


# Keys on what a container chooses for itself, and why that is no protection.
CHOSEN: Final[Mapping[str, str]] = {
    "uid": "root of the container can take any id of it",
    "gid": "root of the container can take any id of it",
    "executable": "a container chooses what it runs, and can run its own code in any program",
}


def _entry(value: str | IdRange) -> int | str:
    if isinstance(value, str):
        return value
    low, high = value
    return low if low == high else f"{low}-{high}"


def caller_match(raw: Any) -> CallerMatch | None:
    """What a rule of the schema asks of the caller; None where that is nothing."""
    found = {
        name: tuple(values)
        for key, name in KEYS.items()
        if (values := getattr(raw, key, None)) is not None
    }
    return CallerMatch(**found) if found else None
