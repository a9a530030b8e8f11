"""Programs that race with themselves (tests/programs/*_race.c), run under a policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import Started


def lengths(short: float, long: float, *, timeout: float) -> pytest.MarkDecorator:
    """Gives a test `seconds`: `short` in `make test`, and `long` in `make attack`, which may take
    `timeout` seconds in all."""
    marks = [pytest.mark.attack, pytest.mark.timeout(timeout)]
    return pytest.mark.parametrize("seconds", [short, pytest.param(long, marks=marks)])


def race_numbers(
    person: Person, place: Path, rules: str, script: str, seconds: float, *options: str
) -> list[int]:
    """The numbers that a race prints behind "done"; `script` starts it in `place`."""
    file = place / "rules.yaml"
    file.write_text(rules)
    started = Started(
        person,
        ["run", "--policy", str(file), *options, "--", "sh", "-ec", f"cd {place}; {script}"],
    )
    try:
        done = started.finish(timeout=seconds * 3 + 60)
        assert done.returncode == 0, done.stderr
        assert started.wait_gone() == []
    finally:
        started.kill()
    word, *found = done.stdout.split()
    assert word == "done", done.stdout
    return [int(number) for number in found]
