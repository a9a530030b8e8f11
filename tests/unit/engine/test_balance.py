"""Whose turn it is among backends."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from collections import Counter

import pytest

from supervisor.engine.balance import Backends
from supervisor.kernel.address_text import read
from supervisor.model import Balance
from tests.support.clock import Clock

THREE = tuple(read(f"10.0.0.{number}:80") for number in (1, 2, 3))


@pytest.fixture(params=["round-robin", "least-connections", "hash"])
def backends(request: pytest.FixtureRequest, clock: Clock) -> Backends:
    return Backends(Balance(THREE, request.param, rest=10), clock)


def test_all_are_tried(backends: Backends) -> None:
    for key in (b"a", b"b", b"c"):
        assert sorted(backends.order(key)) == [0, 1, 2]


def test_who_fails_rests(backends: Backends, clock: Clock) -> None:
    """It comes last; of several the one whose rest is over first."""
    backends.failed(1)
    clock.now += 1
    assert all(backends.order(bytes([key]))[2] == 1 for key in range(6))
    backends.failed(0)
    assert [backends.order(bytes([key])) for key in range(3)] == [[2, 1, 0]] * 3
    clock.now += 9
    assert {backends.order(bytes([key]))[0] for key in range(60)} == {1, 2}
    backends.well(0)
    assert {backends.order(bytes([key]))[0] for key in range(60)} == {0, 1, 2}


def test_turns(clock: Clock) -> None:
    """Who rests leaves its turns to all others alike."""
    backends = Backends(Balance(THREE), clock)
    assert [backends.order(b"")[0] for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    backends.failed(0)
    assert Counter(backends.order(b"")[0] for _ in range(10)) == {1: 5, 2: 5}


def test_a_hash_stays(clock: Clock) -> None:
    backends = Backends(Balance(THREE, "hash"), clock)
    keys = [f"session\0{number}".encode() for number in range(3000)]
    before = {key: backends.order(key) for key in keys}
    shares = Counter(order[0] for order in before.values())
    assert min(shares.values()) > 800, shares
    backends.failed(2)
    for key, order in before.items():
        expected = [number for number in order if number != 2]
        assert backends.order(key) == [*expected, 2]
    # those of the one that rests are shared out among the others
    moved = Counter(order[1] for order in before.values() if order[0] == 2)
    assert min(moved[0], moved[1]) > 300, moved


def test_connections_are_counted_by_the_kernel(clock: Clock) -> None:
    """As long as somebody has a socket open, whoever that is; each once."""
    backends = Backends(Balance(THREE, "least-connections"), clock)
    watch = select.epoll.fromfd(os.dup(backends.watch))

    def connect(sock: socket.socket, least: int = 0) -> None:
        other = fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, least)
        watch.register(other, select.EPOLLONESHOT)
        os.close(other)

    socks = [socket.socket() for _ in range(3)]
    for sock in socks:
        connect(sock)
    assert len(backends._marks()) == 3
    copy = os.dup(socks[0].fileno())
    socks[0].close()
    assert len(backends._marks()) == 3
    os.close(copy)
    assert len(backends._marks()) == 2
    connect(socks[1], 200)  # the same socket once more, by another number
    assert len(backends._marks()) == 2
    for sock in socks[1:]:
        sock.close()
    assert len(backends._marks()) == 0
    watch.close()
