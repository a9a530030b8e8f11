"""Containers of plain LXC."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

from tests.support.bundles import box_of
from tests.support.daemon import Daemon, run
from tests.support.people import Person
from tests.support.program import seccompd

FIRST_ID = 100_000
# Where newuidmap is, LXC writes maps by it, and root has no subordinate ids. It needs no other
# program.
_NO_PROGRAMS = {"PATH": "/nonexistent", "HOME": "/root"}


class Lxc:
    """A configuration with busybox as its root, and the containers that are started by it."""

    def __init__(
        self, place: Path, daemon: Daemon, policy: str, cookie: str | None, *more: str,
        proxy: bool = True, userns: bool = True,
    ) -> None:
        self.path = place / f"lxc-{uuid.uuid4().hex[:8]}"
        self.path.mkdir()
        self.root = self.path / "rootfs"
        box_of(self.root, FIRST_ID if userns else 0)
        for name in ("dev", "proc", "sys"):
            (self.root / name).mkdir(exist_ok=True)
        profile = self.path / "seccomp"
        file = daemon.place / "policies" / f"{policy}.yaml"
        words = seccompd(Person(), "profile", "--format", "lxc", "--policy", str(file))
        profile.write_text(run(words, env=Person().environ()).stdout)
        lines = [
            f"lxc.rootfs.path = dir:{self.root}", "lxc.uts.name = box", "lxc.net.0.type = none",
            "lxc.apparmor.profile = unchanged", "lxc.console.path = none",
            "lxc.mount.auto = proc:mixed", "lxc.autodev = 1",
            f"lxc.seccomp.profile = {profile}",
            *(f"lxc.idmap = {kind} 0 {FIRST_ID} 65536" for kind in "ug" if userns),
            *([f"lxc.seccomp.notify.proxy = unix:{daemon.runtime}/lxc.sock"] if proxy else []),
            *([f"lxc.seccomp.notify.cookie = {cookie}"] if cookie is not None else []),
            *more,
        ]  # fmt: skip
        self._config = self.path / "config"
        self._config.write_text("\n".join([*lines, ""]))
        self.names: list[str] = []

    def _command(self, program: str, name: str, *words: str) -> list[str]:
        found = shutil.which(program)
        assert found is not None
        return [found, "-P", str(self.path), "-n", name, *words]

    def new(self) -> str:
        """A name for a container."""
        name = f"sd-{uuid.uuid4().hex[:12]}"
        self.names.append(name)
        return name

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """A container that runs a shell script to its end."""
        name = self.new()
        words = ["-F", "-f", str(self._config), "--", "/bin/sh", "-c", script]
        done = run(self._command("lxc-start", name, *words), env=_NO_PROGRAMS, cwd="/")
        self.names.remove(name)
        return done

    def start(self, *args: str) -> str:
        """A container that runs `args`, by default for as long as nobody ends it; its name."""
        name = self.new()
        words = ["-d", "-f", str(self._config), "--", *(args or ("/bin/sleep", "1000"))]
        done = run(self._command("lxc-start", name, *words), env=_NO_PROGRAMS, cwd="/")
        assert done.returncode == 0, done.stderr
        return name

    def attach(self, name: str, script: str) -> subprocess.CompletedProcess[str]:
        """A shell script in a container that runs."""
        words = ["--clear-env", "--", "/bin/sh", "-c", script]
        return run(self._command("lxc-attach", name, *words), env=_NO_PROGRAMS, cwd="/")

    def pid(self, name: str) -> int:
        """The container's init."""
        done = run(self._command("lxc-info", name, "-p", "-H"), env=_NO_PROGRAMS, cwd="/")
        return int(done.stdout)

    def stop(self, name: str) -> None:
        """Ends a container, whatever it does."""
        run(self._command("lxc-stop", name, "-k"), env=_NO_PROGRAMS, cwd="/")
        self.names.remove(name)

    def close(self) -> None:
        """Ends all that still run."""
        for name in list(self.names):
            self.stop(name)
