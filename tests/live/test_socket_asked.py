"""What a caller asked for still counts where a rule leads its call elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.people import Person
from tests.support.scratch import a_place
from tests.support.sockets import LOCAL, inside, policy

NOWHERE = "203.0.113.7"  # RFC 5737: nobody is there
TABLE = """
import ctypes, errno, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
INET = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 9, bytes((127, 0, 0, 1)))
SIX = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", 9, 0, bytes(15) + b"\\1", 0)
UNIX = struct.pack("=H", socket.AF_UNIX) + b"/run/seccompd-none"
NAMED = struct.pack("=H", socket.AF_UNIX) + b"\\0none"
ADDRESSES = [INET, INET + bytes(12), SIX[:24], SIX, UNIX, UNIX + bytes(30), NAMED]
KINDS = [(family, kind) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
         for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
REFUSED = ("EINVAL", "EAFNOSUPPORT")
for family, kind in KINDS:
    for only in range(2 if family == socket.AF_INET6 else 1):
        for address in ADDRESSES:
            for call in ("connect", "sendto"):
                if call == "sendto" and (kind == socket.SOCK_STREAM or family == socket.AF_UNIX):
                    continue
                sock = socket.socket(family, kind)
                if only:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if call == "connect":
                    result = libc.connect(sock.fileno(), address, len(address))
                else:
                    result = libc.sendto(sock.fileno(), b"x", 1, 0, address, len(address))
                name = errno.errorcode[ctypes.get_errno()] if result < 0 else "0"
                said = name if name in REFUSED else "goes"
                print(int(family), int(kind), only, call, address[0], len(address), said)
                sock.close()
"""

place = a_place(0o777, scope="module")


def test_what_the_kernel_refuses_is_refused(person: Person, place: Path) -> None:
    """A socket takes no address of another family, whatever a rule would make of that."""
    options = policy(
        place / "asked.yaml",
        [f'to: "127.0.0.0/8", do: {{redirect: "{LOCAL}:10"}}',
         'to: "::1", do: {redirect: "[::1]:10"}',
         f'path: "/run/*", do: {{redirect: "{LOCAL}:10"}}',
         f'abstract: none, do: {{redirect: "{LOCAL}:10"}}', "do: emulate"],
    )  # fmt: skip
    real = subprocess.run(
        [sys.executable, "-c", TABLE], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len([line for line in real if "goes" in line]) > 15
    assert len([line for line in real if "goes" not in line]) > 30
    assert inside(person, place, TABLE, options) == real


def test_a_name_that_is_no_longer_asked_for(person: Person, place: Path) -> None:
    """A socket that is connected anew by what it sends (MSG_FASTOPEN) shows where it is then."""
    options = policy(
        place / "stale.yaml",
        [f'to: "{NOWHERE}", do: {{redirect: {{to: "{LOCAL}", peername: asked}}}}', "do: emulate"],
    )
    script = f"""
import errno, select, socket
server = socket.create_server(("{LOCAL}", 0))
port = server.getsockname()[1]
sock = socket.socket()
sock.setblocking(False)
for _ in range(2):
    print(errno.errorcode[sock.connect_ex(("{NOWHERE}", 1))])
    select.select([], [sock], [])
sock.setblocking(True)
print(sock.sendto(b"x", socket.MSG_FASTOPEN, ("{LOCAL}", port)))
print(sock.getpeername()[0])
again = socket.socket()
print(again.sendto(b"x", socket.MSG_FASTOPEN, ("{NOWHERE}", port)))
print(again.getpeername()[0])
"""
    assert inside(person, place, script, options) == [
        "EINPROGRESS", "ECONNREFUSED", "1", LOCAL, "1", NOWHERE,
    ]  # fmt: skip
