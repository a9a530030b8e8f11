"""getpeername of what was led elsewhere, where a rule wants it to show what was asked for; and
getsockname of what was led to another family, which is of the caller's own all the same."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import run
from tests.support.scratch import compile_c, scratch
from tests.support.sockets import LOCAL, Counter, inside, policy

NOWHERE = "203.0.113.7"  # RFC 5737: nobody is there
HEAD = f"""
import ctypes, errno, os, select, socket, struct, sys, time
NOWHERE = {NOWHERE!r}
libc = ctypes.CDLL(None, use_errno=True)
def name(sock, room=128, call=libc.getpeername):
    '''What the call returns, the length that it tells, and what it has written.'''
    buffer, length = ctypes.create_string_buffer(b"#" * 128, 128), ctypes.c_int(room)
    result = call(sock.fileno(), buffer, ctypes.byref(length))
    return result and errno.errorcode[ctypes.get_errno()], length.value, buffer.raw
def shown(sock, call=libc.getpeername):
    result, length, raw = name(sock, call=call)
    if result:
        return result
    family, port = struct.unpack_from("=H", raw)[0], int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET:
        return f"{{socket.inet_ntop(family, raw[4:8])}}:{{port}}/{{length}}"
    if family == socket.AF_INET6:
        return f"{{socket.inet_ntop(family, raw[8:24])}}:{{port}}/{{length}}"
    if length == 2:
        return f"{{socket.AddressFamily(family).name}}/2"
    return f"{{raw[2:length]}}/{{length}}"
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o777) as folder:
        compile_c("socket_calls", folder, "-pthread")
        yield folder


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    """Of listeners of IPv4 and IPv6."""
    four, six = socket.socket(), socket.socket(socket.AF_INET6)
    four.bind((LOCAL, 0))
    six.bind(("::1", 0))
    for one in (four, six):
        one.listen(64)
    yield four.getsockname()[1], six.getsockname()[1]
    four.close()
    six.close()


@pytest.fixture
def rules(place: Path, ports: tuple[int, int]) -> list[str]:
    four, six = ports
    asked = "peername: asked"
    return policy(
        place / "names.yaml",
        [f'to: "{NOWHERE}", port: 1, do: {{redirect: {{to: "{LOCAL}:{four}", {asked}}}}}',
         f'to: "{NOWHERE}", port: 2, do: {{redirect: {{to: "[::1]:{six}", {asked}}}}}',
         f'to: "{NOWHERE}", port: 3, do: {{redirect: "{LOCAL}:{four}"}}',
         f'to: "{NOWHERE}", port: 4, do: {{redirect: {{to: "[::1]:1", {asked}}}}}',
         f'path: "{place}/asked.sock", do: {{redirect: {{to: "{LOCAL}:{four}", {asked}}}}}',
         "do: emulate"],
    )  # fmt: skip


def test_what_is_shown(
    person: Person, place: Path, ports: tuple[int, int], rules: list[str]
) -> None:
    """To whoever has the socket, and of that socket alone."""
    script = f"""
def connected(where, family=socket.AF_INET, kind=socket.SOCK_STREAM):
    sock = socket.socket(family, kind)
    sock.connect(where)
    return sock
same, other = connected((NOWHERE, 1)), connected((NOWHERE, 2))
print(shown(same), shown(other), shown(connected((NOWHERE, 3))))
print(shown(connected(("::ffff:" + NOWHERE, 2), socket.AF_INET6)))
print(shown(connected("{place}/asked.sock", socket.AF_UNIX)))
print(shown(connected(("{LOCAL}", {ports[0]}))), shown(other.dup()), shown(socket.socket()))
sys.stdout.flush()
if not os.fork():
    print(shown(other), flush=True)
    os._exit(0)
os.wait()
number = other.fileno()
own = socket.create_connection(("{LOCAL}", {ports[0]}))
os.dup2(own.fileno(), number)
print(shown(other))
datagram = connected((NOWHERE, 1), kind=socket.SOCK_DGRAM)
before = shown(datagram)
datagram.connect(("{LOCAL}", 9))
print(before, shown(datagram))
later = socket.socket()
later.setblocking(False)
later.connect_ex((NOWHERE, 2))
select.select([], [later], [], 5)
print(later.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), shown(later), later.getpeername())
failed = socket.socket()
failed.setblocking(False)
failed.connect_ex((NOWHERE, 4))
select.select([], [failed], [], 5)
print(errno.errorcode[failed.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)], shown(failed))
"""
    asked = [f"{NOWHERE}:{port}/16" for port in range(4)]
    real = f"{LOCAL}:{ports[0]}/16"
    path = f"{place}/asked.sock"
    assert inside(person, place, script, rules, HEAD) == [
        f"{asked[1]} {asked[2]} {real}", f"::ffff:{NOWHERE}:2/28",
        f"{(path.encode() + bytes(1))!r}/{len(path) + 3}", f"{real} {asked[2]} ENOTCONN",
        asked[2], real, f"{asked[1]} {LOCAL}:9/16", f"0 {asked[2]} {(NOWHERE, 2)}",
        "ECONNREFUSED ENOTCONN",
    ]  # fmt: skip


def test_lengths_and_addresses_that_are_none(
    person: Person, place: Path, ports: tuple[int, int], rules: list[str]
) -> None:
    """Held against a socket that the kernel names."""
    script = f"""
asked = socket.create_connection((NOWHERE, 2))
own = socket.create_connection(("{LOCAL}", {ports[0]}))
def form(found, sock):
    result, length, raw = found
    port, host = sock
    whole = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host)
    return result, length, raw.replace(whole, b"@"), raw.startswith(whole)
for room in (-1, 0, 1, 8, 15, 16, 17, 128, 1 << 30):
    found, expected = name(asked, room), name(own, room)
    same = form(found, (2, NOWHERE)) == form(expected, ({ports[0]}, "{LOCAL}"))
    if room == 1:
        same = found == expected  # of the family one byte
    print(room, same or (found, expected))
length = ctypes.c_int(128)
for sock in (asked, own):
    for where in ((None, ctypes.byref(length)), (8, ctypes.byref(length)), (None, None), (None, 8)):
        result = libc.getpeername(sock.fileno(), *where)
        print(result and errno.errorcode[ctypes.get_errno()])
"""
    found = inside(person, place, script, rules, HEAD)
    assert found[:9] == [f"{n} True" for n in (-1, 0, 1, 8, 15, 16, 17, 128, 1 << 30)]
    assert found[9:13] == found[13:] == ["EFAULT"] * 4


@pytest.mark.parametrize("how", ["socketcall", "direct"])
def test_32_bit_callers(person: Person, place: Path, how: str) -> None:
    """What they ask lies in memory, by way of socketcall."""
    both = Counter(), Counter()
    options = policy(
        place / "narrow.yaml",
        [f'to: "{LOCAL}", port: {both[0].port}, do: '
         f'{{redirect: {{to: "[::1]:{both[1].port}", peername: asked}}}}', "do: emulate"],
    )  # fmt: skip
    try:
        done = run(
            person, str(place / "socket_calls"), f"{how}-name", str(both[0].port),
            str(both[1].port), options=options,
        )  # fmt: skip
    finally:
        for one in both:
            one.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [
        "connect", "0", "name", "0", "length", "16", "asked", "1", "nowhere", "EFAULT",
        "own", "0", "own-length", "16", "own-family", str(int(socket.AF_INET)),
        "own-loopback", "1",
    ]  # fmt: skip


OWN = """
def own(sock):
    return shown(sock, libc.getsockname)
def bound(sock, version):
    '''The port in the text is one that the kernel knows of this family.'''
    port = int(own(sock).rpartition(":")[2].partition("/")[0])
    kind = "tcp" if sock.type == socket.SOCK_STREAM else "udp"
    table = open(f"/proc/net/{kind}{version}").read()
    return own(sock).replace(f":{port}/", ":@/") if f":{port:04X} " in table else table
def connected(where, family=socket.AF_INET, kind=socket.SOCK_STREAM):
    sock = socket.socket(family, kind)
    sock.connect(where)
    return sock
"""


def test_what_a_socket_is_called(
    person: Person, place: Path, ports: tuple[int, int], rules: list[str]
) -> None:
    """By whoever has it; the port is the kernel's."""
    script = f"""{OWN}
led, kept = connected((NOWHERE, 2)), connected((NOWHERE, 1))
print(bound(led, 6), bound(kept, ""), bound(led.dup(), 6), own(socket.socket()))
print(bound(connected(("::ffff:" + NOWHERE, 2), socket.AF_INET6), 6))
print(own(connected("{place}/asked.sock", socket.AF_UNIX)))
sys.stdout.flush()
if not os.fork():
    print(bound(led, 6), flush=True)
    os._exit(0)
os.wait()
datagram = connected((NOWHERE, 2), kind=socket.SOCK_DGRAM)
print(bound(datagram, 6))
libc.connect(datagram.fileno(), bytes(16), 16)
print(own(datagram).rpartition(":")[0])
datagram.connect((NOWHERE, 2))
print(bound(datagram, 6))
dual = connected(("::ffff:" + NOWHERE, 2), socket.AF_INET6, socket.SOCK_DGRAM)
print(bound(dual, 6))
dual.connect(("::1", 9))
print(bound(dual, 6))
first = socket.socket()
first.bind(("{LOCAL}", 0))
port = first.getsockname()[1]
first.connect((NOWHERE, 2))
print(first.getsockname() == ("{LOCAL}", port))
"""
    assert inside(person, place, script, rules, HEAD) == [
        f"{LOCAL}:@/16 {LOCAL}:@/16 {LOCAL}:@/16 0.0.0.0:0/16", f"::ffff:{LOCAL}:@/28",
        "AF_UNIX/2", f"{LOCAL}:@/16", f"{LOCAL}:@/16", "0.0.0.0", f"{LOCAL}:@/16",
        f"::ffff:{LOCAL}:@/28", "::1:@/28", "True",
    ]  # fmt: skip


def test_own_lengths_and_addresses_that_are_none(
    person: Person, place: Path, ports: tuple[int, int], rules: list[str]
) -> None:
    """Held against a socket that the kernel names."""
    script = f"""
led = socket.create_connection((NOWHERE, 2))
own = socket.create_connection(("{LOCAL}", {ports[0]}))
def form(sock, room):
    result, length, raw = name(sock, room, libc.getsockname)
    port = sock.getsockname()[1].to_bytes(2, "big")
    return result, length, raw[:2], raw[2:4] == port[:max(min(room - 2, 2), 0)] + b"##"[:4 - max(
        min(room, 4), 2)] if room > 2 else raw[2:4], raw[4:]
for room in (-1, 0, 1, 2, 3, 8, 15, 16, 17, 128, 1 << 30):
    print(room, form(led, room) == form(own, room) or (form(led, room), form(own, room)))
length = ctypes.c_int(128)
for sock in (led, own):
    for where in ((None, ctypes.byref(length)), (8, ctypes.byref(length)), (None, None), (None, 8)):
        result = libc.getsockname(sock.fileno(), *where)
        print(result and errno.errorcode[ctypes.get_errno()])
"""
    rooms = (-1, 0, 1, 2, 3, 8, 15, 16, 17, 128, 1 << 30)
    found = inside(person, place, script, rules, HEAD)
    assert found[: len(rooms)] == [f"{room} True" for room in rooms]
    assert found[len(rooms) : len(rooms) + 4] == found[len(rooms) + 4 :] == ["EFAULT"] * 4


def test_names_of_several_addresses(person: Person, place: Path, ports: tuple[int, int]) -> None:
    """getaddrinfo(3) connects to each of them, and asks what it is called there: it ends a program
    whose sockets have addresses of another family."""
    hosts = place / "hosts"
    both = f"{NOWHERE} {{0}}\n203.0.113.8 {{0}}\n"
    hosts.write_text(both.format("four") + "::1 mixed\n" + both.format("mixed"))
    options = policy(
        place / "several.yaml",
        ['to: "203.0.113.7", do: {redirect: "::1"}', 'to: "203.0.113.8", do: '
         f'{{balance: ["[::1]:{ports[1]}"]}}', "do: emulate"],
    )  # fmt: skip
    program = f"""
import socket, subprocess
subprocess.run(["mount", "--bind", "{place}/hosts", "/etc/hosts"], check=True)
for name in ("four", "mixed"):
    found = socket.getaddrinfo(name, {ports[1]}, type=socket.SOCK_STREAM)
    print(sorted(one[4][0] for one in found))
socket.create_connection(("four", {ports[1]})).close()
"""
    four = [NOWHERE, "203.0.113.8"]
    assert inside(person, place, program, options) == [str(four), str([*four, "::1"])]
