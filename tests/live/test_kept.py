"""Containers outlive the daemon where a service manager keeps their listeners for the next one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from errno import ENODEV, ENOMEDIUM, ENOSYS
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, serving
from tests.support.handovers import POLICY, Caller, hand_over
from tests.support.inside import wait_for
from tests.support.manager import Manager
from tests.support.people import Person
from tests.support.scratch import a_place

# What asks helpers: a call that they do not answer is in flight for as long as that takes.
EMULATED = POLICY.replace("{do: {errno: ENODEV}}", '{devices: ["null"], do: emulate}').replace(
    "syscalls:", "limits: {path: 60s}\nsyscalls:"
)
OF_ONE = 3  # card, watches and listener; these containers have no user namespace

place = a_place(0o755)


@pytest.fixture
def manager(place: Path) -> Iterator[Manager]:
    found = Manager(place)
    yield found
    found.close()


@pytest.fixture
def caller(place: Path) -> Iterator[Caller]:
    found = Caller(place)
    yield found
    found.close()


@pytest.fixture
def daemon(
    root: Person, place: Path, manager: Manager, request: pytest.FixtureRequest
) -> Iterator[Daemon]:
    policies = {"host": getattr(request, "param", POLICY)}
    with serving(root, place, policies, environ=manager.environ) as found:
        yield found


def start_again(daemon: Daemon, manager: Manager) -> None:
    daemon.lead = manager.start()
    daemon.start()


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_container_outlives_the_daemon(
    daemon: Daemon, manager: Manager, caller: Caller, how: str
) -> None:
    hand_over(daemon, caller, "one")
    caller.let_go()
    caller.served()
    before = daemon.container("one")
    manager.keeps(OF_ONE)
    for turn in (1, 2):
        if how == "killed":
            daemon.kill()
            assert daemon.started.wait_gone() == []
        else:
            daemon.stop()
        said = len(caller.errnos())
        signal.sigtimedwait([], 0.3)
        assert len(caller.errnos()) <= said + 1, "its calls wait"
        start_again(daemon, manager)
        caller.gets(ENODEV)
        row = daemon.container("one")
        assert (row["policy"], row["unnotified"], row["sessions"]) == ("host", [], 1 + turn)
        assert row["calls"] > before["calls"]
        assert row["age"] > before["age"]
        manager.keeps(OF_ONE)
    # (a call that was in flight got on_error)
    assert set(caller.errnos()) <= {str(ENODEV), str(ENOMEDIUM)}
    caller.close()
    wait_for(lambda: daemon.ask("ps"), lambda rows: rows == [])
    manager.keeps(0)


@pytest.mark.parametrize("daemon", [EMULATED], indirect=True)
def test_a_call_in_flight_is_refused(daemon: Daemon, manager: Manager, caller: Caller) -> None:
    hand_over(daemon, caller, "one")
    caller.let_go()
    wait_for(caller.errnos, bool)
    before = set(caller.errnos())
    for helper in daemon.ours("path") + daemon.ours("make"):
        os.kill(helper, signal.SIGSTOP)

    def known() -> tuple[int, int]:
        """Calls received, and answers written down."""
        return daemon.container("one")["calls"], len(caller.errnos())

    def known_twice() -> list[tuple[int, int]]:
        first = known()
        signal.sigtimedwait([], 0.3)  # what was answered before is written down meanwhile
        return [first, known()]

    wait_for(known_twice, lambda two: two[0] == two[1] and two[0][0] == two[0][1] + 1)
    manager.keeps(OF_ONE)
    daemon.kill()
    assert daemon.started.wait_gone() == []
    have = len(caller.errnos())
    start_again(daemon, manager)
    wait_for(lambda: len(caller.errnos()), lambda count: count > have)
    assert caller.errnos()[have] == str(ENOMEDIUM)
    daemon.said("oci:one: taken back; 1 calls refused")
    wait_for(lambda: set(caller.errnos()[have + 1 :]), lambda found: found == before)


def test_another_policy_when_it_comes_back(
    daemon: Daemon, manager: Manager, caller: Caller
) -> None:
    """The one that is the container's now; what its filter notifies is remembered."""
    hand_over(daemon, caller, "one")
    caller.let_go()
    caller.served()
    manager.keeps(OF_ONE)
    daemon.kill()
    file = daemon.place / "policies" / "host.yaml"
    file.write_text(POLICY.replace("ENODEV", "ENXIO") + "  mount:\n    rules: []\n")
    start_again(daemon, manager)
    wait_for(lambda: caller.errnos()[-1:], lambda last: last == ["6"])
    assert daemon.container("one")["unnotified"] == ["mount"]


@pytest.mark.parametrize("what", ["card", "watch", "another version"])
def test_what_is_not_whole_is_let_go_of(
    daemon: Daemon, manager: Manager, caller: Caller, what: str
) -> None:
    hand_over(daemon, caller, "one")
    caller.let_go()
    caller.served()
    manager.keeps(OF_ONE)
    daemon.kill()
    assert daemon.started.wait_gone() == []
    card = next(name for name in manager.kept if name.endswith("card"))
    if what == "another version":
        said = json.loads(os.pread(manager.kept[card], 1 << 16, 0))
        text = json.dumps({**said, "format": 0}).encode()
        os.pwrite(manager.kept[card], text, 0)
        os.ftruncate(manager.kept[card], len(text))
    else:
        os.close(manager.kept.pop(card.replace("card", what)))
    start_again(daemon, manager)
    manager.keeps(0)
    caller.gets(ENOSYS)
    assert daemon.ask("ps") == []
    daemon.said("that was kept is let go of")


def test_without_a_service_manager_nothing_is_kept(
    root: Person, place: Path, caller: Caller
) -> None:
    with serving(root, place, {"host": POLICY}) as daemon:
        hand_over(daemon, caller, "one")
        caller.let_go()
        caller.served()
        daemon.kill()
        caller.gets(ENOSYS)
        daemon.start()
        signal.sigtimedwait([], 0.2)
        assert set(caller.errnos()) <= {str(ENODEV), str(ENOMEDIUM), str(ENOSYS)}
