"""Lines go out whole or not at all, and never make us wait."""

from __future__ import annotations

import os
import pty
import socket
from pathlib import Path

from supervisor.observe.complaint import complain
from supervisor.observe.writer import LineWriter


def test_a_file_is_shared_with_who_opened_it(tmp_path: Path) -> None:
    """`CMD 2>file` opens without O_APPEND: with an offset of our own we would write over CMD."""
    file = tmp_path / "log"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    writer = LineWriter(fd)
    os.write(fd, b"theirs\n")
    writer.line("ours")
    os.write(fd, b"theirs again\n")
    writer.close()
    os.close(fd)
    assert file.read_text() == "theirs\nours\ntheirs again\n"


def test_a_full_pipe() -> None:
    reader, end = os.pipe()
    os.set_blocking(end, False)
    filled = 0
    while True:
        try:
            filled += os.write(end, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(end, True)  # as CMD would have it
    writer = LineWriter(end)
    writer.line("lost")
    assert writer.lost == 1
    while filled:
        filled -= len(os.read(reader, filled))
    writer.line("seen")
    assert os.read(reader, 100) == b"seen\n"
    writer.close()
    os.close(end)
    os.close(reader)


def test_half_a_line_is_ended_before_the_next() -> None:
    reader, end = os.pipe()
    writer = LineWriter(end)
    long = "y" * 200_000  # more than a pipe holds
    writer.line(long)
    writer.line("lost, there is no room")
    got = b""
    while len(got) < len(long) + 1:
        got += os.read(reader, 65536)
        writer.line("next")
    os.set_blocking(reader, False)
    got += os.read(reader, 65536)
    lines = got.decode().splitlines()
    assert lines[0] == long
    assert set(lines[1:]) == {"next"}
    writer.close()
    os.close(end)
    os.close(reader)


def test_a_socket_that_nobody_reads() -> None:
    ours, theirs = socket.socketpair()
    writer = LineWriter(ours.fileno())
    for _ in range(10_000):
        writer.line("z" * 100)
    assert writer.lost > 0
    writer.close()
    ours.close()
    theirs.close()


def test_a_stopped_terminal() -> None:
    """Ctrl-S: writing would block until somebody presses Ctrl-Q."""
    import termios

    master, slave = pty.openpty()
    writer = LineWriter(slave)
    termios.tcflow(slave, termios.TCOOFF)
    for _ in range(5000):
        writer.line("w" * 100)
    assert writer.lost > 0
    termios.tcflow(slave, termios.TCOON)
    writer.close()
    os.close(slave)
    os.close(master)


def test_a_complaint_without_stderr(tmp_path: Path) -> None:
    kept = os.dup(2)
    try:
        os.close(2)
        complain("nobody hears this")
        fd = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT, 0o600)
        if fd != 2:
            os.dup2(fd, 2)
            os.close(fd)
        complain("this is heard")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert (tmp_path / "err").read_text() == "seccompd: this is heard\n"
