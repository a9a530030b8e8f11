"""Options that rules set on sockets, and what the records have of a connection."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.scratch import a_place
from tests.support.sockets import LOCAL, inside, policy

NOWHERE = "203.0.113.7"  # RFC 5737: nobody is there
HEAD = f'''
import errno, socket
S, T = socket.SOL_SOCKET, socket.IPPROTO_TCP
server = socket.create_server(("{LOCAL}", 0))
six = socket.create_server(("::1", 0), family=socket.AF_INET6)
WHERE = server.getsockname()
def state(sock):
    return (
        sock.getsockopt(T, socket.TCP_NODELAY), sock.getsockopt(S, socket.SO_KEEPALIVE),
        sock.getsockopt(T, socket.TCP_KEEPIDLE),
        sock.getsockopt(T, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode(),
    )
'''
SET = "TCP_NODELAY: true, SO_KEEPALIVE: 1, TCP_KEEPIDLE: 33, TCP_CONGESTION: reno"

place = a_place(0o777, scope="module")


def test_on_the_callers_own_socket(person: Person, place: Path) -> None:
    """Of a connection, of what listens, of another socket in its place; a socket that does not have
    an option is left alone."""
    log = place / f"{person.name}.json"
    log.touch(0o666)
    log.chmod(0o666)
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        port = sock.getsockname()[1]
    options = policy(
        place / "set.yaml",
        [f'to: "{NOWHERE}", do: {{redirect: {{to: "[::1]:{port}", set: {{{SET}}}}}}}',
         f"do: {{emulate: {{set: {{{SET}}}}}}}"],
        [f"do: {{emulate: {{set: {{{SET}, SO_SNDBUF: 5000}}}}}}"],
    )  # fmt: skip
    script = f"""
print(*state(server), server.getsockopt(S, socket.SO_SNDBUF))
sock = socket.socket()
before = state(sock)
sock.connect(WHERE)
print(*state(sock), before != state(sock))
full = socket.create_server((WHERE[0], 0), backlog=0)
begun = []
for where in [WHERE] * 3 + [full.getsockname()] * 3:
    later = socket.socket()
    later.setblocking(False)
    later.connect_ex(where)
    begun.append(later)
print(*state(begun[0]))
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.connect(WHERE)
print(datagrams.getsockopt(S, socket.SO_KEEPALIVE))
path = socket.socket(socket.AF_UNIX)
path.bind("{place}/listens")
path.listen()
print(path.getsockopt(S, socket.SO_SNDBUF))
client = socket.socket(socket.AF_UNIX)
client.connect("{place}/listens")
print(client.getsockopt(S, socket.SO_KEEPALIVE))
other = socket.create_server(("::1", {port}), family=socket.AF_INET6)
led = socket.socket()
led.connect(("{NOWHERE}", 80))
print(*state(led))
"""
    (place / "listens").unlink(missing_ok=True)
    found = inside(person, place, script, [*options, "--audit", str(log)], HEAD)
    expected = "1 1 33 reno"
    assert found == [
        f"{expected} 10000", f"{expected} True", expected, "1", "10000", "1", expected,
    ]  # fmt: skip
    records = [json.loads(line) for line in log.read_text().splitlines()]
    connects = [one for one in records if one.get("syscall") == "connect"]
    said = {"TCP_NODELAY": 1, "SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 33, "TCP_CONGESTION": "reno"}
    assert connects[0]["emulate"] == {"set": said}
    with socket.create_server((LOCAL, 0)) as server, socket.create_connection(
        server.getsockname()
    ) as sock:
        mss = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    tcp = connects[0]["tcp"]
    assert (tcp["mss"], tcp["pmtu"], tcp["retransmits"]) == (mss, 65535, 0)
    assert 0 < tcp["rtt"] < 10_000_000
    # on one host a connection is mostly there before a connect that does not block has come back
    assert mss in [one.get("tcp", {}).get("mss") for one in connects[1:4]]
    assert "tcp" not in connects[6]  # nobody has taken it in yet
    assert connects[-1]["tcp"]["mss"] > 0


def test_what_cannot_be_set_is_refused(person: Person, place: Path) -> None:
    """The call is not made."""
    options = policy(
        place / "never.yaml",
        ['to: "127.0.0.1", do: {emulate: {set: {SO_BINDTODEVICE: seccompd-none}}}',
         "do: {emulate: {set: {TCP_CONGESTION: seccompd-none}}}"],
        ["do: emulate"], "on_error: EIO",
    )  # fmt: skip
    script = """
for address in (WHERE, ("127.0.0.2", WHERE[1])):
    sock = socket.socket()
    print(errno.errorcode[sock.connect_ex(address)], sock.getsockname()[1])
"""
    assert inside(person, place, script, options, HEAD) == ["EIO 0", "EIO 0"]


@pytest.mark.parametrize("own", [False, True])
def test_a_mark(person: Person, place: Path, own: bool) -> None:
    """The rule's word counts, and not what the caller could do: in a network of the container's own
    anybody's socket gets it. In the host's no container can have one set."""
    options = policy(place / "mark.yaml", bind=["do: {emulate: {set: {SO_MARK: 4000000000}}}"])
    script = """
import os, socket
for uid in (0, 7):
    child = os.fork()
    if not child:
        os.setresuid(uid, uid, uid)
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)
            print("may", end=" ")
        except PermissionError:
            print("may not", end=" ")
        try:
            sock.bind(("0.0.0.0", 0))
            print("bound", end=" ")
        except PermissionError:
            print("refused", end=" ")
        print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) & 0xffffffff, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    more = ["--unshare", "net"] if own else []
    found = inside(person, place, script, [*options, *more])
    expected = ["may bound 4000000000", "may not bound 4000000000"]
    assert found == (expected if own else ["may not refused 0"] * 2)


def test_a_mark_of_what_connects(person: Person, place: Path) -> None:
    """On the caller's own socket, and on one of another family in its place."""
    rules = [
        f'to: "{NOWHERE}", do: {{redirect: {{to: "[::1]:9", set: {{SO_MARK: 7}}}}}}',
        "do: {emulate: {set: {SO_MARK: 8, SO_KEEPALIVE: true}}}",
    ]
    options = policy(place / "marks.yaml", rules)
    script = """
import fcntl, os, struct
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo".ljust(16, b"\\0"), 1))  # SIOCSIFFLAGS
os.setresuid(7, 7, 7)
for where in (("203.0.113.7", 9), ("127.0.0.1", 9)):
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.connect(where)
    domain = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK), domain == socket.AF_INET6)
"""
    found = inside(person, place, script, [*options, "--unshare", "net"], "import socket")
    assert found == ["7 True", "8 False"]


def test_the_names_are_the_kernels() -> None:
    """Held against Python's own, which has them from the same headers by other means."""
    from supervisor.kernel.socket_options import options

    known = {name: getattr(socket, name) for name in options() if hasattr(socket, name)}
    assert len(known) > 25
    assert {name: options()[name].number for name in known} == known
    levels = {"SO": socket.SOL_SOCKET, "TCP": socket.IPPROTO_TCP, "IP": socket.IPPROTO_IP,
              "IPV6": socket.IPPROTO_IPV6}  # fmt: skip
    assert all(one.level == levels[name.partition("_")[0]] for name, one in options().items())
