"""`seccompd run`: exit status, streams, descriptors, and what a command finds when it starts."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import Started, run, seccompd
from tests.support.scratch import but_of_other_tests, public


@pytest.mark.parametrize("status", [0, 1, 7, 126, 127, 255])
def test_exit_status_is_the_commands(person: Person, status: int) -> None:
    assert run(person, "sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [1, 2, 9, 11, 15])
def test_death_by_signal_is_128_and_its_number(person: Person, number: int) -> None:
    assert run(person, "sh", "-c", f"ulimit -c 0; kill -{number} $$").returncode == 128 + number


def test_command_not_found(person: Person) -> None:
    done = run(person, "sd-no-such-command")
    assert done.returncode == 127
    assert done.stderr.startswith("seccompd: sd-no-such-command: command not found")


def test_path_not_found(person: Person) -> None:
    done = run(person, "/sd/no/such")
    assert done.returncode == 127
    assert "/sd/no/such: no such file" in done.stderr


def test_interpreter_not_found(person: Person, tmp_path: Path) -> None:
    script = public(tmp_path) / "script"
    script.write_text("#!/sd/no/interpreter\n")
    script.chmod(0o755)
    done = run(person, str(script))
    assert done.returncode == 127
    assert "interpreter" in done.stderr


def test_not_executable(person: Person) -> None:
    done = run(person, "/etc/passwd")
    assert done.returncode == 126
    assert done.stderr.startswith("seccompd: /etc/passwd: cannot be executed: Permission denied")


def test_directory_is_not_executable(person: Person) -> None:
    done = run(person, "/etc")
    assert done.returncode == 126
    assert done.stderr.startswith("seccompd: /etc: is a directory\n")


def test_script_without_interpreter_line(person: Person, tmp_path: Path) -> None:
    script = public(tmp_path) / "script"
    script.write_text("exit 9\n")
    script.chmod(0o755)
    assert run(person, str(script)).returncode == 9


def test_streams_pass_through(person: Person) -> None:
    data = os.urandom(3_000_000)
    done = subprocess.run(
        seccompd(person, "run", "--", "sh", "-c", "cat; echo to-stderr >&2"),
        input=data, capture_output=True, env=person.environ(), cwd="/", timeout=30, check=True,
    )
    assert done.stdout == data
    assert done.stderr == b"to-stderr\n"


@pytest.mark.parametrize("option", ["", "--trace"])
@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_closed_stream_stays_closed(person: Person, closed: str, option: str) -> None:
    """The status says which of 0, 1 and 2 the command has; no message goes to a wrong place."""
    script = (
        "umask 0; mknod /tmp/sd-closed-$$ c 8 9 2>/dev/null;"
        " n=40; for fd in 0 1 2; do [ -e /proc/$$/fd/$fd ] && n=$((n + (1 << fd))); done; exit $n"
    )
    options = ["--policy", "build", *([option] if option else [])]
    words = seccompd(person, "run", *options, "--", "sh", "-c", script)
    redirections = " ".join(f"{fd}>&-" for fd in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *words], env=person.environ(), cwd="/",
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 40 + sum(1 << int(fd) for fd in "012" if fd not in closed)
    assert done.stdout == ""
    if option and "2" not in closed:
        assert done.stderr.startswith("mknod")
    else:
        assert done.stderr == ""


@pytest.mark.parametrize("command", ["sd-no-such", "true"])
def test_an_error_goes_nowhere_without_a_stderr(person: Person, command: str) -> None:
    words = seccompd(person, "run", "--policy", "no-such", "--", command)
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *words], env=person.environ(), cwd="/",
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_pipe_ends_when_the_command_closes_it(person: Person) -> None:
    started = Started(person, ["run", "--", "sh", "-c", "exec >&- 2>&-; exec sleep 1000"])
    assert started.process.stdout is not None
    assert started.process.stdout.read() == b""
    assert started.process.poll() is None
    os.kill(started.process.pid, signal.SIGTERM)
    assert started.finish().returncode == 128 + signal.SIGTERM


def test_no_stray_descriptors(person: Person) -> None:
    done = run(person, "sh", "-c", "ls /proc/self/fd")
    # 3 is the directory that ls reads.
    assert done.stdout.split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("option", "expected"), [("0", ""), ("1", "hello\n")])
def test_descriptors_can_be_kept(person: Person, option: str, expected: str) -> None:
    line = " ".join(
        seccompd(person, "run", "--preserve-fds", option, "--", "sh", "-c", "'cat <&3' 2>&1")
    )
    done = subprocess.run(
        ["bash", "-c", f"{line} 3<<<hello"], env=person.environ(), cwd="/", check=False,
        capture_output=True, text=True,
    )
    assert done.stdout == expected or (not expected and "3" in done.stdout)


# Whoever was started by posix_spawn, as below make, has signals 32 and 33 ignored: the C library's.
INTERNAL_SIGNALS = 1 << 31 | 1 << 32


def test_signals_are_as_a_shell_gives_them(person: Person) -> None:
    done = run(person, "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    masks = [int(line.split()[1], 16) for line in done.stdout.splitlines()]
    assert [mask & ~INTERNAL_SIGNALS for mask in masks] == [0, 0]


def test_nohup_is_kept(person: Person) -> None:
    line = " ".join(seccompd(person, "run", "--", "grep", "SigIgn", "/proc/self/status"))
    done = subprocess.run(
        ["sh", "-c", f"trap '' HUP; {line}"], env=person.environ(), cwd="/", check=True,
        capture_output=True, text=True,
    )
    assert int(done.stdout.split()[1], 16) & ~INTERNAL_SIGNALS == 1


def test_filter_is_there_and_init_is_closed(person: Person) -> None:
    script = """
    grep -q 'Seccomp:.2' /proc/self/status || exit 1
    test "$(cat /proc/1/comm)" = seccompd-init || exit 2
    ls /proc/1/fd >/dev/null 2>&1 && exit 3
    cat /proc/1/mem >/dev/null 2>&1 && exit 4
    kill -9 1; kill -STOP 1; sleep 0.1
    exit 42
    """
    assert run(person, "sh", "-c", script).returncode == 42


def test_no_new_privs_only_where_it_must_be(user: Person, root: Person) -> None:
    for somebody, options, expected in (
        (user, (), "0"), (root, (), "0"),
        (root, ("--map", "none"), "0"), (user, ("--map", "none"), "1"),
    ):  # fmt: skip
        done = run(somebody, "grep", "NoNewPrivs", "/proc/self/status", options=options)
        assert done.stdout.split()[1] == expected


def test_without_a_namespace(person: Person) -> None:
    done = run(person, "sh", "-c", "id -u; readlink /proc/self/ns/user; exit 5",
               options=("--map", "none"))  # fmt: skip
    assert done.returncode == 5
    assert done.stdout.split() == [str(person.uid), os.readlink("/proc/self/ns/user")]


def test_mounts_inside_stay_inside(person: Person) -> None:
    before = but_of_other_tests("/proc/self/mountinfo")
    done = run(person, "sh", "-c", "mount -t tmpfs sd-inside /mnt && grep sd-inside /proc/mounts")
    assert done.returncode == 0
    assert "sd-inside" in done.stdout
    assert but_of_other_tests("/proc/self/mountinfo") == before


def test_session_lasts_as_long_as_its_last_process(person: Person) -> None:
    script = "setsid sh -c 'sleep 0.5; echo last' 2>/dev/null & echo first; exit 6"
    done = run(person, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (6, "first\nlast\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run",), "no command"),
        (("run", "--policy", "no-such-policy", "--", "true"), "no-such-policy"),
        (("run", "--map", "1:2", "--", "true"), "not a map"),
        (("run", "--map", "0:0:0", "--", "true"), "COUNT"),
        (("run", "--map", "auto", "--map", "0:1:1", "--", "true"), "alone"),
        (("run", "--unshare", "moon", "--", "true"), "moon"),
        (("run", "--audit", "/no/such/dir/file", "--", "true"), "/no/such/dir/file"),
        (("run", "--audit", "-", "--", "true"), "a file of their own"),
        (("run", "--preserve-fds", "x", "--", "true"), "--preserve-fds x: not a number"),
        (("run", "--preserve-fds", "65", "--", "true"), "--preserve-fds 65: not a number"),
        (("run", "--polcy", "x", "--", "true"), "run: unrecognized arguments: --polcy"),
        (("run", "--policy"), "run: argument --policy: expected one argument"),
        (("run", "--policy", "./nope.yaml", "--", "true"), "seccompd: ./nope.yaml: cannot read"),
        (("doctor", "-o", "xml"), "doctor: argument -o: invalid choice"),
        (("fly",), "no such verb: fly"),
    ],
)
def test_errors_are_one_message(person: Person, words: tuple[str, ...], message: str) -> None:
    done = Started(person, words).finish()
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("seccompd: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("hidden", ["wait_killable", "sync_wake_up", "wait_killable,sync_wake_up"])
def test_hidden_wait_killable(person: Person, hidden: str) -> None:
    """A call of each kind is answered without the newer features: granted, refused, its own."""
    script = (
        "cd $(mktemp -d) && chmod 755 . && mknod null c 1 3 && echo x >null"
        " && test -c null && rm null && ! mknod disk b 8 0 2>err && mkfifo pipe"
        " && grep -q 'Operation not permitted' err && exit 4"
    )
    options = ("--policy", "build")
    done = run(person, "sh", "-c", script, options=options, env={"SECCOMPD_TEST_HIDE": hidden})
    assert (done.returncode, done.stderr) == (4, "")
