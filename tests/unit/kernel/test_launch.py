"""The front's signals, and a launch without a namespace or a filter that says anything."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import textwrap

import pytest

from supervisor.kernel.launch import Event, Init, Kind, Launch, Namespace, Signal, Stage

ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)


def events(init: Init) -> list[Event]:
    """All events up to the end."""
    found = []
    while True:
        select.select([init.sock], [], [], 10)
        event = init.next()
        assert event is not None
        found.append(event)
        if event.kind is Kind.ENDED:
            return found


def launched(*command: str) -> list[Event]:
    init = Init(Launch(command, ALLOW, Namespace(0), None))
    try:
        assert init.next() is None
        init.go()
        return events(init)
    finally:
        init.close()


def test_listener_comes_before_the_end() -> None:
    found = launched("sh", "-c", "exit 7")
    kinds = [event.kind for event in found if event.kind is not Kind.NOTE]
    assert kinds == [Kind.LISTENER, Kind.EXITED, Kind.ENDED]
    listener = next(event for event in found if event.kind is Kind.LISTENER).listener
    assert not os.get_inheritable(listener)
    assert "seccomp" in os.readlink(f"/proc/self/fd/{listener}")
    os.close(listener)
    assert found[-2].value == 7


def test_end_is_told_even_where_orders_are_unread() -> None:
    init = Init(Launch(["true"], ALLOW, Namespace(0), None))
    init.go()
    while (event := init.next()) is None or event.kind is not Kind.LISTENER:
        pass
    os.close(event.listener)
    for _ in range(200):  # some of them come when nobody is there to read them
        init.kill(Signal(10, 0, 1))
    found = events(init)
    assert Kind.EXITED in [event.kind for event in found]
    init.close()


def test_failing_execve_is_told() -> None:
    found = launched("/sd/none")
    failed = found[-2]
    assert (failed.kind, failed.stage, failed.value) == (Kind.FAILED, Stage.EXEC, 2)
    os.close(next(event.listener for event in found if event.kind is Kind.LISTENER))


def test_wrong_filter_is_told() -> None:
    init = Init(Launch(["true"], b"\0" * 8, Namespace(0), None))
    init.go()
    failed = next(event for event in events(init) if event.kind is Kind.FAILED)
    assert (failed.stage, failed.value) == (Stage.FILTER, 22)
    init.close()


def test_init_ends_with_its_socket() -> None:
    init = Init(Launch(["sleep", "100"], ALLOW, Namespace(0), None))
    init.go()
    select.select([init.sock], [], [], 10)
    while (event := init.next()) is None or event.kind is not Kind.LISTENER:
        pass
    os.close(event.listener)
    init.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(init.pid, 0)


def test_signals_say_who_sent_them() -> None:
    code = textwrap.dedent("""
        import os
        from supervisor.kernel.launch import Signals
        signals = Signals()
        assert signals.next() is None
        os.kill(os.getpid(), 15)
        os.kill(os.getpid(), 40)
        for _ in range(2):
            found = signals.next()
            print(found.number, found.code, found.sender == os.getpid())
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["15 0 True", "40 0 True"]
