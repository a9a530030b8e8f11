"""What a session is told when it is started: plain values that a front makes cheaply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.families import Traits


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """`ids`: (inside, outside, count) of the target's user namespace, None where it has none of its
    own. `as_root`: seccompd has root's privileges in its own user namespace, so there are makers.
    `features`: the newer kernel features to be used (supervisor.kernel.features).
    """

    name: str
    policy: CompiledPolicy
    traits: Traits
    ids: Sequence[tuple[int, int, int]] | None
    as_root: bool
    trace_fd: int | None
    audit_fd: int | None
    wait_killable: bool
    sync_wake_up: bool
