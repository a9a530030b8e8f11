"""How often who may come, by a clock of our own."""

from __future__ import annotations

import pytest

from supervisor.daemon.rates import Complaints, Rates
from tests.support.clock import Clock


def allowed(rates: Rates, uid: int, times: int) -> int:
    return sum(rates.allows(uid) for _ in range(times))


def test_some_at_once_and_then_a_rate(clock: Clock) -> None:
    rates = Rates(8, 32, clock)
    assert allowed(rates, 1, 100) == 32
    clock.now += 0.55
    assert allowed(rates, 1, 100) == 4
    clock.now += 100
    assert allowed(rates, 1, 100) == 32, "what was not used is not saved up"


def test_each_user_has_its_own(clock: Clock) -> None:
    rates = Rates(8, 32, clock)
    assert allowed(rates, 1, 1000) == 32
    assert allowed(rates, 2, 32) == 32


def test_one_who_comes_as_many(clock: Clock) -> None:
    """They share a rate, and memory is bounded; those that were known keep theirs."""
    rates = Rates(8, 32, clock)
    rates.allows(7)
    found = sum(rates.allows(100_000 + number) for number in range(65_536))
    assert found < 1024 + 32
    assert len(rates._used) <= 1025
    assert rates.allows(7)
    clock.now += 100
    assert rates.allows(8), "who has gone is forgotten"
    assert len(rates._used) < 10


def test_what_is_not_said_is_counted(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    complaints = Complaints("door", Rates(1, 3, clock))
    for number in range(100):
        complaints.about(5, f"wrong {number}")
    clock.now += 1.5
    complaints.about(5, "wrong again")
    assert capfd.readouterr().err.splitlines() == [
        "seccompd: door: wrong 0", "seccompd: door: wrong 1", "seccompd: door: wrong 2",
        "seccompd: door: wrong again (97 more like this were not logged)",
    ]  # fmt: skip
