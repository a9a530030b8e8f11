"""One container that the daemon serves, how a door hands one over, and who looks on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.daemon.given import Given
from supervisor.daemon.keeper import Keeper
from supervisor.daemon.policies import Entry
from supervisor.kernel.target import Target
from supervisor.policy.applies import Subject
from supervisor.policy.notified import Notified, beyond

# Door, uid of the peer, name of the container.
Key = tuple[str, int, str]


@dataclass(slots=True)
class HandOver:
    """A listener as a door got it. `target` None: who the callers are will be seen by the first.

    `runtime`: the process that calls for the runtime first (its id, its start). Without
    `real_nodes` no node that can be opened outlives the container. `proxy`, `first`: see
    Keeper.add. `kept`: nobody else has the listener, so a service manager is to keep it for the
    daemon that comes next. `watches`: a descriptor of the container's, in whose first slot the
    listener is, and maybe was under an earlier daemon. What is in here belongs to whoever takes it.
    """

    subject: Subject
    listener: int
    target: Target | None = None
    runtime: tuple[int, int] | None = None
    real_nodes: bool = True
    proxy: int | None = None
    first: bytes = b""
    kept: bool = False
    watches: int | None = None

    def close(self) -> None:
        """Lets go of everything: the kernel answers the callers with ENOSYS then."""
        os.close(self.listener)
        if self.watches is not None:
            os.close(self.watches)
        if self.proxy is not None:
            os.close(self.proxy)
        if self.target is not None:
            self.target.close()


@dataclass(slots=True, eq=False)
class Container:
    """One container under one policy.

    `target` None: who calls is not known yet, and so neither is the policy. After that `entry`
    None says that no policy applies, and all is refused. `notified`: what its filter notifies, for
    good, as far as that was made for the policy that it began with; None: nobody knows. `born`:
    time.monotonic(). `on_end` is called once all is over. `kept`: see HandOver.
    `given`: devices, by their paths. `hosts`: it may have sockets of the host's network, also where
    that was an earlier policy's.
    """

    subject: Subject
    keeper: Keeper
    entry: Entry | None = None
    target: Target | None = None
    real_nodes: bool = True
    on_end: Callable[[], None] | None = None
    notified: Notified | None = None
    born: float = field(default_factory=time.monotonic)
    kept: bool = False
    given: dict[bytes, Given] = field(default_factory=dict)
    hosts: bool = False

    @property
    def unnotified(self) -> list[str] | None:
        """The calls that its policy is about and its filter does not notify, or not all that the
        policy is about; None where nobody knows."""
        if self.entry is None:
            return []
        return None if self.notified is None else [*beyond(self.entry.notified, self.notified)]


@dataclass(frozen=True, slots=True)
class Looking:
    """Somebody who looks on: `fd` is a socket for records. `uid` None: of all containers.

    `container`: of the containers of that name alone. `syscalls`, `verdicts`: of those alone.
    """

    fd: int
    uid: int | None
    container: str | None
    syscalls: tuple[str, ...] | None
    verdicts: tuple[str, ...] | None

    def concerns(self, container: Container) -> bool:
        """Whether it may and wants to see what a container does."""
        subject = container.subject
        return self.uid in (None, subject.peer_uid) and self.container in (None, subject.container)
