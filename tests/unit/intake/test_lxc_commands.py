"""What a start-host hook says of a container."""

from __future__ import annotations

import json

import pytest

from supervisor.intake.handover import Malformed
from supervisor.intake.lxc_commands import Announced, announcement, parse_announcement

GOOD = {"version": 1, "container": "web", "lxcpath": "/var/lib/lxc", "cookie": "c"}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, Announced("web", "/var/lib/lxc", "c")),
        ({"cookie": None, "lxcpath": "/x/"}, Announced("web", "/x")),
        ({"early": True}, Announced("web", "/var/lib/lxc", "c", early=True)),
    ],
)
def test_announcements(change: dict[str, object], found: Announced) -> None:
    message = json.dumps(GOOD | change).encode()
    assert parse_announcement(message) == found
    assert parse_announcement(announcement(found)) == found
    assert found.address == b"\0" + f"{found.lxcpath}/web/command".encode()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"container": ""}, {"container": "a/b"}, {"container": "a b"},
        {"container": 1}, {"container": "x" * 200}, {"lxcpath": "relative"}, {"lxcpath": None},
        {"lxcpath": "/a\0b"}, {"cookie": 1}, {"more": 1}, {"early": 1},
    ],
)  # fmt: skip
def test_what_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        parse_announcement(json.dumps(GOOD | change).encode())


@pytest.mark.parametrize("message", [b"{", b"[]", b"{}", b"\xff", b"null"])
def test_what_is_none(message: bytes) -> None:
    with pytest.raises(Malformed):
        parse_announcement(message)
