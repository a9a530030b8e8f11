"""What a receiver makes of calls of a real process."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from errno import EACCES, EBUSY, EFAULT, ENAMETOOLONG, ENODEV, ENOTCONN

import pytest

from supervisor.engine.limits import DEFAULT
from supervisor.engine.snapshot import PROCEED, Receiver, Reply
from supervisor.kernel.shim import lib
from supervisor.kernel.syscalls import I386, X86_64
from supervisor.model import Snapshot
from tests.support.listener import Listened, deadline_timer, watch
from tests.support.policies import CHAR, mknod

POLICY = mknod("{do: {errno: ENODEV}}", nodes="private")
# Makes system calls with arguments just as they are; the status is that of the last.
CALLER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
text = ctypes.create_string_buffer(b"a" * 5000)
long = ctypes.addressof(text)
def call(*args):
    result = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    return ctypes.get_errno() if result == -1 else result
sys.exit(%s)
"""


@pytest.fixture
def received() -> Iterator[Callable[[str], tuple[Receiver, Listened]]]:
    open_now: list[Listened] = []

    def start(expression: str) -> tuple[Receiver, Listened]:
        listened = Listened(POLICY, [sys.executable, "-c", CALLER % expression])
        open_now.append(listened)
        timer = deadline_timer()
        receiver = Receiver(listened.listener, timer, watch(), POLICY.calls)
        return receiver, listened

    yield start
    for listened in open_now:
        listened.close()


Start = Callable[[str], tuple[Receiver, Listened]]


def first(receiver: Receiver) -> tuple[bytes, Snapshot]:
    for _ in range(100):
        key = receiver.receive(200_000)
        if key is not None:
            assert not receiver.unread
            return key, receiver.snapshot()
    raise AssertionError("no call came")


def test_the_snapshot(received: Start) -> None:
    receiver, listened = received('call(133, b"dev/null", 0o20666, 0x103)')
    key, snapshot = first(receiver)
    assert (snapshot.name, snapshot.arch, snapshot.nr) == ("mknod", X86_64, 133)
    assert snapshot.args == (b"dev/null", CHAR | 0o666, 0x103)
    assert os.readlink(f"/proc/{snapshot.tid}/exe") == os.path.realpath(sys.executable)
    assert receiver.valid(snapshot.id)
    assert not receiver.valid(snapshot.id + 1)
    assert receiver.answer_last((0, -EBUSY, 0))
    assert not receiver.valid(snapshot.id)
    assert listened.status() == EBUSY
    assert b"dev/null" in key


def test_arguments_are_cut_to_their_types(received: Start) -> None:
    """Rule 16: the kernel looks at 32 bits of a descriptor and a device, and at 16 of a mode."""
    receiver, _ = received(
        'call(259, 0x7eadbeefffffff9c, b"x", 0x7eadbeef00002000 | 0x70000, 0x5500000000000103)'
    )
    _, snapshot = first(receiver)
    assert (snapshot.name, snapshot.args) == ("mknodat", (-100, b"x", CHAR, 0x103))
    receiver.answer_last((0, -EBUSY, 0))


@pytest.mark.parametrize(
    ("pointer", "error"),
    [("0", -EFAULT), ("8", -EFAULT), ("-1", -EFAULT), ("long", -ENAMETOOLONG)],
)
def test_strings_that_cannot_be_read(received: Start, pointer: str, error: int) -> None:
    receiver, _ = received(f"call(133, {pointer}, 0o20666, 0x103)")
    _, snapshot = first(receiver)
    assert snapshot.args[0] == error
    receiver.answer_last((0, -EBUSY, 0))


@pytest.mark.parametrize(("reply", "status"), [((7, 0, 0), 7), ((0, -EBUSY, 0), EBUSY)])
def test_answers(received: Start, reply: Reply, status: int) -> None:
    receiver, listened = received('call(133, b"x", 0o20666, 0x103)')
    first(receiver)
    slot, id_ = receiver.call.slot, receiver.call.id
    assert receiver.answer(id_, slot, reply)
    assert listened.status() == status
    assert not receiver.answer(id_, slot, reply), "nobody waits any longer"


def test_continue_is_the_kernels_own_answer(received: Start) -> None:
    receiver, listened = received('call(133, b"/none/x", 0o20666, 0x103)')
    first(receiver)
    assert receiver.answer_last(PROCEED)
    assert listened.status() == 2


def test_equal_calls_have_equal_keys(received: Start) -> None:
    receiver, _ = received(
        'call(133, b"x", 0o20666, 0x103) and call(133, b"x" , 0o20666, 0x103)'
        ' and call(133, b"y", 0o20666, 0x103) and call(133, b"y", 0o20666, 0x104)'
    )
    keys = []
    for _ in range(4):
        keys.append(first(receiver)[0])
        receiver.answer_last((0, -EBUSY, 0))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_the_end(received: Start) -> None:
    receiver, listened = received("0")
    assert listened.status() == 0
    with pytest.raises(OSError) as caught:
        first(receiver)
    assert caught.value.errno == ENOTCONN


def test_architectures_differ() -> None:
    names = {(arch, spec.name) for (arch, _), spec in POLICY.calls.items()}
    assert {(X86_64, "mknod"), (I386, "mknod")} <= names


NODES = "int(''.join(str(call(133, name, 0o20666, 0x103)) for name in {names}) != {errnos!r})"


def nodes(received: Start, names: bytes, *errnos: int) -> tuple[Receiver, Listened]:
    """A node of each name is asked for; the status is 0 where they get these errnos."""
    each = "[" + ", ".join(f"b'{name:c}'" for name in names) + "]"
    return received(NODES.format(names=each, errnos="".join(map(str, errnos))))


def test_equal_calls_are_answered_without_a_look(received: Start) -> None:
    receiver, listened = nodes(received, b"aaabab", *[ENODEV] * 3, EBUSY, ENODEV, EACCES)
    first(receiver)
    assert receiver.settled == 0
    assert receiver.answer_last((0, -ENODEV, 0))
    receiver.settle((0, -ENODEV, 0), refuses=True)
    assert first(receiver)[1].args[0] == b"b"
    assert receiver.settled == 2
    assert receiver.answer_last((0, -EBUSY, 0))
    assert first(receiver)[1].args[0] == b"b"
    assert receiver.settled == 1
    assert receiver.answer_last((0, -EACCES, 0))
    assert listened.status() == 0


def test_what_is_settled_is_forgotten(received: Start) -> None:
    receiver, listened = nodes(received, b"aaa", ENODEV, EBUSY, EACCES)
    forget: Callable[[], None]
    for errno, forget in (
        (ENODEV, receiver.settle_no_more),
        (EBUSY, lambda: receiver.take(POLICY.calls, DEFAULT)),
        (EACCES, lambda: None),
    ):
        assert first(receiver)[1].args[0] == b"a"
        assert receiver.settled == 0
        receiver.settle((0, -errno, 0), refuses=True)
        assert receiver.answer_last((0, -errno, 0))
        forget()
    assert listened.status() == 0


def test_others_have_their_turn_between_settled_calls(received: Start) -> None:
    count = lib.SD_AT_ONCE + 2
    receiver, listened = nodes(received, b"a" * count, *[ENODEV] * count)
    first(receiver)
    assert receiver.answer_last((0, -ENODEV, 0))
    receiver.settle((0, -ENODEV, 0), refuses=True)
    assert receiver.receive(200_000) is None
    assert receiver.settled == lib.SD_AT_ONCE
    while receiver.settled:
        with contextlib.suppress(OSError):  # the last caller has gone
            receiver.receive(200_000)
            continue
        break
    assert listened.status() == 0
