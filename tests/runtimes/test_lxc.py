"""Plain LXC: its monitor passes the calls of its containers on to lxc.sock."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.test_mount_kernel import make_image
from tests.support.daemon import Daemon, serving
from tests.support.inside import in_mknod, wait_for
from tests.support.lxc import FIRST_ID, Lxc
from tests.support.mounting import no_loops
from tests.support.people import Person, python
from tests.support.program import seccompd
from tests.support.scratch import a_place, compile_c, scratch

pytestmark = pytest.mark.needs("lxc-start", "lxc-attach")

POLICY = """
version: 1
match: {door: lxc, cookie: given}
on_error: ENOMEDIUM
limits: {path: 60s}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
    - {devices: [zero], do: {errno: ENODEV}}
  mount:
    otherwise: kernel
    rules:
      - {fstype: ext4, source: "/by-fuse", options: {allow: ["*"]}, do: {emulate: {via: fuse}}}
      - {fstype: ext4, source: "/by-kernel", options: {allow: ["*"]}, do: {emulate: {via: kernel}}}
"""
NODE = "mknod /tmp/n c 1 3 && echo hello >/tmp/n && stat -c '%F %t:%T %u' /tmp/n; rm /tmp/n"
MADE = "character special file 1:3 0\n"

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"given": POLICY}, doors=["oci", "lxc"]) as found:
        yield found


@pytest.fixture(scope="module")
def box(daemon: Daemon, place: Path) -> Iterator[Lxc]:
    found = Lxc(place, daemon, "given", "given")
    yield found
    found.close()


def served(daemon: Daemon) -> None:
    """Nobody is left that served a container."""
    wait_for(lambda: daemon.ours("session"), lambda found: not found)


def test_a_node(daemon: Daemon, box: Lxc) -> None:
    done = box.run(f"{NODE}; mknod /kept c 1 3; mknod /tmp/z c 1 5; mknod /tmp/f c 1 7")
    assert done.stdout == MADE, done.stderr
    assert "No such device" in done.stderr
    assert "Operation not permitted" in done.stderr
    found = os.lstat(box.root / "kept")
    assert (stat.S_ISCHR(found.st_mode), found.st_uid) == (True, FIRST_ID)
    served(daemon)


def test_a_device_that_comes_later(daemon: Daemon, box: Lxc) -> None:
    name = box.start()
    # whose container that is LXC says with its first call
    assert box.attach(name, NODE).stdout == MADE
    done = daemon.command("device", "add", name, "/dev/full", "/my/full", "--owner", "0:5")
    assert (done.returncode, done.stderr) == (0, "")
    said = box.attach(name, "stat -c '%F %a %u:%g %t:%T' /my/full; echo x >/my/full")
    assert said.stdout == "character special file 666 0:5 1:7\n"
    assert "No space left" in said.stderr
    (row,) = daemon.ask("device", "list")
    assert (row["container"], row["state"], row["notes"]) == (name, "there", [])
    assert daemon.command("device", "remove", name, "/my/full").returncode == 0
    assert box.attach(name, "ls -A /my").stdout == ""
    box.stop(name)
    served(daemon)


def test_mounts(daemon: Daemon, box: Lxc, place: Path) -> None:
    image = make_image(place)
    for name in ("by-fuse", "by-kernel"):
        shutil.copy(image, box.root / name)
        os.chown(box.root / name, FIRST_ID, FIRST_ID)
    shutil.copy(compile_c("plain_mount", place, "-static"), box.root / "bin")
    script = """for how in fuse kernel; do
        mkdir /tmp/$how && plain_mount /by-$how /tmp/$how ext4 && cat /tmp/$how/file && echo
        stat -c %u /tmp/$how/file; echo new >/tmp/$how/new; umount /tmp/$how; done
        mount -t tmpfs none /tmp && echo tmpfs"""
    done = box.run(script)
    assert done.stdout.split() == ["text", "0", "text", "0", "tmpfs"], done.stderr
    for name in ("by-fuse", "by-kernel"):
        shown = ["debugfs", "-R", "cat new", str(box.root / name)]
        assert subprocess.run(shown, capture_output=True, check=True).stdout == b"new\n"
    no_loops(box.root)
    served(daemon)


def test_calls_of_many_at_once_and_of_an_attach(daemon: Daemon, box: Lxc) -> None:
    """The monitor sends one after the other, those of two listeners over one connection."""
    many = "for i in $(seq 20); do (mknod /tmp/m$i c 1 3 && echo OK) & done; wait; rm /tmp/m*"
    own = NODE.replace("/tmp/n", "/tmp/own")  # which it may leave when it is stopped
    name = box.start("/bin/sh", "-c", f"while true; do {own}; sleep 0.1; done")
    assert box.attach(name, many).stdout.split() == ["OK"] * 20
    assert box.attach(name, NODE.replace("/tmp/n", "/tmp/other")).stdout == MADE
    assert len(daemon.ours("session")) == 1
    box.stop(name)
    served(daemon)
    calls = [one for one in daemon.records() if one["session"] == f"lxc:{name}"]
    assert not [one for one in calls if one.get("errno") not in (None, "EEXIST")]


def test_another_cookie(daemon: Daemon, place: Path) -> None:
    for cookie in ("other", None):
        box = Lxc(place, daemon, "given", cookie)
        done = box.run(NODE)
        assert done.stdout == ""
        assert "Operation not permitted" in done.stderr
    daemon.said("cookie is 'other', not given")
    daemon.said("cookie is not known")


def test_without_a_user_namespace(daemon: Daemon, place: Path) -> None:
    """Nobody said that this policy is for the host's root."""
    done = Lxc(place, daemon, "given", "given", userns=False).run(NODE)
    assert "Operation not permitted" in done.stderr
    daemon.said("user_namespace is 'host', not own")


def test_a_session_that_dies(daemon: Daemon, box: Lxc) -> None:
    """Its call gets the policy's errno, and the next one its own answer, not an earlier one's."""
    name = box.start()
    first = box.attach(name, NODE)
    assert first.stdout == MADE, (first.stderr, daemon.log(), daemon.records()[-4:])
    session = daemon.one("session")
    before = daemon.container(name)["calls"]
    for pid in daemon.ours("make") + daemon.ours("path"):
        os.kill(pid, signal.SIGSTOP)
    script = f"mknod /tmp/a c 1 3; mknod /tmp/z c 1 5; {NODE}"
    attached = subprocess.Popen(
        [shutil.which("lxc-attach") or "", "-P", str(box.path), "-n", name, "--clear-env", "--",
         "/bin/sh", "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: daemon.container(name)["calls"], lambda count: count > before)
        os.kill(session, signal.SIGKILL)
        out, errors = attached.communicate(timeout=30)
    finally:
        attached.kill()
        attached.communicate()
    assert out == MADE, errors
    assert "No medium found" in errors, (daemon.log(), daemon.records()[-4:])
    assert "No such device" in errors
    box.stop(name)
    served(daemon)


def test_a_daemon_that_is_not_there_yet_and_one_that_comes_again(
    root: Person, place: Path
) -> None:
    """LXC refuses to start without it; later it finds the new one by itself, if it did not look for
    it before: from then on LXC 5 answers ENOSYS."""
    with scratch(0o755) as own:
        with serving(root, own, {"given": POLICY}, doors=["oci", "lxc"]) as daemon:
            box = Lxc(own, daemon, "given", "given")
            try:
                name = box.start()
                assert box.attach(name, NODE).stdout == MADE
                daemon.kill()
                assert box.run("true").returncode != 0
                daemon.start()
                assert box.attach(name, NODE).stdout == MADE
                daemon.kill()
                assert "not implemented" in box.attach(name, "mknod /tmp/n c 1 3").stderr
                daemon.start()
                box.stop(name)
                served(daemon)
            finally:
                box.close()


# -- the listener itself, by the command socket


@contextlib.contextmanager
def announced(
    root: Person, own: Path, policy: str, when: str
) -> Iterator[tuple[Daemon, Lxc]]:
    """A daemon, and containers that say themselves that they start."""
    with serving(root, own, {"given": policy}, doors=["oci", "lxc"]) as daemon:
        hook = own / "hook"
        words = seccompd(root, "lxc-hook", "--socket", str(daemon.runtime / "lxc.sock"))
        environ = " ".join(f"{key}={value}" for key, value in root.environ().items())
        box = Lxc(
            own, daemon, "given", None, f"lxc.hook.{when} = {hook}", proxy=False
        )
        hook.write_text(
            f"#!/bin/sh\nexport {environ}\nexec {shlex.join(words)} --cookie given "
            f'--lxcpath {box.path} "$@"\n'
        )
        hook.chmod(0o755)
        try:
            yield daemon, box
        finally:
            box.close()


@pytest.fixture
def direct(root: Person) -> Iterator[tuple[Daemon, Lxc]]:
    with scratch(0o755) as own, announced(root, own, POLICY, "start-host") as found:
        yield found


def test_without_a_proxy(direct: tuple[Daemon, Lxc]) -> None:
    """In parallel, while the monitor has an ear for others; and by a daemon that comes later."""
    daemon, box = direct
    many = "for i in $(seq 20); do (mknod /tmp/m$i c 1 3 && echo OK) & done; wait; rm /tmp/m*"
    done = box.run(f"{NODE}; {many}; mknod /tmp/z c 1 5")
    assert done.stdout == MADE + "OK\n" * 20, done.stderr
    assert "No such device" in done.stderr
    served(daemon)
    wait_for((daemon.runtime / "lxc.containers").read_text, lambda text: text == "")
    name = box.start("/bin/sh", "-c", f"while sleep 0.05; do {NODE}; done >/said 2>&1")
    said = box.root / "said"
    wait_for(lambda: MADE in said.read_text() if said.exists() else False, bool)
    daemon.stop()
    said.write_text("")
    daemon.start()
    wait_for(said.read_text, lambda text: MADE in text)
    assert (daemon.runtime / "lxc.containers").read_text().count(name) == 1
    # Announced twice, it is still read once: another reader would wait for ever.
    hook = [str(box.path.parent / "hook"), name, "lxc", "start-host"]
    subprocess.run(hook, check=True)
    wait_for(daemon.log, lambda text: "it is served already" in text)
    said.write_text("")
    wait_for(said.read_text, lambda text: text.count(MADE) > 3)
    box.stop(name)
    served(daemon)


DESCRIPTORS = """
version: 1
match: {door: lxc, cookie: given}
syscalls:
  connect:
    - {to: "203.0.113.7", port: 80, do: {redirect: "127.0.0.1:PORT"}}
    - {to: "127.0.0.1", port: PORT, do: {errno: ENETDOWN}}
    - {do: emulate}
  bind:
    - {do: emulate}
  open:
    - {path: /etc/licence, do: {inject: {content: "licensed\\n"}}}
    - {path: /srv/zeroes, do: {inject: {device: zero}}}
"""


def test_sockets_and_opens(root: Person, place: Path) -> None:
    """LXC itself opens files and sends its listener below a filter that notifies all of that. A
    32-bit program is no way around it."""
    with socket.create_server(("127.0.0.1", 0)) as server, scratch(0o755) as own:
        port = server.getsockname()[1]

        def accept() -> None:
            server.accept()[0].close()

        greeter = threading.Thread(target=accept)
        greeter.start()
        policy = DESCRIPTORS.replace("PORT", str(port))
        with announced(root, own, policy, "pre-start") as (daemon, box):
            shutil.copy(compile_c("socket_calls", place, "-static", "-pthread"), box.root / "bin")
            done = box.run(
                "busybox nc -w 5 203.0.113.7 80 </dev/null;"
                f"busybox nc -w 5 127.0.0.1 {port} </dev/null;"
                "cat /etc/licence; head -c 1 /srv/zeroes | busybox od -An -tx1; cat /srv/other;"
                f"socket_calls direct {port} {port}; socket_calls socketcall 9 {port}"
            )
            greeter.join(10)
            licence, zero, *by_int_0x80 = done.stdout.splitlines()
            assert (licence, zero) == ("licensed", " 00"), (done.stderr, daemon.log())
            assert "Network is down" in done.stderr
            assert "No such file" in done.stderr
            direct = [line.split() for line in by_int_0x80[:10]]
            assert {result for name, result in direct if name != "sent"} == {"ENOSYS"}
            assert "connect-refused ENETDOWN" in by_int_0x80[10:]
            served(daemon)


def test_calls_in_flight_when_the_daemon_is_killed(direct: tuple[Daemon, Lxc]) -> None:
    """The next one knows of them, and refuses them."""
    daemon, box = direct
    script = """mknod /tmp/z c 1 5; until [ -e /tmp/go ]; do sleep 0.05; done
        for i in 1 2 3; do (mknod /tmp/m$i c 1 3 2>>/tmp/said; echo $? >>/tmp/done) & done; wait
        mknod /tmp/after c 1 3 && echo after >>/tmp/done; sleep 1000"""
    name = box.start("/bin/sh", "-c", script)
    wait_for(lambda: daemon.ours("session"), bool)
    init = box.pid(name)
    kept = daemon.runtime / "lxc.watches"
    assert len(list(kept.iterdir())) == 1
    for pid in daemon.ours("make") + daemon.ours("path"):
        os.kill(pid, signal.SIGSTOP)
    (box.root / "tmp/go").touch()
    wait_for(lambda: daemon.container(name)["calls"], lambda count: count == 4)
    daemon.kill()
    assert daemon.started.wait_gone() == []
    assert len(in_mknod(init)) == 3
    daemon.start()
    finished = box.root / "tmp/done"
    wait_for(lambda: finished.exists() and "after" in finished.read_text(), bool)
    assert finished.read_text().split() == ["1"] * 3 + ["after"]
    assert (box.root / "tmp/said").read_text().count("No medium found") == 3
    daemon.said("taken back; 3 calls refused")
    assert daemon.container(name)["calls"] == 5
    box.stop(name)
    served(daemon)
    wait_for(lambda: list(kept.iterdir()), lambda found: not found)


def test_a_command_socket_that_is_nobodys(direct: tuple[Daemon, Lxc], user: Person) -> None:
    """Its name is anybody's to take, and a hook may name what there is not."""
    daemon, box = direct
    hook = [str(box.path.parent / "hook"), "nobody", "lxc", "start-host"]
    subprocess.run(hook, check=True)
    wait_for(daemon.log, lambda text: "nobody cannot be had: Connection refused" in text)
    name = f"\\0{box.path}/nobody/command"
    code = (
        "import socket; s = socket.socket(1);"
        f"s.bind('{name}'); s.listen(); print(flush=True); s.accept()"
    )
    other = subprocess.Popen(
        user.argv([python(user), "-c", code]), stdout=subprocess.PIPE, cwd="/"
    )
    try:
        assert other.stdout
        other.stdout.readline()
        subprocess.run(hook, check=True)
        wait_for(daemon.log, lambda text: "its command socket is another user's" in text)
    finally:
        other.kill()
        other.communicate()
    daemon.stop()
    done = subprocess.run(hook, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no daemon hears" in done.stderr
    assert box.run("true").returncode != 0
    daemon.start()
