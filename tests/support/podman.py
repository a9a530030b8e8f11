"""podman's containers: with busybox in them, in a store of their own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.bundles import box_of
from tests.support.daemon import run
from tests.support.people import Person

MAPPED = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]


class Podman:
    """Containers of `person`'s, all of one root file system, which belongs to `owner`."""

    def __init__(self, person: Person, place: Path, profile: Mapping[str, Any], owner: int) -> None:
        self._person = person
        self._place = place
        self._profile = place / "profile.json"
        self._profile.write_text(json.dumps(profile))
        self.root = place / "rootfs"
        box_of(self.root, owner)
        self._runtime = place / "runtime"
        self._runtime.mkdir(mode=0o700)
        os.chown(self._runtime, person.uid, person.gid)

    def run(self, script: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A container that runs a shell script to its end."""
        place = self._place
        # Nothing of the machine's own podman; limits that may be set without CAP_SYS_RESOURCE.
        words = [
            "podman", "--root", str(place / "store"), "--runroot", str(place / "runroot"),
            "--tmpdir", str(place / "tmp"), "--storage-driver", "vfs",
            "--cgroup-manager", "cgroupfs", "--events-backend", "file",
            "--runtime", "/usr/sbin/runc", "run", "--rm",
            "--network", "none", "--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1000:1000",
            "--security-opt", f"seccomp={self._profile}", *options, "--rootfs", str(self.root),
            "/bin/sh", "-c", script,
        ]  # fmt: skip
        env = self._person.environ({"XDG_RUNTIME_DIR": str(self._runtime)})
        return run(self._person.argv(words), env=env, cwd="/", timeout=120)


def options_for(*capabilities: str, mapped: bool) -> Sequence[str]:
    """Those of a container with more capabilities, and with a user namespace or without one."""
    more = [word for name in capabilities for word in ("--cap-add", name)]
    return [*more, *(MAPPED if mapped else [])]
