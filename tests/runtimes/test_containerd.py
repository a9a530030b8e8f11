"""containerd's ctr: with containerd, its shim and runc, all of this test's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import box_of, bundle
from tests.support.daemon import Daemon, run, serving
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.program import marked
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
CONFIG = """
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{place}/containerd.sock"
[ttrpc]
  address = "{place}/ttrpc.sock"
"""
HOST = POLICY.replace("runtime: runc", "runtime: runc, user_namespace: host")

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"nodes": POLICY, "host": HOST}) as found:
        yield found


@pytest.fixture(scope="module")
def containerd(root: Person, place: Path) -> Iterator[Path]:
    """Its socket."""
    sock = place / "containerd.sock"
    config = place / "containerd.toml"
    config.write_text(CONFIG.format(place=place))
    mark = f"of-{place.name}"
    env = root.environ({"SECCOMPD_TEST_CONTAINERD": mark})
    with (place / "containerd.log").open("wb") as log:
        process = subprocess.Popen(
            ["containerd", "--config", str(config)], stdout=log, stderr=log, env=env
        )
    try:
        wait_for(lambda: process.poll() is not None or _answers(sock), bool, 60)
        assert process.poll() is None, (place / "containerd.log").read_text()
        yield sock
    finally:
        process.terminate()
        process.wait(20)
        for pid in marked(mark):  # shims, should a test have failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _answers(sock: Path) -> bool:
    return run(["ctr", "--address", str(sock), "version"]).returncode == 0


SCRIPT = (
    "mknod /dev/a c 1 3 && ls -l /dev/a | cut -c1-4 && echo x >/dev/a && echo opened;"
    "mknod /dev/b c 1 7; mknod /dev/c c 1 11"
)


def check(done: subprocess.CompletedProcess[str], daemon: Daemon, name: str) -> None:
    assert done.stdout.split() == ["crw-", "opened"], done.stderr + daemon.log()
    assert "/dev/b: No such device" in done.stderr
    assert "/dev/c: Operation not permitted" in done.stderr
    assert f"oci:{name}" in {one["session"] for one in daemon.records()}
    wait_for(lambda: daemon.ours("session"), lambda found: not found)


def test_with_a_profile(daemon: Daemon, containerd: Path, place: Path) -> None:
    """ctr makes no user namespace for a root file system that is no image's."""
    box = place / "box"
    box_of(box, 0)
    profile = place / "profile.json"
    profile.write_text(json.dumps(daemon.profile("host")))
    done = run([
        "ctr", "--address", str(containerd), "run", "--rm", "--cap-add", "CAP_MKNOD",
        "--seccomp", "--seccomp-profile", str(profile), "--rootfs", str(box), "of-ctr",
        "/bin/sh", "-c", SCRIPT,
    ], timeout=120)  # fmt: skip
    check(done, daemon, "of-ctr")


def test_in_a_user_namespace(daemon: Daemon, containerd: Path, place: Path) -> None:
    with bundle(place, daemon.profile("nodes")) as box:
        box.config["root"]["path"] = str(box.root)
        box.prepare(["/bin/sh", "-c", SCRIPT])
        box.ids.clear()
        config = box.path / "config.json"
        done = run([
            "ctr", "--address", str(containerd), "run", "--rm", "--config", str(config), "of-config"
        ], timeout=120)  # fmt: skip
        check(done, daemon, "of-config")
