"""A caller that stalls whoever reads its memory or walks its paths harms itself, and nobody else.

Three ways: a page under userfaultfd, a page of a FUSE file, a lookup in a FUSE directory. Time is
looked at only against deadlines, with a wide margin: the machine may be busy.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import Started
from tests.support.scratch import a_place, compile_c, mounts_below, scratch

SNAPSHOT, LOOKUP = 0.1, 2.0
MARGIN = 3.0


@pytest.fixture(scope="module")
def programs(root: Person) -> Iterator[Path]:
    """The attacker, and devices that it may open; the host's own may be root's alone."""
    assert root.name is None
    with scratch(0o755) as folder:
        compile_c("stall", folder)
        for name, minor in (("fuse", 229), ("userfaultfd", 257)):
            os.mknod(folder / name, stat.S_IFCHR, os.makedev(10, minor))
            os.chmod(folder / name, 0o666)
        yield folder

place = a_place()


def attack(
    person: Person, programs: Path, place: Path, how: str, rounds: int, policy: str = "build"
) -> list[list[str]]:
    if how == "userfault" and not _has_userfault_device():
        pytest.skip("this kernel has no /dev/userfaultfd (6.1)")
    stall = [str(programs / "stall"), how, str(person.given(place)), str(rounds)]
    started = Started(
        person,
        ["run", "--policy", policy, "--", *stall],
        env={
            "FUSE_DEVICE": str(programs / "fuse"),
            "USERFAULT_DEVICE": str(programs / "userfaultfd"),
        },
    )
    done = started.finish(timeout=60)
    assert done.returncode == 0, done.stderr
    assert started.wait_gone() == [], "with its page gone, everybody who hung has ended"
    assert mounts_below(place) == []
    return [line.split() for line in done.stdout.splitlines()]


def _has_userfault_device() -> bool:
    return "userfaultfd" in Path("/proc/misc").read_text()


@pytest.mark.parametrize("how", ["userfault", "page"])
def test_memory_that_never_comes(
    person: Person, programs: Path, place: Path, how: str
) -> None:
    lines = attack(person, programs, place, how, rounds=4)
    attackers = [line for line in lines if line[0] == "attacker"]
    (bystander,) = [line for line in lines if line[0] == "bystander"]
    assert [line[1] for line in attackers] == ["EPERM"] * 4, "refused, unread"
    assert float(attackers[0][2]) >= SNAPSHOT * 1e3 * 0.9, "it did stall the first reader"
    assert float(attackers[0][2]) < (SNAPSHOT + MARGIN) * 1e3
    later = [float(line[2]) for line in attackers[2:]]
    assert max(later) < SNAPSHOT * 1e3 * 0.9, "once: nobody reads its memory again"
    _, calls, failed, worst = bystander
    assert int(calls) > 20
    assert int(failed) <= 1, "at most the one call that was in flight is refused"
    assert float(worst) < (SNAPSHOT + MARGIN) * 1e3


@pytest.mark.parametrize("how", ["lookup", "overlay"])
def test_a_path_that_never_ends(
    person: Person, programs: Path, place: Path, how: str
) -> None:
    """Two makers there are, and more rounds: none may be asked where it could not be answered."""
    lines = attack(person, programs, place, how, rounds=3)
    attackers = [line for line in lines if line[0] == "attacker"]
    (bystander,) = [line for line in lines if line[0] == "bystander"]
    assert [line[1] for line in attackers] == ["EPERM"] * 3
    for line in attackers:
        assert LOOKUP * 1e3 * 0.9 <= float(line[2]) < (LOOKUP + MARGIN) * 1e3
    _, calls, failed, worst = bystander
    assert int(calls) > 100
    assert int(failed) == 0
    assert float(worst) < LOOKUP * 1e3 * 0.9, "nobody waits behind it"


@pytest.mark.parametrize(
    ("how", "said", "seconds"), [("page", "snapshot: 500ms", 0.5), ("lookup", "path: 4s", 4.0)]
)
def test_a_policy_sets_the_deadlines(
    person: Person, programs: Path, place: Path, how: str, said: str, seconds: float
) -> None:
    """`limits`: longer than what they are by themselves, so that it shows."""
    file = place / "patient.yaml"
    file.write_text(f"version: 1\ninclude: build\nlimits: {{{said}}}\n")
    lines = attack(person, programs, place, how, 1, policy=str(file))
    (line,) = [line for line in lines if line[0] == "attacker"]
    assert line[1] == "EPERM"
    assert seconds * 1e3 * 0.9 <= float(line[2]) < (seconds + MARGIN) * 1e3


def test_many_stalled_readers_end_all_reading(
    root: Person, programs: Path, place: Path
) -> None:
    """Past a small number of readers that hang, the container's calls are refused unread."""
    script = " & ".join(
        f"{programs}/stall page {place}/d{i} 1" for i in range(12)
    )
    for i in range(12):
        (place / f"d{i}").mkdir()
        root.given(place / f"d{i}")
    started = Started(
        root, ["run", "--policy", "build", "--", "sh", "-c", f"{script} & wait"],
        env={"FUSE_DEVICE": str(programs / "fuse")},
    )  # fmt: skip
    done = started.finish(timeout=60)
    attackers = [line for line in done.stdout.splitlines() if line.startswith("attacker")]
    assert len(attackers) == 12
    assert all(line.split()[1] == "EPERM" for line in attackers)
    assert "no caller's memory will be read any more" in done.stderr
    assert done.stderr.count("made the reading of its memory hang") == 8
    assert started.wait_gone() == []


def test_other_containers_notice_nothing(
    root: Person, user: Person, programs: Path, place: Path
) -> None:
    """A second `run` beside a stalled one makes its nodes as if nothing were."""
    (place / "users").mkdir()
    folder = user.given(place / "users")
    stall = [f"{programs}/stall", "lookup", str(root.given(place)), "2"]
    attacker = Started(
        root,
        ["run", "--policy", "build", "--", *stall],
        env={"FUSE_DEVICE": str(programs / "fuse")},
    )  # fmt: skip
    try:
        time.sleep(1)
        other = Started(
            user,
            [
                "run", "--policy", "build", "--", "sh", "-ec",
                f"cd {folder}; for i in $(seq 50); do mknod o$i c 1 3; rm o$i; done; echo fine",
            ],
        )  # fmt: skip
        done = other.finish(timeout=30)
        assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
        assert attacker.process.poll() is None, "the attack was still on"
    finally:
        attacker.finish(timeout=60)
