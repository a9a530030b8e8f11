"""Requests of LXC's monitors."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.intake.handover import Malformed
from supervisor.intake.lxc import Request, name_of, parse_request

# The first 48 bytes of a request of LXC 5.0.2, with what follows cut: id 0x1122 in pid 77.
HEAD = struct.pack("=Qii3H2xQ", 0, 4711, 4712, 80, 24, 64, 6)
WHOLE = HEAD + struct.pack("=QII", 0x1122, 77, 0) + bytes(64) + bytes(24) + b"secret"


def test_a_request() -> None:
    assert parse_request(WHOLE) == Request(4712, "secret", 0x1122)
    without = WHOLE[:24] + bytes(8) + WHOLE[32:136]
    assert parse_request(without) == Request(4712, None, 0x1122)


@given(st.binary(max_size=200) | st.tuples(st.integers(0, 135), st.integers(1, 255)))
@settings(deadline=None)
def test_nothing_else_comes_of_anything(change: bytes | tuple[int, int]) -> None:
    if isinstance(change, tuple):
        changed = bytearray(WHOLE)
        changed[change[0]] ^= change[1]
        change = bytes(changed)
    data = change
    try:
        found = parse_request(data)
    except Malformed:
        return
    assert len(data) == 136 + struct.unpack_from("=Q", data, 24)[0]
    assert data[:8] == bytes(8)
    assert found.id == struct.unpack_from("=Q", data, 32)[0] != 0


@pytest.mark.parametrize(
    ("cgroups", "name"),
    [
        (("/lxc.payload.web",), "web"),
        (("/", "/lxc.payload.web/init.scope"), "web"),
        (("/lxc/web/x",), "web"),
        (("/user.slice", "/lxc.monitor.web"), None),
        (("/a/lxc.payload./b",), None),
        ((), None),
    ],
)
def test_the_name(cgroups: tuple[str, ...], name: str | None) -> None:
    assert name_of(cgroups) == name
