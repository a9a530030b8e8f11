"""A coverage-guided fuzzer for what parses messages: what reaches new code is changed further.

    python -m tests.support.fuzzing COUNT [SEED]

feeds COUNT messages to the parsers of hand-overs and requests, and ends with 0 where all of them
came to what they may come to.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

from supervisor.daemon import control
from supervisor.intake import attach, handover
from supervisor.intake.handover import DEPTH_MAX, Malformed, Reading, State, parse_state

MOST = 4096
_RUNC = (
    '{"ociVersion":"1.0.2-dev","fds":["seccompFd"],"pid":2075,"metadata":"bar","state":{"ociVersion":'
    '"1.0.2-dev","id":"t3","status":"running","pid":2015,"bundle":"/b3","annotations":{'
    '"io.kubernetes.cri.container-name":"c1","org.example.k":"v é"}}}'
).encode()
_CRUN = json.dumps(json.loads(_RUNC), indent=4).encode() + b"\n"
SEEDS = (
    _RUNC, _CRUN, b"{}", b'{"fds":["seccompFd"],"state":{"id":"a","pid":0}}', b'{"a":"\\"}"}',
    b'{"do":"trace","container":"x","syscalls":["mknod"],"verdicts":null}\n', b"[[[]]]",
    b'"\\u0000"', b'{"version":1,"do":"attach","policy":"x","fds":["seccompFd","pidFd"]}',
)  # fmt: skip
_TOKENS = (
    b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"null", b"true", b"1e999", b"-0", b"\xff",
    b"\x00", b"\\ud800", b" ", b"\n", b'"state":', b'"fds":', b'"pid":', b'"id":', b"2147483648",
    b"{" * (DEPTH_MAX + 1), b"9" * 5000, b'"seccompFd"', b'"annotations":', b'"do":',
)  # fmt: skip


class Coverage:
    """Which lines have followed which, in some modules."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = set(files)
        self.edges: set[tuple[str, int, int]] = set()
        self._known: dict[CodeType, bool] = {}
        self._last = 0

    def __enter__(self) -> Coverage:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code not in self._known:
            self._known[code] = code.co_filename in self._files
        return self._line if self._known[code] and event == "call" else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        if event == "line":
            self.edges.add((frame.f_code.co_name, self._last, frame.f_lineno))
            self._last = frame.f_lineno
        return self._line


def mutated(data: bytes, corpus: Sequence[bytes], source: random.Random) -> bytes:
    """Something like `data`."""
    out = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        at = source.randrange(len(out) + 1)
        match source.randrange(7):
            case 0:
                out[at:at] = source.choice(_TOKENS)
            case 1:
                del out[at : at + source.randrange(1, 9)]
            case 2 if out:
                out[at % len(out)] ^= 1 << source.randrange(8)
            case 3:
                other = source.choice(corpus)
                cut = source.randrange(len(other) + 1)
                out[at:] = other[cut:]
            case 4:
                out[at:at] = out[max(0, at - source.randrange(1, 40)) : at]
            case 5 if out:
                out[at % len(out)] = source.randrange(256)
            case _:
                out[at : at + source.randrange(9)] = source.choice(_TOKENS)
    return bytes(out[: 2 * MOST])


def check(data: bytes, source: random.Random) -> None:
    """One message through the parsers. AssertionError, or anything else: a mistake in them."""
    message = _read(data, source)
    for parse, result in (
        (parse_state, State), (control._request, dict), (attach.parse_request, attach.Request)
    ):
        try:
            found = parse(data if message is None else message)
        except (Malformed, control.Wrong):
            continue
        assert isinstance(found, result)
        if isinstance(found, State):
            assert 0 < len(found.container) <= 1024
            assert 0 <= found.pid < 1 << 31
            assert all(isinstance(one, str) for one in (*found.fds, *found.annotations.values()))


def _read(data: bytes, source: random.Random) -> bytes | None:
    """As pieces; what comes out is what went in, and no more is kept than may be."""
    reading = Reading(MOST)
    at = 0
    try:
        while at < len(data):
            size = source.choice((1, 3, 50, 5000))
            message = reading.feed(data[at : at + size])
            assert len(reading._data) <= MOST
            at += size
            if message is not None:
                assert data.strip(b" \t\r\n").startswith(message.strip(b" \t\r\n"))
                return message
    except Malformed:
        return None
    # never whole: then it is no JSON object either
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return None
    assert not isinstance(whole, dict)
    return None


def fuzz(count: int, seed: int) -> int:
    """How many messages were kept because they reached something new."""
    source = random.Random(seed)
    corpus = list(SEEDS)
    with Coverage([handover.__file__, control.__file__, attach.__file__]) as coverage:
        for number in range(count):
            data = mutated(source.choice(corpus), corpus, source)
            before = len(coverage.edges)
            try:
                check(data, source)
            except BaseException:
                print(f"message {number} of seed {seed}: {data!r}", file=sys.stderr)
                raise
            if len(coverage.edges) > before and len(data) <= MOST:
                corpus.append(data)
    return len(corpus) - len(SEEDS)


if __name__ == "__main__":
    total, began = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    print(f"{total} messages of seed {began}: {fuzz(total, began)} reached something new")
