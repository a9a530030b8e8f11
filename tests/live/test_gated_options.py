"""setsockopt and getsockopt by rules: real sockets of real programs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import run
from tests.support.scratch import compile_c, scratch
from tests.support.sockets import inside

POLICY = """version: 1
name: options
syscalls:
  setsockopt:
    - {optname: SO_KEEPALIVE, do: {errno: EXDEV}}
    - {optname: SO_BROADCAST, do: {return: 0}}
    - {optname: SO_OOBINLINE, do: refuse, silent: true}
    - {optname: SO_PRIORITY, do: kill}
    - {optname: SO_RCVTIMEO, do: refuse}
    - {optname: TCP_NODELAY, uid: 0, do: continue}
    - {optname: TCP_CORK, uid: 5, do: continue}
    - {level: IPPROTO_TCP, do: refuse}
    - {optname: SO_DONTROUTE, mode: audit, do: refuse}
    - {do: continue}
  getsockopt:
    otherwise: kernel
    rules:
      - {optname: SO_DOMAIN, do: {errno: EACCES}}
  mknod:
    - {devices: ["null"], do: kill}
"""
# What it refuses is nothing that the program asks for: yet nothing by socketcall goes on.
MARK = """version: 1
name: mark
syscalls:
  setsockopt:
    - {optname: SO_MARK, do: refuse}
    - {do: continue}
  getsockopt:
    - {optname: SO_MARK, do: refuse}
    - {do: continue}
"""
# None of what it refuses is asked for, nor takes a capability.
RIGHTS = """version: 1
name: rights
syscalls:
  setsockopt:
    - {optname: SO_KEEPALIVE, do: refuse}
    - {do: continue}
"""
HEAD = """
import errno, os, socket
S, T = socket.SOL_SOCKET, socket.IPPROTO_TCP
sock = socket.socket()
def put(level, name, value=1):
    try:
        sock.setsockopt(level, name, value)
    except OSError as error:
        return errno.errorcode[error.errno]
    return sock.getsockopt(level, name)
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o777) as folder:
        compile_c("socket_calls", folder, "-pthread")
        for name, text in (("options", POLICY), ("mark", MARK), ("rights", RIGHTS)):
            (folder / f"{name}.yaml").write_text(text)
            (folder / f"{name}.yaml").chmod(0o644)
        yield folder


def test_options_of_a_program(person: Person, place: Path) -> None:
    """Each verdict, by level, by option, by both numbers of one, and by who calls; what registers
    settle and nobody wants to hear of is in no record."""
    log = log_of(person, place)
    script = """
print(put(S, socket.SO_REUSEADDR), put(S, socket.SO_KEEPALIVE), put(S, socket.SO_BROADCAST))
print(put(S, socket.SO_OOBINLINE), put(S, 20, bytes(16)), put(S, 66, bytes(16)))
print(put(T, socket.TCP_NODELAY), put(T, socket.TCP_CORK), put(T, socket.TCP_KEEPIDLE, 5))
print(put(S, socket.SO_DONTROUTE))
try:
    print(sock.getsockopt(S, socket.SO_DOMAIN))
except PermissionError:
    print("refused", sock.getsockopt(S, socket.SO_TYPE))
def ended(call):
    child = os.fork()
    if not child:
        call()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])
print(ended(lambda: put(S, socket.SO_PRIORITY)))
print(ended(lambda: os.mknod("/tmp/null", 0o20666, os.makedev(1, 3))))
"""
    options = ["--policy", str(place / "options.yaml"), "--audit", str(log)]
    assert inside(person, place, script, options, HEAD) == [
        "1 EXDEV 0", "EPERM EPERM EPERM", "1 EPERM EPERM", "1", "refused 1", "9", "9",
    ]  # fmt: skip
    records = [json.loads(line) for line in log.read_text().splitlines()]
    found = [
        (one["args"]["option"], one["verdict"], one.get("errno"), one.get("mode"))
        for one in records if one.get("syscall") in ("setsockopt", "getsockopt")
    ]  # fmt: skip
    assert found == [
        ("SO_KEEPALIVE", "errno", "EXDEV", None), ("SO_BROADCAST", "return", None, None),
        ("SO_RCVTIMEO", "refuse", "EPERM", None), ("SO_RCVTIMEO_NEW", "refuse", "EPERM", None),
        ("TCP_NODELAY", "continue", None, None), ("TCP_CORK", "refuse", "EPERM", None),
        ("TCP_KEEPIDLE", "refuse", "EPERM", None), ("SO_DONTROUTE", "refuse", None, "audit"),
        ("SO_DOMAIN", "errno", "EACCES", None), ("SO_PRIORITY", "kill", "EPERM", None),
    ]  # fmt: skip
    ends = [one for one in records if one.get("verdict") == "kill"]
    assert [one["syscall"] for one in ends] == ["setsockopt", "mknodat"]
    assert {key: ends[0].get(key) for key in ("errno", "how")} == {
        key: ends[1].get(key) for key in ("errno", "how")
    }


def log_of(person: Person, place: Path) -> Path:
    """An empty file that the person may write to."""
    log = place / f"{person.name}.json"
    log.write_text("")
    log.chmod(0o666)
    return log


def calls(
    person: Person, place: Path, how: str, policy: str = "options", *options: str
) -> dict[str, str]:
    """What came of the calls of a 32-bit program."""
    done = run(
        person, str(place / "socket_calls"), how, "0", "0",
        options=["--policy", str(place / f"{policy}.yaml"), *options],
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.parametrize("how", ["socketcall-option", "direct-option"])
def test_32_bit_callers(person: Person, place: Path, how: str) -> None:
    """By socketcall, whose arguments lie in memory, it is as by the calls themselves."""
    log = log_of(person, place)
    found = calls(person, place, how, "options", "--audit", str(log))
    expected = {
        "refused": "EXDEV", "allowed": "0", "by-who-calls": "0", "set": "1", "type": "0",
        "domain": "EACCES",
    }  # fmt: skip
    if how == "socketcall-option":
        expected["no-arguments"] = "EFAULT"
    assert found == expected
    records = [json.loads(line) for line in log.read_text().splitlines()]
    made = [
        (one["args"].get("option"), one["verdict"], one.get("errno"))
        for one in records if one.get("syscall") in ("setsockopt", "getsockopt")
    ]  # fmt: skip
    if how == "socketcall-option":
        assert made == [
            ("SO_KEEPALIVE", "errno", "EXDEV"), ("SO_REUSEADDR", "emulate", None),
            ("TCP_NODELAY", "emulate", None), ("SO_TYPE", "emulate", None),
            ("SO_DOMAIN", "errno", "EACCES"), (None, "emulate", "EFAULT"),
        ]  # fmt: skip
    else:
        assert made == [
            ("SO_KEEPALIVE", "errno", "EXDEV"), ("TCP_NODELAY", "continue", None),
            ("SO_DOMAIN", "errno", "EACCES"),
        ]  # fmt: skip


def test_what_is_made_for_32_bit_callers_is_as_the_kernel_makes_it(
    person: Person, place: Path
) -> None:
    """Each option to the byte, held against the same program without seccompd."""
    alone = subprocess.run(
        [place / "socket_calls", "socketcall-options", "0", "0"], check=True, capture_output=True,
        text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    found = calls(person, place, "socketcall-options", "mark")
    assert found == dict(line.split() for line in alone.stdout.splitlines())


def test_capabilities_that_options_take_are_the_callers_own(person: Person, place: Path) -> None:
    """What seccompd sets for a 32-bit program is held against what the kernel lets it set."""
    made = calls(person, place, "socketcall-rights", "rights", "--unshare", "net")
    kernels = calls(person, place, "direct-rights", "rights", "--unshare", "net")
    assert made == kernels
    assert (kernels["own-0"], kernels["none-0"]) == ("0", "EPERM")


def test_a_thread_that_changes_the_words_of_socketcall_loses(person: Person, place: Path) -> None:
    assert calls(person, place, "socketcall-flip") == {
        "done": "1", "refused": "1", "set": "0", "leaked": "0",
    }  # fmt: skip
