"""setsockopt and getsockopt by rules: real sockets of real programs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
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
# All of them are made, as they were asked for.
MADE = """version: 1
name: made
syscalls:
  setsockopt: [{do: emulate}]
  getsockopt: [{do: emulate}]
"""
VALUES = """version: 1
name: values
syscalls:
  setsockopt:
    - {optname: TCP_KEEPIDLE, uid: 5, do: {errno: EXDEV}}
    - {optname: TCP_KEEPIDLE, uid: 0, do: {emulate: {value: 77}}}
    - {optname: TCP_CONGESTION, do: {emulate: {value: reno}}}
    - {optname: SO_KEEPALIVE, mode: audit, do: {emulate: {value: 1}}}
    - {optname: SO_MARK, capability: net_admin, do: emulate}
    - {optname: TCP_CORK, uid: 5, do: emulate}
    - {level: SOL_TCP, do: refuse}
    - {do: continue}
  getsockopt:
    otherwise: kernel
    rules:
      - {optname: SO_SNDBUF, do: {emulate: {value: 4242}}}
      - {optname: TCP_CONGESTION, uid: 0, do: {emulate: {value: none}}}
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
        policies = {
            "options": POLICY, "mark": MARK, "rights": RIGHTS, "made": MADE, "values": VALUES,
        }  # fmt: skip
        for name, text in policies.items():
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


@pytest.mark.parametrize(
    ("how", "policy"),
    [("socketcall-options", "mark"), ("socketcall-options", "made"), ("direct-options", "made")],
)
def test_what_is_made_for_32_bit_callers_is_as_the_kernel_makes_it(
    person: Person, place: Path, how: str, policy: str
) -> None:
    """Each option to the byte, held against the same program without seccompd; what lies at the end
    of memory as well."""
    alone = subprocess.run(
        [place / "socket_calls", how, "0", "0"], check=True, capture_output=True,
        text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    found = calls(person, place, how, policy)
    assert found == dict(line.split() for line in alone.stdout.splitlines())


NATIVE = """
import ctypes, errno, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
edge = libc.mmap(None, 8192, 3, 0x22, -1, 0) + 4096
libc.mprotect(ctypes.c_void_p(edge), 4096, 0)
def answer(found):
    return found if found >= 0 else errno.errorcode[ctypes.get_errno()]
def put(fd, level, name, value, said=None, there=None):
    there = len(value) if there is None else there
    at = ctypes.c_void_p(edge - there)
    ctypes.memmove(at, value, there)
    return answer(libc.setsockopt(fd, level, name, at, len(value) if said is None else said))
def get(fd, level, name, room=600):
    value = ctypes.create_string_buffer(b"#" * 600, 600)
    length = ctypes.c_int(room)
    found = answer(libc.getsockopt(fd, level, name, value, ctypes.byref(length)))
    raw = value.raw[:max(length.value, 0)]
    return found, length.value, raw, value.raw[max(length.value, 0):][:4]
S, T, I, V6 = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
one = struct.pack("i", 1)
OPTIONS = [
    (S, socket.SO_REUSEADDR, one), (S, socket.SO_LINGER, struct.pack("ii", 1, 7)),
    (S, 20, struct.pack("ll", 3, 500000)), (S, 66, struct.pack("qq", 3, 500000)),
    (S, socket.SO_RCVBUF, struct.pack("i", 70000)), (S, socket.SO_TYPE, one),
    (T, socket.TCP_KEEPIDLE, one),
    (S, 47, struct.pack("q", 1 << 20)), (T, socket.TCP_CONGESTION, b"reno"),
    (I, socket.IP_TTL, struct.pack("i", 77)), (I, socket.IP_TOS, bytes([16])),
    (V6, socket.IPV6_V6ONLY, one),
]
"""


def test_what_is_made_is_as_the_kernel_makes_it(person: Person, place: Path) -> None:
    """Of 64-bit programs: values that are short, long, at the end of memory and nowhere; what is no
    socket. What would be about the memory or processes of who makes it is made for nobody."""
    script = '''
import ctypes
streams = socket.socketpair()
for fd in (socket.socket().detach(), streams[0].fileno(), 0, 99):
    for level, name, value in OPTIONS:
        print(fd < 3, level, name, put(fd, level, name, value),
              put(fd, level, name, value, len(value) - 1), put(fd, level, name, value, -1),
              put(fd, level, name, value, 1 << 29 | 1 << 26), put(fd, level, name, value, None, 0),
              put(fd, level, name, value[:2], len(value)))
        print([get(fd, level, name, room) for room in (600, 16, 4, 2, 0, -1, 1 << 29)])
    print(answer(libc.setsockopt(fd, S, socket.SO_REUSEADDR, None, 4)),
          fd in (0, 99) or answer(libc.getsockopt(fd, S, socket.SO_REUSEADDR, None, None)),
          answer(libc.getsockopt(fd, S, socket.SO_TYPE, None, ctypes.byref(ctypes.c_int(4)))))
'''
    bare = subprocess.run(
        [*person.argv([python(person)]), "-c", NATIVE + script], capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip
    options = ["--policy", str(place / "made.yaml")]
    found = inside(person, place, script, options, NATIVE)
    assert found == bare.stdout.splitlines()
    asked = "print(get(socket.socketpair()[0].fileno(), S, socket.SO_PEERCRED)[0])"
    assert inside(person, place, asked, options, NATIVE) == ["ENOPROTOOPT"]


def test_values_that_rules_say(root: Person, place: Path) -> None:
    """Whatever was asked for; by who calls; and only recorded the program's own."""
    log = log_of(root, place)
    script = '''
fd = socket.socket().detach()
def both(level, name, value):
    return put(fd, level, name, value), get(fd, level, name, 16)[2]
print(both(T, socket.TCP_KEEPIDLE, struct.pack("i", 5)))
print(both(T, socket.TCP_KEEPIDLE, b""), both(T, socket.TCP_KEEPIDLE, struct.pack("i", -5)))
print(both(T, socket.TCP_CONGESTION, b"cubic")[0])
print(both(S, socket.SO_KEEPALIVE, struct.pack("i", 0)))
print(both(T, socket.TCP_CORK, one)[0], put(99, T, socket.TCP_KEEPIDLE, one))
print([get(fd, S, socket.SO_SNDBUF, room) for room in (16, 4, 2, 0, -1)])
print(get(99, S, socket.SO_SNDBUF)[0], get(fd, T, socket.TCP_CONGESTION, 16)[:3],
      flush=True)
pid = os.fork()
if not pid:
    os.setresuid(5, 5, 5)
    print(put(fd, T, socket.TCP_KEEPIDLE, one), put(fd, T, socket.TCP_CORK, one),
          answer(libc.setsockopt(fd, T, socket.TCP_KEEPIDLE, None, 4)),
          get(fd, T, socket.TCP_CONGESTION, 16)[2], flush=True)
    os._exit(0)
os.waitpid(pid, 0)
'''
    options = ["--policy", str(place / "values.yaml"), "--audit", str(log)]
    assert inside(root, place, script, options, NATIVE) == [
        "(0, b'M\\x00\\x00\\x00')",
        "(0, b'M\\x00\\x00\\x00') (0, b'M\\x00\\x00\\x00')",
        "0", "(0, b'\\x00\\x00\\x00\\x00')", "EPERM EBADF",
        "[(0, 4, b'\\x92\\x10\\x00\\x00', b'####'), (0, 4, b'\\x92\\x10\\x00\\x00', b'####'), "
        "(0, 2, b'\\x92\\x10', b'####'), (0, 0, b'', b'####'), ('EINVAL', -1, b'', b'####')]",
        "EBADF (0, 5, b'none\\x00')",
        "EXDEV 0 EXDEV b'reno" + "\\x00" * 12 + "'",
    ]  # fmt: skip
    records = [json.loads(line) for line in log.read_text().splitlines()]
    made = [
        (one["args"]["option"], one["verdict"], one.get("mode"), one.get("emulate"))
        for one in records if one.get("syscall") == "setsockopt"
    ]  # fmt: skip
    assert made[0] == ("TCP_KEEPIDLE", "emulate", None, {"value": 77})
    assert ("TCP_CONGESTION", "emulate", None, {"value": "reno"}) in made
    assert ("SO_KEEPALIVE", "emulate", "audit", {"value": 1}) in made
    assert ("TCP_CORK", "refuse", None, None) in made
    assert ("TCP_CORK", "emulate", None, None) in made


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
