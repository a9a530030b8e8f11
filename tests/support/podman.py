"""podman's containers: with busybox in them, in a store of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
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

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """podman with a store of its own, and nothing of the machine's."""
        place = self._place
        lead = [
            "podman", "--root", str(place / "store"), "--runroot", str(place / "runroot"),
            "--tmpdir", str(place / "tmp"), "--storage-driver", "vfs",
            "--cgroup-manager", "cgroupfs", "--events-backend", "file",
            "--runtime", "/usr/sbin/runc",
        ]  # fmt: skip
        env = self._person.environ({"XDG_RUNTIME_DIR": str(self._runtime)})
        return run(self._person.argv([*lead, *words]), env=env, cwd="/", timeout=120)

    def _create(self, options: Sequence[str]) -> list[str]:
        # limits that may be set without CAP_SYS_RESOURCE
        return [
            "run", "--rm", "--network", "none",
            "--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1000:1000",
            "--security-opt", f"seccomp={self._profile}", *options, "--rootfs", str(self.root),
        ]  # fmt: skip

    def run(self, script: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A container that runs a shell script to its end."""
        return self.command(*self._create(options), "/bin/sh", "-c", script)

    @contextlib.contextmanager
    def started(self, *options: str) -> Iterator[str]:
        """A container that sleeps, and is stopped at the end; its name."""
        name = f"sd-{uuid.uuid4().hex[:12]}"
        options = ("--detach", "--name", name, "--log-driver", "none", *options)
        done = self.command(*self._create(options), "/bin/sleep", "1000")
        assert done.returncode == 0, done.stderr
        try:
            yield name
        finally:
            done = self.command("stop", "--time", "0", name)
            assert done.returncode == 0, done.stderr

    def exec(self, name: str, script: str) -> subprocess.CompletedProcess[str]:
        """A shell script in a container that runs."""
        return self.command("exec", name, "/bin/sh", "-c", script)


def options_for(*capabilities: str, mapped: bool) -> Sequence[str]:
    """Those of a container with more capabilities, and with a user namespace or without one."""
    more = [word for name in capabilities for word in ("--cap-add", name)]
    return [*more, *(MAPPED if mapped else [])]
