"""Which policy a container gets, by what its runtime says of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import bundle, profile
from tests.support.daemon import Daemon, run, serving
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.scratch import a_place

RULES = """
version: 1
match: {{door: oci, {match}}}
syscalls:
  mknod:
    - {{do: {{errno: {errno}}}}}
"""
POLICIES = {
    "a-annotated": RULES.format(match='annotations: {org.example.k: "v é*"}', errno="ENODEV"),
    "b-pod": RULES.format(
        match='kubernetes: {namespace: "ci-*", container: [build, test]}', errno="ENXIO"
    ),
    "c-metadata": RULES.format(match="metadata: [bar, baz]", errno="ENOTTY"),
    "d-crun": RULES.format(match="runtime: crun, peer_uid: 0", errno="EBUSY"),
    "e-cgroup": RULES.format(match='cgroup: "/of-a-test-*"', errno="EROFS"),
    "g-left": RULES.format(match="metadata: left, runtime: runc", errno="EROFS"),
    "f-nobody": RULES.format(match="peer_uid: 1000", errno="EIO"),
}
SAID = {"ENODEV": "No such device", "ENXIO": "No such device or address", "EPERM": "not permitted",
        "ENOTTY": "Inappropriate ioctl", "EBUSY": "busy", "EROFS": "Read-only"}  # fmt: skip

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, POLICIES) as found:
        yield found


def kubernetes(namespace: str, container: str) -> dict[str, str]:
    return {
        "io.kubernetes.cri.sandbox-namespace": namespace,
        "io.kubernetes.cri.sandbox-name": "a-pod",
        "io.kubernetes.cri.container-name": container,
    }


FORGED = {"io.kubernetes.pod.namespace": "ci-1", "io.kubernetes.pod.name": "a-pod",
          "io.kubernetes.container.name": "build"}  # fmt: skip


@pytest.mark.parametrize(
    ("annotations", "metadata", "runtime", "cgroup", "errno"),
    [
        ({"org.example.k": "v é and more"}, "", "runc", None, "ENODEV"),
        (kubernetes("ci-1", "build"), "", "runc", None, "ENXIO"),
        (FORGED, "", "crun", None, "ENXIO"),
        # what a pod's author adds to what the runtime says makes its identity nobody's
        (kubernetes("web", "build") | FORGED, "", "runc", None, "EPERM"),
        (kubernetes("ci-1", "sidecar"), "baz", "runc", None, "ENOTTY"),
        ({"org.example.k": "w"}, "bar", "crun", None, "ENOTTY"),
        ({}, "other", "crun", None, "EBUSY"),
        ({}, "other", "runc", "/of-a-test", "EROFS"),
        ({}, "other", "runc", None, "EPERM"),
    ],
)
def test_a_policy_is_chosen(
    daemon: Daemon, place: Path, annotations: dict[str, str], metadata: str, runtime: str,
    cgroup: str | None, errno: str,
) -> None:
    seccomp = profile(daemon.socket, metadata=metadata)
    with bundle(place, seccomp, runtime=runtime, annotations=annotations) as box:
        if cgroup:
            box.config["linux"]["cgroupsPath"] = f"{cgroup}-{box.path.name}"
        assert SAID[errno] in box.run("mknod /tmp/a c 1 3").stderr


def test_the_log_says_why_none_was(daemon: Daemon, place: Path) -> None:
    with bundle(place, profile(daemon.socket, metadata="\n\x1b[31mforged")) as box:
        box.run("mknod /tmp/a c 1 3")
        (line,) = wait_for(
            lambda: [line for line in daemon.log().splitlines() if box.ids[-1] in line
                     and "no policy applies" in line], bool
        )  # fmt: skip
    for said in (
        "a-annotated: annotation org.example.k is not known",
        "b-pod: kubernetes namespace is not known",
        "d-crun: runtime is 'runc', not crun",
        "f-nobody: peer_uid is 0",
    ):
        assert said in line
    assert "\x1b" not in line
    daemon.said("1 calls were refused")


def test_a_runtime_that_has_gone_is_told_by_what_it_leaves(daemon: Daemon, place: Path) -> None:
    """As under load: `runc create` has ended before the daemon looks."""
    with bundle(place, profile(daemon.socket, metadata="left")) as box:
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            name = box.create("/bin/sh", "-c", "mknod /tmp/a c 1 3 2>/tmp/said; sleep 1000")
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        wait_for(lambda: f"{name}: policy g-left" in daemon.log(), bool)
        assert run(box.command("start", name)).returncode == 0
        said = box.root / "tmp/said"

        def text() -> str:
            return said.read_text() if said.exists() else ""

        assert SAID["EROFS"] in wait_for(text, bool)
        # and of what is executed later: that has its own program by then
        said.unlink()
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            words = ["/bin/sh", "-c", "mknod /tmp/b c 1 3 2>/tmp/said"]
            command = box.command("exec", "--detach", name, *words)
            nothing = subprocess.DEVNULL
            subprocess.run(command, stdout=nothing, stderr=nothing, timeout=20, check=True)
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        assert SAID["EROFS"] in wait_for(text, bool)
