"""Carrying plans out: the way of one call through resolver and maker.

The work itself is a machine in C (csrc/work.c), which asks, waits some hundred microseconds for the
answer, and only then comes back to be put to sleep in trio. So the usual call goes through here
without the scheduler. Every error ends in an errno, never in `continue`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from errno import EPERM, ESRCH
from typing import Any, Final

import trio

from supervisor.engine import act_directories
from supervisor.engine.act_rare import RareActors, RarePlan
from supervisor.engine.fuse_servers import UMOUNT_DEADLINE
from supervisor.engine.helpers import HelperError, Maker, Makers, Resolvers
from supervisor.engine.limits import DEFAULT, Limits
from supervisor.engine.names import LiveNodes
from supervisor.engine.realise import PROBE, Realiser
from supervisor.engine.said import Policy, Traits
from supervisor.engine.waiting import Waiting
from supervisor.engine.works import NOT_BEGUN, Job, fill, lend, let_go, path_of, tell_makers
from supervisor.kernel.shim import lib
from supervisor.kernel.spawn import Helper
from supervisor.kernel.syscalls import CallSpec
from supervisor.kernel.task import open_task
from supervisor.model import Decision, Facts, Outcome, Settings, Snapshot, Verdict
from supervisor.plans import MakeDirectory, MakeNode, NoPathWork, Open, Plan, Unmount

LINGER_US: Final = 300
_GRACE: Final = 0.5
_ATTEMPTS: Final = 3
_MOST_IDLE_JOBS: Final = 4
_DONE: Final[int] = lib.SD_WORK_DONE
_WAIT: Final[int] = lib.SD_WORK_WAIT
_RETIRE: Final[int] = lib.SD_WORK_RETIRE
_LOST: Final[int] = lib.SD_WORK_LOST
_LONG: Final[int] = lib.SD_WORK_LONG
_AS_WRITTEN: Final[int] = lib.SD_WORK_WANT_PATH | lib.SD_WORK_AS_WRITTEN
_WAS_NODE: Final[int] = lib.SD_WAS_NODE
_make: Final = lib.sd_work_make


class Actor:
    """Carries out the plans of one session, but those about sockets.

    `userns`: the target has a user namespace of its own, and this process is in it; without one
    there are real nodes or none, for a mount would be one of the host's. `resumed`: an earlier
    session of this container may have left nodes behind that this one has not made. `on_wait` is
    called before each time that `perform` goes to sleep.
    """

    patient: Final = 0  # nothing here waits for the outside world

    def __init__(
        self, *, userns: bool, traits: Traits, policy: Policy, maker_socks: list[int],
        limits: Limits = DEFAULT, resumed: bool = False,
        uids: Sequence[tuple[int, int, int]] | None = None,
        gids: Sequence[tuple[int, int, int]] | None = None,
        report: Callable[..., None] | None = None, real_nodes: bool = True,
        resolver: Helper | None = None,
    ) -> None:
        self._realiser = Realiser(
            may_bind=userns and traits.nodes != "none",
            host=traits.nodes == "host" and not maker_socks,
            real_nodes=real_nodes,
        )
        self._on_error = policy.on_error
        self._deadline = limits.path
        self.resolvers = self._resolvers = Resolvers()
        self._makers = Makers(maker_socks)
        self._jobs: list[Job] = []
        self.names = LiveNodes(known=not resumed)
        self.rare = RareActors(
            self._resolvers, self._makers, policy, limits,
            uids=uids if userns else None, gids=gids, report=report,
        )  # fmt: skip
        self.on_wait: Callable[[], None] = lambda: None
        self._resolvers.prepare(resolver)

    def take(self, policy: Policy, maker_socks: list[int] | None, limits: Limits) -> None:
        """Goes by another policy from now on; with other makers, where there are any."""
        self._on_error = policy.on_error
        self._deadline = limits.path
        self.rare.take(policy, limits)
        if maker_socks is not None:
            self._makers.replace(maker_socks)

    def concerned(self, spec: CallSpec) -> bool:
        """Whether a companion's call may concern us; where nothing of ours is there it does not."""
        if spec.family == "loops":
            return True
        return self.names.any or (spec.family == "umounts" and self.rare.any_mounts)

    @property
    def abandoned(self) -> int:
        """How many resolvers hang and do not die."""
        return self._resolvers.abandoned

    def rest(self) -> bool:
        """Lets go of what was needed for a burst alone; False: not all helpers have ended yet."""
        lib.sd_forget_callers()
        return self._resolvers.rest()

    def close(self) -> None:
        """Ends the helpers."""
        self.rare.close()
        self._resolvers.close()
        self._makers.close()

    @property
    def more(self) -> bool:
        """Whether a plan has left something to do until its caller had the answer."""
        return self.rare.more

    async def do_more(self) -> None:
        """Does that."""
        await self.rare.mounter.programs.do_more()

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
        """Carries `plan` out for the caller whose /proc/TID `task` is (O_PATH).

        With `redecide` the path is resolved first, and the call granted only if that grants it.
        `probe_only`: nothing is made; the answer is what the caller's own mknod would come to.
        """
        if isinstance(plan, RarePlan):
            return await self.rare.perform(
                plan, snapshot, task, valid, redecide, self.on_wait, probe_only=probe_only
            )
        if not isinstance(plan, MakeDirectory) and (done := await self._names_first(plan, task)):
            return done
        job = self._new_job(plan, snapshot)
        job.work.task = task
        job.ask(valid, redecide)
        job.probe_only = probe_only
        return await self._carry_out(job)

    async def _names_first(self, plan: Plan, task: int) -> Outcome | None:
        """What comes before work on names of nodes of ours; an outcome where that is all."""
        if isinstance(plan, Unmount):
            await self.rare.umounts.prepare(self.on_wait)
        ours = isinstance(plan, Unmount) and self.rare.umounts.concerned(plan)
        if not ours and not isinstance(plan, MakeNode) and self.names.surely_foreign(plan, task):
            return Outcome(0, left_alone=True)
        if self._makers.lost:
            return Outcome(self._on_error, "maker: lost")
        self.names.expect(plan)
        if self._realiser.host and not isinstance(plan, Unmount):
            self.names.bound()  # all that an ordinary user makes are bind mounts
        return None

    def at_once(self, plan: Plan, snapshot: Snapshot, decision: Decision) -> Any:
        """The short way of a node that is granted, which takes a maker alone: what it came to.

        None: nothing has begun, and `perform` is to do it. A job: it takes longer, and `finish` has
        to be awaited.
        """
        if isinstance(plan, Open):
            return self.rare.opener.at_once(plan, snapshot)
        if (
            not isinstance(plan, MakeNode)
            or decision.verdict is not Verdict.EMULATE
            or (decision.needs_facts and not decision.as_written)
        ):
            return None
        maker = self._makers.pick()
        if maker is None or maker.busy[0]:
            return None
        self.names.expect(plan)
        job = self._new_job(plan, snapshot)
        if decision.needs_facts:
            job.wanted = _AS_WRITTEN
        job.maker = maker
        lend(job.work, maker)
        job.work.resolver = -1
        job.result = self._start(job)
        if job.result != _DONE:
            return job
        outcome = self._outcome(job)
        self._jobs.append(job)
        return outcome

    async def finish(
        self, job: Job, valid: Callable[[], bool], redecide: Callable[[Facts], Decision] | None
    ) -> Outcome:
        """Goes on with what `at_once` has begun; the rest is as in `perform`."""
        job.ask(valid, redecide)
        outcome = await self._with(None, job)
        if outcome is not None:
            self._jobs.append(job)
            return outcome
        try:
            job.work.task = open_task(job.work.tid)
        except OSError:
            lib.sd_work_close(job.work)
            return Outcome(self._on_error, "the caller has gone")
        try:
            return await self._carry_out(job)
        finally:
            os.close(job.work.task)

    # -- one work

    def _new_job(self, plan: Plan, snapshot: Snapshot) -> Job:
        job = self._jobs.pop() if self._jobs else Job()
        job.begin(plan, snapshot)
        return job

    async def _carry_out(self, job: Job) -> Outcome:
        try:
            for _ in range(_ATTEMPTS):
                resolver = self._resolvers.idle()
                if resolver is None:
                    resolver = await self._resolvers.take(self.on_wait)
                outcome = await self._with(resolver, job)
                if outcome is None:
                    continue
                if isinstance(job.plan, Unmount) and not outcome.errno:
                    await self.rare.umounts.written(job.work, job.plan, job.valid, self.on_wait)
                return outcome
            return Outcome(self._on_error, "path: the caller's groups cannot be taken")
        except HelperError as error:
            return Outcome(self._on_error, str(error))
        finally:
            lib.sd_work_close(job.work)
            if len(self._jobs) < _MOST_IDLE_JOBS:
                self._jobs.append(job)

    async def _with(self, resolver: Helper | None, job: Job) -> Outcome | None:
        """None: this resolver cannot become that caller, another one can; or it takes one."""
        work = job.work
        result = _LOST
        try:
            work.resolver = -1 if resolver is None else resolver.sock
            result, job.result = job.result, NOT_BEGUN
            if result == NOT_BEGUN:
                job.maker = self._makers.pick()
                lend(work, job.maker)
                result = self._start(job)
            elif result == _LONG and resolver is not None:
                result = lib.sd_work_go(work, LINGER_US)
            if result != _DONE:
                outcome = await self._go_on(job, result)
                result = _RETIRE if outcome is None else _WAIT
                return outcome
            await self._count_names(job)
            return self._outcome(job)
        finally:
            let_go(job, resolver, result, self._resolvers, self._makers)

    async def _go_on(self, job: Job, result: int) -> Outcome | None:
        """What did not come to its end at once. None: this resolver cannot become that caller."""
        work = job.work
        until: float | None = None
        begun = 0
        while result != _DONE:
            maker = job.maker
            if result == _WAIT:
                if until is None or work.begun != begun:  # an umount may have much to write
                    begun = work.begun
                    until = trio.current_time() + (UMOUNT_DEADLINE if begun else self._deadline)
                if await self._readable(work.waiting, until):
                    result = lib.sd_work_step(work, LINGER_US)
                    continue
                if maker is None or work.waiting != maker.sock:
                    return Outcome(self._on_error, "path: deadline")
                result = self._without_maker(job, maker)
                until += _GRACE
            elif result == lib.SD_WORK_DECIDE:
                refusal = self._second_look(job)
                if refusal is None:
                    result = lib.sd_work_go(work, LINGER_US)
                elif work.guess:  # it may be a symlink to where it is granted
                    result = lib.sd_work_resolve(work, LINGER_US)
                else:
                    return refusal
            elif result == lib.SD_WORK_BUSY:
                self.on_wait()
                with trio.move_on_after(self._deadline):
                    await self._makers.wait()
                job.maker = self._makers.pick()
                lend(work, job.maker)
                if job.maker is None:
                    result = lib.sd_work_undo(work, -self._on_error, LINGER_US)
                else:
                    result = lib.sd_work_go(work, LINGER_US)
            elif result == _RETIRE:
                return None
            elif result == _LONG:
                job.result = _LONG
                return None
            elif maker is not None and work.waiting == maker.sock:
                result = self._without_maker(job, maker)
            else:
                return Outcome(self._on_error, "path: the resolver has gone")
        await self._count_names(job)
        return self._outcome(job)

    async def _readable(self, fd: int, until: float) -> bool:
        self.on_wait()
        with trio.move_on_at(until):
            await trio.lowlevel.wait_readable(fd)
            return True
        return False

    def _without_maker(self, job: Job, maker: Maker) -> int:
        """It has gone, or does not answer: what was placed for its node is taken back."""
        self._makers.lose(maker)
        job.maker = None
        lend(job.work, None)
        return int(lib.sd_work_undo(job.work, -self._on_error, LINGER_US))

    def _start(self, job: Job) -> int:
        work, plan = job.work, job.plan
        if isinstance(plan, MakeNode):
            flags = self._flags(job, plan, plan.settings)
            if job.wanted and not job.probe_only:
                # The second look says what becomes of it, also where it could not be made.
                flags = (flags & ~PROBE) | job.wanted
            place = plan.place
            path = place.path or b""
            return int(_make(
                work, flags, plan.mode, *plan.device, place.dirfd, path, len(path), LINGER_US
            ))  # fmt: skip
        if isinstance(plan, MakeDirectory):
            act_directories.fill(job, plan)
        elif isinstance(plan, NoPathWork):
            raise TypeError("this is not path work")
        else:
            fill(work, plan)
        if isinstance(plan, Unmount):
            self.rare.umounts.fill(work, plan)
        return int(lib.sd_work_start(work, LINGER_US))

    def _flags(self, job: Job, plan: MakeNode, settings: Settings) -> int:
        return self._realiser.flags(job, plan, settings, makers=bool(self._makers.all))

    def _second_look(self, job: Job) -> Outcome | None:
        """Why a call that was granted for what the caller wrote is refused after all; or None."""
        work, plan = job.work, job.plan
        if isinstance(plan, MakeDirectory):
            return act_directories.second_look(job, self._on_error)
        path = path_of(work)
        if not isinstance(plan, MakeNode) or job.redecide is None:
            raise TypeError("nothing to decide")
        decision = job.decision = job.redecide(Facts(path, work.fsuid, work.fsgid))
        if decision.verdict is not Verdict.EMULATE:
            return Outcome(EPERM, path=path, decision=decision)
        if not job.valid():
            return Outcome(self._on_error, "the caller has gone", decision=decision)
        if not isinstance(decision.settings, Settings):
            raise TypeError("a node with the settings of something else")
        work.flags = self._flags(job, plan, decision.settings)
        if work.flags & PROBE:
            return Outcome(EPERM, job.lack, path, decision=decision)
        return None

    async def _count_names(self, job: Job) -> None:
        """Lets the makers keep the link count of a node, after an error, too."""
        if job.work.outcome & (lib.SD_WAS_UNBOUND | lib.SD_WAS_LINKED):
            ended = tell_makers(self._makers, job.work)
            if ended >= 0:
                try:  # what the caller looks at next shows it, unless a maker is very busy
                    await self._readable(ended, trio.current_time() + self._deadline)
                finally:
                    os.close(ended)

    def _outcome(self, job: Job) -> Outcome:
        work = job.work
        outcome, error = work.outcome, -work.error
        if isinstance(job.plan, Unmount):
            self.rare.umounts.done(work)
        path = path_of(work) if job.wanted else None
        if outcome == _WAS_NODE and not error:
            return Outcome(0, "node", path, False, job.decision)
        if outcome & lib.SD_WAS_LEFT_ALONE:
            return Outcome(0, left_alone=True)
        if error:
            how = job.lack if error == EPERM else ""
            if error == ESRCH:  # no answer of any of these calls: the caller is exiting
                error, how = self._on_error, "the caller has gone"
            return Outcome(error, how, path, decision=job.decision)
        if outcome & lib.SD_WAS_BOUND:
            self.names.bound()
        how = job.made or ("unmounted" if isinstance(job.plan, Unmount) else "bind")
        return Outcome(0, how, path, decision=job.decision)
