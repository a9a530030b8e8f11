"""Answers that a caller missed are given once, to that very call, for a short time."""

from supervisor.engine.recent import MissedAnswers
from supervisor.model import Outcome
from tests.support.clock import Clock


def test_given_to_the_same_call_until_it_arrives() -> None:
    missed = MissedAnswers(Clock())
    missed.missed(7, 0x400, b"key", Outcome(0, "node"))
    assert missed.answer(8, 0x400, b"key") is None
    assert missed.answer(7, 0x401, b"key") is None
    assert missed.answer(7, 0x400, b"other") is None
    assert missed.answer(7, 0x400, b"key") == Outcome(0, "node")
    assert missed.answer(7, 0x400, b"key") == Outcome(0, "node"), "missed once more"
    missed.delivered(7, 0x400, b"key")
    assert missed.answer(7, 0x400, b"key") is None


def test_too_late() -> None:
    clock = Clock()
    missed = MissedAnswers(clock)
    missed.missed(7, 0x400, b"key", Outcome(0))
    clock.now += 3
    assert missed.answer(7, 0x400, b"key") is None


def test_bounded() -> None:
    missed = MissedAnswers(Clock())
    for tid in range(1000):
        missed.missed(tid, 0, b"", Outcome(0))
    assert missed.answer(0, 0, b"") is None
    assert missed.answer(999, 0, b"") == Outcome(0)
