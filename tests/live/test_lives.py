"""What is left of many containers' lives: no process, no descriptor, and an idle daemon."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from errno import ENODEV

import pytest

from tests.support.daemon import Daemon, serving
from tests.support.handovers import POLICY, connect, send, state
from tests.support.inside import cpu_seconds, wait_for
from tests.support.listener import Listened
from tests.support.people import Person
from tests.support.policies import policy
from tests.support.scratch import scratch


@pytest.fixture
def daemon(root: Person) -> Iterator[Daemon]:
    with scratch(0o755) as place, serving(root, place, {"host": POLICY}) as found:
        yield found


def live(daemon: Daemon, number: int) -> None:
    """One container from its start to its end, which calls once."""
    program = "/usr/bin/perl"
    # syscall(133) is mknod; the status is its errno
    code = 'my $p = "/none/x"; exit(syscall(133, $p, 0x21b6, 0x103) == 0 ? 0 : $! + 0)'
    listened = Listened(policy(POLICY, "none"), [program, "-e", code])
    try:
        with connect(daemon) as sock:
            container = {"id": f"life-{number}", "pid": 0}
            send(sock, state(state=container), [listened.listener])
            assert listened.status() == ENODEV
    finally:
        listened.close()


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.soak)])
def test_after_many_lives(daemon: Daemon, count: int) -> None:
    live(daemon, 0)
    wait_for(lambda: daemon.ours("session"), lambda found: not found)
    before = daemon.held()
    for number in range(1, count):
        live(daemon, number)
    wait_for(lambda: daemon.ours("session"), lambda found: not found)
    wait_for(lambda: daemon.ours("path") + daemon.ours("make"), lambda found: not found)
    wait_for(lambda: daemon.ask("ps"), lambda rows: rows == [])
    assert daemon.ask("stats")["taken"] == count
    wait_for(daemon.held, lambda now: now == before)
    ours = [daemon.pid, *daemon.ours("zygote"), *daemon.ours("second")]
    used = sum(map(cpu_seconds, ours))
    signal.sigtimedwait([], 1.0)
    assert sum(map(cpu_seconds, ours)) - used <= 0.02, "2 % of a processor"
