"""podman, of root and of an ordinary user, with its own seccomp profile as the base."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.bundles import PODMANS_PROFILE, box_of
from tests.support.daemon import Daemon, run, serving
from tests.support.people import Person
from tests.support.scratch import scratch

POLICY = """
version: 1
match: {door: oci, user_namespace: USER_NAMESPACE}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
    - {devices: [full], do: {errno: ENODEV}}
"""
OWN, HOST = (POLICY.replace("USER_NAMESPACE", which) for which in ("own", "host"))
MAPPED = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]
SCRIPT = """
mknod /dev/a c 1 3 && ls -l /dev/a | cut -c1-4 && echo x >/dev/a && rm /dev/a && echo gone
mknod /dev/b c 1 7; mknod /dev/c c 1 11; mkfifo /dev/d && rm /dev/d && echo fifo
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(0o777) as folder:
        yield folder


def podman(
    person: Person, place: Path, daemon: Daemon, options: Sequence[str], owner: int
) -> subprocess.CompletedProcess[str]:
    """A container that runs SCRIPT, in a store of its own."""
    profile = place / "profile.json"
    profile.write_text(json.dumps(daemon.profile("nodes", "--base", str(PODMANS_PROFILE))))
    root = place / "rootfs"
    box_of(root, owner)
    runtime_dir = place / "runtime"
    runtime_dir.mkdir(mode=0o700)
    os.chown(runtime_dir, person.uid, person.gid)
    # Nothing of the machine's own podman; limits that may be set without CAP_SYS_RESOURCE.
    words = [
        "podman", "--root", str(place / "store"), "--runroot", str(place / "runroot"),
        "--tmpdir", str(place / "tmp"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
        "--events-backend", "file", "--runtime", "/usr/sbin/runc", "run", "--rm",
        "--network", "none", "--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1000:1000",
        "--security-opt", f"seccomp={profile}", *options, "--rootfs", str(root),
        "/bin/sh", "-c", SCRIPT,
    ]  # fmt: skip
    env = person.environ({"XDG_RUNTIME_DIR": str(runtime_dir)})
    return run(person.argv(words), env=env, cwd="/", timeout=120)


@pytest.mark.parametrize("userns", [True, False])
def test_of_root(root: Person, place: Path, userns: bool) -> None:
    with serving(root, place, {"nodes": OWN if userns else HOST}) as daemon:
        options = ["--cap-add", "MKNOD", *(MAPPED if userns else [])]
        done = podman(root, place, daemon, options, 100_000 if userns else 0)
        assert done.stdout.split() == ["crw-", "gone", "fifo"], done.stderr
        assert "/dev/b: No such device" in done.stderr
        assert "/dev/c: Operation not permitted" in done.stderr
        how = {one["how"] for one in daemon.records() if one.get("verdict") == "emulate"}
        assert how == ({"bind"} if userns else {"node"})


def test_without_the_capability(root: Person, place: Path) -> None:
    """podman's containers do not have it where nobody asks for it: then nothing is made."""
    with serving(root, place, {"nodes": OWN}) as daemon:
        done = podman(root, place, daemon, MAPPED, 100_000)
        assert "/dev/a: Operation not permitted" in done.stderr
        assert done.stdout.split() == ["fifo"]


def test_of_an_ordinary_user(user: Person, place: Path) -> None:
    """Under a daemon of that user's own."""
    with serving(user, place, {"nodes": OWN}) as daemon:
        done = podman(user, place, daemon, ["--cap-add", "MKNOD"], user.uid)
        assert done.stdout.split() == ["crw-", "gone", "fifo"], done.stderr
        assert "/dev/b: No such device" in done.stderr
        assert "/dev/c: Operation not permitted" in done.stderr
        assert os.stat(daemon.socket).st_mode & 0o777 == 0o600
        how = {one["how"] for one in daemon.records() if one.get("verdict") == "emulate"}
        assert how == {"bind"}
