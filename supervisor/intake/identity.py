"""Who is behind a hand-over: what policies are matched against, and who says so.

The kernel says who the peer is. All else is the runtime's word, and for some of it the runtime only
passes on what whoever starts containers wrote: docs/daemon.md has which is which.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from supervisor.daemon.sockets import credentials
from supervisor.kernel import features
from supervisor.kernel.shim import check, lib
from supervisor.kernel.target import cgroups, shares_our_pids, was_reaped
from supervisor.kernel.task import program_of, start_time

# The same three names as two families of runtimes write them.
_CONTAINERD: Final = {
    "namespace": "io.kubernetes.cri.sandbox-namespace",
    "pod": "io.kubernetes.cri.sandbox-name",
    "container": "io.kubernetes.cri.container-name",
}
_CRI_O: Final = {
    "namespace": "io.kubernetes.pod.namespace",
    "pod": "io.kubernetes.pod.name",
    "container": "io.kubernetes.container.name",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, as of then: it may have gone since, and its `pid` be another process's.

    `pid` is 0 where that is in a pid namespace which is not below ours. `program` is the name of
    its process, `start` when that began (in ticks since boot); None where it went before it could
    be looked at. `shares_pids`: whether it numbers processes as we do; None where that cannot be
    said any more.
    """

    pid: int
    uid: int
    gid: int
    program: str | None
    start: int | None
    shares_pids: bool | None


def peer_of(sock: socket.socket) -> Peer:
    """The other side of a connection that has just been accepted, by SO_PEERCRED.

    What else is said of its process is that process's for certain where the kernel has
    SO_PEERPIDFD: nothing is said of one that has gone, whose number may be another's by now.
    """
    pid, uid, gid = credentials(sock)
    program, start, shares = program_of(pid), start_time(pid), shares_our_pids(pid)
    gone = start is None
    if features.available("peer_pidfd"):
        gone = not keeps_its_number(sock)
    if gone:
        return Peer(pid, uid, gid, None, None, None if pid else False)
    return Peer(pid, uid, gid, program, start, shares)


def keeps_its_number(sock: socket.socket) -> bool:
    """Whether the number of the process that connected is still that process's, by SO_PEERPIDFD: it
    has not ended, or nobody has waited for it yet.
    """
    try:
        pidfd = check(lib.sd_peer_pidfd(sock.fileno()), "SO_PEERPIDFD")
    except OSError:
        return False
    try:
        return not was_reaped(pidfd)
    finally:
        os.close(pidfd)


def cgroups_of(peer: Peer) -> tuple[str, ...]:
    """The paths of who connected in all hierarchies; none where it has gone: the number may be
    another's by now."""
    found = cgroups(peer.pid)
    return found if peer.start is not None and start_time(peer.pid) == peer.start else ()


def kubernetes(annotations: Mapping[str, str]) -> Mapping[str, str] | None:
    """Namespace, pod and container by a runtime's annotations; None where nobody knows.

    A pod may come with annotations of its author's. Those that belong to the other family of
    runtimes nobody overwrites: where both are there they have to say the same.
    """
    found = [
        names
        for family in (_CONTAINERD, _CRI_O)
        if (names := {what: annotations[key] for what, key in family.items() if key in annotations})
    ]
    if not found or found[0] != found[-1]:
        return None
    return found[0]
