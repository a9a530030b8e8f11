"""Whom a policy applies to: what `match` says, as a pure predicate that can say why not.

A Subject is all that a door knows of a container when it takes it in. Docs/daemon.md has, for each
of its values, who can set it: an admin, or whoever starts containers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from supervisor.policy.match import IdRange, glob_matches, id_matches, text_matches

KUBERNETES: Final = ("namespace", "pod", "container")

# Everybody may come to these: what an admin wrote with other doors in mind is not for them.
OPEN_DOORS: Final = ("attach",)

Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """A container as its door sees it; None is "not known here".

    `peer_uid` and `peer_gid` are those of the process that handed the listener over, as the kernel
    says, `runtime` its name. `kubernetes` has the names in KUBERNETES. `cgroups` are paths, one for
    each hierarchy. `user_namespace` is "own", or "host" where it is the daemon's. `policy` is one
    that was asked for: no other is the container's then, and that one only where its match holds.
    """

    door: str
    peer_uid: int
    peer_gid: int
    runtime: str | None = None
    container: str | None = None
    metadata: str | None = None
    cookie: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    kubernetes: Mapping[str, str] | None = None
    cgroups: tuple[str, ...] = ()
    user_namespace: str = "own"
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class Applies:
    """`match` of a policy; None is "any". All that is there has to hold."""

    door: Texts | None = None
    runtime: Texts | None = None
    container: Texts | None = None
    metadata: Texts | None = None
    cookie: Texts | None = None
    annotations: tuple[tuple[str, Texts], ...] = ()
    kubernetes: tuple[tuple[str, Texts], ...] = ()
    peer_uid: tuple[IdRange, ...] | None = None
    peer_gid: tuple[IdRange, ...] | None = None
    cgroup: Texts | None = None
    # What a session of the host's own user namespace can do is much more: nobody gets it by chance.
    user_namespace: Texts = ("own",)

    def why_not(self, subject: Subject) -> str | None:
        """The first reason why the policy does not apply; None where it does."""
        if self.door is not None and subject.door not in self.door:
            return _differs("door", subject.door, self.door)
        if self.door is None and subject.door in OPEN_DOORS:
            return f"it does not name door {subject.door}"
        if subject.user_namespace not in self.user_namespace:
            return _differs("user_namespace", subject.user_namespace, self.user_namespace)
        for key in ("runtime", "container", "metadata", "cookie"):
            why = _text(key, getattr(subject, key), getattr(self, key))
            if why is not None:
                return why
        for key, ranges in (("peer_uid", self.peer_uid), ("peer_gid", self.peer_gid)):
            value = getattr(subject, key)
            if ranges is not None and not id_matches(ranges, value):
                return f"{key} is {value}"
        for name, wanted in self.annotations:
            why = _text(f"annotation {name}", subject.annotations.get(name), wanted)
            if why is not None:
                return why
        for name, wanted in self.kubernetes:
            why = _text(f"kubernetes {name}", (subject.kubernetes or {}).get(name), wanted)
            if why is not None:
                return why
        if self.cgroup is not None and not any(
            glob_matches(glob, path.encode("utf-8", "surrogateescape"))
            for glob in self.cgroup
            for path in subject.cgroups
        ):
            return _differs("cgroup", " ".join(subject.cgroups) or "not known", self.cgroup)
        return None

    def to_json(self) -> dict[str, Any]:
        """The predicate as JSON's types."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Applies:
        """The predicate that to_json() wrote."""
        return cls(**{name: _frozen(value) for name, value in data.items()})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _text(what: str, value: str | None, wanted: Iterable[str] | None) -> str | None:
    if wanted is None:
        return None
    if value is None:
        return f"{what} is not known"
    if any(text_matches(glob, value) for glob in wanted):
        return None
    return _differs(what, value, wanted)


_SHOWN: Final = 80


def _differs(what: str, value: str, wanted: Iterable[str]) -> str:
    shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
    return f"{what} is {shown!r}, not {' or '.join(wanted)}"
