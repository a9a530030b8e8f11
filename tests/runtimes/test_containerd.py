"""containerd's ctr: with containerd, its shim and runc, all of this test's own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import box_of, bundle
from tests.support.containerd import Containerd, containerd
from tests.support.daemon import Daemon, serving
from tests.support.people import Person
from tests.support.scratch import a_place

pytestmark = pytest.mark.needs("containerd")

POLICY = """
version: 1
match: {door: oci, runtime: runc}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
    - {devices: [full], do: {errno: ENODEV}}
"""
HOST = POLICY.replace("runtime: runc", "runtime: runc, user_namespace: host")

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"nodes": POLICY, "host": HOST}) as found:
        yield found


@pytest.fixture(scope="module")
def manager(root: Person, place: Path) -> Iterator[Containerd]:
    with containerd(root, place) as found:
        yield found


SCRIPT = (
    "mknod /dev/a c 1 3 && ls -l /dev/a | cut -c1-4 && echo x >/dev/a && echo opened;"
    "mknod /dev/b c 1 7; mknod /dev/c c 1 11"
)


def check(done: subprocess.CompletedProcess[str], daemon: Daemon, name: str) -> None:
    assert done.stdout.split() == ["crw-", "opened"], done.stderr + daemon.log()
    assert "/dev/b: No such device" in done.stderr
    assert "/dev/c: Operation not permitted" in done.stderr
    assert f"oci:{name}" in {one["session"] for one in daemon.all_records()}


def test_with_a_profile(daemon: Daemon, manager: Containerd, place: Path) -> None:
    """ctr makes no user namespace for a root file system that is no image's."""
    box = place / "box"
    box_of(box, 0)
    profile = place / "profile.json"
    profile.write_text(json.dumps(daemon.profile("host")))
    done = manager.ctr(
        "run", "--rm", "--cap-add", "CAP_MKNOD", "--seccomp", "--seccomp-profile", str(profile),
        "--rootfs", str(box), "of-ctr", "/bin/sh", "-c", SCRIPT,
    )  # fmt: skip
    check(done, daemon, "of-ctr")


def test_in_a_user_namespace(daemon: Daemon, manager: Containerd, place: Path) -> None:
    """Also of what is executed later, by a shim that has long been there."""
    with bundle(place, daemon.profile("nodes")) as box, manager.started(box, "of-config"):
        made = manager.exec("of-config", SCRIPT)
        assert made.stdout.split() == ["crw-", "opened"], made.stderr + daemon.log()
        again = manager.exec("of-config", f"rm /dev/a; {SCRIPT}")
        assert len(daemon.ours("session")) == 1
    check(again, daemon, "of-config")
