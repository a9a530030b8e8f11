"""What a session is told when it is started: plain values that a front makes cheaply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.traits import Traits

IdMap = Sequence[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """`uids`, `gids`: the maps of the target's user namespace, as (inside, outside, count); None
    where it has none of its own. `as_root`: seccompd has root's privileges in the initial user
    namespace, so there are makers. `wait_killable`: the filter has that flag for certain; that of a
    foreign runtime cannot be asked. `sync_wake_up`, `pidfd_info`: kernel features to be used.
    `foreign`: the filter is a runtime's, and not the one that was compiled with the policy. Without
    `real_nodes` all that can be opened are mounted ones, which do not outlive the target. `groups`:
    of all callers, outside, where the target's user namespace lets nobody change them. `heard`: the
    names of the calls that a foreign filter notifies, as far as somebody knows. `hosts`: callers
    may have sockets of the host's network, by an earlier policy.
    """

    name: str
    policy: CompiledPolicy
    traits: Traits
    uids: IdMap | None
    gids: IdMap | None
    as_root: bool
    trace_fd: int | None
    audit_fd: int | None
    wait_killable: bool
    sync_wake_up: bool
    pidfd_info: bool
    foreign: bool = False
    real_nodes: bool = True
    groups: Sequence[int] = ()
    heard: Sequence[str] = ()
    hosts: bool = False

    def inner_root(self) -> tuple[int, int]:
        """The ids to take inside the target's user namespace: 0 where it has one."""
        one = ((0, 0, 1),)
        return min(self.uids or one)[0], min(self.gids or one)[0]

    def to_json(self, policy: str) -> dict[str, Any]:
        """The values as JSON's types, without descriptors; `policy` names the policy."""
        return {
            "name": self.name,
            "policy": policy,
            "nodes": self.traits.nodes,
            "uids": self.uids,
            "gids": self.gids,
            "as_root": self.as_root,
            "wait_killable": self.wait_killable,
            "sync_wake_up": self.sync_wake_up,
            "pidfd_info": self.pidfd_info,
            "foreign": self.foreign,
            "real_nodes": self.real_nodes,
            "groups": self.groups,
            "heard": self.heard,
            "hosts": self.hosts,
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], policy: CompiledPolicy, *, audit_fd: int | None
    ) -> SessionConfig:
        """The values that to_json() gave."""
        return cls(
            name=data["name"],
            policy=policy,
            traits=Traits(data["nodes"]),
            uids=_rows(data["uids"]),
            gids=_rows(data["gids"]),
            as_root=data["as_root"],
            trace_fd=None,
            audit_fd=audit_fd,
            wait_killable=data["wait_killable"],
            sync_wake_up=data["sync_wake_up"],
            pidfd_info=data["pidfd_info"],
            foreign=data["foreign"],
            real_nodes=data["real_nodes"],
            groups=data["groups"],
            heard=data["heard"],
            hosts=data["hosts"],
        )


def _rows(rows: Sequence[Sequence[int]] | None) -> IdMap | None:
    return None if rows is None else [(a, b, c) for a, b, c in rows]
