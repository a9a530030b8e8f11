"""containerd with its shim and runc, all of one test's own; and containers by `ctr`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.bundles import Bundle
from tests.support.daemon import run
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.program import marked

_CONFIG = """
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{place}/containerd.sock"
[ttrpc]
  address = "{place}/ttrpc.sock"
"""


class Containerd:
    """One that answers at the socket `sock`."""

    def __init__(self, sock: Path) -> None:
        self.sock = sock

    def ctr(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Its client."""
        return run(["ctr", "--address", str(self.sock), *words], timeout=120)

    @contextlib.contextmanager
    def started(self, box: Bundle, name: str) -> Iterator[None]:
        """A container of a bundle that sleeps; killed and deleted at the end."""
        box.config["root"]["path"] = str(box.root)
        box.prepare(["/bin/sleep", "1000"])
        box.ids.clear()  # runc alone knows nothing of it
        file = str(box.path / "config.json")
        done = self.ctr("run", "--detach", "--config", file, name)
        assert done.returncode == 0, done.stderr
        try:
            yield
        finally:
            self.ctr("task", "kill", "--signal", "KILL", name)
            # `delete` of a task waits for nobody
            wait_for(lambda: self.ctr("task", "delete", name).returncode, lambda code: not code)
            assert self.ctr("container", "delete", name).returncode == 0

    def exec(self, name: str, script: str) -> subprocess.CompletedProcess[str]:
        """A shell script in a container that runs."""
        words = ("task", "exec", "--exec-id", "of-a-test", name, "/bin/sh", "-c", script)
        return self.ctr(*words)


@contextlib.contextmanager
def containerd(root: Person, place: Path) -> Iterator[Containerd]:
    """One whose files are in `place`. Its shims end with it."""
    found = Containerd(place / "containerd.sock")
    config = place / "containerd.toml"
    config.write_text(_CONFIG.format(place=place))
    mark = f"of-{place.name}"
    env = root.environ({"SECCOMPD_TEST_CONTAINERD": mark})
    with (place / "containerd.log").open("wb") as log:
        process = subprocess.Popen(
            ["containerd", "--config", str(config)], stdout=log, stderr=log, env=env
        )
    try:
        wait_for(
            lambda: process.poll() is not None or not found.ctr("version").returncode, bool, 60
        )
        assert process.poll() is None, (place / "containerd.log").read_text()
        yield found
    finally:
        process.terminate()
        process.wait(20)
        for pid in marked(mark):  # shims, should a test have failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
