"""`seccompd run`: signals, the terminal, job control, and that nobody outlives the front."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.inside import wait_for
from tests.support.people import Person, python
from tests.support.program import MARK, Started, marked, names, seccompd

# Counts signals until SIGUSR2 comes, and says of each that it came; prints "NAME:COUNT" for all.
COUNTER = textwrap.dedent("""
    import os, signal, sys, time
    seen = {}
    done = False
    def note(number, frame):
        global done
        seen[number] = seen.get(number, 0) + 1
        os.write(1, b"one came\\n")
        done = number == signal.SIGUSR2
    for number in (1, 2, 3, 10, 12, 14, 15, 18, 28, 40):
        signal.signal(number, note)
    print("ready", flush=True)
    while not done:
        time.sleep(0.02)  # pause() would miss one that has come since `done` was looked at
    print(*(f"{n}:{c}" for n, c in sorted(seen.items())), flush=True)
    sys.exit(3)
""")


@pytest.fixture
def counter(person: Person) -> Iterator[Started]:
    started = Started(person, ["run", "--", python(person), "-c", COUNTER])
    assert started.process.stdout is not None
    assert started.process.stdout.readline() == b"ready\n"
    yield started
    started.kill()


def settle() -> None:
    """What comes twice has come by then, mostly. Nobody counts on it for what is to come."""
    time.sleep(0.3)


def came(started: Started) -> None:
    """Waits until a signal has come: a second one would be the same, before that."""
    assert started.process.stdout is not None
    assert started.process.stdout.readline() == b"one came\n"


def counts(started: Started) -> dict[int, int]:
    """How many there were of each, at least one."""
    came(started)
    settle()
    os.kill(started.process.pid, signal.SIGUSR2)
    done = started.finish()
    assert done.returncode == 3
    last = done.stdout.splitlines()[-1]
    return {int(n): int(c) for n, c in (word.split(":") for word in last.split())}


@pytest.mark.parametrize("number", [1, 2, 3, 10, 14, 15, 18, 28, 40])
def test_signal_to_the_front_reaches_the_command_once(counter: Started, number: int) -> None:
    os.kill(counter.process.pid, number)
    assert counts(counter) == {number: 1, signal.SIGUSR2: 1}


@pytest.mark.parametrize("number", [2, 15])
def test_signal_to_the_group_reaches_the_command_once(counter: Started, number: int) -> None:
    os.killpg(counter.process.pid, number)
    assert counts(counter) == {number: 1, signal.SIGUSR2: 1}


def pending(pid: int, number: int) -> bool:
    """Whether a process has still to take a signal: a second one would be the same, until then."""
    status = Path(f"/proc/{pid}/status").read_text()
    return any(
        int(mask, 16) >> (number - 1) & 1
        for mask in re.findall(r"^(?:Shd|Sig)Pnd:\s*(\w+)", status, re.MULTILINE)
    )


def test_signals_to_group_and_front_are_two(counter: Started) -> None:
    os.killpg(counter.process.pid, signal.SIGTERM)
    came(counter)
    wait_for(lambda: pending(counter.process.pid, signal.SIGTERM), lambda there: not there)
    os.kill(counter.process.pid, signal.SIGTERM)
    assert counts(counter) == {signal.SIGTERM: 2, signal.SIGUSR2: 1}


def test_group_signal_reaches_a_command_that_left_the_group(person: Person) -> None:
    code = "import os; os.setpgid(0, 0)\n" + COUNTER
    started = Started(person, ["run", "--", python(person), "-c", code])
    try:
        assert started.process.stdout is not None
        started.process.stdout.readline()
        os.killpg(started.process.pid, signal.SIGTERM)
        assert counts(started) == {signal.SIGTERM: 1, signal.SIGUSR2: 1}
    finally:
        started.kill()


def test_command_ended_by_a_forwarded_signal(person: Person) -> None:
    started = Started(person, ["run", "--", "sh", "-c", "echo ready; exec sleep 100"])
    assert started.process.stdout is not None
    started.process.stdout.readline()
    os.kill(started.process.pid, signal.SIGTERM)
    assert started.finish(20).returncode == 128 + signal.SIGTERM
    assert started.wait_gone() == []


def test_what_a_command_left_behind_can_be_ended(person: Person) -> None:
    started = Started(person, ["run", "--", "sh", "-c", "setsid sleep 100 >&- 2>&- & echo ready"])
    assert started.process.stdout is not None
    started.process.stdout.readline()
    settle()
    os.kill(started.process.pid, signal.SIGINT)
    assert started.finish(20).returncode == 128 + signal.SIGINT
    assert started.wait_gone() == []


# -- nobody outlives the front

DAEMON = textwrap.dedent("""
    import os, signal, time, ctypes
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if os.path.exists("/proc/self/uid_map") and os.getuid() == 0:
                with open("/proc/self/uid_map") as rows:
                    if sum(int(row.split()[2]) for row in rows) > 1000:
                        os.setgroups([])
                        os.setresgid(33, 33, 33)
                        os.setresuid(33, 33, 33)
            ctypes.CDLL(None).prctl(1, 0)
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            print("ready", flush=True)
            while True:
                time.sleep(100)
    time.sleep(1000)
""")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_front_takes_everything_with_it(person: Person, how: signal.Signals) -> None:
    started = Started(person, ["run", "--", python(person), "-c", DAEMON])
    try:
        assert started.process.stdout is not None
        assert started.process.stdout.readline() == b"ready\n"
        wait_for(lambda: len(started.processes()), lambda count: count >= 5)
        os.kill(started.process.pid, how)
        started.process.wait()
        assert started.wait_gone() == []
    finally:
        started.kill()


@pytest.mark.parametrize("delay", [0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_front_killed_while_starting(person: Person, delay: float) -> None:
    started = Started(person, ["run", "--", "sleep", "1000"])
    time.sleep(delay)
    started.kill()
    assert started.wait_gone() == []


def test_killed_init_is_an_error(person: Person) -> None:
    started = Started(person, ["run", "--", "sh", "-c", "echo ready; sleep 1000"])
    assert started.process.stdout is not None
    started.process.stdout.readline()
    found = names(started.processes)
    (init,) = [pid for pid, name in found.items() if name == "seccompd-init"]
    os.kill(init, signal.SIGKILL)
    done = started.finish(20)
    assert done.returncode == 137
    assert "init was killed" in done.stderr
    assert started.wait_gone() == []


# -- a terminal

# What an interactive shell does with one job: a group of its own, the terminal, and waiting.
SHELL = textwrap.dedent("""
    import os, signal, sys
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(sys.argv[1], sys.argv[1:])
    try:
        os.setpgid(job, job)
    except OSError:
        pass
    while True:
        _, status = os.waitpid(job, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            break
        os.tcsetpgrp(0, os.getpgrp())
        print("shell: stopped", os.WSTOPSIG(status), flush=True)
        sys.stdin.readline()
        os.tcsetpgrp(0, job)
        os.killpg(job, signal.SIGCONT)
    print("shell: foreground is the job's", os.tcgetpgrp(0) == job, flush=True)
    os.tcsetpgrp(0, os.getpgrp())
    print("shell: status", os.waitstatus_to_exitcode(status), flush=True)
""")


class Terminal:
    """A session leader with a terminal, which runs one job as a shell would."""

    def __init__(
        self, person: Person, command: list[str], mark: str, shell: str = SHELL,
        by: Sequence[str] = (),
    ) -> None:
        """`by`: what starts the shell, with the full path."""
        self.text = b""
        self.mark = mark
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir("/")
            # setpriv is to be found by its full path: the shell above knows no PATH.
            job = ["/usr/bin/env", *seccompd(person, "run", "--", *command)]
            argv = [*by, sys.executable, "-c", shell, *job]
            os.execve(argv[0], argv, person.environ({MARK: mark}))

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def in_front(self, name: str) -> None:
        """Waits until a process of that name runs, and the keyboard is its own."""
        wait_for(lambda: self._front(name), bool)

    def _front(self, name: str) -> bool:
        for pid in marked(self.mark):
            with contextlib.suppress(OSError):
                before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
                state, _, group, _, _, front = after.split()[:6]
                if before.partition("(")[2] == name and state != "T" and group == front:
                    return True
        return False

    def wait_for(self, text: str, timeout: float = 20) -> None:
        """Reads until `text` has been shown."""
        os.set_blocking(self.fd, False)
        end = time.monotonic() + timeout
        while text.encode() not in self.text:
            assert time.monotonic() < end, f"no {text!r} in {self.text!r}"
            with contextlib.suppress(BlockingIOError):
                try:
                    self.text += os.read(self.fd, 4096)
                    continue
                except OSError as error:
                    if error.errno != 5:
                        raise
            time.sleep(0.01)

    def close(self) -> None:
        os.close(self.fd)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(person: Person) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(command: list[str], shell: str = SHELL, by: Sequence[str] = ()) -> Terminal:
        made.append(Terminal(person, command, uuid.uuid4().hex, shell, by))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_interrupt_from_the_keyboard_comes_once(
    terminal: Callable[[list[str]], Terminal], person: Person
) -> None:
    shown = terminal([python(person), "-c", COUNTER.replace("signal.SIGUSR2", "signal.SIGQUIT")])
    shown.wait_for("ready")
    for _ in range(2):
        shown.send(b"\x03")
        shown.wait_for("one came")
        shown.text = b""
        settle()
    shown.send(b"\x1c")
    shown.wait_for("shell: status 3")
    assert b"2:2 3:1\r\n" in shown.text
    assert b"foreground is the job's True" in shown.text


def test_interrupt_ends_a_plain_command(terminal: Callable[[list[str]], Terminal]) -> None:
    shown = terminal(["sh", "-c", "echo ready; exec sleep 100"])
    shown.wait_for("ready")
    shown.send(b"\x03")
    shown.wait_for("shell: status 130")


def test_stop_and_continue_from_the_keyboard(terminal: Callable[[list[str]], Terminal]) -> None:
    shown = terminal(["sh", "-c", "echo ready; read line; echo got $line; exit 9"])
    shown.wait_for("ready")
    for _ in range(3):
        shown.text = b""
        shown.send(b"\x1a")
        shown.wait_for(f"shell: stopped {int(signal.SIGTSTP)}")
        shown.send(b"\n")
        shown.in_front("sh")
        settle()
    shown.send(b"word\n")
    shown.wait_for("shell: status 9")
    assert b"got word" in shown.text


def test_job_control_of_a_shell_inside(terminal: Callable[[list[str]], Terminal]) -> None:
    shown = terminal(["bash", "--norc", "--noprofile", "-i"])
    shown.send(b"tty; echo 're''ady'; sleep 50\n")
    shown.wait_for("ready")
    shown.in_front("sleep")
    shown.send(b"\x1a")
    shown.wait_for("Stopped")
    shown.send(b"fg\n")
    shown.in_front("sleep")
    shown.send(b"\x03")
    shown.send(b"echo sta''tus $?\n")
    shown.wait_for("status 130")
    shown.send(b"exit 11\n")
    shown.wait_for("shell: status 11")
    assert b"no job control" not in shown.text
    assert b"foreground is the job's True" in shown.text


def test_keyboard_after_a_shell_inside_has_ended(
    terminal: Callable[[list[str]], Terminal],
) -> None:
    """It took the terminal for itself, and left a background job: Ctrl-C is to end that."""
    shown = terminal(["bash", "--norc", "--noprofile", "-i"])
    shown.send(b"sleep 1000 & echo 're''ady'\n")
    shown.wait_for("ready")
    inner = os.tcgetpgrp(shown.fd)
    shown.send(b"exit 11\n")
    shown.wait_for("exit\r\n")
    wait_for(lambda: os.tcgetpgrp(shown.fd), lambda group: group != inner)
    shown.send(b"\x03")
    shown.wait_for("shell: status 130")
    assert b"foreground is the job's True" in shown.text


# A shell that puts its job in the background, and keeps the terminal.
BACKGROUND = textwrap.dedent("""
    import os, signal, sys
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    if os.getsid(0) != os.getpid():
        os.setpgid(0, 0)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(sys.argv[1], sys.argv[1:])
    os.waitpid(job, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    os.killpg(job, signal.SIGCONT)
    print("shell: continued", flush=True)
    os.waitpid(job, 0)
    print("shell: foreground is mine", os.tcgetpgrp(0) == os.getpgrp(), flush=True)
""")


def test_a_job_in_the_background_leaves_the_terminal_alone(
    terminal: Callable[..., Terminal],
) -> None:
    shown = terminal(["sh", "-c", "echo ready; kill -TSTP $$; sleep 0.2"], BACKGROUND)
    shown.wait_for("shell: continued")
    shown.wait_for("shell: foreground is mine True")


def test_the_same_where_the_shells_parent_is_none_of_ours(
    terminal: Callable[..., Terminal], root: Person
) -> None:
    """As in a container that somebody has entered: that shell is below process 0."""
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "1000"]
    with subprocess.Popen(words) as holder:
        try:
            below = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
            first = wait_for(below.read_text, bool).strip()
            wait_for(Path(f"/proc/{first}/comm").read_text, lambda name: name == "sleep\n")
            enter = ["/usr/bin/nsenter", "--target", first, "--pid", "--mount"]
            command = ["sh", "-c", "echo ready; kill -TSTP $$; sleep 0.2"]
            shown = terminal(command, BACKGROUND, enter)
            shown.wait_for("shell: continued")
            shown.wait_for("shell: foreground is mine True")
        finally:
            holder.kill()


def test_stopped_command_stops_the_front(person: Person) -> None:
    started = Started(person, ["run", "--", "sh", "-c", "echo ready; kill -STOP $$; exit 8"])
    assert started.process.stdout is not None
    started.process.stdout.readline()
    _, status = os.waitpid(started.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGSTOP
    os.kill(started.process.pid, signal.SIGCONT)
    assert started.finish(20).returncode == 8


def test_closing_the_terminal_ends_all(person: Person) -> None:
    mark = uuid.uuid4().hex
    shown = Terminal(person, ["sh", "-c", "echo ready; sleep 1000"], mark)
    shown.wait_for("ready")
    wait_for(lambda: len(marked(mark)), lambda count: count >= 5)
    shown.close()
    end = time.monotonic() + 20
    while (left := marked(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []
