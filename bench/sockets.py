"""Sockets: a connection that is led elsewhere against a direct one, and `balance` against haproxy.

`python -m bench.sockets serve` is the other end: it prints two ports, of what swallows all and of
what sends back all. `python -m bench.sockets KIND HOST PORT` is who connects: for every number that
it reads it measures so many times, and prints the microseconds that each took. KIND is "connect" (a
connection, one byte there and back, its end), "ask" (one byte there and back over a connection that
is kept) or "send" (128 MiB over a new connection).

How fast a connection is depends on where the kernel has put its two ends: so throughput is measured
with a processor for each of them, over new connections in turns. What two direct ones differ by is
noise.
"""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from bench import peers
from bench.compare import Bench, Row, quartiles
from bench.peers import Asked, BenchError

_LOCAL: Final = "127.0.0.1"
_VIRTUAL: Final = "203.0.113.7"  # RFC 5737: nobody is there
_MIB: Final = 1 << 20
_SENT: Final = 128
_TURNS: Final = 4  # of one round: the machine has moods
_HAPROXY: Final = """\
global
  maxconn 1000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen all
  bind {local}:{port}
  balance roundrobin
  server one {local}:{ask}
"""


def measure(bench: Bench) -> Iterator[Callable[[], list[Row]]]:
    """What can be measured here, one after the other."""
    with ExitStack() as stack:
        first, last = peers.two_processors()
        swallows, _ = _server(bench, stack, first)
        _, asked = _server(bench, stack)
        policy = bench.place / "led.yaml"
        policy.write_text(
            "version: 1\nname: led\nsyscalls:\n  connect:\n"
            f'    - {{to: "{_VIRTUAL}", port: 1, do: {{redirect: "{_LOCAL}:{swallows}"}}}}\n'
            f'    - {{to: "{_VIRTUAL}", port: 2, do: {{balance: ["{_LOCAL}:{asked}"]}}}}\n'
            f'    - {{to: "{_VIRTUAL}", port: 3, do: {{balance: ["{_LOCAL}:{swallows}"]}}}}\n'
            "    - {do: emulate}\n"
        )
        ours = peers.seccompd(bench.command, policy)

        def side(prefix: list[str], kind: str, host: str, port: int) -> Asked:
            words = ["bench.sockets", kind, host, str(port)]
            one = Asked(bench.env, prefix, words)
            stack.callback(one.close)
            return one

        direct, again = (side(last, "send", _LOCAL, swallows) for _ in range(2))
        led, shared = (side([*last, *ours], "send", _VIRTUAL, port) for port in (1, 3))
        yield partial(_throughput, bench, direct, {"led": led, "balanced": shared, "again": again})
        proxy = _haproxy(bench, stack, asked)
        if proxy is None:
            print("(no haproxy: `balance` is not compared with it)")
            return
        for what, kind, count, bound in (
            ("a byte there and back", "ask", 2000, 1.0), ("a connection", "connect", 200, None),
        ):  # fmt: skip
            pair = side([], kind, _LOCAL, proxy), side(ours, kind, _VIRTUAL, 2)
            yield partial(_latency, bench, f"haproxy, balance: {what}", pair, count, bound)


def _throughput(bench: Bench, direct: Asked, others: dict[str, Asked]) -> list[Row]:
    """MiB in a second, over a direct connection and over others; "again" is a direct one, too."""
    sides = {"": direct, **others}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(max(8, round(15 * bench.scale)) + 1):
        some: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(_TURNS):
            # nobody comes twice in a row, whose memory would be in the processor's cache still
            first = turn % len(sides)
            for name in [*list(sides)[first:], *list(sides)[:first]]:
                some[name].append(_SENT * 1e6 / sides[name].ask(1))
        for name, speeds in some.items() if number else ():
            taken[name].append(statistics.median(speeds))
    rows = []
    for name in others:
        pairs = zip(taken[""], taken[name], strict=True)
        low, middle, high = quartiles([b / a for a, b in pairs])
        medians = statistics.median(taken[""]), statistics.median(taken[name])
        title = f"throughput (MiB/s), direct and {name}"
        bound = None if name == "again" else 0.95
        rows.append(Row(title, *medians, "/s", middle, low, high, bound, at_least=True))
    return rows


def _latency(
    bench: Bench, name: str, pair: tuple[Asked, Asked], count: int, bound: float | None
) -> list[Row]:
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(max(3, round(15 * bench.scale)) + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            sample = pair[which].ask(count)
            if number:
                taken[which].append(sample)
    low, middle, high = quartiles([b / a for a, b in zip(*taken, strict=True)])
    medians = statistics.median(taken[0]), statistics.median(taken[1])
    return [Row(name, *medians, "us", middle, low, high, bound)]


def _server(bench: Bench, stack: ExitStack, prefix: Sequence[str] = ()) -> tuple[int, int]:
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "bench.sockets", "serve"], env=bench.env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    stack.callback(process.communicate)
    assert process.stdout is not None
    first, second = map(int, process.stdout.readline().split())
    return first, second


def _haproxy(bench: Bench, stack: ExitStack, asked: int) -> int | None:
    """The port of a haproxy that leads there; None: there is none."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        return None
    with socket.create_server((_LOCAL, 0)) as sock:
        port: int = sock.getsockname()[1]
    file: Path = bench.place / "haproxy.cfg"
    file.write_text(_HAPROXY.format(local=_LOCAL, port=port, ask=asked))
    process = subprocess.Popen([program, "-db", "-f", str(file)], stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    for _ in range(200):
        with socket.socket() as client:
            if not client.connect_ex((_LOCAL, port)):
                return port
        time.sleep(0.02)
    raise BenchError("haproxy does not listen")


# -- both ends


def _serve() -> None:
    """Both ports, until stdin ends."""
    servers = [socket.create_server((_LOCAL, 0), backlog=128) for _ in range(2)]

    def swallow(sock: socket.socket) -> None:
        room = memoryview(bytearray(_MIB))
        left = _SENT * _MIB
        while got := sock.recv_into(room):
            left -= got
            if not left:
                sock.sendall(b"x")
                left = _SENT * _MIB
        sock.close()

    def send_back(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(64):
            sock.sendall(data)
        sock.close()

    def accept(server: socket.socket, then: Callable[[socket.socket], None]) -> None:
        while True:
            threading.Thread(target=then, args=(server.accept()[0],), daemon=True).start()

    for server, then in zip(servers, (swallow, send_back), strict=True):
        threading.Thread(target=accept, args=(server, then), daemon=True).start()
    print(*(server.getsockname()[1] for server in servers), flush=True)
    sys.stdin.read()


def _connected(host: str, port: int) -> socket.socket:
    sock = socket.socket()
    sock.connect((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _there_and_back(sock: socket.socket) -> None:
    sock.sendall(b"x")
    if sock.recv(1) != b"x":
        raise ConnectionResetError


def _send(sock: socket.socket) -> None:
    data = bytes(_MIB)
    for _ in range(_SENT):
        sock.sendall(data)
    sock.recv(1)


def _once(host: str, port: int) -> None:
    with _connected(host, port) as sock:
        _there_and_back(sock)


def _times(act: Callable[[], None], count: int) -> list[float]:
    taken = []
    for _ in range(count):
        start = time.perf_counter_ns()
        act()
        taken.append((time.perf_counter_ns() - start) / 1e3)
    return taken


def _main(kind: str, host: str, port: int) -> None:
    kept = _connected(host, port) if kind == "ask" else None
    for line in sys.stdin:
        if kind == "connect":
            found = _times(partial(_once, host, port), int(line))
        elif kept is not None:
            found = _times(partial(_there_and_back, kept), int(line))
        else:
            with _connected(host, port) as sock:
                found = _times(partial(_send, sock), int(line))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve()
    else:
        _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
