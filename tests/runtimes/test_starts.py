"""A runtime's own calls below a strict filter, and that nobody else gets what they get."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from errno import ENOMEDIUM
from pathlib import Path

import pytest

from tests.support.bundles import Bundle, bundle, profile
from tests.support.daemon import Daemon, run, serving
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.scratch import a_place, compile_c

# No rule is about any of the calls that are notified here, so that all of them are refused.
STRICT = """
version: 1
on_error: ENOMEDIUM
match: {door: oci}
syscalls:
  mknod: []
"""
# What a runtime calls between the filter and the program, and a program can call as well.
CALLS = ["chdir", "prctl", "capset", "setresuid", "setresgid", "setgroups", "execve", "fchdir"]

place = a_place(0o755)


@pytest.fixture
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"strict": STRICT}) as found:
        yield found


@pytest.fixture(params=["runc", "crun"])
def box(request: pytest.FixtureRequest, daemon: Daemon, place: Path) -> Iterator[Bundle]:
    notify = [{"names": CALLS, "action": "SCMP_ACT_NOTIFY"}]
    with bundle(place, profile(daemon.socket, notify), runtime=request.param) as found:
        shutil.copy(compile_c("unexecuted", place, "-static", "-pthread"), found.root / "bin")
        yield found


def refused(daemon: Daemon) -> list[str]:
    return [one["syscall"] for one in daemon.all_records() if one.get("verdict") == "errno"]


def continued(daemon: Daemon) -> list[str]:
    return [one["syscall"] for one in daemon.all_records() if one.get("rule") == "runtime"]


def test_a_start_goes_on_and_the_program_does_not(daemon: Daemon, box: Bundle) -> None:
    done = box.run("echo started; cd /tmp; echo $?; /bin/true; echo $?")
    assert done.stdout.splitlines() == ["started", "2", "126"]
    assert "No medium found" in done.stderr
    assert continued(daemon), "the runtime called"
    chdir, execve, prctl = 80, 59, 157
    assert set(refused(daemon)) == {f"syscall_{nr:#x}" for nr in (chdir, execve, prctl)}


def test_an_exec_goes_on_and_the_program_does_not(daemon: Daemon, box: Bundle) -> None:
    name = box.start()
    done = box.exec(name, "echo started; cd /tmp; echo $?; /bin/true; echo $?")
    assert done.stdout.splitlines() == ["started", "2", "126"]
    assert len(daemon.ours("session")) == 1


def test_tasks_that_have_executed_nothing_are_no_runtimes(daemon: Daemon, box: Bundle) -> None:
    """The kernel's mark is on them, too."""
    name = box.start()
    done = run(box.command("exec", name, "/bin/unexecuted"))
    expected = {"thread", "child", "childs_thread", "brother", "itself"}
    said = f"{done} {daemon.log()}"
    assert set(done.stdout.splitlines()) == {f"{who} {ENOMEDIUM}" for who in expected}, said
    done = box.run("", args=["/bin/unexecuted"])
    assert set(done.stdout.splitlines()) == {
        f"{who} {ENOMEDIUM}" for who in expected - {"brother"}
    }


def test_a_runtime_that_has_gone_before_it_is_looked_at(daemon: Daemon, place: Path) -> None:
    """As under load: `runc create` has ended when the daemon accepts."""
    notify = [{"names": ["execve"], "action": "SCMP_ACT_NOTIFY"}]
    with bundle(place, profile(daemon.socket, notify)) as box:
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            name = box.create("/bin/sh", "-c", "echo started >/tmp/said; sleep 1000")
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        wait_for(lambda: "policy strict" in daemon.log(), bool)
        assert run(box.command("start", name)).returncode == 0
        wait_for((box.root / "tmp/said").exists, bool)


def test_without_a_runtime_that_can_be_told_nothing_goes_on(daemon: Daemon, box: Bundle) -> None:
    """A runtime in another pid namespace names a process of ours that has nothing to do with it."""
    words = box.command("run", "-b", str(box.path), box.prepare(["/bin/sh", "-c", "echo started"]))
    done = run(["unshare", "--pid", "--fork", "--mount-proc", *words])
    assert "started" not in done.stdout
    assert continued(daemon) == []
