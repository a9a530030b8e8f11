"""Whoever carries plans out: those about sockets go one way, those about paths the other."""

from __future__ import annotations

from collections.abc import Callable
from errno import EPERM
from typing import Any

from supervisor.engine.act import Actor
from supervisor.engine.act_callers import ask_caller
from supervisor.engine.act_sockets import Sockets
from supervisor.engine.limits import Limits
from supervisor.engine.openers import Asked
from supervisor.engine.socket_jobs import SocketJob
from supervisor.engine.waiting import Waiting
from supervisor.handlers.socket_options import with_value
from supervisor.kernel.syscalls import CallSpec
from supervisor.model import Decision, Facts, Outcome, Snapshot
from supervisor.plans import AskCaller, ChangeXattr, Plan, SocketCall
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.sockets import SocketRules


class Actors:
    """A PlanActor (engine/crew.py) for plans of all kinds."""

    def __init__(
        self, paths: Actor, policy: CompiledPolicy, limits: Limits, name: str, *,
        hosts: bool = False,
    ) -> None:
        """`name`: the session's. `hosts`: callers may have sockets of the host's network."""
        self._paths = paths
        self._name = name
        self._on_error, self._limits = policy.on_error, limits
        self._hosts = hosts or policy.hosts
        self._network = 0
        # Where no policy of this session has been about sockets there is nobody for them.
        self._known_sockets: Sockets | None = None
        if any(isinstance(rules, SocketRules) for rules in policy.families.values()):
            self._sockets.prepare()
        self.on_wait: Callable[[], None] = lambda: None

    @property
    def _sockets(self) -> Sockets:
        if self._known_sockets is None:
            self._known_sockets = Sockets(
                self._paths.resolvers, name=self._name, on_error=self._on_error,
                hosts=self._hosts, limits=self._limits,
            )  # fmt: skip
            self._known_sockets.network = self._network
        return self._known_sockets

    def take(
        self, policy: CompiledPolicy, maker_socks: list[int] | None, limits: Limits
    ) -> None:
        """Goes by another policy from now on; with other makers, where there are any."""
        self._paths.take(policy, maker_socks, limits)
        self._on_error, self._limits = policy.on_error, limits
        self._hosts = self._hosts or policy.hosts
        if self._known_sockets is not None:
            self._known_sockets.take(
                policy.balances, on_error=policy.on_error, hosts=policy.hosts, limits=limits
            )

    def of_network(self, network: int) -> None:
        """The container's network namespace has this inode; 0: nobody knows."""
        self._network = network
        if self._known_sockets is not None:
            self._known_sockets.network = network

    @property
    def patient(self) -> int:
        """How many calls wait for the outside world, and keep nobody busy."""
        return 0 if self._known_sockets is None else self._known_sockets.patient

    def concerned(self, spec: CallSpec) -> bool:
        """Whether a companion's call may concern us."""
        if spec.family == "socket_names":
            return self._known_sockets is not None and self._known_sockets.names.any
        return self._paths.concerned(spec)

    def rest(self) -> bool:
        """Lets go of what was needed for a burst alone; False: not all helpers have ended yet."""
        rested = self._known_sockets is None or self._known_sockets.rest()
        self._paths.rare.rest()
        return self._paths.rest() and rested

    def close(self) -> None:
        """Ends the helpers."""
        if self._known_sockets is not None:
            self._known_sockets.close()
        self._paths.close()

    def at_once(self, plan: Plan, snapshot: Snapshot, decision: Decision) -> Any:
        """The short way, where there is one. None: `perform` it. A job: `finish` it."""
        if isinstance(plan, SocketCall):
            return self._sockets.at_once(plan, snapshot, decision)
        if isinstance(plan, AskCaller):
            return None if decision.needs_facts or plan.call else Outcome(EPERM)
        return self._paths.at_once(plan, snapshot, decision)

    async def finish(
        self, job: Any, valid: Callable[[], bool], redecide: Callable[[Facts], Decision] | None
    ) -> Outcome:
        """Goes on with what `at_once` has begun; the rest is as in `perform`."""
        if isinstance(job, SocketJob):
            self._sockets.on_wait = self.on_wait
            return await self._sockets.finish(job, valid)
        self._paths.on_wait = self.on_wait
        if isinstance(job, Asked):
            return await self._paths.rare.opener.finish(job, self.on_wait)
        return await self._paths.finish(job, valid, redecide)

    async def perform(
        self,
        plan: Plan,
        snapshot: Snapshot,
        task: int,
        valid: Waiting,
        redecide: Callable[[Facts], Decision] | None,
        *,
        probe_only: bool = False,
    ) -> Outcome:
        """Carries `plan` out for the caller whose /proc/TID `task` is (O_PATH)."""
        if isinstance(plan, SocketCall):
            self._sockets.on_wait = self.on_wait
            return await self._sockets.perform(
                plan, snapshot, task, valid, redecide, probe_only=probe_only
            )
        if isinstance(plan, AskCaller):
            asked = Outcome(0)
            if redecide is not None:
                asked = ask_caller(task, valid, redecide, self._on_error)
            if asked.errno or asked.left_alone:
                return asked
            if plan.call is None:
                return asked._replace(errno=plan.errno or EPERM)
            again = redecide if plan.call.operation == "accept" else None
            call = plan.call if asked.decision is None else with_value(plan.call, asked.decision)
            made = await self.perform(call, snapshot, task, valid, again)
            return made._replace(decision=made.decision or asked.decision)
        self._paths.on_wait = self.on_wait
        if isinstance(plan, ChangeXattr):
            xattrs = self._paths.rare.xattrs
            xattrs.calls.on_wait, xattrs.nodes = self.on_wait, self._paths.names.any
            return await xattrs.perform(
                plan, snapshot, task, valid, redecide, probe_only=probe_only
            )
        return await self._paths.perform(
            plan, snapshot, task, valid, redecide, probe_only=probe_only
        )

    @property
    def more(self) -> bool:
        """Whether a plan has left something to do until its caller had the answer."""
        return self._paths.more

    async def do_more(self) -> None:
        """Does that."""
        await self._paths.do_more()
