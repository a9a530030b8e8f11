"""Hand-overs in pieces: what comes out is what Python's own reader of JSON would take."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.intake.handover import DEPTH_MAX, Malformed, Reading, State, parse_state
from supervisor.intake.identity import kubernetes

# An exec of runc 1.1.5 and an init of crun 1.8.1, as they came.
RUNC = (
    '{"ociVersion":"1.0.2-dev","fds":["seccompFd"],"pid":2075,"metadata":"bar","state":{'
    '"ociVersion":"1.0.2-dev","id":"t3","status":"running","pid":2015,"bundle":"/b3",'
    '"annotations":{"io.kubernetes.cri.container-name":"c1","org.example.k":"v é"}}}'
).encode()
CRUN = b"""{
    "ociVersion": "0.2.0",
    "fds": [
        "seccompFd"
    ],
    "pid": 0,
    "metadata": "",
    "state": {
        "ociVersion": "0.2.0",
        "id": "t4",
        "status": "running",
        "pid": 0,
        "bundle": "."
    }
}
"""

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
objects = st.dictionaries(st.text(), values)
spaces = st.text(" \t\r\n", max_size=3).map(str.encode)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def read(parts: Iterable[bytes], most: int = 1 << 20) -> bytes | None:
    reading = Reading(most)
    for number, part in enumerate(parts):
        message = reading.feed(part)
        if message is not None:
            # nothing but spaces may have been left
            assert not b"".join(list(parts)[number + 1 :]).strip()
            return message
    return None


@settings(deadline=None)
@given(objects, spaces, spaces, st.lists(st.integers(0, 5000), max_size=8), st.booleans())
def test_an_object_comes_out_however_it_is_cut(
    value: dict[str, Any], before: bytes, after: bytes, cuts: list[int], plain: bool
) -> None:
    data = json.dumps(value, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    assert read(pieces(before + data + after, cuts)) == before + data


@given(st.binary(max_size=60) | st.text('{}[]":\\,x 1', max_size=60).map(str.encode))
@settings(max_examples=1000, deadline=None)
def test_any_bytes_are_an_object_or_malformed_or_not_all(data: bytes) -> None:
    outcomes = []
    for cuts in ((), range(len(data))):
        try:
            outcomes.append(read(pieces(data, cuts)))
        except Malformed:
            outcomes.append(b"malformed")
        except AssertionError:  # something follows, which came in another piece
            outcomes.append(b"malformed")
    assert outcomes[0] == outcomes[1]
    try:
        end = json.JSONDecoder().raw_decode(data.decode().lstrip(" \t\r\n"))[1]
        said = data.decode().lstrip(" \t\r\n")[:end].encode()
    except (ValueError, RecursionError):
        return
    if said.startswith(b"{") and not data.lstrip(b" \t\r\n")[len(said) :].strip(b" \t\r\n"):
        assert outcomes[0] is not None
        assert outcomes[0].strip() == said
        assert json.loads(said) is not None


def test_its_bounds() -> None:
    with pytest.raises(Malformed, match="more than 100 bytes"):
        read([b'{"a": "', b"x" * 100], 100)
    deep = b'{"a":' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}"
    assert read([deep]) == deep
    with pytest.raises(Malformed, match="deeper"):
        read([b'{"a":' + b"[" * DEPTH_MAX])
    for data in (b"[]", b"  x", b"\xff", b"{} {}", b"{}x"):
        with pytest.raises(Malformed):
            read([data])


def test_byte_by_byte() -> None:
    """Escapes, too; what has been looked at is not looked at again."""
    data = b'{"a":"' + b"x\\\\" * 40_000 + b'"}'
    reading = Reading(1 << 20)
    found = [reading.feed(bytes([byte])) for byte in data]
    assert found[-1] == data
    assert not any(found[:-1])


def test_states_as_runtimes_send_them() -> None:
    assert parse_state(RUNC) == State(
        ("seccompFd",), "t3", 2075, "bar", "running",
        {"io.kubernetes.cri.container-name": "c1", "org.example.k": "v é"},
    )  # fmt: skip
    message = read(pieces(CRUN, range(0, 500, 7)))
    assert message is not None
    assert parse_state(message) == State(("seccompFd",), "t4", 0, "", "running")
    more = json.loads(RUNC) | {"more": {"than": ["we"]}, "pid": 0, "metadata": None}
    assert parse_state(json.dumps(more).encode()).pid == 2015  # the container's, where it says none


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"fds": "seccompFd"}, "fds is not a list"),
        ({"fds": [1]}, "a list of names"),
        ({"pid": "1"}, "pid is not a int"),
        ({"pid": True}, "pid is not a int"),
        ({"pid": -1}, "no such pid"),
        ({"pid": 1 << 31}, "no such pid"),
        ({"metadata": 5}, "metadata is not a str"),
        ({"state": []}, "state is not a dict"),
        ({"state": {}}, "state.id is missing"),
        ({"state": {"id": ""}}, "state.id is missing"),
        ({"state": {"id": "x" * 2000}}, "too long"),
        ({"state": {"id": "x", "annotations": {"a": 1}}}, "an annotation is a text"),
        ({"state": {"id": "x", "annotations": ["a"]}}, "annotations is not a dict"),
    ],
)
def test_states_that_are_none(change: dict[str, Any], why: str) -> None:
    with pytest.raises(Malformed, match=why):
        parse_state(json.dumps(json.loads(RUNC) | change).encode())


@settings(deadline=None)
@given(objects)
def test_any_object_is_a_state_or_malformed(value: dict[str, Any]) -> None:
    try:
        state = parse_state(json.dumps(value).encode())
    except Malformed:
        return
    assert state.container


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_state_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_state(data)


def test_kubernetes_names() -> None:
    containerd = {
        "io.kubernetes.cri.sandbox-namespace": "n", "io.kubernetes.cri.sandbox-name": "p",
        "io.kubernetes.cri.container-name": "c",
    }  # fmt: skip
    crio = {
        "io.kubernetes.pod.namespace": "n", "io.kubernetes.pod.name": "p",
        "io.kubernetes.container.name": "c",
    }  # fmt: skip
    names = {"namespace": "n", "pod": "p", "container": "c"}
    assert kubernetes(containerd) == kubernetes(crio) == kubernetes(containerd | crio) == names
    assert kubernetes({"other": "x"}) is None
    assert kubernetes(containerd | crio | {"io.kubernetes.pod.namespace": "x"}) is None
    # a sandbox has no container, and no author of a pod gives it one
    sandbox = {key: containerd[key] for key in list(containerd)[:2]}
    assert kubernetes(sandbox) == {"namespace": "n", "pod": "p"}
    assert kubernetes(sandbox | {"io.kubernetes.container.name": "c"}) is None
