"""The watchdog, with a real zygote, real sessions and a real listener."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from errno import ENODEV, ENOMEDIUM
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

import pytest

from supervisor.daemon.events import Events
from supervisor.daemon.forks import Forks
from supervisor.daemon.keeper import Keeper
from supervisor.engine.config import SessionConfig
from supervisor.engine.limits import Limits, Pace
from supervisor.policy.traits import Traits
from tests.support.listener import Listened
from tests.support.policies import policy
from tests.support.tracing import SYS_SENDMSG, held_before

POLICY = policy(
    "version: 1\non_error: ENOMEDIUM\nsyscalls:\n  mknod:\n    - {do: {errno: ENODEV}}\n", "none"
)
CONFIG = SessionConfig(
    "test", POLICY, Traits("none"), None, None, False, None, None, True, False, False
)
# One errno for each line that it is sent.
CALLER = """
import os, sys
asked, said = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY)
while os.read(asked, 1):
    try:
        os.mknod("/none/x", 0o20666, 0x103)
    except OSError as error:
        os.write(said, b"%d\\n" % error.errno)
"""


class Kept:
    """A keeper with one caller; `loop` polls as the front does."""

    def __init__(self, tmp_path: Path, limits: Limits, **more: Any) -> None:
        """`more`: for the keeper."""
        asked, said = tmp_path / "asked", tmp_path / "said"
        os.mkfifo(asked)
        os.mkfifo(said)
        self.events = Events()
        self.forks = Forks(self.events, lambda: CONFIG, limits)
        self.keeper = Keeper(
            self.events, self.forks, name="test", on_error=ENOMEDIUM, limits=limits,
            **{"lasting": False, **more},
        )
        self.listened = Listened(POLICY, [sys.executable, "-c", CALLER, str(asked), str(said)])
        self.asked = os.open(asked, os.O_WRONLY)
        self.said = os.open(said, os.O_RDONLY)
        self.keeper.add(os.dup(self.listened.listener))
        self.keeper.start()

    def loop(self, until: Callable[[], bool]) -> None:
        for _ in range(3000):
            if until():
                return
            select.select([self.events], [], [], 0.01)
            self.events.dispatch()
        raise AssertionError("it did not come to that")

    def errno(self) -> int:
        """What one call of the caller comes to."""
        os.write(self.asked, b"x")
        self.loop(lambda: bool(select.select([self.said], [], [], 0)[0]))
        return int(os.read(self.said, 20))

    def session(self) -> int:
        """The pid of the session that serves now."""
        self.loop(lambda: len(self.sessions()) == 1)
        return self.sessions()[0]

    def sessions(self) -> list[int]:
        return [
            child
            for zygote in children(os.getpid()) if name(zygote) == "seccompd-zygote"
            for child in children(zygote) if name(child).startswith("seccompd-sess")
        ]  # fmt: skip

    def close(self) -> None:
        os.close(self.asked)
        os.close(self.said)
        self.listened.close()
        self.keeper.close()
        self.forks.close()
        self.events.close()


def children(pid: int) -> list[int]:
    try:
        return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.fixture
def kept(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Kept]:
    assert threading.active_count() == 1, "it forks"
    before = set(os.listdir("/proc/self/fd"))
    found = Kept(tmp_path, Limits(restarts=3), **getattr(request, "param", {}))
    yield found
    found.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert found.sessions() == []


def test_serves(kept: Kept) -> None:
    assert [kept.errno() for _ in range(3)] == [ENODEV] * 3
    assert kept.keeper.failed is None


def test_starts_another_session(kept: Kept, capfd: pytest.CaptureFixture[str]) -> None:
    assert kept.errno() == ENODEV
    first = kept.session()
    os.kill(first, signal.SIGKILL)
    kept.loop(lambda: kept.sessions() not in ([], [first]))
    assert kept.session() != first
    assert kept.errno() == ENODEV
    assert kept.keeper.failed is None
    assert "a session has died; 0 calls refused" in capfd.readouterr().err


def test_gives_up(kept: Kept, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        session = kept.session()
        os.kill(session, signal.SIGKILL)
        kept.loop(lambda dead=session: dead not in kept.sessions())  # type: ignore[misc]
    kept.loop(lambda: kept.keeper.failed is not None)
    assert kept.keeper.failed == "3 sessions have died one after the other"
    assert [kept.errno() for _ in range(3)] == [ENOMEDIUM] * 3
    assert kept.sessions() == []
    assert capfd.readouterr().err.count("is refused from now on") == 1


def test_a_zygote_that_dies(kept: Kept) -> None:
    assert kept.errno() == ENODEV
    (zygote,) = (pid for pid in children(os.getpid()) if name(pid) == "seccompd-zygote")
    session = kept.session()
    os.kill(zygote, signal.SIGKILL)
    kept.loop(lambda: kept.keeper.failed is not None)
    kept.loop(lambda: not name(session))  # it dies of the zygote's death, and answers until then
    assert kept.keeper.failed == "the zygote has died"
    assert [kept.errno() for _ in range(3)] == [ENOMEDIUM] * 3


@pytest.mark.parametrize("kept", [{"lasting": True, "pace": Pace(1)}], indirect=True)
def test_a_pause_that_ends_beside_a_session(kept: Kept) -> None:
    """Who refuses waits for its turn; then there is a policy, and a session that receives."""
    kept.session()
    kept.keeper.give_up("no policy")
    kept.loop(lambda: kept.keeper.session_pid is None)
    assert [kept.errno() for _ in range(2)] == [ENOMEDIUM] * 2
    kept.keeper.take_up()
    assert kept.errno() == ENODEV
    later = monotonic() + 1.2
    kept.loop(lambda: monotonic() > later)
    listener = kept.keeper.slots[0].fd
    lines = Path(f"/proc/self/fdinfo/{kept.events.fileno()}").read_text().splitlines()
    (waits,) = (line.split()[3] for line in lines if line.split()[:2] == ["tfd:", str(listener)])
    assert not int(waits, 16) & select.EPOLLIN
    assert kept.errno() == ENODEV


def test_a_deadline_that_has_gone_off(kept: Kept) -> None:
    """Whoever begins to read then has to arm it again, however short ago it did so."""
    assert kept.errno() == ENODEV
    watch = kept.keeper.slots.watch(0)
    for _ in range(3):
        kept.loop(lambda: watch.armed_at == 0)
        assert kept.errno() == ENODEV


@pytest.mark.parametrize("kept", [{"lasting": True}], indirect=True)
def test_a_deadline_before_it_is_known_who_reads(
    kept: Kept, capfd: pytest.CaptureFixture[str]
) -> None:
    """The zygote has forked a session, and takes long to say so."""
    os.kill(kept.session(), signal.SIGKILL)
    kept.loop(lambda: not kept.keeper.busy)
    (zygote,) = (pid for pid in children(os.getpid()) if name(pid) == "seccompd-zygote")
    watch = kept.keeper.slots.watch(0)
    with held_before(zygote, SYS_SENDMSG, begin=kept.keeper.start):
        first = kept.session()
        watch.reading_since = monotonic_ns()  # as if it never came back from that
        later = monotonic() + 0.3
        kept.loop(lambda: monotonic() > later)
    kept.loop(lambda: kept.sessions() not in ([], [first]) or not kept.keeper.busy)
    assert "made the reading of its memory hang" in capfd.readouterr().err
    assert kept.errno() == ENODEV


@pytest.mark.parametrize("kept", [{"lasting": True}], indirect=True)
def test_the_end_of_a_session_that_does_not_die(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads memory that never comes, of a caller that has gone: the container ends still."""
    ended: list[int] = []
    kept.keeper.on_end = lambda: ended.append(1)
    assert kept.errno() == ENODEV  # one without makers the zygote would end
    session = kept.session()
    os.kill(session, signal.SIGSTOP)
    for module in ("keeper", "endings"):
        monkeypatch.setattr(f"supervisor.daemon.{module}.kill", lambda _: None)
    kept.listened.close()
    kept.loop(lambda: bool(ended))
    assert ended == [1]
    os.kill(session, signal.SIGKILL)


def test_nobody_to_serve(tmp_path: Path) -> None:
    """A launch that failed: the zygote has nothing to wait for."""
    before = set(os.listdir("/proc/self/fd"))
    events = Events()
    forks = Forks(events, lambda: CONFIG)
    keeper = Keeper(events, forks, name="test", on_error=ENOMEDIUM)
    keeper.close()
    forks.close()
    events.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert [pid for pid in children(os.getpid()) if name(pid) == "seccompd-zygote"] == []
