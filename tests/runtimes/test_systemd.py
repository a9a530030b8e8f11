"""seccompd.service under a systemd: activation, hardening, watchdog, restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from errno import ENODEV, ENOMEDIUM, ENOSYS

import pytest

from tests.support.booted import SYSTEMD, Booted, booted
from tests.support.handovers import POLICY
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.scratch import scratch

pytestmark = pytest.mark.needs(str(SYSTEMD))

PYTHON = os.path.realpath(sys.executable)
# A caller, and its hand-over: in the pid namespace of the daemon.
CALLER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tests.support.handovers import Caller, hand_over
caller = Caller(Path("/run/test"))
hand_over(SimpleNamespace(socket="/run/seccompd/oci.sock"), caller, "one")
print(caller.said.name, flush=True)
caller.let_go()
sys.stdin.read()
caller.close()
"""
GRANTS = """
version: 1
match: {door: attach}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
"""


@pytest.fixture(scope="module")
def machine(root: Person) -> Iterator[Booted]:
    assert root.name is None
    with scratch(0o755) as place:
        (place / "policies").mkdir()
        for name, text in (("host", POLICY), ("grants", GRANTS)):
            (place / "policies" / f"{name}.yaml").write_text(text)
        settings = {"policies": "/run/test/policies", "doors": ["oci", "lxc", "attach"]}
        with booted(place, PYTHON, settings) as found:
            yield found


class Inside:
    """A caller inside, which is the container "one" of the daemon there."""

    def __init__(self, machine: Booted) -> None:
        self._process = subprocess.Popen(
            machine.inside([PYTHON, "-c", CALLER]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        name = self._process.stdout.readline().decode().strip()
        assert name, machine.said() + str(self._process.communicate()[1])
        self._said = machine.place / name

    def errnos(self) -> list[int]:
        return [int(one) for one in self._said.read_text().split()] if self._said.exists() else []

    def goes_on(self) -> None:
        """Waits until it gets what the policy says, some times more."""
        have = len(self.errnos())
        wait_for(lambda: self.errnos()[have:].count(ENODEV), lambda count: count > 3)

    def close(self) -> None:
        self._process.communicate(timeout=20)


def pid(machine: Booted) -> int:
    """The daemon's, inside."""
    return int(machine.show("seccompd.service", "MainPID"))


def kill(machine: Booted, number: signal.Signals) -> None:
    machine.systemctl("kill", "--kill-whom=main", f"--signal={number.name}", "seccompd.service")


def test_a_life(machine: Booted) -> None:
    """From the first connection to its stop. No call of a container is lost but by the last."""
    machine.systemctl("start", "seccompd.socket", "seccompd-lxc.socket", "seccompd-attach.socket")
    assert machine.show("seccompd.service", "ActiveState") == "inactive"
    caller = Inside(machine)
    try:
        caller.goes_on()

        def shows(name: str, value: str) -> None:
            """Waits until systemd has heard of it."""
            wait_for(lambda: machine.show("seccompd.service", name), lambda found: found == value)

        def kept(count: int) -> None:
            shows("NFileDescriptorStore", str(count))

        shows("ActiveState", "active")  # the socket started it
        shows("StatusText", "oci, lxc, attach; 2 policies")
        kept(3)
        first = pid(machine)
        kill(machine, signal.SIGKILL)
        caller.goes_on()
        assert machine.show("seccompd.service", "NRestarts") == "1"
        second = pid(machine)
        assert second != first
        machine.systemctl("reload", "seccompd.service")
        assert pid(machine) == second
        caller.goes_on()
        machine.systemctl("restart", "seccompd.service")
        caller.goes_on()
        third = pid(machine)
        assert third != second
        kill(machine, signal.SIGSTOP)  # its loop does not turn: the watchdog ends it
        wait_for(lambda: pid(machine), lambda found: found not in (0, third))
        caller.goes_on()
        assert set(caller.errnos()) <= {ENODEV, ENOMEDIUM}, "that for what was in flight"
        kept(3)
        machine.systemctl("stop", "seccompd.socket", "seccompd.service")
        wait_for(lambda: caller.errnos()[-1:], lambda last: last == [ENOSYS])
    finally:
        caller.close()
        machine.systemctl("stop", "seccompd.service", check=False)


def test_a_command_of_a_users(machine: Booted, user: Person) -> None:
    """The hardening leaves it what it needs: helpers, makers, mounts."""
    machine.systemctl("start", "seccompd.socket", "seccompd-attach.socket")
    script = "cd $(mktemp -d); mknod n c 1 3; echo x >n; stat -c %F n"
    words = ["setpriv", "--reuid", str(user.uid), "--regid", str(user.gid), "--clear-groups", "--",
             "env", f"HOME={user.home}", PYTHON, "-m", "supervisor", "run",
             "--attach=/run/seccompd/attach.sock", "--", "sh", "-ec", script]  # fmt: skip
    done = subprocess.run(
        machine.inside(words), check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "character special file\n", done.stderr + machine.said()
    machine.systemctl("stop", "seccompd.service")
