"""Hand-overs of any shape: the parsers, and the door with descriptors. `make fuzz` is longer."""

from __future__ import annotations

import array
import contextlib
import os
import random
import socket
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.daemon.control import Wrong, _request
from supervisor.intake import oci
from supervisor.intake.handover import Malformed, Reading, State, parse_state
from supervisor.intake.identity import Peer
from tests.support.fuzzing import SEEDS, check, fuzz, mutated

COUNT = int(os.environ.get("SECCOMPD_TEST_FUZZ", "3000"))
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10,
)  # fmt: skip
STATE = st.fixed_dictionaries({}, optional={
    "fds": st.lists(st.just("seccompFd") | st.text()) | JSON,
    "pid": st.integers() | JSON,
    "metadata": st.text() | JSON,
    "state": st.fixed_dictionaries({}, optional={
        "id": st.text() | JSON, "pid": st.integers() | JSON, "status": st.text() | JSON,
        "annotations": st.dictionaries(st.text(), st.text()) | JSON,
    }) | JSON,
})  # fmt: skip


def test_a_coverage_guided_run() -> None:
    assert fuzz(COUNT, 1) > 5, "it reaches what it does not begin with"


@settings(max_examples=max(COUNT // 10, 100), deadline=None, database=None)
@given(STATE, st.integers(1, 50), st.booleans())
def test_states_of_any_shape(state: dict[str, Any], size: int, spaced: bool) -> None:
    import json

    data = json.dumps(state, indent=2 if spaced else None).encode()
    reading = Reading(1 << 20)
    message = None
    try:
        for at in range(0, len(data), size):
            message = reading.feed(data[at : at + size])
    except Malformed:
        return  # nested too deep
    assert message == data
    with contextlib.suppress(Malformed):
        assert isinstance(parse_state(message), State)
    with contextlib.suppress(Wrong):
        _request(data)


@settings(max_examples=max(COUNT // 10, 100), deadline=None, database=None)
@given(st.binary(max_size=300))
def test_bytes_of_any_kind(data: bytes) -> None:
    check(data, random.Random(len(data)))


class Taken:
    """Stands where containers are served, and takes nothing: no message here has a listener."""

    def take(self, hand_over: object) -> None:
        raise AssertionError(hand_over)


class Place:
    """Gives the door a socket that nobody connects to."""

    def listen(self, *_: object) -> None:
        return None


class Settings:
    connections = 10
    hand_over = 5.0
    message = 4096


def test_the_door_keeps_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes, with however many descriptors, in whichever piece: all are closed, once."""
    monkeypatch.setattr(oci, "_LINGER", 0.0)
    door = oci.OciDoor(Place(), Taken(), Settings())  # type: ignore[arg-type]
    source = random.Random(5)
    read, write = os.pipe()
    own = Peer(os.getpid(), 0, 0, "fuzz", None, False)

    async def one(data: bytes) -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with ours:
            at, number = 0, source.choice((0, 1, 1, 2, 30))
            while at < len(data) and at < 60_000:
                size = source.choice((1, 20, 3000))
                fds = [write] * number if at == 0 or source.random() < 0.1 else []
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                ours.sendmsg([data[at : at + size]], rights if fds else [])
                at += size
        await door._reception._connection(theirs, own)

    async def all_of_them() -> None:
        corpus = list(SEEDS)
        for _ in range(COUNT // 100):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(one, mutated(source.choice(corpus), corpus, source))

    before = sorted(os.listdir("/proc/self/fd"))
    trio.run(all_of_them)
    assert sorted(os.listdir("/proc/self/fd")) == before
    os.close(write)
    assert os.read(read, 1) == b"", "nobody else holds the pipe's other end"
    os.close(read)
