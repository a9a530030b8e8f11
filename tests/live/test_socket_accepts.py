"""accept and accept4: whose connections a container's listeners take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import run
from tests.support.scratch import a_place, compile_c
from tests.support.sockets import inside

HEAD = '''
import ctypes, errno, os, resource, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def listener(host="127.0.0.1", family=socket.AF_INET):
    sock = socket.socket(family)
    sock.bind((host, 0))
    sock.listen(64)
    return sock
def client(server, source="127.0.0.1"):
    sock = socket.socket(server.family)
    sock.settimeout(20)
    sock.bind((source, 0))
    sock.connect(server.getsockname()[:2])
    return sock
def end(sock):
    """How the other end was closed."""
    try:
        return "end" if sock.recv(9) == b"" else "data"
    except OSError as error:
        return errno.errorcode[error.errno]
def accept4(fd, address=None, length=None, flags=0):
    found = libc.accept4(fd, address, length, flags)
    return found if found >= 0 else errno.errorcode[ctypes.get_errno()]
def flags_of(fd):
    import fcntl
    return fcntl.fcntl(fd, fcntl.F_GETFD), fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
'''
RULES = """version: 1
syscalls:
  accept:
    - {from: ["127.0.0.1", "::1"], do: emulate}
    - {family: unix, do: emulate}
"""

place = a_place(0o777, scope="module")


def rules(place: Path, text: str = RULES) -> list[str]:
    file = place / "accepts.yaml"
    file.write_text(text)
    file.chmod(0o644)
    return ["--policy", str(file)]


def test_as_the_kernel_says_it(person: Person, place: Path) -> None:
    """All that a caller sees of a connection that is granted, and of an accept that fails, is what
    it sees without seccompd."""
    script = '''
server = listener()
port = server.getsockname()[1]
first = client(server)
taken, address = server.accept()
print(address == first.getsockname(), flags_of(taken.fileno()))
print(os.fstat(taken.fileno()).st_uid == os.getuid())
taken.sendall(b"x"); print(first.recv(9))
others = [client(server) for _ in range(4)]
CLOEXEC, NONBLOCK = socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK
for flags in (0, CLOEXEC, NONBLOCK, CLOEXEC | NONBLOCK):
    fd = accept4(server.fileno(), None, None, flags)
    print(fd > 2, flags_of(fd)); os.close(fd)
# an address that is cut off, and one that cannot be written
for room in (0, 4, 16, 99):
    one = client(server)
    name, length = ctypes.create_string_buffer(b"#" * 128, 128), ctypes.c_int(room)
    fd = accept4(server.fileno(), name, ctypes.byref(length))
    raw = name.raw[:length.value]
    print(room, length.value, name.raw[:2], name.raw[4:8], name.raw[16:18]); os.close(fd)
for where, room in ((ctypes.c_void_p(8), 16), (ctypes.create_string_buffer(9), -1)):
    one = client(server)
    print(accept4(server.fileno(), where, ctypes.byref(ctypes.c_int(room))), end(one))
one = client(server)
print(accept4(server.fileno(), ctypes.create_string_buffer(9), None), end(one))
# what fails
pipe = os.pipe()
udp, plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
net = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
for fd in (999, pipe[0], udp.fileno(), plain.fileno(), first.fileno(), net.fileno()):
    print(accept4(fd), accept4(fd, flags=1) )
one = client(server)
print(accept4(server.fileno(), flags=1)); os.close(accept4(server.fileno()))
server.setblocking(False)
print(accept4(server.fileno()))
server.setblocking(True)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50000))
print(accept4(server.fileno()))
# a table that is full: nobody is lost
one = client(server)
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
held = []
try:
    while True: held.append(os.dup(0))
except OSError: pass
print(accept4(server.fileno()), accept4(999), accept4(pipe[0]))
os.close(held.pop())
fd = accept4(server.fileno()); print(fd > 2); os.write(fd, b"here"); print(one.recv(9))
os.close(fd)
for fd in held: os.close(fd)
resource.setrlimit(resource.RLIMIT_NOFILE, limit)
# unix: a peer without a name, and who it is
path = f"@accepts-{os.getpid()}".replace("@", chr(0))
local = socket.socket(socket.AF_UNIX); local.bind(path); local.listen()
one = socket.socket(socket.AF_UNIX); one.connect(path)
name, length = ctypes.create_string_buffer(b"#" * 128, 128), ctypes.c_int(110)
fd = accept4(local.fileno(), name, ctypes.byref(length))
print(length.value, name.raw[:3])
peer = socket.socket(fileno=fd).getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
peer = struct.unpack("3i", peer)
print(peer == (os.getpid(), os.getuid(), os.getgid()))
# IPv6, and an IPv4 peer of an IPv6 listener
six = listener("::", socket.AF_INET6)
a = socket.create_connection(("::1", six.getsockname()[1])); print(six.accept()[1][0])
b = socket.create_connection(("127.0.0.1", six.getsockname()[1])); print(six.accept()[1][0])
'''
    bare = subprocess.run(
        [sys.executable, "-c", HEAD + script], capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert inside(person, place, script, rules(place), HEAD) == bare.stdout.splitlines()


def test_who_waits(person: Person, place: Path) -> None:
    """Who waits goes on waiting when a peer is refused, hears of signals, and is not waited for."""
    script = '''
server = listener()
refused = client(server, "127.0.0.2")
def later():
    print(end(refused), flush=True)
    later.one = client(server)
thread = threading.Thread(target=later); thread.start()
print(server.accept()[1][0]); thread.join()
# non-blocking: those that are refused are passed over
server.setblocking(False)
some = [client(server, "127.0.0.2") for _ in range(3)]
print(accept4(server.fileno()), [end(one) for one in some])
some = [client(server, "127.0.0.2"), client(server)]
print(accept4(server.fileno()) > 2, end(some[0]))
# nor do many of them keep it from other work
many = [client(server, "127.0.0.2") for _ in range(40)]
print(accept4(server.fileno()), accept4(server.fileno()))
# a timeout goes on from where it was
server.setblocking(True)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 300000))
knocking = True
def knock():
    while knocking:
        try: end(client(server, "127.0.0.2"))
        except ConnectionResetError: pass  # before it knew that it was connected
thread = threading.Thread(target=knock); thread.start()
print(accept4(server.fileno())); knocking = False
server.setblocking(False)
while thread.is_alive(): accept4(server.fileno())
thread.join()
server.setblocking(True)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
# signals: EINTR, or on with it
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.1)
print(accept4(server.fileno()), len(hits))
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.1)
pid = os.fork()
if not pid:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(0.5); client(server); os._exit(0)
print(accept4(server.fileno()) > 2); os.waitpid(pid, 0)
print(len(hits))
# several threads on one listener: each has one
taken = []
take = lambda: taken.append(accept4(server.fileno()))
threads = [threading.Thread(target=take) for _ in range(4)]
for one in threads: one.start()
ends = [client(server) for _ in range(4)]
for one in threads: one.join()
print(len({os.fstat(fd).st_ino for fd in taken}))
# who was killed while it waited takes no connection along
pid = os.fork()
if not pid:
    accept4(server.fileno()); os._exit(0)
while True:
    try:
        state = open(f"/proc/{pid}/syscall").read().split()[0]
    except OSError:
        state = ""
    if state == "288": break
    time.sleep(0.01)
time.sleep(0.2)
os.kill(pid, 9); os.waitpid(pid, 0)
last = client(server)
server.settimeout(20)
conn, _ = server.accept(); conn.sendall(b"alive"); print(last.recv(9))
'''
    assert inside(person, place, script, rules(place), HEAD) == [
        "ECONNRESET", "127.0.0.1",
        "EAGAIN ['ECONNRESET', 'ECONNRESET', 'ECONNRESET']",
        "True ECONNRESET",
        "ECONNABORTED EAGAIN",
        "EAGAIN",
        "EINTR 1",
        "True", "2",
        "4",
        "b'alive'",
    ]  # fmt: skip


def test_what_is_written_down(person: Person, place: Path) -> None:
    """Who was taken, and who was not; under mode: audit everybody is."""
    script = '''
server = listener()
some = [client(server, "127.0.0.2"), client(server)]
taken, address = server.accept()
print(address[1], some[0].getsockname()[1])
'''
    log = place / f"{person.name}.json"
    log.touch(0o666)
    log.chmod(0o666)
    options = [*rules(place), "--audit", str(log)]
    port, refused = inside(person, place, script, options, HEAD)[0].split()
    record = next(
        one for one in map(json.loads, log.read_text().splitlines())
        if one.get("syscall") == "accept4"
    )  # fmt: skip
    assert record["facts"]["peer"] == f"127.0.0.1:{port}"
    assert record["how"] == f"closed 1, the last from 127.0.0.2:{refused}"
    assert (record["verdict"], record["rule"].rpartition(":")[2]) == ("emulate", "4")

    log.write_text("")
    options = [*rules(place, "mode: audit\n" + RULES), "--audit", str(log)]
    port, refused = inside(person, place, script, options, HEAD)[0].split()
    record = next(
        one for one in map(json.loads, log.read_text().splitlines())
        if one.get("syscall") == "accept4"
    )  # fmt: skip
    assert port == refused
    assert (record["mode"], record["facts"]["peer"]) == ("audit", f"127.0.0.2:{port}")
    assert "result" in record


@pytest.mark.parametrize(("how", "calls"), [("socketcall", (0, 1)), ("direct", (1,))])
def test_32_bit_callers(person: Person, place: Path, how: str, calls: tuple[int, ...]) -> None:
    """accept is socketcall's alone there; it sets no FD_CLOEXEC."""
    compile_c("socket_calls", place, "-pthread")
    program = str(place / "socket_calls")
    done = run(person, program, f"{how}-accept", "1", "2", options=rules(place))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        line
        for closes in calls
        for line in (f"accept {closes}", "length 16", "peer 1", "again EAGAIN")
    ]


def test_a_server_of_asyncio(person: Person, place: Path) -> None:
    """Many at once; those who are refused hear so, and nobody else waits for them."""
    script = '''
import asyncio
async def one(port, source):
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(source, 0))
        writer.write(b"x")
        found = await reader.read(9)
        writer.close()
        return found
    except ConnectionResetError:
        return "reset"
async def main():
    async def answer(reader, writer):
        writer.write(await reader.read(9)); await writer.drain(); writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    every = [one(port, f"127.0.0.{1 + (n % 3 == 0)}") for n in range(60)]
    found = await asyncio.gather(*every)
    print(found.count(b"x"), found.count("reset"))
asyncio.run(main())
'''
    assert inside(person, place, script, rules(place), HEAD) == ["40 20"]
