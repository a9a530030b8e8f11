"""Messages to attach.sock."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.intake.attach import Request, parse_request
from supervisor.intake.handover import Malformed

BOTH = ["seccompFd", "pidFd"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
KEYS = st.sampled_from(["version", "do", "policy", "fds", "other"])


@pytest.mark.parametrize(
    ("message", "request_"),
    [
        ({"version": 1, "do": "filter"}, Request("filter", None, ())),
        ({"version": 1, "do": "filter", "fds": []}, Request("filter", None, ())),
        ({"version": 1, "do": "filter", "policy": "a-b.c"}, Request("filter", "a-b.c", ())),
        ({"version": 1, "do": "attach", "fds": BOTH}, Request("attach", None, tuple(BOTH))),
        ({"version": 1, "do": "attach", "policy": "a", "fds": BOTH[::-1]},
         Request("attach", "a", tuple(BOTH[::-1]))),
    ],
)  # fmt: skip
def test_requests(message: dict[str, object], request_: Request) -> None:
    assert parse_request(json.dumps(message, indent=1).encode()) == request_


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"do": "detach"}, "do is none"),
        ({"do": ["attach"]}, "do is none"),
        ({"policy": ""}, "policy"),
        ({"policy": "a/b"}, "policy"),
        ({"policy": "x" * 101}, "policy"),
        ({"policy": 1}, "policy"),
        ({"fds": ["seccompFd"]}, "fds"),
        ({"fds": [*BOTH, "more"]}, "fds"),
        ({"fds": ["seccompFd", "seccompFd"]}, "fds"),
        ({"fds": "seccompFd"}, "fds"),
        ({"uid": 0}, "unknown field 'uid'"),
    ],
)
def test_what_is_refused(change: dict[str, object], why: str) -> None:
    message = {"version": 1, "do": "attach", "fds": BOTH, **change}
    with pytest.raises(Malformed, match=why):
        parse_request(json.dumps(message).encode())


@settings(deadline=None)
@given(st.binary(max_size=40) | st.dictionaries(KEYS, values).map(lambda m: json.dumps(m).encode()))
def test_nothing_else_comes_of_anything(message: bytes) -> None:
    try:
        found = parse_request(message)
    except Malformed:
        return
    again = json.loads(message)
    assert (again["version"], again["do"]) == (1, found.do)
