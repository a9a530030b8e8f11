"""Who makes calls on sockets, and who makes none any more."""

from __future__ import annotations

from supervisor.engine.porters import Porter, Porters


def after(*, kicked: bool) -> tuple[Porter, Porter]:
    """Who makes a call, and who the one after it; `kicked`: the first one was to be interrupted."""
    porters = Porters()
    try:
        one = porters.take()
        if kicked:
            porters.kick(one)
        porters.give(one)
        return one, porters.take()
    finally:
        porters.close()


def test_who_was_interrupted_makes_no_other_call() -> None:
    """The signal may come late, and the next call be somebody's who has none."""
    one, other = after(kicked=True)
    assert other is not one
    assert other.number != one.number


def test_all_others_are_used_again() -> None:
    one, other = after(kicked=False)
    assert other is one
