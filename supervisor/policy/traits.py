"""What of the session a compiled policy depends on."""

from __future__ import annotations

from typing import Literal, NamedTuple

Nodes = Literal["none", "private", "host"]


class Traits(NamedTuple):
    """`nodes`: where a device node comes from that could not be opened where it was asked for:
    "host" (an ordinary user: bind mounts of the host's own nodes), "private" (root: bind mounts of
    nodes in a tmpfs of ours), "none" (no namespace of our own, `--map none`: real nodes alone).
    `features`: names of kernel features the filter was built for; part of the cache's key.
    """

    nodes: Nodes
    features: tuple[str, ...] = ()
