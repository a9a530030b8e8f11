"""Every example runs as it stands, as root and as an ordinary user, and says that all went well.

test_demo.py has the demo, test_mount_programs.py the one that edits an image.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.cgroups import limited
from tests.support.devices import for_everybody
from tests.support.needs import need
from tests.support.people import Person, python, tree

ELSEWHERE = {"demo.py", "edit-image.py"}


def example(person: Person, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """An example, run to its end by `person`."""
    return subprocess.run(
        person.argv([python(person), str(tree(person) / "examples" / name), *words]),
        env=person.environ(), cwd="/", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_no_example_is_left_out() -> None:
    folder = Path(__file__).resolve().parents[2] / "examples"
    tests = {name.replace("test_", "", 1) for name in globals() if name.startswith("test_")}
    for file in folder.glob("*.py"):
        assert file.name in ELSEWHERE or file.stem.replace("-", "_") in tests, file


@pytest.mark.slow
def test_pack_rootfs(person: Person, tmp_path: Path) -> None:
    done = example(person, "pack-rootfs.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All as it should be." in done.stdout
    lines = done.stdout.splitlines()
    assert sum(line.startswith("c") and line.endswith("  dev/null") for line in lines) == 1
    if person.uid == 0:
        assert "b0660   7,  0  dev/loop0" in lines
        assert "left out" not in done.stdout


@pytest.mark.slow
def test_list_requests(person: Person) -> None:
    done = example(person, "list-requests.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a fifo is made" in done.stdout
    asked = [line.split() for line in done.stdout.splitlines() if line.endswith("refuse")]
    assert [words[0] for words in asked] == ["3", "1"]
    assert [words[4] for words in asked] == ["1:3", "8:0"]


@pytest.mark.slow
def test_learn_policy(person: Person) -> None:
    done = example(person, "learn-policy.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All as it should be." in done.stdout
    assert 'path: "/tmp/learn-*/dev/null", do: emulate}' in done.stdout
    assert 'path: "/tmp/learn-*/dev/zero", do: emulate}' in done.stdout


@pytest.mark.slow
def test_reach_servers(person: Person) -> None:
    done = example(person, "reach-servers.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All as it should be." in done.stdout
    assert done.stdout.count("Permission denied") == 6


@pytest.mark.slow
def test_serve_neighbours(person: Person) -> None:
    done = example(person, "serve-neighbours.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All as it should be." in done.stdout
    assert done.stdout.count("reset by peer") == 1


@pytest.mark.slow
def test_mount_squashfs(person: Person) -> None:
    need("squashfuse", "mksquashfs")
    with for_everybody():
        done = example(person, "mount-squashfs.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All as it should be." in done.stdout
    assert done.stdout.count("there is no /dev/fuse") == 2
    assert done.stdout.count("hello from an archive") == 1


@pytest.mark.slow
def test_fit_programs(person: Person) -> None:
    done = example(person, "fit-programs.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("numbered 0-1\nmemory: 4096 MiB\n\nAll as it should be.\n")


@pytest.mark.slow
def test_what_fits_a_cgroup(person: Person) -> None:
    """The limits of the cgroup that the example is started in are what programs see."""
    with limited(memory=300 << 20, processors=1) as files:
        enter = "".join(f"echo $$ >{file}; " for file in files)
        words = person.argv([python(person), str(tree(person) / "examples" / "fit-programs.py")])
        done = subprocess.run(
            ["sh", "-c", f'{enter}exec "$@"', "sh", *words], env=person.environ(), cwd="/",
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    under = done.stdout.partition("policy fits:\n")[2].splitlines()
    assert under[:2] == ["processors: 1, numbered 0", "memory: 300 MiB"]


@pytest.mark.slow
def test_nest_docker(person: Person) -> None:
    need("runc")
    done = example(person, "nest-docker.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All as it should be." in done.stdout
    assert "[emulated: docker.yaml:" in done.stderr
