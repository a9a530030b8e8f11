"""Containers of OCI runtimes: a bundle with busybox in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from supervisor.kernel.task import forked_only
from tests.support.daemon import run
from tests.support.inside import wait_for

FIRST_ID = 100_000
APPLETS = (
    "sh", "mknod", "ls", "cat", "sleep", "echo", "rm", "mv", "id", "stat", "mount", "umount", "cd",
    "touch", "chmod", "true", "readlink", "test", "mkdir", "env", "mkfifo", "kill", "seq", "cut",
    "head", "wc", "cmp",
)  # fmt: skip
CAPABILITIES = (
    "CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID",
    "CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip

# The least that makes mknod a matter of the daemon's.
NOTIFY_MKNOD = [{"names": ["mknod", "mknodat"], "action": "SCMP_ACT_NOTIFY"}]


def profile(
    listener: Path, syscalls: Sequence[Mapping[str, Any]] = NOTIFY_MKNOD, metadata: str = "bar"
) -> dict[str, Any]:
    """A seccomp profile that allows all but what it notifies."""
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "listenerPath": str(listener),
        "listenerMetadata": metadata,
        "syscalls": list(syscalls),
    }


PODMANS_PROFILE = Path("/usr/share/containers/seccomp.json")


def box_of(root: Path, owner: int) -> None:
    """A file system with busybox in it, that belongs to `owner`."""
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    subprocess.run(["chown", "-hR", f"{owner}:{owner}", str(root)], check=True)


# crun refuses a machine that has cgroups of version 1 and 2 at once. It is shown one where it does
# not see those of version 2.
_HYBRID = Path("/sys/fs/cgroup/unified/cgroup.controllers")
_NO_HYBRID = [
    "unshare", "-m", "--propagation", "slave", "sh", "-c",
    f'mount --bind /dev/null {_HYBRID}; exec "$@"', "sh",
]  # fmt: skip


class Bundle:
    """A bundle, and the containers that `runtime` makes of it."""

    def __init__(
        self, place: Path, seccomp: Mapping[str, Any] | None, *,
        userns: bool = True, runtime: str = "runc", first_id: int = FIRST_ID,
        capabilities: Sequence[str] = CAPABILITIES, annotations: Mapping[str, str] | None = None,
    ) -> None:
        self.path = place / f"bundle-{uuid.uuid4().hex[:8]}"
        self.root = self.path / "rootfs"
        self.runtime = runtime
        self.first_id = first_id if userns else 0
        box_of(self.root, self.first_id)
        subprocess.run([runtime, "spec", "-b", str(self.path)], check=True)
        self._file = self.path / "config.json"
        config = json.loads(self._file.read_text())
        config["process"]["terminal"] = False
        config["process"]["capabilities"] = {
            kind: list(capabilities) for kind in ("bounding", "effective", "permitted")
        }
        config["root"]["readonly"] = False
        config["annotations"] = dict(annotations or {})
        if userns:
            config["linux"]["namespaces"].append({"type": "user"})
            for kind in ("uidMappings", "gidMappings"):
                config["linux"][kind] = [
                    {"containerID": 0, "hostID": first_id, "size": 65536}
                ]
        if seccomp is not None:
            config["linux"]["seccomp"] = dict(seccomp)
        self.config: dict[str, Any] = config
        self.ids: list[str] = []

    @staticmethod
    def lead(runtime: str, state: Path) -> list[str]:
        """What a runtime's command line begins with."""
        lead = _NO_HYBRID if Path(runtime).name == "crun" and _HYBRID.exists() else []
        return [*lead, runtime, "--root", str(state)]

    def command(self, *words: str) -> list[str]:
        """The runtime's command line."""
        return [*self.lead(self.runtime, self.path / "state"), *words]

    def prepare(self, args: Sequence[str]) -> str:
        """Writes the configuration of a container that runs `args`; its id."""
        self.config["process"]["args"] = list(args)
        self._file.write_text(json.dumps(self.config))
        name = f"sd-{uuid.uuid4().hex[:12]}"
        self.ids.append(name)
        return name

    def run(
        self, script: str, *, args: Sequence[str] = (), **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """A container that runs a shell script, or `args`, to its end."""
        name = self.prepare(args or ["/bin/sh", "-c", script])
        return run(self.command("run", "-b", str(self.path), name), **more)

    def create(self, *args: str) -> str:
        """A container that has been created and not started; its id."""
        name = self.prepare(args)
        self.detached("create", "-b", str(self.path), name)
        return name

    def detached(self, *words: str) -> None:
        """The runtime's command, whose container gets its streams, and keeps them: a pipe would not
        end with the command."""
        log = self.path / "detached.log"
        with log.open("w+b") as out:
            status = subprocess.run(
                self.command(*words), stdin=out, stdout=out, stderr=out, timeout=60
            ).returncode
        assert status == 0, log.read_text()

    def start(self, *args: str) -> str:
        """A container that runs `args`, by default for as long as nobody ends it; its id."""
        name = self.create(*(args or ("/bin/sleep", "1000")))
        pid = self.pid(name)
        done = run(self.command("start", name))
        assert done.returncode == 0, done.stderr
        # The runtime does not wait for the program: until then nobody can enter its namespaces.
        wait_for(lambda: forked_only(pid), lambda not_yet: not not_yet)
        return name

    def exec(self, name: str, script: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """A shell script in a container that runs."""
        return run(self.command("exec", name, "/bin/sh", "-c", script), **more)

    def pid(self, name: str) -> int:
        state = json.loads(run(self.command("state", name)).stdout)
        return int(state["pid"])

    def delete(self, name: str) -> None:
        """Ends a container, whatever it does."""
        run(self.command("delete", "--force", name))
        self.ids.remove(name)

    def close(self) -> None:
        for name in list(self.ids):
            self.delete(name)


@contextlib.contextmanager
def bundle(place: Path, seccomp: Mapping[str, Any] | None, **more: Any) -> Iterator[Bundle]:
    """A bundle whose containers are gone at the end."""
    found = Bundle(place, seccomp, **more)
    try:
        yield found
    finally:
        found.close()
    null = os.stat("/dev/null")
    assert (null.st_uid, null.st_gid) == (0, 0), "the host's own nodes stay as they are"


def outside(path: Path) -> tuple[int, int, int]:
    """(type and permissions, uid, gid) of a file as the host sees it."""
    found = os.lstat(path)
    return found.st_mode, found.st_uid, found.st_gid
