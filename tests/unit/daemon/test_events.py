"""Handlers by descriptor: nobody gets an event that was another file's, and one defect is one."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from supervisor.daemon.events import IN, Events


@pytest.fixture
def events() -> Iterator[Events]:
    found = Events()
    yield found
    found.close()


def test_handlers_and_their_end(events: Events) -> None:
    read, write = os.pipe()
    said: list[bytes] = []
    events.add(read, IN, lambda _: said.append(os.read(read, 10)))
    events.dispatch()
    os.write(write, b"x")
    assert select.select([events], [], [], 1)[0]
    events.dispatch()
    assert said == [b"x"]
    events.change(read, 0)
    os.write(write, b"y")
    events.dispatch()
    assert said == [b"x"]
    events.drop(read)
    os.close(write)
    events.dispatch()
    os.close(read)


def test_a_hang_up_comes_unasked(events: Events) -> None:
    read, write = os.pipe()
    said: list[int] = []
    events.add(read, 0, said.append)
    os.close(write)
    events.dispatch()
    assert said == [select.EPOLLHUP]
    events.drop(read)
    os.close(read)


def test_an_event_of_a_file_that_was_closed_in_the_same_turn(events: Events) -> None:
    """Two are ready; the first handler closes both, and opens another that gets the number."""
    pipes = [os.pipe() for _ in range(2)]
    ran: list[str] = []
    fresh: list[tuple[int, int]] = []

    def first(_: int) -> None:
        ran.append("first")
        for read, _write in pipes:
            events.drop(read)
            os.close(read)
        fresh.extend(os.pipe() for _ in range(2))
        for read, _write in fresh:
            events.add(read, IN, lambda _: ran.append("of another file"))

    for read, write in pipes:
        events.add(read, IN, first)
        os.write(write, b"x")
    events.dispatch()
    assert ran == ["first"]
    assert {read for read, _ in fresh} & {read for read, _ in pipes}, "no number came again"
    for read, _ in fresh:
        events.drop(read)
    for fd in {fd for pair in (*pipes, *fresh) for fd in pair}:
        try:
            os.close(fd)
        except OSError:
            continue


def test_what_is_due_later(events: Events) -> None:
    called: list[int] = []
    told: list[None] = []
    events.on_later = lambda: told.append(None)
    assert events.timeout() is None
    events.later(3600, lambda: called.append(2))
    events.later(0, lambda: called.append(1))
    assert events.timeout() == 0
    events.dispatch()
    assert called == [1]
    assert 3500 < (events.timeout() or 0) <= 3600
    assert len(told) == 2


def test_a_defect_costs_its_own_descriptor_alone(events: Events) -> None:
    read, write = os.pipe()
    other, into = os.pipe()
    said: list[object] = []

    def defect(_: int) -> None:
        raise ValueError("a defect")

    events.add(read, IN, defect)
    events.add(other, IN, lambda _: said.append(os.read(other, 10)))
    os.write(write, b"x")
    with pytest.raises(ValueError, match="a defect"):
        events.dispatch()
    events.on_exception = said.append
    os.write(into, b"y")
    for _ in range(3):
        events.dispatch()
    assert sorted(map(str, said)) == ["a defect", "b'y'"]
    events.drop(other)
    for fd in (read, write, other, into):
        os.close(fd)
