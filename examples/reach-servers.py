"""What a container reaches: under `egress` no more than it needs, under `ipv6-only` all of IPv4.

    python examples/reach-servers.py

Each part runs in a network of its own, in which the servers are that it talks about; nothing leaves
this machine. First a build that nobody vouches for: under the shipped policy `default` it finds the
services of its host and of its cloud, under `egress` names and web servers. Then a program that
knows IPv4 alone, on a network that has IPv6 alone: under `ipv6-only` it reaches a server of IPv4
through NAT64.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 1
MIRROR, CLOUD, RESOLVER = "203.0.113.7", "169.254.169.254", "127.0.0.53"
GATEWAY = f"64:ff9b::{MIRROR}"  # where NAT64 has the mirror (RFC 6052)


def add_address(address: str, number: int) -> None:
    """Gives the loopback interface one more address, as root of a network may."""
    version = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(version, address)
    with socket.socket(version, socket.SOCK_DGRAM) as sock:
        if version == socket.AF_INET6:
            request = packed + struct.pack("Ii", 128, socket.if_nametoindex("lo"))
        else:
            name = f"lo:{number}".encode()
            request = struct.pack("16sHH4s16x", name, version, 0, packed)
        fcntl.ioctl(sock, SIOCSIFADDR, request)


def bring_up() -> None:
    """A new network has a loopback interface, and that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))


def serve(family: int, address: Any) -> None:
    """Says a word to everybody who connects, until the process ends."""
    sock = socket.socket(family)
    deadline = time.monotonic() + 10
    while True:
        try:
            sock.bind(address)
            break
        except OSError as error:  # a new IPv6 address can be used after a moment
            if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    sock.listen()

    def greet() -> None:
        while True:
            with sock.accept()[0] as client:
                client.sendall(b"reached")

    threading.Thread(target=greet, daemon=True).start()


def ask(title: str, family: int, address: Any) -> None:
    """Prints what is said there, or why nobody says anything."""
    with socket.socket(family) as sock:
        sock.settimeout(20)
        try:
            sock.connect(address)
            print(f"  {title:32} {sock.recv(64).decode()}", flush=True)
        except OSError as error:
            print(f"  {title:32} {error.strerror or error}", flush=True)


def build() -> None:
    """The servers of a host and of a cloud, and a build that looks around."""
    bring_up()
    for number, address in enumerate((MIRROR, CLOUD)):
        add_address(address, number)
    four, six, unix = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
    with tempfile.TemporaryDirectory() as place:
        places: list[tuple[str, int, Any]] = [
            ("a name, of a resolver", four, (RESOLVER, 53)),
            ("a package, of a mirror", four, (MIRROR, 80)),
            ("mail, to anybody", four, (MIRROR, 25)),
            ("the keys of the cloud's machine", four, (CLOUD, 80)),
            ("the same, written as IPv6", six, (f"::ffff:{CLOUD}", 80)),
            ("a database of the host's", four, ("127.0.0.1", 5432)),
            ("the host's Docker", unix, f"{place}/docker.sock"),
            ("the host's D-Bus", unix, "\0bus"),
        ]
        for _, family, address in places:
            if family != six:
                serve(family, address)
        for one in places:
            ask(*one)


def fetch() -> None:
    """A server that a gateway leads to, and a program that knows IPv4 alone."""
    bring_up()
    add_address(GATEWAY, 0)
    serve(socket.AF_INET6, (GATEWAY, 80))
    ask(f"{MIRROR}, by IPv4", socket.AF_INET, (MIRROR, 80))


PARTS = {"build": build, "fetch": fetch}
EXPECTED = {
    ("build", "default"): ["reached"] * 8,
    ("build", "egress"): ["reached"] * 2 + ["Permission denied"] * 6,
    ("fetch", "default"): ["Network is unreachable"],
    ("fetch", "ipv6-only"): ["reached"],
}


def main() -> int:
    """0 where each came to what it should."""
    if sys.argv[1:2] == ["--inside"]:
        PARTS[sys.argv[2]]()
        return 0
    print(f"You are uid {os.geteuid()}; each part runs in a container with a network of its own.")
    wrong = []
    for (part, policy), words in EXPECTED.items():
        inside = [sys.executable, str(Path(__file__).resolve()), "--inside", part]
        run = [*SECCOMPD, "run", "--policy", policy, "--unshare", "net", "--", *inside]
        print(f"\n{part}, under the policy {policy}:", flush=True)
        done = subprocess.run(run, stdout=subprocess.PIPE, text=True, timeout=120)
        print(done.stdout, end="", flush=True)
        if [line[35:] for line in done.stdout.splitlines()] != words or done.returncode:
            wrong.append(f"{part} under {policy}")
    print(f"\nNot as it should be: {', '.join(wrong)}" if wrong else "\nAll as it should be.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
