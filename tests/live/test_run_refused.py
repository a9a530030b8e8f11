"""`seccompd run` where the machine will not have it: a message, or less with a warning."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from supervisor.kernel import features
from tests.support.people import Person
from tests.support.program import run, seccompd
from tests.support.scratch import public, scratch


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
    # nor may another proc that somebody has mounted show what is covered
    others = "$(while read x where type x; do [ $type = proc ] && echo $where; done </proc/mounts)"
    covered = f"for p in {others}; do [ $p = /proc ] || umount -l $p; done; "
    covered += "mount -t tmpfs sd-cover /proc/fs"
    done = shell(root, f"""unshare -m sh -c '{covered}; exec "$@"' sh "$@" -- sh -c 'exit 3'""")
    assert done.returncode == 3
    assert done.stderr.startswith("seccompd: no fresh /proc")
    assert done.stderr.count("\n") == 1


def test_without_libseccomp(user: Person) -> None:
    files = [str(file) for file in Path("/usr/lib").glob("*/libseccomp.so.2*")]
    assert files
    covered = "; ".join(f"mount --bind /dev/null {file}" for file in files)
    cache = "export XDG_CACHE_HOME=/dev/null"  # a policy that was compiled before needs no library
    done = shell(user, f"""{cache}; unshare -m sh -ec '{covered}; exec "$@"' sh "$@" -- true""")
    assert done.returncode == 1
    assert done.stderr.startswith("seccompd: no filter can be made without libseccomp: ")
    assert "apt-get install libseccomp2" in done.stderr
    assert done.stderr.count("\n") == 2


def test_newuidmap_that_fails(user: Person, tmp_path: Path) -> None:
    fake = public(tmp_path) / "newuidmap"
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
    assert done.stderr.startswith("seccompd: another listener is above this process: ")


@pytest.mark.parametrize("word", ["", " ", "\udcff", "a\nb"])
def test_odd_names(person: Person, word: str) -> None:
    done = run(person, word)
    assert done.returncode == 127
    shown = {"": "''", "\udcff": "\\xff", "a\nb": "a\\x0ab"}.get(word, word)
    assert done.stderr.startswith(f"seccompd: {shown}: command not found\n  hint: ")


REQUIRED = [name for name, feature in features.FEATURES.items() if feature.required]


@pytest.mark.parametrize("name", [*REQUIRED, "namespaces"])
def test_a_kernel_without_what_is_needed(person: Person, name: str) -> None:
    done = run(person, "true", env={"SECCOMPD_TEST_HIDE": name})
    assert done.returncode == 1
    assert done.stderr.startswith(f"seccompd: Linux {os.uname().release}: no {name}, ")
    assert "\n  hint: " in done.stderr
    assert done.stderr.count("\n") == 2


def test_without_namespaces_where_none_is_asked_for(person: Person) -> None:
    env = {"SECCOMPD_TEST_HIDE": "namespaces"}
    done = run(person, "sh", "-c", "exit 6", options=("--map", "none"), env=env)
    assert done.returncode == 6


def test_a_fifo_for_records_that_nobody_reads(person: Person) -> None:
    with scratch() as folder:
        fifo = folder / "records"
        os.mkfifo(fifo)
        fifo.chmod(0o666)
        done = run(person, "true", options=("--audit", str(fifo)))
        assert (done.returncode, done.stderr) == (
            1, f"seccompd: {fifo}: nobody reads it\n  hint: start its reader first\n"
        )
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            done = run(person, "mknod", "/tmp/x", "c", "8", "9", options=("--audit", str(fifo)))
            assert done.returncode == 1
            assert os.read(reader, 65536).startswith(b'{"')
        finally:
            os.close(reader)


@pytest.mark.parametrize("descriptors", [5, 8, 10, 12])
def test_hardly_any_descriptors(person: Person, descriptors: int) -> None:
    run(person, "true")  # compiles the policy
    done = shell(person, f'ulimit -n {descriptors}; exec "$@" -- true')
    assert done.returncode == 1
    assert done.stderr.startswith("seccompd: ")
    assert "Too many open files" in done.stderr
    assert "Traceback" not in done.stderr


def test_hardly_any_memory(root: Person) -> None:
    """As root: an ordinary user's launch has less to load, and may succeed."""
    done = shell(root, 'ulimit -v 40000; exec "$@" -- true')
    assert done.returncode == 1
    assert done.stderr.startswith("seccompd: ")
    assert "Traceback" not in done.stderr
