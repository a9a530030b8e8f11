"""The loop, on a real listener: one answer for each call, whatever the actor does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from errno import EBUSY, EFAULT, EIO, ENODEV, EPERM
from pathlib import Path

import pytest
import trio

from supervisor.engine.decide import Judge
from supervisor.engine.recent import MissedAnswers
from supervisor.engine.session import Session
from supervisor.engine.snapshot import Receiver
from supervisor.engine.waiting import Waiting
from supervisor.engine.works import Job
from supervisor.handlers.base import UnreadableArgument
from supervisor.kernel.syscalls import CallSpec
from supervisor.model import Decision, Facts, Outcome, Snapshot
from supervisor.plans import MakeNode, Plan
from supervisor.policy.compiled import CompiledPolicy
from tests.support.inside import wait_for
from tests.support.listener import Listened, deadline_timer, watch
from tests.support.policies import mknod

ON_ERROR = EPERM
# Makes each named node from a thread of its own; says what came of it.
CALLER = """
import errno, os, sys, threading
said = {}
def make(name):
    try:
        os.mknod(name, 0o20666, 0x103)
        said[name] = 0
    except OSError as error:
        said[name] = error.errno
threads = [threading.Thread(target=make, args=(name,)) for name in sys.argv[2:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with open(sys.argv[1], "w") as file:
    print(*(said[name] for name in sys.argv[2:]), file=file)
"""


class Actor:
    """Carries nothing out, and says what it is told to say."""

    patient = 0
    more = False

    def __init__(self, act: Callable[[MakeNode], Outcome]) -> None:
        self.act = act
        self.on_wait: Callable[[], None] = lambda: None
        self.plans: list[MakeNode] = []
        self.slow: dict[bytes | None, trio.Event] = {}
        self.succeeds = False

    def concerned(self, spec: CallSpec) -> bool:
        return False

    def rest(self) -> bool:
        return True

    def at_once(self, plan: Plan, snapshot: Snapshot, decision: Decision) -> None:
        pass

    async def do_more(self) -> None:
        raise AssertionError("there is nothing more")

    async def finish(
        self, job: Job, valid: Callable[[], bool], redecide: Callable[[Facts], Decision] | None
    ) -> Outcome:
        raise AssertionError("nothing has begun")

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
        assert isinstance(plan, MakeNode)
        assert valid()
        if self.succeeds:
            valid.succeed()
        self.plans.append(plan)
        event = self.slow.get(plan.place.path)
        if event is not None:
            self.on_wait()
            await event.wait()
        else:
            for waiting in self.slow.values():
                waiting.set()
        return self.act(plan)


def served(
    policy: CompiledPolicy, actor: Actor, tmp_path: Path, *names: str, code: str = CALLER,
    missed: MissedAnswers | None = None,
) -> tuple[list[int], Session]:
    """The errnos that a process gets for its nodes, 0 for success."""
    said = tmp_path / "said"
    listened = Listened(policy, [sys.executable, "-c", code, str(said), *names])
    try:
        receiver = Receiver(listened.listener, deadline_timer(), watch(), policy.calls)
        judge = Judge(policy, kernel_refuses=True)
        session = Session(receiver, judge, actor, on_error=ON_ERROR, missed=missed)

        async def run() -> None:
            with trio.fail_after(60):
                await session.run()

        trio.run(run)
        return [int(word) for word in said.read_text().split()], session
    finally:
        listened.close()


GRANTS = mknod("{do: emulate}", nodes="private")


def test_calls_are_carried_out_and_counted(tmp_path: Path) -> None:
    actor = Actor(lambda plan: Outcome(EBUSY if plan.place.path == b"b" else 0))
    assert served(GRANTS, actor, tmp_path, "a", "b", "c")[0] == [0, EBUSY, 0]
    assert sorted(plan.place.path or b"" for plan in actor.plans) == [b"a", b"b", b"c"]


def test_rules_that_settle_it_reach_no_actor(tmp_path: Path) -> None:
    actor = Actor(lambda _: Outcome(EIO))
    policy = mknod("{do: {errno: ENODEV}}", nodes="private")
    said, session = served(policy, actor, tmp_path, "a", "b")
    assert (said, actor.plans) == ([ENODEV, ENODEV], [])
    assert (session.totals.calls, session.totals.refused) == (2, 2)


def test_nobody_waits_behind_a_slow_call(tmp_path: Path) -> None:
    """The slow one ends only after the other has been carried out: a loop that waits would hang."""
    actor = Actor(lambda _: Outcome(0))
    actor.slow[b"slow"] = trio.Event()
    assert served(GRANTS, actor, tmp_path, "slow", "other")[0] == [0, 0]


# Makes nodes as CALLER does, and then waits for a file.
WAITING = (
    CALLER
    + """
import time
for _ in range(500):
    if os.path.exists(sys.argv[1] + ".rested"):
        break
    time.sleep(0.02)
else:
    open(sys.argv[1], "w").write("nobody rested")
"""
)


def test_after_a_slow_call_there_is_rest(tmp_path: Path) -> None:
    """Helpers that a burst needed are let go, and reaped, although nobody calls any more."""

    class Resting(Actor):
        rested = 0

        def rest(self) -> bool:
            if len(self.plans) == 2:
                self.rested += 1
            if self.rested == 2:
                (tmp_path / "said.rested").touch()
            return self.rested != 1

    actor = Resting(lambda _: Outcome(0))
    actor.slow[b"slow"] = trio.Event()
    assert served(GRANTS, actor, tmp_path, "slow", "other", code=WAITING)[0] == [0, 0]


@pytest.mark.parametrize(
    ("raised", "errno"),
    [
        (RuntimeError("a defect"), ON_ERROR),
        (OSError(EIO, "helper"), ON_ERROR),
        (UnreadableArgument(EFAULT), EFAULT),
        (UnreadableArgument(EIO), ON_ERROR),
    ],
)
def test_every_error_is_a_refusal(raised: Exception, errno: int, tmp_path: Path) -> None:
    def act(_: MakeNode) -> Outcome:
        raise raised

    said, session = served(GRANTS, Actor(act), tmp_path, "a", "b")
    assert said == [errno, errno]
    assert session.totals.errors == (0 if isinstance(raised, UnreadableArgument) else 2)


@pytest.mark.parametrize("end", [Outcome(0), Outcome(EIO), RuntimeError("a defect")])
def test_success_can_be_told_early(end: Outcome | Exception, tmp_path: Path) -> None:
    """Its caller goes on before its plan has come to its end, and has no second answer."""

    def act(_: MakeNode) -> Outcome:
        wait_for((tmp_path / "said").exists, bool)
        if isinstance(end, Exception):
            raise end
        return end

    actor = Actor(act)
    actor.succeeds = True
    said, session = served(GRANTS, actor, tmp_path, "a")
    assert (said, session.totals.undelivered) == ([0], 0)


def test_where_an_answer_can_be_missed_it_comes_last(tmp_path: Path) -> None:
    actor = Actor(lambda _: Outcome(EIO))
    actor.succeeds = True
    assert served(GRANTS, actor, tmp_path, "a", missed=MissedAnswers())[0] == [EIO]


# The listener's reader is put into a pid namespace below the one that the caller is in.
ELSEWHERE = """
import sys
from pathlib import Path
import trio
from supervisor.engine.decide import Judge
from supervisor.engine.session import Session
from supervisor.engine.snapshot import Receiver
from tests.support.listener import deadline_timer, watch
from tests.unit.engine.test_session import Actor, GRANTS, ON_ERROR, Outcome

listener = int(sys.argv[1])
receiver = Receiver(listener, deadline_timer(), watch(), GRANTS.calls)
actor = Actor(lambda _: Outcome(0))
session = Session(receiver, Judge(GRANTS, kernel_refuses=True), actor, on_error=ON_ERROR)
trio.run(session.run)
print(session.totals.calls, len(actor.plans), receiver.call.tid)
"""


def test_callers_without_a_pid_are_refused(tmp_path: Path) -> None:
    """Rule 14: whoever is outside of our pid namespace is pid 0, and nobody can say who that is."""
    map_root = ["--map-root-user"] if os.geteuid() else []
    said = tmp_path / "said"
    listened = Listened(GRANTS, [sys.executable, "-c", CALLER, str(said), "a", "b"])
    try:
        done = subprocess.run(
            ["unshare", *map_root, "--pid", "--fork", "--kill-child",
             sys.executable, "-c", ELSEWHERE, str(listened.listener)],
            cwd=Path(__file__).parents[3],
            pass_fds=[listened.listener],
            capture_output=True,
            text=True,
            timeout=60,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == ("2 0 0\n", "")
        assert said.read_text().split() == [str(ON_ERROR)] * 2
    finally:
        listened.close()
