"""Opens of a granted path by a hostile caller: it gets what the rule gives, or what it may open
itself, and nothing stays with the session.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.policy.source import PolicyFindings
from tests.support.inside import links, wait_for
from tests.support.people import Person
from tests.support.policies import policy
from tests.support.program import Started, names, run
from tests.support.racing import lengths
from tests.support.scratch import compile_c, scratch

EVERY_LENGTH = lengths(1.5, 40, timeout=200)
RULES = """
version: 1
syscalls:
  open:
    - {path: %s/allowed/granted, do: {inject: {content: "Granted"}}}
    - {path: %s/allowed/written, do: {inject: {file: %s/roots, access: read-write}}}
"""


# Refuses by a path that the kernel would let the caller open.
RACY = """
version: 1
syscalls:
  open:
    - {path: %s/mine000/granted, do: refuse}
    - {do: continue, accept_race: true}
"""


# Refuses one program, and lets another user go for the records alone.
UNREADABLE = """
version: 1
syscalls:
  open:
    - {uid: %s, mode: audit, do: refuse}
    - {executable: %s/static/opens, do: {errno: EIO}}
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o777, "/var/tmp") as folder:
        compile_c("opens", folder, "-pthread")
        # loads nothing that a rule about its opens would refuse
        (folder / "static").mkdir(0o755)
        compile_c("opens", folder / "static", "-pthread", "-static")
        (folder / "rules.yaml").write_text(RULES % (folder, folder, folder))
        (folder / "roots").write_text("Granted")
        (folder / "roots").chmod(0o600)
        (folder / "racy.yaml").write_text(RACY % folder)
        for name in ("allowed", "mine000", "secret0", "plain00"):
            (folder / name).mkdir(0o755)
        (folder / "plain00" / "granted").write_text("Given")
        (folder / "mine000" / "granted").write_text("Own")
        (folder / "secret0" / "granted").write_text("Secret")
        (folder / "secret0" / "granted").chmod(0o600)
        yield folder


def says(
    person: Person, place: Path, *words: str, timeout: float = 60, rules: str = "rules.yaml"
) -> list[str]:
    script = f'cd "$(mktemp -d)"; exec {place}/opens {" ".join(words)}'
    options = ("--policy", str(place / rules))
    done = run(person, "sh", "-ec", script, options=options, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_by_int_0x80(person: Person, place: Path) -> None:
    assert says(person, place, "i386", f"{place}/allowed/granted") == ["G", "G", "G", "1"]


@EVERY_LENGTH
def test_a_path_that_cannot_be_read_yet(person: Person, place: Path, seconds: float) -> None:
    """By the time that the kernel reads it, it may be there: it is not for another user's sake that
    such an open goes on."""
    for who, opens in ((7, False), (0, True)):
        (place / "unreadable.yaml").write_text(UNREADABLE % (who, place))
        script = f"exec {place}/static/opens pages {seconds} {place}/plain00/granted"
        options = ("--policy", str(place / "unreadable.yaml"))
        done = run(person, "sh", "-ec", script, options=options, timeout=60 + seconds)
        assert (done.returncode, done.stderr) == (0, "")
        opened, faults, refused = map(int, done.stdout.split())
        assert (opened > 0, refused > 0) == (opens, not opens)
        assert faults > 0


@EVERY_LENGTH
@pytest.mark.parametrize("how", ["flip", "links"])
@pytest.mark.parametrize("other", ["mine000", "secret0"])
def test_a_path_that_turns(
    person: Person, place: Path, how: str, other: str, seconds: float
) -> None:
    """Between what is granted and a file of its own, or one of the host's root's."""
    names = f"{place}/allowed", f"{place}/{other}"
    total = [0, 0, 0]
    for turn in range(1, 6):  # a busy machine does not always let each side win in a second
        length = turn * seconds
        word, *found = says(person, place, how, str(length), *names, timeout=length * 2 + 60)
        *some, wrong = map(int, found)
        assert (word, wrong) == ("done", 0)
        total = [sum(pair) for pair in zip(total, some, strict=True)]
        granted, own, refused = total
        assert own == 0 or other == "mine000"
        if granted > 5 < own + refused:
            break
    assert granted > 5 < own + refused


@pytest.mark.timeout(200)
def test_the_race_is_one(person: Person, place: Path) -> None:
    """Rule 13: a refusal beside opens that go on is got past; it does not load as it is."""
    names = f"{place}/plain00", f"{place}/mine000"
    others = refused = 0
    for _ in range(30):
        word, *found = says(person, place, "flip", "1.5", *names, rules="racy.yaml")
        *some, wrong = map(int, found)
        assert (word, wrong) == ("done", 0)
        others, refused = others + some[0], refused + some[2]
        if some[1]:
            break
    assert some[1] > 0, "nothing got past"
    assert min(others, refused) > 5
    with pytest.raises(PolicyFindings, match="beside a refusal by path is a race"):
        policy((RACY % place).replace(", accept_race: true", ""))


def test_a_full_table(person: Person, place: Path) -> None:
    assert says(person, place, "limit", f"{place}/allowed/granted") == ["15", "1", "1", "G"]


def test_tables_of_threads(person: Person, place: Path) -> None:
    """The descriptor comes to who called, and to nobody else."""
    assert says(person, place, "files", f"{place}/allowed/granted") == ["1", "G", "0"]


@pytest.mark.parametrize("hidden", ["", "wait_killable"])
def test_signals(
    person: Person, place: Path, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many descriptors as opens that succeeded; also where calls can be interrupted."""
    if hidden:
        monkeypatch.setenv("SECCOMPD_TEST_HIDE", hidden)
    opened, more, wrong, _ = says(person, place, "storm", "2", f"{place}/allowed/granted")
    assert int(opened) > 50
    assert (more, wrong) == ("0", "0")


def test_by_an_opener(root: Person, place: Path) -> None:
    """What another process than the session opens and gives: a file of the host's root's."""
    path = f"{place}/allowed/written"
    assert says(root, place, "limit", path) == ["15", "1", "1", "G"]
    assert says(root, place, "files", path) == ["1", "G", "0"]
    opened, more, wrong, _ = says(root, place, "storm", "0.5", path)
    assert int(opened) > 50
    assert (more, wrong) == ("0", "0")


def test_the_caller_is_killed(person: Person, place: Path) -> None:
    """At any moment, also between the descriptor and the answer, which are one."""
    killed(person, place, "granted")


def test_the_caller_of_an_opener_is_killed(root: Person, place: Path) -> None:
    script = f"for i in 1 2 3 4; do readlink /proc/self/fd/3 3<{place}/allowed/written; done"
    done = run(root, "sh", "-c", script, options=["--policy", str(place / "rules.yaml")])
    assert all(line.endswith("/it") for line in done.stdout.splitlines()), done.stdout
    assert done.stdout.count("/it") == 4
    killed(root, place, "written")


def killed(person: Person, place: Path, name: str) -> None:
    words = ["run", "--policy", str(place / "rules.yaml"), "--", f"{place}/opens", "killed", "60"]
    started = Started(person, [*words, f"{place}/allowed/{name}"], stdin=subprocess.PIPE)
    try:
        assert started.process.stdout is not None
        assert started.process.stdout.readline() == b"60\n"
        # the session's own, opened for each anew; of a file that is the directory that it is in
        what, kept = {"granted": ("content", 1), "written": ("/it", 0)}[name]
        wait_for(
            lambda: [link for pid in _ours(started) for link in links(pid) if what in link],
            lambda found: len(found) == kept, seconds=5,
        )  # fmt: skip
        done = started.finish()
        assert done.returncode == 1, done.stderr
        assert started.wait_gone() == []
    finally:
        started.kill()


def _ours(started: Started) -> list[int]:
    """The session, and its openers."""
    found = names(started.processes)
    return [pid for pid, name in found.items() if name in ("seccompd-sessio", "seccompd-open")]
