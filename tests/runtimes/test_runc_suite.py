"""What runc's own integration suite asks of an agent (tests/integration/seccomp-notify.bats there).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import NOTIFY_MKNOD, Bundle, bundle, profile
from tests.support.daemon import Daemon, serving
from tests.support.inside import links, wait_for
from tests.support.people import Person
from tests.support.scratch import a_place

POLICY = """
version: 1
on_error: ENOMEDIUM
match: {door: oci, metadata: bar}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
  mkdir:
    - {path: /tmp/run, do: {redirect: /tmp/run-bar}}
    - {path: /tmp/exec, do: {redirect: /tmp/exec-bar}}
"""
NOTHING = """
version: 1
on_error: ENOMEDIUM
match: {door: oci, metadata: nothing}
syscalls: {}
"""
# With calls that a runtime makes itself, below the filter.
LETS_GO = """
version: 1
match: {door: oci, metadata: lets-go}
otherwise: kernel
syscalls:
  open: {otherwise: kernel}
"""
READ, CLOSE, EXECVE, MKDIR = 0, 3, 59, 83
IMPORTANT = ["execve", "openat", "open", "read", "close"]
NOTIFY_MKDIR = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]
CHMOD = [{"names": ["chmod", "fchmod", "fchmodat"], "action": "SCMP_ACT_NOTIFY"}]

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"bar": POLICY, "nothing": NOTHING, "lets-go": LETS_GO}) as found:
        yield found


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["no new privileges", "new privileges"])
def no_new_privileges(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_it_does_the_callers_work(
    daemon: Daemon, place: Path, runtime: str, no_new_privileges: bool
) -> None:
    """In run and in exec, and what notifies mknod stops nothing else."""
    with bundle(place, profile(daemon.socket, NOTIFY_MKNOD), runtime=runtime) as box:
        box.config["process"]["noNewPrivileges"] = no_new_privileges
        done = box.run("mknod /dev/a c 1 3 && chmod 600 /dev/a && ls -l /dev/a && mkdir /tmp/d")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("crw-------")
        name = box.start()
        done = box.exec(name, "mknod /dev/b c 1 3 && echo x >/dev/b && echo made")
        assert done.stdout == "made\n", done.stderr


def test_it_makes_the_directory_that_its_metadata_names(
    daemon: Daemon, place: Path, runtime: str, no_new_privileges: bool
) -> None:
    """PATH-METADATA in the place of PATH, and the caller hears 0: in run and in exec. The runtime's
    own directories are made as ever."""
    with bundle(place, profile(daemon.socket, NOTIFY_MKDIR), runtime=runtime) as box:
        box.config["process"]["noNewPrivileges"] = no_new_privileges
        done = box.run("umask 027 && mkdir /tmp/run && ls -dln /tmp/*")
        assert done.returncode == 0, f"{done} {daemon.log()}"
        mode, _, uid, gid, *_, name = done.stdout.split()
        assert (mode, uid, gid, name) == ("drwxr-x---", "0", "0", "/tmp/run-bar")
        running = box.start()
        done = box.exec(running, "mkdir /tmp/exec && ls -d /tmp/*; mkdir /tmp/other; ls /tmp")
        assert done.stdout == "/tmp/exec-bar\n/tmp/run-bar\nexec-bar\nrun-bar\n", done.stderr
        assert "can't create directory '/tmp/other': Permission denied" in done.stderr


def test_it_lets_calls_go_on(
    daemon: Daemon, place: Path, runtime: str, no_new_privileges: bool
) -> None:
    """The runtime's own, a hook's below the filter, and the container's, in run and in exec."""
    notify = [{"names": [*IMPORTANT, "mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]
    seccomp = profile(daemon.socket, notify, "lets-go")
    with bundle(place, seccomp, runtime=runtime) as box:
        box.config["process"]["noNewPrivileges"] = no_new_privileges
        hook = {"path": "/bin/sh", "args": ["sh", "-c", "cat /etc/a >/tmp/hook"]}
        box.config["hooks"] = {"startContainer": [hook]}
        (box.root / "etc/a").write_text("read\n")
        done = box.run("head -n 1 /etc/a && /bin/true && cat /tmp/hook")
        assert done.stdout == "read\nread\n", f"{done} {daemon.log()}"
        name = box.start()
        done = box.exec(name, "cat /etc/a && mkdir /tmp/d && test -d /tmp/d && echo made")
        assert done.stdout == "read\nmade\n", f"{done} {daemon.log()}"
        sessions = {f"oci:{name}" for name in box.ids}
    records = [
        one for one in daemon.all_records() if one.get("session") in sessions and "verdict" in one
    ]
    by_rule = {one["syscall"] for one in records if one["rule"] == "lets-go.yaml:4"}
    assert by_rule == {f"syscall_{nr:#x}" for nr in (READ, CLOSE, EXECVE, MKDIR)}
    assert {one["verdict"] for one in records} == {"continue"}


def test_it_refuses_what_no_policy_lets_go(daemon: Daemon, place: Path, runtime: str) -> None:
    names = ["readlink", "readlinkat", "mkdir", "mkdirat"]
    notify = [{"names": names, "action": "SCMP_ACT_NOTIFY"}]
    with bundle(place, profile(daemon.socket, notify, "nothing"), runtime=runtime) as box:
        done = box.run("readlink -v /bin/sh; ls -l /bin/sh; mkdir /tmp/d; ls -d /tmp/d")
        assert "No medium found" in done.stderr
        assert "can't create directory '/tmp/d': No medium found" in done.stderr
        assert done.stdout.count("/tmp/d") == 0


def test_an_errno_of_its_choice(daemon: Daemon, place: Path, runtime: str) -> None:
    with bundle(place, profile(daemon.socket, CHMOD), runtime=runtime) as box:
        done = box.run("touch /tmp/a; chmod 777 /tmp/a; echo $?; chmod 777 /tmp; echo still here")
        assert done.stderr.count("No medium found") == 2
        assert done.stdout == "1\nstill here\n"
        name = box.start()
        assert "No medium found" in box.exec(name, "chmod 777 /tmp/a").stderr


def test_nothing_is_notified(daemon: Daemon, place: Path, runtime: str) -> None:
    """runc does not connect then, crun hands over a listener on which nobody ever calls."""
    with bundle(place, profile(daemon.socket, []), runtime=runtime) as box:
        assert box.run("mkdir /tmp/d && echo made").stdout == "made\n"
        assert daemon.ours("session") == []
        wait_for(lambda: "anon_inode:seccomp notify" in links(daemon.pid), lambda held: not held)


def test_an_agent_that_is_not_this_policys(daemon: Daemon, place: Path, runtime: str) -> None:
    with bundle(place, profile(daemon.socket, metadata="foo"), runtime=runtime) as box:
        assert "not permitted" in box.run("mknod /dev/a c 1 3").stderr
    assert isinstance(box, Bundle)
