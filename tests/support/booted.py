"""A systemd of its own, as pid 1 of namespaces, on the machine's own programs: to run the units."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cffi

from tests.support.daemon import run
from tests.support.inside import wait_for
from tests.support.people import ROOT

SYSTEMD = Path("/lib/systemd/systemd")
ENVIRON = "PYTHONPATH=/run/tree:/run/libraries PYTHONDONTWRITEBYTECODE=1"

# Nothing of the machine can be written to but what is in PLACE, which is /run/test inside.
_BOOT = """
set -eu
place=$1 tree=$2 libraries=$3
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/test /run/tree /run/libraries /run/systemd/system
mount --bind "$place" /run/test
mount --bind "$tree" /run/tree
mount --bind "$libraries" /run/libraries
cp /run/test/units/* /run/systemd/system
for unit in /run/test/dropins/*; do
    mkdir /run/systemd/system/"${unit##*/}".d
    cp "$unit" /run/systemd/system/"${unit##*/}".d/test.conf
done
for folder in /tmp /var/tmp /var/log /var/cache; do mount -t tmpfs -o mode=1777 none $folder; done
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
touch /run/test/console
mount --bind /run/test/console /dev/console
mount --bind /proc/sys /proc/sys
for folder in / /sys /proc/sys; do mount -o remount,bind,ro $folder; done
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_COLORS=0 \\
    /lib/systemd/systemd --unit=test.target --log-target=console
"""
_TARGET = "[Unit]\nDescription=Nothing but what is tested\nDefaultDependencies=no\n"
# The machine's own sysinit.target and the like are none of a test's business.
_ALONE = "[Unit]\nDefaultDependencies=no\n"


class Booted:
    """`place` is /run/test inside, `pid` the one that its systemd has outside."""

    def __init__(self, place: Path, service: str) -> None:
        """`service`: lines for [Service] of seccompd.service."""
        self.place = place
        for folder in ("units", "dropins"):
            (place / folder).mkdir()
        for file in (ROOT / "deploy").iterdir():
            shutil.copy(file, place / "units")
            text = _ALONE + (f"[Service]\n{service}\n" if file.suffix == ".service" else "")
            (place / "dropins" / file.name).write_text(text)
        (place / "units" / "test.target").write_text(_TARGET)
        libraries = Path(cffi.__file__).resolve().parent.parent
        self._group = Path(place, "cgroup")
        self._group.mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "none", str(self._group)], check=True)
        self._own = self._group / f"sd-test-{os.getpid()}"
        self._own.mkdir()
        words = ["unshare", "-mpuinC", "--fork", "--kill-child", "--mount-proc",
                 "--propagation", "private", "sh", "-c", _BOOT, "boot", str(place), str(ROOT),
                 str(libraries)]  # fmt: skip
        enter = f'echo $$ >{self._own}/cgroup.procs && exec "$@"'
        with (place / "console").open("wb") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", enter, "sh", *words], stdin=subprocess.DEVNULL,
                stdout=console, stderr=console,
            )  # fmt: skip

    def ready(self) -> None:
        """Waits until it has booted."""
        wait_for(self._state, lambda state: state == "active")

    def _state(self) -> str:
        assert self._process.poll() is None, self.said()
        return self.systemctl("is-active", "test.target", check=False).strip()

    @property
    def pid(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(children.read_text().split()[0])

    def said(self) -> str:
        """What it and its services have printed."""
        return (self.place / "console").read_text() + "".join(
            file.read_text() for file in self.place.glob("log*")
        )

    def inside(self, words: Sequence[str]) -> list[str]:
        """The command line that runs `words` in its namespaces."""
        namespaces = ("-m", "-p", "-u", "-i", "-n", "-C")
        return ["nsenter", "-t", str(self.pid), *namespaces, "--", "env", "-i",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *ENVIRON.split(), *words]  # fmt: skip

    def systemctl(self, *words: str, check: bool = True) -> str:
        """What it prints."""
        try:
            done = run(self.inside(["systemctl", "--no-pager", *words]))
        except (OSError, IndexError):
            return ""  # it has not begun
        assert not check or done.returncode == 0, done.stderr + self.said()
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "-p", name, "--value", unit).strip()

    def close(self) -> None:
        """Ends it and everything in it."""
        self._process.kill()
        self._process.wait()
        procs = list(self._own.rglob("cgroup.procs"))
        wait_for(lambda: [file for file in procs if file.read_text()], lambda busy: not busy)
        for file in sorted(procs, key=lambda file: -len(file.parts)):  # what is below comes first
            file.parent.rmdir()
        subprocess.run(["umount", str(self._group)], check=True)


@contextlib.contextmanager
def booted(place: Path, python: str, settings: Mapping[str, object]) -> Iterator[Booted]:
    """With seccompd.service such that this tree's daemon runs, with a configuration."""
    (place / "seccompd.yaml").write_text(json.dumps(settings))
    service = (
        f"ExecStart=\nExecStart={python} -m supervisor serve --config /run/test/seccompd.yaml\n"
        f"Environment={ENVIRON}\nWatchdogSec=2\nStandardError=append:/run/test/log\n"
    )
    found = Booted(place, service)
    try:
        found.ready()
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
            os.kill(found.pid, signal.SIGKILL)
        found.close()
