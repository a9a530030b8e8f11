"""`seccompd run` where the machine will not have it: a message, or less with a warning."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import run, seccompd


def shell(person: Person, script: str) -> subprocess.CompletedProcess[str]:
    """A script in which `$@` is `seccompd run`."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *seccompd(person, "run")],
        env=person.environ(), cwd="/", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_no_user_namespaces(root: Person) -> None:
    limit = "echo 0 > /proc/sys/user/max_user_namespaces"
    done = shell(root, f"""unshare -Ur sh -c '{limit}; exec "$@"' sh "$@" -- true""")
    assert done.returncode == 1
    assert done.stderr.startswith("seccompd: cannot make the namespaces: No space left")
    assert "max_*_namespaces" in done.stderr


def test_in_a_chroot(root: Person, tmp_path: Path) -> None:
    script = f"""
    unshare -m sh -ec 'mount --bind / {tmp_path}; mount --rbind /proc {tmp_path}/proc
    mount --rbind /dev {tmp_path}/dev; exec chroot {tmp_path} "$@"' sh "$@" -- true
    """
    done = shell(root, script)
    assert done.returncode == 1
    assert "cannot make the namespaces" in done.stderr
    assert "chroot" in done.stderr


def test_covered_proc(root: Person) -> None:
    covered = "mount -t tmpfs sd-cover /proc/fs"
    done = shell(root, f"""unshare -m sh -c '{covered}; exec "$@"' sh "$@" -- sh -c 'exit 3'""")
    assert done.returncode == 3
    assert done.stderr.startswith("seccompd: no fresh /proc")
    assert done.stderr.count("\n") == 1


def test_newuidmap_that_fails(user: Person, tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.name.startswith("pytest"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    fake = tmp_path / "newuidmap"
    fake.write_text("#!/bin/sh\necho no way >&2\nexit 1\n")
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{user.environ()['PATH']}"}
    done = run(user, "cat", "/proc/self/uid_map", env=env)
    assert done.stderr == "seccompd: only one id is mapped: no way\n"
    assert done.stdout.split() == ["0", str(user.uid), "1"]
    done = run(user, "true", env=env, options=("--map", "0:100000:5"))
    assert done.returncode == 1
    assert "no way" in done.stderr


def test_root_of_a_container(user: Person) -> None:
    inside = seccompd(Person(), "run", "--", "sh", "-c", "id -u; cat /proc/self/uid_map; exit 4")
    done = subprocess.run(
        user.argv(["unshare", "-Ur", *inside]), env=user.environ(), cwd="/",
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stdout.split() == ["0", "0", "0", "1"]


def test_inside_itself(person: Person) -> None:
    """A second listener is not to be had: said clearly, and nothing hangs."""
    done = run(person, *seccompd(Person(), "run", "--", "true"))
    assert done.returncode == 1
    assert "the kernel refuses the filter: Device or resource busy" in done.stderr


@pytest.mark.parametrize("word", ["", " ", "\udcff", "a\nb"])
def test_odd_names(person: Person, word: str) -> None:
    done = run(person, word)
    assert done.returncode == 127
    assert "not found" in done.stderr
