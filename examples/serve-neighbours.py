"""Whom a server answers: under `neighbours` its own machine and private networks alone.

    python examples/serve-neighbours.py

Each part runs in a network of its own, in which all who connect have their addresses; nothing
leaves this machine. The server listens on all of its addresses and sets options on its socket:
first under the shipped policy `default`, where everybody is answered and the kernel alone says what
can be set, then under `neighbours`.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 1
PEERS = {"this machine": "127.0.0.1", "a private network": "192.168.7.7",
         "somebody else": "203.0.113.7"}  # fmt: skip
OPTIONS = {"SO_KEEPALIVE": 1, "SO_PRIORITY": 6, "SO_MARK": 7}


def bring_up(addresses: Iterable[str]) -> None:
    """Gives the loopback interface of a new network these addresses, as its root may."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))
        for number, address in enumerate(addresses):
            where = struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(address))
            request = struct.pack("16s8s16x", f"lo:{number}".encode(), where)
            fcntl.ioctl(sock, SIOCSIFADDR, request)


def put(sock: socket.socket, name: str, value: int) -> str:
    """What an option is once it was set, or why it was not."""
    option = getattr(socket, name)
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, value)
        return str(sock.getsockopt(socket.SOL_SOCKET, option))
    except OSError as error:
        return error.strerror or str(error)


def answer(server: socket.socket) -> None:
    """Says hello to everybody who is accepted, until the process ends."""
    while True:
        client, _ = server.accept()
        with client:
            client.sendall(b"hello")


def heard(port: int, source: str) -> str:
    """What a server says to somebody who comes from there."""
    with socket.socket() as sock:
        sock.settimeout(20)
        try:
            sock.bind((source, 0))
            sock.connect((source, port))
            return sock.recv(64).decode()
        except OSError as error:
            return error.strerror or str(error)


def inside() -> None:
    """A server, and who connects to it."""
    bring_up(address for address in PEERS.values() if not address.startswith("127."))
    with socket.socket() as server:
        for name, value in OPTIONS.items():
            print(f"  {f'{name}, set to {value}':32} {put(server, name, value)}", flush=True)
        server.bind(("0.0.0.0", 0))
        server.listen()
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        for who, source in PEERS.items():
            said = heard(server.getsockname()[1], source)
            print(f"  {f'{who}, {source}':32} {said}", flush=True)


EXPECTED = {
    "default": ["1", "6", "7", "hello", "hello", "hello"],
    "neighbours": ["1", "0", "Operation not permitted", "hello", "hello",
                   "Connection reset by peer"],
}  # fmt: skip


def main() -> int:
    """0 where each came to what it should."""
    if sys.argv[1:2] == ["--inside"]:
        inside()
        return 0
    print(f"You are uid {os.geteuid()}; each part runs in a container with a network of its own.")
    wrong = []
    for policy, words in EXPECTED.items():
        script = [sys.executable, str(Path(__file__).resolve()), "--inside"]
        run = [*SECCOMPD, "run", "--policy", policy, "--unshare", "net", "--", *script]
        print(f"\nA server, under the policy {policy}:", flush=True)
        done = subprocess.run(run, stdout=subprocess.PIPE, text=True, timeout=120)
        print(done.stdout, end="", flush=True)
        if [line[35:] for line in done.stdout.splitlines()] != words or done.returncode:
            wrong.append(policy)
    print(f"\nNot as it should be: {', '.join(wrong)}" if wrong else "\nAll as it should be.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
