"""Users that the tests act as: made when they are missing, and left there (as a package would)."""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.kernel import idmap

ROOT = Path(__file__).resolve().parent.parent.parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Person:
    """Somebody who runs programs; `name` None is who runs the tests."""

    name: str | None = None

    @property
    def uid(self) -> int:
        return os.geteuid() if self.name is None else pwd.getpwnam(self.name).pw_uid

    @property
    def gid(self) -> int:
        return os.getegid() if self.name is None else pwd.getpwnam(self.name).pw_gid

    @property
    def home(self) -> str:
        return pwd.getpwuid(self.uid).pw_dir

    @property
    def inner_root(self) -> int:
        """Who root of this person's containers is outside."""
        if self.uid:
            return self.uid
        ranges = idmap.subordinate("/etc/subuid", 0)
        return ranges[0][0] if ranges else idmap.DEFAULT_START

    def given(self, folder: Path) -> Path:
        """`folder`, now root's of this person's containers: in others' no node is made."""
        os.chown(folder, self.inner_root, self.inner_root if self.name is None else self.gid)
        return folder

    def argv(self, command: Sequence[str]) -> list[str]:
        """`command` as this person would start it: same process, other ids."""
        if self.name is None:
            return list(command)
        return [
            "setpriv", "--reuid", str(self.uid), "--regid", str(self.gid), "--init-groups", "--",
            *command,
        ]  # fmt: skip

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """A small environment, the same for all, with what seccompd needs to be found."""
        env = {"HOME": self.home, "PATH": PATH, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        for_us = ("SECCOMPD_", "COVERAGE")
        env.update((key, value) for key, value in os.environ.items() if key.startswith(for_us))
        return {**env, "PYTHONPATH": _python_path(self), **(more or {})}


@functools.cache
def tree(person: Person) -> Path:
    """The project as `person` can read it, and whoever is root inside: a clone may be in a home."""
    readable = ["test", "-r", str(ROOT / "supervisor" / "__init__.py")]
    everybody = all(
        subprocess.run(who.argv(readable), check=False).returncode == 0 for who in _others(person)
    )
    return ROOT if everybody else _copy()


def _others(person: Person) -> list[Person]:
    return [person] if os.geteuid() != 0 else [person, Person("nobody")]


def _python_path(person: Person) -> str:
    import cffi

    place = tree(person)
    libraries = Path(cffi.__file__).resolve().parent.parent
    return f"{place}:{libraries if place == ROOT else place / 'libraries'}"


@functools.cache
def _copy() -> Path:
    """What running seccompd takes, in a place that everybody can read."""
    import cffi

    place = Path(tempfile.mkdtemp(prefix="seccompd-tests-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, place)
    place.chmod(0o755)
    libraries = Path(cffi.__file__).resolve().parent.parent
    unused = shutil.ignore_patterns(
        "*.o", "mypy*", "pip", "ruff*", "setuptools*", "hypothesis*", "*.pth",
    )  # fmt: skip
    for name in ("supervisor", "policies", "examples"):
        shutil.copytree(ROOT / name, place / name, ignore=unused)
    shutil.copytree(libraries, place / "libraries", ignore=unused)
    subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
    return place


def reachable(path: str, person: Person) -> bool:
    """Whether `person` can execute the file at `path`."""
    command = person.argv(["test", "-x", path])
    return subprocess.run(command, check=False).returncode == 0


@functools.cache
def python(person: Person) -> str:
    """An interpreter of our own version that `person` can reach: ours may be in a home.

    It is run inside as well, where root is somebody whom nothing belongs to.
    """
    name = f"python3.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        known = os.access(candidate, os.X_OK)
        if known and all(reachable(candidate, who) for who in _others(person)):
            return candidate
    raise LookupError(f"no {name} that everybody could run")


def ordinary() -> Person:
    """A user with subordinate ids (useradd gives them where the package uidmap is there)."""
    return _made("sd-test")


def without_ranges(name: str = "sd-bare") -> Person:
    """A user who has no subordinate ids."""
    person = _made(name)
    for option, path in (("--del-subuids", "/etc/subuid"), ("--del-subgids", "/etc/subgid")):
        for line in Path(path).read_text().splitlines():
            owner, start, count = line.split(":")
            if owner == person.name:
                span = f"{start}-{int(start) + int(count) - 1}"
                subprocess.run(["usermod", option, span, name], check=True)
    return person


def _made(name: str) -> Person:
    try:
        pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "-m", "-s", "/bin/bash", name], check=True)
    return Person(name)
