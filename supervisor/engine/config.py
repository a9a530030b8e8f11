"""What a session is told when it is started: plain values that a front makes cheaply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.families import Traits


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """`uids`, `gids`: the maps of the target's user namespace, as (inside, outside, count); None
    where it has none of its own. `as_root`: seccompd has root's privileges in the initial user
    namespace, so there are makers. `wait_killable`, `sync_wake_up`, `pidfd_info`: kernel
    features to be used.
    """

    name: str
    policy: CompiledPolicy
    traits: Traits
    uids: Sequence[tuple[int, int, int]] | None
    gids: Sequence[tuple[int, int, int]] | None
    as_root: bool
    trace_fd: int | None
    audit_fd: int | None
    wait_killable: bool
    sync_wake_up: bool
    pidfd_info: bool
