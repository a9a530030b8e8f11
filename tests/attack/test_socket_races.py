"""Where a call on a socket leads to is what was read, whatever the caller changes meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import run
from tests.support.racing import lengths
from tests.support.scratch import a_place, compile_c, scratch
from tests.support.sockets import Counter, policy

SHORT = 1.0
EVERY_LENGTH = lengths(SHORT, 40, timeout=400)


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with scratch(0o755) as folder:
        for name in ("socket_race", "socket_kinds"):
            compile_c(name, folder, "-pthread")
        yield folder

place = a_place(0o777)


@pytest.fixture
def ports() -> Iterator[tuple[Counter, Counter]]:
    both = Counter(), Counter()
    yield both
    for one in both:
        one.close()


def race(
    person: Person, programs: Path, ports: tuple[Counter, Counter], how: str, seconds: float,
    rule: str,
) -> tuple[int, int, int]:
    """Calls that were granted, calls that were refused, and datagrams at the second port."""
    allowed, refused = ports
    options = policy(programs / "rules.yaml", [rule % allowed.port])
    done = run(
        person, str(programs / "socket_race"), how, str(seconds), str(allowed.port),
        str(refused.port), options=options, timeout=seconds * 3 + 30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    word, *numbers = done.stdout.split()
    granted, denied, turns = map(int, numbers)
    assert (word, turns > 1000) == ("done", True)
    return granted, denied, refused.count()


@EVERY_LENGTH
@pytest.mark.parametrize("how", ["address", "table", "send"])
def test_nothing_comes_to_a_port_that_is_refused(
    person: Person, programs: Path, ports: tuple[Counter, Counter], how: str, seconds: float
) -> None:
    """Rule 12: decided and carried out from one reading, on one socket."""
    rule = 'to: "127.0.0.1", port: %d, do: emulate'
    granted = denied = 0
    for turn in range(1, 6):  # a busy machine does not always let each side win in a second
        *some, arrived = race(person, programs, ports, how, turn * seconds, rule)
        assert arrived == 0
        granted, denied = granted + some[0], denied + some[1]
        if min(granted, denied) > 5:
            break
    assert min(granted, denied) > 5, "one side always won"
    assert ports[0].count() > 5


@pytest.mark.parametrize("how", ["address", "send"])
def test_the_race_is_one(
    root: Person, programs: Path, ports: tuple[Counter, Counter], how: str
) -> None:
    """Rule 13: were the calls let go on after a look at memory, datagrams would come there."""
    rule = 'to: "127.0.0.1", port: %d, do: continue, accept_race: true'
    for _ in range(10):  # a busy machine does not always let the two meet in a second
        _, denied, arrived = race(root, programs, ports, how, SHORT, rule)
        assert denied > 5
        if arrived:
            break
    assert arrived > 0


@EVERY_LENGTH
def test_a_path_is_never_one_of_the_hosts(
    person: Person, programs: Path, place: Path, seconds: float
) -> None:
    """Rule 20: a path leads where the caller's own would, whatever socket it is that connects."""
    hidden = place / "hidden"
    hidden.mkdir(mode=0o777)
    hidden.chmod(0o777)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(hidden / "s"))
        (hidden / "s").chmod(0o777)
        options = policy(place / "rules.yaml", ["do: emulate"])
        # what the container has there is empty
        script = f"mount -t tmpfs none {hidden}; exec {programs}/socket_kinds "
        script += f"{int(seconds)} {hidden}/s"
        done = run(person, "sh", "-euc", script, options=options, timeout=seconds * 3 + 40)
    assert done.returncode == 0, done.stderr
    word, granted, otherwise, turns = done.stdout.split()
    assert (word, granted) == ("done", "0")
    assert int(otherwise) > 100
    assert int(turns) > 100
