"""Who carries out mounts, umounts and opens: made where a call wants it.

Most policies are about nodes alone, and whatever a session writes to, be it to count a reference,
is memory of its own: a page for each thing that it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from supervisor.engine.act_mounts import Mounter
from supervisor.engine.act_opens import Opener
from supervisor.engine.act_umounts import Umounts
from supervisor.engine.act_xattrs import Xattrs
from supervisor.engine.fuse_servers import FuseServers
from supervisor.engine.helpers import HelperError, Makers, Resolvers
from supervisor.engine.limits import Limits
from supervisor.engine.said import Policy
from supervisor.engine.waiting import Waiting
from supervisor.model import Decision, Facts, Outcome, Snapshot
from supervisor.plans import LoopCall, Mount, Open, Remount

RarePlan = Mount | Remount | Open | LoopCall
_Ids = Sequence[tuple[int, int, int]] | None


class RareActors:
    """Those of one session. `uids` and `gids` are as Mounter has them, `report` as FuseServers."""

    def __init__(
        self, resolvers: Resolvers, makers: Makers, policy: Policy, limits: Limits, *,
        uids: _Ids, gids: _Ids, report: Callable[..., None] | None,
    ) -> None:
        self._resolvers, self._makers = resolvers, makers
        self._policy, self._limits = policy, limits
        self._uids, self._gids = uids, gids
        self._report = report

    @cached_property
    def servers(self) -> FuseServers:
        """The FUSE programs."""
        return FuseServers(self._report)

    @cached_property
    def mounter(self) -> Mounter:
        """Who mounts."""
        return Mounter(
            self._resolvers, self._makers, self.servers, on_error=self._policy.on_error,
            most=self._policy.max_mounts, limits=self._limits, uids=self._uids, gids=self._gids,
        )  # fmt: skip

    @cached_property
    def umounts(self) -> Umounts:
        """Who looks after umounts."""
        return Umounts(self.mounter, self.servers, self._makers)

    @cached_property
    def opener(self) -> Opener:
        """Who gives descriptors."""
        return Opener(self._resolvers, self._makers, self._policy, self._limits)

    @cached_property
    def xattrs(self) -> Xattrs:
        """Who sets and removes extended attributes."""
        return Xattrs(self._resolvers, self._makers, self._policy.on_error, self._limits.path)

    def _has(self, part: str) -> bool:
        return part in vars(self)

    @property
    def any_mounts(self) -> bool:
        """Whether something of ours is mounted, nodes aside."""
        return self._has("mounter") and self.umounts.any

    @property
    def more(self) -> bool:
        """Whether a mount has left something to do until its caller had the answer."""
        return self._has("mounter") and self.mounter.programs.more

    def take(self, policy: Policy, limits: Limits) -> None:
        """Goes by another policy from now on."""
        self._policy, self._limits = policy, limits
        on_error = policy.on_error
        if self._has("mounter"):
            self.mounter.take(on_error=on_error, most=policy.max_mounts, limits=limits)
        if self._has("opener"):
            self.opener.take(policy, limits)
        if self._has("xattrs"):
            self.xattrs.take(on_error, limits.path)

    async def perform(
        self, plan: RarePlan, snapshot: Snapshot, task: int,
        valid: Waiting, redecide: Callable[[Facts], Decision] | None,
        on_wait: Callable[[], None], *, probe_only: bool,
    ) -> Outcome:
        """As that of Actor, for these plans."""
        if isinstance(plan, Mount | Remount):
            self.mounter.on_wait = on_wait
            try:
                return await self.mounter.perform(
                    plan, task, snapshot, valid, redecide, probe_only=probe_only
                )
            except HelperError as error:
                return Outcome(self._policy.on_error, str(error))
        self.opener.calls.on_wait = on_wait
        if isinstance(plan, LoopCall):
            return await self.opener.loops.perform(plan, snapshot, task, valid)
        return await self.opener.perform(plan, snapshot, task, valid, redecide)

    def rest(self) -> None:
        """Lets go of what was needed for a burst alone."""
        if self._has("opener"):
            self.opener.openers.rest()

    def close(self) -> None:
        """Ends what they have begun."""
        if self._has("servers"):
            self.servers.close()
        if self._has("opener"):
            self.opener.close()
