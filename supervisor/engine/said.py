"""What an Actor has to be told of a policy, and of what its container can have."""

from __future__ import annotations

from typing import Protocol

from supervisor.model import Inject


class Traits(Protocol):
    """How nodes can be made (policy.traits)."""

    @property
    def nodes(self) -> str:
        """private, host or none."""
        ...


class Policy(Protocol):
    """What of a CompiledPolicy matters here."""

    @property
    def on_error(self) -> int:
        """The errno of what goes wrong."""
        ...

    @property
    def max_mounts(self) -> int:
        """How many mounts there may be at a time."""
        ...

    @property
    def lent(self) -> tuple[Inject, ...]:
        """What makers lend for opens."""
        ...
