"""Calls on sockets, and what each comes to: one line each, the same wherever it runs.

Ports that the kernel chose are left out. Runs in an empty working directory of its own.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

INET, INET6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
STREAM, DGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
IP_RECVTTL = 12
LIBC = ctypes.CDLL(None, use_errno=True)


def say(name: str, act: Callable[[], object]) -> None:
    """One line: what `act` returns, or the name of its errno."""
    try:
        result = act()
    except OSError as error:
        result = errno.errorcode[error.errno or 0]
    print(name, result, flush=True)


def raw(call: str, fd: int, address: bytes | None, length: int | None = None) -> int | str:
    """The system call with the bytes of any address."""
    size = len(address or b"") if length is None else length
    result: int = getattr(LIBC, call)(fd, address, size)
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]


def listener(family: int = INET, backlog: int = 16) -> tuple[socket.socket, int]:
    sock = socket.socket(family)
    sock.bind(("127.0.0.1" if family == INET else "::1", 0))
    sock.listen(backlog)
    return sock, sock.getsockname()[1]


def inet(host: str, port: int) -> bytes:
    return struct.pack("=H", INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))


def connected(family: int, address: Any, kind: int = STREAM) -> object:
    sock = socket.socket(family, kind)
    sock.connect(address)
    return sock.getpeername()[0]


def connects() -> None:
    _one, port = listener()
    _six, port6 = listener(INET6)
    say("connect", lambda: connected(INET, ("127.0.0.1", port)))
    say("connect-any", lambda: connected(INET, ("0.0.0.0", port)))
    say("connect-6", lambda: connected(INET6, ("::1", port6)))
    say("connect-6-any", lambda: connected(INET6, ("::", port6)))
    say("connect-mapped", lambda: connected(INET6, ("::ffff:127.0.0.1", port)))
    say("refused", lambda: connected(INET, ("127.0.0.1", 1)))
    say("unreachable", lambda: connected(INET, ("240.0.0.1", 1)))
    say("broadcast", lambda: connected(INET, ("255.255.255.255", 1), kind=DGRAM))
    sock = socket.socket()
    say("short", lambda: raw("connect", sock.fileno(), inet("127.0.0.1", port), 12))
    say("one-byte", lambda: raw("connect", sock.fileno(), b"\2", 1))
    say("no-length", lambda: raw("connect", sock.fileno(), inet("127.0.0.1", port), 0))
    say("too-long", lambda: raw("connect", sock.fileno(), bytes(129), 129))
    say("negative", lambda: raw("connect", sock.fileno(), bytes(16), -1))
    say("null", lambda: raw("connect", sock.fileno(), None, 16))
    say("not-open", lambda: raw("connect", 999, inet("127.0.0.1", port)))
    say("no-socket", lambda: raw("connect", 1, inet("127.0.0.1", port)))
    say("unix-to-inet", lambda: raw("connect", sock.fileno(), b"\1\0/nowhere\0"))
    say("inet6-to-inet", lambda: raw("connect", sock.fileno(), struct.pack("=H26x", INET6)))
    sock.connect(("127.0.0.1", port))
    say("twice", lambda: raw("connect", sock.fileno(), inet("127.0.0.1", port)))
    datagrams = socket.socket(INET, DGRAM)
    datagrams.connect(("127.0.0.1", 9))
    say("udp-peer", datagrams.getpeername)
    say("udp-unspec", lambda: raw("connect", datagrams.fileno(), bytes(16)))
    say("udp-no-peer", datagrams.getpeername)
    later = socket.socket()
    later.setblocking(False)
    say("in-progress", lambda: raw("connect", later.fileno(), inet("127.0.0.1", port)))
    time.sleep(0.05)
    say("then", lambda: later.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    say("connected", lambda: raw("connect", later.fileno(), inet("127.0.0.1", port)))


def waits() -> None:
    """Connects that wait: the listener is full."""
    full, port = listener(backlog=0)
    held = [socket.socket() for _ in range(2)]
    for one in held:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
    time.sleep(0.05)
    later = socket.socket()
    later.setblocking(False)
    say("full", lambda: raw("connect", later.fileno(), inet("127.0.0.1", port)))
    say("already", lambda: raw("connect", later.fileno(), inet("127.0.0.1", port)))
    timed = socket.socket()
    timed.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200_000))
    say("timed-out", lambda: raw("connect", timed.fileno(), inet("127.0.0.1", port)))
    signal.signal(signal.SIGALRM, lambda *_: None)
    for restarts in (False, True):
        # with it the call begins anew after the handler, and waits for the listener
        signal.siginterrupt(signal.SIGALRM, not restarts)
        waiting = socket.socket()
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        if restarts:
            threading.Timer(0.7, take_all, [full]).start()
        name = "restarted" if restarts else "interrupted"
        number = waiting.fileno()
        say(name, partial(raw, "connect", number, inet("127.0.0.1", port)))
        signal.setitimer(signal.ITIMER_REAL, 0)
    full.shutdown(socket.SHUT_RDWR)


def take_all(server: socket.socket) -> None:
    """Takes every connection, until the listener is shut down."""
    with contextlib.suppress(OSError):
        while True:
            server.accept()


def binds() -> None:
    say("bind-any", lambda: socket.socket().bind(("", 0)))
    _taken, port = listener()
    say("bind-taken", lambda: socket.socket().bind(("127.0.0.1", port)))
    say("bind-foreign", lambda: socket.socket().bind(("192.0.2.1", 0)))
    sock = socket.socket()
    say("bind-unspec-any", lambda: raw("bind", sock.fileno(), bytes(16)))
    unspec = b"\0" + inet("127.0.0.1", 0)[1:]
    other = socket.socket()
    say("bind-unspec", lambda: raw("bind", other.fileno(), unspec))
    say("bind-6", lambda: socket.socket(INET6).bind(("::1", 0)))
    auto = socket.socket(UNIX)
    say("autobind", lambda: raw("bind", auto.fileno(), b"\1\0", 2))
    say("autobound", lambda: (auto.getsockname()[:1], len(auto.getsockname())))


def unix() -> None:
    os.mkdir("sub")
    here = os.getcwd().encode()
    for path in (b"a", b"./sub//b", here + b"/c", b"nodir/x", b"", b"sub/", b"x" * 104, b"a/b"):
        sock = socket.socket(UNIX)
        shown = path.replace(here, b"CWD")[:20].decode()
        say(f"bind-{shown}", partial(sock.bind, path))
        name = sock.getsockname()
        print("  name", (name.encode() if isinstance(name, str) else name) == path)
    print("nodes", sorted(os.listdir(".")), oct(os.stat("a").st_mode))
    os.umask(0o077)
    private = socket.socket(UNIX)
    private.bind("private")
    print("umask", oct(os.stat("private").st_mode))
    private.listen(1)
    say("connect-path", lambda: connected(UNIX, "private"))
    os.symlink("private", "link")
    say("connect-link", lambda: socket.socket(UNIX).connect("link"))
    say("full-unix", lambda: fill(UNIX, "private"))
    say("wrong-type", lambda: socket.socket(UNIX, DGRAM).connect("private"))
    open("plain", "w").close()
    say("no-socket", lambda: socket.socket(UNIX).connect("plain"))
    say("missing", lambda: socket.socket(UNIX).connect("missing"))
    say("dead", lambda: socket.socket(UNIX).connect("a"))
    name = f"\0seccompd-{os.getpid()}-{time.time_ns()}"
    hidden = socket.socket(UNIX)
    hidden.bind(name)
    hidden.listen(4)
    client = socket.socket(UNIX)
    say("abstract", lambda: client.connect(name))
    peer, _ = hidden.accept()
    who = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    print("peer", struct.unpack("3i", who)[1:])
    say("abstract-missing", lambda: socket.socket(UNIX).connect(name + "x"))


def fill(family: int, address: Any) -> str:
    """Until nobody more is taken in."""
    kept = []
    for _ in range(10):
        sock = socket.socket(family)
        sock.setblocking(False)
        kept.append(sock)
        sock.connect(address)
    return "never"


def sends() -> None:
    server = socket.socket(INET, DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(20)
    to = server.getsockname()
    client = socket.socket(INET, DGRAM)
    say("sendto", lambda: (client.sendto(b"one", to), server.recv(9)))
    say("sendmsg", lambda: (client.sendmsg([b"t", b"wo"], [], 0, to), server.recv(9)))
    say("empty", lambda: (client.sendto(b"", to), server.recv(9)))
    say("no-address", lambda: client.sendmsg([b"x"]))
    say("too-big", lambda: client.sendto(b"x" * 65508, to))
    say("unspec", lambda: send_raw(client, b"\0\0" + inet(*to)[2:]) and server.recv(9))
    ttl = [(socket.IPPROTO_IP, socket.IP_TTL, array.array("i", [7]))]
    server.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    client.sendmsg([b"ttl"], ttl, 0, to)
    say("control", lambda: [data[0] for _, _, data in server.recvmsg(9, 99)[1]])
    client.connect(to)
    say("connected", lambda: (client.sendmsg([b"three"]), server.recv(9)))
    say("elsewhere", lambda: client.sendto(b"x", ("127.0.0.1", to[1])))
    server.recv(9)
    server.close()
    client.send(b"x")
    say("gone", lambda: client.sendmsg([b"x"]))
    six = socket.socket(INET6, DGRAM)
    taker = socket.socket(INET, DGRAM)
    taker.bind(("127.0.0.1", 0))
    taker.settimeout(20)
    say("mapped", lambda: six.sendto(b"m", ("::ffff:127.0.0.1", taker.getsockname()[1])))
    say("got", lambda: taker.recv(9))
    say("unspec-6", lambda: send_raw(six, bytes(28)))
    reader, _writer = os.pipe()
    for name, number in (("none", client.fileno()), ("closed", 999), ("no-socket", reader)):
        say(f"sendmmsg-{name}", partial(send_none, number))
    stream, port = listener()
    say("stream-to", lambda: socket.socket().sendto(b"x", ("127.0.0.1", port)))
    fast = socket.socket()
    say("fast-open", lambda: fast.sendto(b"fast", socket.MSG_FASTOPEN, ("127.0.0.1", port)))
    say("fast-read", lambda: stream.accept()[0].recv(9))


def send_raw(sock: socket.socket, address: bytes) -> int | str:
    result: int = LIBC.sendto(sock.fileno(), b"raw", 3, 0, address, len(address))
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]


def send_none(number: int) -> int | str:
    result: int = LIBC.sendmmsg(number, None, 0, 0)
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]


def unix_sends() -> None:
    a, b = socket.socketpair()
    reader, writer = os.pipe()
    say("rights", lambda: socket.send_fds(a, [b"r"], [writer, reader]))
    _, fds, _, _ = socket.recv_fds(b, 9, 4)
    os.write(fds[0], b"through")
    print("  pipe", len(fds), os.read(fds[1], 9))
    bad = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [999]))]
    say("bad-right", lambda: a.sendmsg([b"x"], bad))
    b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    say("plain", lambda: a.sendmsg([b"x"]))
    print("  ids", [struct.unpack("3i", data)[1:] for _, _, data in b.recvmsg(9, 99)[1]])
    mine = [(socket.SOL_SOCKET, 2, struct.pack("3i", os.getpid(), os.getuid(), os.getgid()))]
    say("credentials", lambda: a.sendmsg([b"x"], mine))
    print("  ids", [struct.unpack("3i", data)[1:] for _, _, data in b.recvmsg(9, 99)[1]])
    say("large", lambda: a.sendmsg([b"x" * 40000, b"y" * 40000]))
    print("  got", sum(len(b.recv(100000)) for _ in range(1)) > 0)
    one, two = socket.socketpair(UNIX, SEQPACKET)
    say("seqpacket", lambda: (one.sendmsg([b"a", b"b"]), two.recv(9)))
    server = socket.socket(UNIX, DGRAM)
    server.bind("server")
    client = socket.socket(UNIX, DGRAM)
    client.bind("client")
    say("datagram", lambda: (client.sendto(b"d", "server"), server.recvfrom(9)))
    say("answer", lambda: (server.sendto(b"e", "client"), client.recvfrom(9)))
    say("no-such", lambda: client.sendto(b"d", "missing"))
    client.setblocking(False)
    say("full", lambda: [client.sendto(b"d", "server") for _ in range(10000)])
    pipe, other = socket.socketpair()
    other.close()
    raised: list[str] = []
    signal.signal(signal.SIGPIPE, lambda *_: raised.append("SIGPIPE"))
    say("broken", lambda: pipe.sendmsg([b"x"]))
    say("quiet", lambda: pipe.sendmsg([b"x"], [], socket.MSG_NOSIGNAL))
    print("  raised", raised)


def names() -> None:
    say("getaddrinfo", lambda: socket.getaddrinfo("localhost", 80, INET, STREAM)[0][4])
    say("interfaces", lambda: (1, "lo") in socket.if_nameindex())


for part in (connects, waits, binds, unix, sends, unix_sends, names):
    print(f"-- {part.__name__}")
    part()
