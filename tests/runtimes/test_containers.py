"""Containers of runc and crun: made, started, entered, ended; and a daemon that is not there."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import FIRST_ID, Bundle, bundle, outside, profile
from tests.support.daemon import Daemon, run, serving
from tests.support.inside import cpu_seconds, in_mknod, links, wait_for
from tests.support.people import Person
from tests.support.scratch import a_place

POLICY = """
version: 1
on_error: ENOMEDIUM
match: {door: oci}
limits: {path: 60s}
syscalls:
  mknod:
    - {devices: ["null", zero], do: emulate}
    - {devices: [full], do: {errno: ENODEV}}
"""
HOST = POLICY.replace("{door: oci}", "{door: oci, user_namespace: host}")
LISTENER = "anon_inode:seccomp notify"

place = a_place(0o755)


@pytest.fixture
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"nodes": POLICY}) as found:
        yield found


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def box(daemon: Daemon, place: Path, runtime: str) -> Iterator[Bundle]:
    with bundle(place, daemon.profile("nodes", "--runtime", runtime), runtime=runtime) as found:
        yield found


def test_a_container_makes_nodes(daemon: Daemon, box: Bundle) -> None:
    done = box.run(
        "umask 027; mknod /dev/a c 1 3 && ls -l /dev/a && echo hello >/dev/a && echo written;"
        "mknod /tmp/b c 1 5; ls -ln /tmp/b; mknod /tmp/c c 1 7; mknod /tmp/d c 1 11"
    )
    assert "crw-r----- 1 0 0 1, 3" in " ".join(done.stdout.split())
    assert "written" in done.stdout
    assert "No such device" in done.stderr  # ENODEV
    assert "/tmp/d: Operation not permitted" in done.stderr
    # /tmp is the host's: there it is a real node, and the host sees whose
    mode, uid, gid = outside(box.root / "tmp/b")
    assert (stat.S_ISCHR(mode), stat.S_IMODE(mode), uid, gid) == (True, 0o640, FIRST_ID, FIRST_ID)
    assert not (box.root / "tmp/d").exists()
    calls = [record for record in daemon.all_records() if "syscall" in record]
    assert [(record["args"]["pathname"], record["verdict"]) for record in calls] == [
        ("/dev/a", "emulate"), ("/tmp/b", "emulate"), ("/tmp/c", "errno"), ("/tmp/d", "refuse"),
    ]  # fmt: skip
    assert {record["session"] for record in calls} == {f"oci:{box.ids[0]}"}


@pytest.mark.parametrize("userns", [True, False])
def test_a_filter_that_asks_for_more(root: Person, place: Path, userns: bool) -> None:
    """What our own filter would have let pass is let pass."""
    with serving(root, place, {"nodes": POLICY if userns else HOST}) as daemon:
        with bundle(place, profile(daemon.socket), userns=userns) as box:
            done = box.run("mkfifo /tmp/e; mknod /tmp/w c 0 0; mknod /tmp/d c 1 11")
            assert done.stderr == "mknod: /tmp/d: Operation not permitted\n"
            assert stat.S_ISFIFO(outside(box.root / "tmp/e")[0])
            assert stat.S_ISCHR(outside(box.root / "tmp/w")[0])
        calls = [record for record in daemon.all_records() if "syscall" in record]
        assert [(one["verdict"], one["rule"].partition(":")[0]) for one in calls] == [
            ("continue", "filter"), ("continue", "filter"), ("refuse", "nodes.yaml"),
        ]  # fmt: skip


def test_an_exec_is_served_by_the_containers_own_session(daemon: Daemon, box: Bundle) -> None:
    name = box.start()
    assert daemon.ours("session") == []  # nobody has called yet
    assert box.exec(name, "mknod /dev/a c 1 3").returncode == 0
    sessions = daemon.ours("session")
    assert len(sessions) == 1
    # /dev is a tmpfs of the container's: the node is a bind mount there, which another exec removes
    done = box.exec(name, "echo x >/dev/a && rm /dev/a && mknod /dev/a c 1 5 && ls -l /dev/a")
    assert done.returncode == 0, done.stderr
    assert daemon.ours("session") == sessions
    # of those that have ended none is held
    wait_for(lambda: links(sessions[0]).count(LISTENER), lambda count: count == 1)
    box.delete(name)
    wait_for(lambda: daemon.ours("session"), lambda found: not found)


def test_created_and_deleted_without_a_start(daemon: Daemon, box: Bundle) -> None:
    before = daemon.held()
    name = box.create("/bin/true")
    # crun has connected and says nothing before the start; runc has handed over
    wait_for(lambda: LISTENER in links(daemon.pid), lambda found: found == (box.runtime == "runc"))
    box.delete(name)
    wait_for(lambda: LISTENER in links(daemon.pid), lambda found: not found)
    wait_for(daemon.held, lambda now: now == before)


def test_started_long_after_it_was_created(root: Person, place: Path, runtime: str) -> None:
    with serving(root, place, {"nodes": POLICY}, limits={"hand_over": 0.2}) as daemon:
        with bundle(place, daemon.profile("nodes"), runtime=runtime) as box:
            name = box.create("/bin/sh", "-c", "mknod /tmp/a c 1 3")
            signal.sigtimedwait([], 1.5)
            assert run(box.command("start", name)).returncode == 0
            wait_for((box.root / "tmp/a").exists, bool)


def test_nothing_is_left_after_many_lives(daemon: Daemon, box: Bundle) -> None:
    box.run("mknod /dev/a c 1 3")
    wait_for(lambda: daemon.ours("session"), lambda found: not found)
    zygote = daemon.one("zygote")
    before = daemon.held()
    for _ in range(10):
        assert box.run("mknod /dev/a c 1 3 && echo x >/dev/a").returncode == 0
    wait_for(lambda: daemon.ours("session"), lambda found: not found)
    wait_for(daemon.held, lambda now: now == before)
    wait_for(lambda: daemon.ours("path") + daemon.ours("make"), lambda found: not found)
    used = cpu_seconds(daemon.pid) + cpu_seconds(zygote)
    signal.sigtimedwait([], 1.0)
    assert cpu_seconds(daemon.pid) + cpu_seconds(zygote) - used <= 0.05


def test_without_a_user_namespace(root: Person, place: Path, runtime: str) -> None:
    """Only a policy that says so is for these; and it gives them no more than they have."""
    with serving(root, place, {"nodes": POLICY}) as daemon:
        with bundle(place, profile(daemon.socket), userns=False, runtime=runtime) as box:
            done = box.run("mknod /tmp/a c 1 3")
            assert "/tmp/a: Operation not permitted" in done.stderr
        daemon.said("nodes: user_namespace is 'host', not own")
        assert daemon.ours("session") == []
    with serving(root, place, {"nodes": HOST}) as daemon:
        with bundle(place, profile(daemon.socket), userns=False, runtime=runtime) as box:
            done = box.run("mknod /tmp/a c 1 3; mknod /tmp/b c 1 7; mknod /tmp/c c 1 11; umask 0;"
                           "mknod /dev/d c 1 5 && ls -l /dev/d")  # fmt: skip
            assert "/tmp/b: No such device" in done.stderr
            assert "/tmp/c: Operation not permitted" in done.stderr
            assert "crw-rw-rw-" in done.stdout
            mode, uid, gid = outside(box.root / "tmp/a")
            assert (stat.S_ISCHR(mode), uid, gid) == (True, 0, 0)
        with bundle(
            place, profile(daemon.socket), userns=False, runtime=runtime, capabilities=["CAP_CHOWN"]
        ) as box:
            done = box.run("mknod /tmp/a c 1 3")
            assert "/tmp/a: Operation not permitted" in done.stderr
        # and the other way round: a container with a namespace is not one of these
        with bundle(place, profile(daemon.socket), runtime=runtime) as box:
            done = box.run("mknod /tmp/a c 1 3")
            assert "/tmp/a: Operation not permitted" in done.stderr
        daemon.said("nodes: user_namespace is 'own', not host")


def test_a_daemon_in_a_container_of_its_own(root: Person, place: Path, runtime: str) -> None:
    """With the host's processes and users, and else with namespaces of its own."""
    own = ["unshare", "--mount", "--net", "--ipc", "--uts", "--cgroup", "sh", "-c"]
    hide = 'mount -t tmpfs none /home && mount -t tmpfs none /var/lib && exec "$@"'
    with serving(root, place, {"nodes": POLICY}, start=[*own, hide, "sh"]) as daemon:
        assert os.stat(f"/proc/{daemon.pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino
        with bundle(place, daemon.profile("nodes"), runtime=runtime) as box:
            done = box.run("mknod /dev/a c 1 3 && echo x >/dev/a && mknod /tmp/b c 1 5; echo $?")
            assert done.stdout == "0\n", done.stderr
            assert stat.S_ISCHR(outside(box.root / "tmp/b")[0])
            name = box.start()
            assert box.exec(name, "mknod /dev/a c 1 3 && rm /dev/a").returncode == 0


def test_no_daemon(daemon: Daemon, box: Bundle) -> None:
    assert daemon.stop() == 0
    done = box.run("echo started")
    assert done.returncode != 0
    assert "started" not in done.stdout


def test_a_daemon_that_is_killed_and_started_again(daemon: Daemon, box: Bundle) -> None:
    name = box.start()
    assert box.exec(name, "mknod /tmp/a c 1 3").returncode == 0
    daemon.kill()
    assert daemon.started.wait_gone() == [], "nobody holds a listener any more"
    # an exec has a filter of its own, and nobody to give its listener to
    assert box.exec(name, "mknod /tmp/b c 1 3").returncode != 0
    daemon.start()
    assert box.exec(name, "mknod /tmp/b c 1 3").returncode == 0
    assert box.run("mknod /tmp/c c 1 3").returncode == 0


def test_the_calls_of_one_who_lost_its_daemon(daemon: Daemon, place: Path, box: Bundle) -> None:
    fifo = box.root / "tmp/fifo"
    os.mkfifo(fifo)
    os.chown(fifo, FIRST_ID, FIRST_ID)
    box.start("/bin/sh", "-c", "mknod /tmp/a c 1 3; cat /tmp/fifo; mknod /tmp/b c 1 3 2>/tmp/said")
    wait_for((box.root / "tmp/a").exists, bool)
    daemon.kill()
    assert daemon.started.wait_gone() == []
    fifo.write_text("go on\n")
    said = box.root / "tmp/said"
    wait_for(lambda: said.exists() and said.read_text(), bool)
    assert "Function not implemented" in said.read_text()
    daemon.start()


def test_a_session_that_dies(daemon: Daemon, place: Path, box: Bundle) -> None:
    """It is started again when somebody calls; and nobody else notices."""
    with bundle(place, daemon.profile("nodes"), first_id=300_000, runtime=box.runtime) as other:
        mine, theirs = box.start(), other.start()
        assert box.exec(mine, "mknod /dev/a c 1 3").returncode == 0
        session = daemon.one("session")
        assert other.exec(theirs, "mknod /dev/a c 1 3").returncode == 0
        (bystander,) = set(daemon.ours("session")) - {session}
        os.kill(session, signal.SIGKILL)
        wait_for(lambda: daemon.ours("session"), lambda found: found == [bystander])
        assert box.exec(mine, "rm /dev/a && mknod /dev/a c 1 5 && echo x >/dev/a").returncode == 0
        assert bystander in daemon.ours("session")
        assert len(daemon.ours("session")) == 2
    daemon.said("a session has died; 0 calls refused")


def test_a_call_in_flight_when_its_session_dies(daemon: Daemon, box: Bundle) -> None:
    name = box.start()
    assert box.exec(name, "mknod /tmp/a c 1 3").returncode == 0
    before = daemon.container(name)["calls"]
    for helper in daemon.ours("path") + daemon.ours("make"):
        os.kill(helper, signal.SIGSTOP)
    box.detached("exec", "-d", name, "/bin/sh", "-c", "mknod /tmp/b c 1 3 2>/tmp/said")
    init = box.pid(name)
    wait_for(lambda: in_mknod(init), bool)
    wait_for(lambda: daemon.container(name)["calls"], lambda count: count > before)  # received
    os.kill(daemon.ours("session")[0], signal.SIGKILL)
    said = box.root / "tmp/said"
    wait_for(lambda: said.exists() and said.read_text(), bool)
    assert "No medium found" in said.read_text()
    daemon.said("a session has died; 1 calls refused")
    assert box.exec(name, "mknod /tmp/b c 1 3").returncode == 0
