"""Bringing another policy to a session that runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from supervisor.daemon.forks import Forks
from supervisor.daemon.keeper import Keeper
from supervisor.policy.compiled import CompiledPolicy


class Change:
    """One policy on its way to the session of one keeper.

    Makers cannot be told another ceiling: where it is another one, the session gets new makers, and
    the zygote ends the old ones.
    """

    def __init__(self, keeper: Keeper, policy: CompiledPolicy) -> None:
        self._keeper = keeper
        self._policy = policy
        self._details = keeper.details

    def begin(self, forks: Forks, before: CompiledPolicy) -> None:
        """A session that is started later has it anyhow. Where makers for an earlier policy are on
        their way, nobody will want those: what the session has is of the one before."""
        new = self._policy
        if self._keeper.told is None:
            return
        same = (new.ceiling, new.mounts, new.fuse, new.lent, new.xattrs) == (
            before.ceiling, before.mounts, before.fuse, before.lent, before.xattrs
        )  # fmt: skip
        if same and self._keeper.change is None:
            self._tell([])
        else:
            self._keeper.change = self
            forks.order(self)

    def order(self) -> tuple[dict[str, Any], dict[str, int]] | None:
        """As a customer of the zygote's."""
        keeper = self._keeper
        if not self._wanted():
            self._over()
            return None
        fds = {} if keeper.userns is None else {"userns": keeper.userns}
        return {**self._details, "do": "makers", "of": keeper.number}, fds

    def delivered(self, _: Mapping[str, Any], fds: list[int]) -> None:
        """There are makers."""
        self._over()
        try:
            if self._wanted():
                self._tell(fds)
        finally:
            for fd in fds:
                os.close(fd)

    def refused(self, why: str) -> None:
        """Without makers nothing may go on as it was."""
        self._over()
        if self._wanted():
            self._keeper.give_up(f"no makers for another policy: {why}")

    def _wanted(self) -> bool:
        """Not where there is yet another policy, or a session that was started with this one."""
        keeper, mine = self._keeper, self._details
        # The very same, not equal ones: the policy may be the one that the session began with, and
        # have had another one in between.
        return keeper.details is mine and keeper.told is not None and keeper.told is not mine

    def _over(self) -> None:
        if self._keeper.change is self:
            self._keeper.change = None

    def _tell(self, makers: list[int]) -> None:
        with os.fdopen(os.memfd_create("policy", os.MFD_CLOEXEC), "w+b") as file:
            file.write(json.dumps(self._policy.to_json()).encode())
            file.flush()
            order = {
                "policy": self._policy.name,
                "limits": self._details["config"]["limits"],
                "makers": bool(makers),
            }
            self._keeper.tell(order, [file.fileno(), *makers])
