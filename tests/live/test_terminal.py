"""A command shares the terminal seccompd was started from, and cannot type into it."""

from __future__ import annotations

import os
import pty
import subprocess
import textwrap
from collections.abc import Iterator

import pytest

from tests.support.people import Person, python
from tests.support.program import seccompd

# Prints what became of each request; a character that was typed would be on the terminal's input.
ASK = textwrap.dedent("""
    import errno, fcntl, os, struct, termios
    def ask(name, request, argument):
        try:
            fcntl.ioctl(0, request, argument)
            print(name, "done")
        except OSError as error:
            print(name, errno.errorcode[error.errno])
    print("tty", os.isatty(0))
    termios.tcsetattr(0, termios.TCSANOW, termios.tcgetattr(0))
    print("size", struct.unpack("4H", fcntl.ioctl(0, termios.TIOCGWINSZ, b"\\0" * 8))[:2])
    ask("TIOCSTI", termios.TIOCSTI, b"x")
    ask("TIOCLINUX", 0x541C, b"\\3")
    print("foreground", os.tcgetpgrp(0) >= 0)
    print("end", flush=True)
""")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def on(person: Person, terminal: tuple[int, int], *options: str) -> str:
    """What ASK says below seccompd, whose controlling terminal is the pty."""
    _, theirs = terminal
    command = ["setsid", "-c", "-w", *seccompd(person, "run", *options, "--")]
    done = subprocess.run(
        [*command, python(person), "-c", ASK],
        env=person.environ(), cwd="/", stdin=theirs, capture_output=True, timeout=30, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("policy", ["default", "deny-all"])
def test_a_container_cannot_type_into_its_terminal(
    person: Person, terminal: tuple[int, int], policy: str
) -> None:
    shown = on(person, terminal, "--policy", policy)
    assert shown.splitlines() == [
        "tty True",
        "size (0, 0)",
        "TIOCSTI EPERM",
        "TIOCLINUX EPERM",
        "foreground True",
        "end",
    ]
    os.set_blocking(terminal[1], False)
    with pytest.raises(BlockingIOError):
        os.read(terminal[1], 1)


def test_without_a_namespace_the_filter_leaves_it_to_the_kernel(
    person: Person, terminal: tuple[int, int]
) -> None:
    """And then it is the kernel's: allowed, or EIO where dev.tty.legacy_tiocsti is 0."""
    shown = on(person, terminal, "--map", "none")
    assert "TIOCSTI EPERM" not in shown
    assert "TIOCLINUX ENOTTY" in shown
