"""podman, of root and of an ordinary user, with its own seccomp profile as the base."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.live.test_mount_kernel import make_image
from tests.support.bundles import PODMANS_PROFILE
from tests.support.daemon import Daemon, serving
from tests.support.devices import for_everybody
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.podman import Podman, options_for
from tests.support.scratch import a_place, compile_c

POLICY = """
version: 1
match: {door: oci, user_namespace: USER_NAMESPACE}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
    - {devices: [full], do: {errno: ENODEV}}
"""
SOCKETS = """
version: 1
match: {door: oci, user_namespace: own}
syscalls:
  connect:
    - {to: 203.0.113.7, do: {redirect: {to: "127.0.0.1:%d", network: host}}}
    - {do: emulate}
  bind: [{do: emulate}]
"""
OWN, HOST = (POLICY.replace("USER_NAMESPACE", which) for which in ("own", "host"))
SCRIPT = """
mknod /dev/a c 1 3 && ls -l /dev/a | cut -c1-4 && echo x >/dev/a && rm /dev/a && echo gone
mknod /dev/b c 1 7; mknod /dev/c c 1 11; mkfifo /dev/d && rm /dev/d && echo fifo
"""

place = a_place(0o777)


def podman(
    person: Person, place: Path, daemon: Daemon, options: Sequence[str], owner: int
) -> subprocess.CompletedProcess[str]:
    profile = daemon.profile("nodes", "--base", str(PODMANS_PROFILE))
    return Podman(person, place, profile, owner).run(SCRIPT, *options)


@pytest.mark.parametrize("userns", [True, False])
def test_of_root(root: Person, place: Path, userns: bool) -> None:
    with serving(root, place, {"nodes": OWN if userns else HOST}) as daemon:
        options = options_for("MKNOD", mapped=userns)
        done = podman(root, place, daemon, options, 100_000 if userns else 0)
        assert done.stdout.split() == ["crw-", "gone", "fifo"], done.stderr
        assert "/dev/b: No such device" in done.stderr
        assert "/dev/c: Operation not permitted" in done.stderr
        how = {one["how"] for one in daemon.all_records() if one.get("verdict") == "emulate"}
        assert how == ({"bind"} if userns else {"node"})


def test_sockets(root: Person, place: Path) -> None:
    """Its profile looks at arguments of socket, and so does a policy that is about sockets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def greet() -> None:
            with server.accept()[0] as taken:
                taken.sendall(b"hello\n")

        threading.Thread(target=greet, daemon=True).start()
        with serving(root, place, {"sockets": SOCKETS % port}) as daemon:
            profile = daemon.profile("sockets", "--base", str(PODMANS_PROFILE))
            script = "busybox nc -w 20 203.0.113.7 80 </dev/null"
            done = Podman(root, place, profile, 100_000).run(script, *options_for(mapped=True))
            assert done.stdout == "hello\n", done.stderr


def test_without_the_capability(root: Person, place: Path) -> None:
    """podman's containers do not have it where nobody asks for it: then nothing is made."""
    with serving(root, place, {"nodes": OWN}) as daemon:
        done = podman(root, place, daemon, options_for(mapped=True), 100_000)
        assert "/dev/a: Operation not permitted" in done.stderr
        assert done.stdout.split() == ["fifo"]


def test_of_an_ordinary_user(user: Person, place: Path) -> None:
    """Under a daemon of that user's own."""
    with serving(user, place, {"nodes": OWN}) as daemon:
        done = podman(user, place, daemon, options_for("MKNOD", mapped=False), user.uid)
        assert done.stdout.split() == ["crw-", "gone", "fifo"], done.stderr
        assert "/dev/b: No such device" in done.stderr
        assert "/dev/c: Operation not permitted" in done.stderr
        assert os.stat(daemon.socket).st_mode & 0o777 == 0o600
        how = {one["how"] for one in daemon.all_records() if one.get("verdict") == "emulate"}
        assert how == {"bind"}


BOTH = """
version: 1
match: {door: oci}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
  mount:
    - {fstype: ext4, source: /image, options: {allow: ["*"]}, do: {emulate: {via: fuse}}}
"""
INSIDE = "mkdir -p /tmp/m && plain_mount /image /tmp/m ext4 && cat /tmp/m/file && umount /tmp/m"


@pytest.mark.needs("fuse2fs")
@pytest.mark.parametrize("rootful", [True, False], ids=["root", "user"])
def test_started_entered_and_stopped(
    root: Person, user: Person, place: Path, rootful: bool
) -> None:
    person, owner = (root, 100_000) if rootful else (user, user.uid)
    with for_everybody(), serving(person, place, {"nodes": BOTH}) as daemon:
        box = Podman(person, place, daemon.profile("nodes"), owner)
        for given in (make_image(place), compile_c("plain_mount", place, "-static")):
            name = "image" if given.name.startswith("image") else "bin/plain_mount"
            shutil.copy(given, box.root / name)
            os.chown(box.root / name, owner, owner)
        with box.started(*options_for("MKNOD", "SYS_ADMIN", mapped=rootful)) as name:
            done = box.exec(name, f"mknod /dev/a c 1 3 && echo x >/dev/a && {INSIDE}")
            assert done.stdout == "text", done.stderr + daemon.log()
            assert box.exec(name, f"rm /dev/a && {INSIDE}").stdout == "text"
            assert len(daemon.ours("session")) == 1
        wait_for(lambda: daemon.ours("session"), lambda found: not found)
        wait_for(lambda: daemon.ask("ps"), lambda rows: rows == [])
