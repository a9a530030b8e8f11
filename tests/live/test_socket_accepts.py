"""accept and accept4: whose connections a container's listeners take."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.program import Started, run
from tests.support.scratch import a_place, compile_c
from tests.support.sockets import LOCAL, free_port, inside

HEAD = '''
import ctypes, errno, os, resource, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
TGKILL = 234
sys.stdout.reconfigure(line_buffering=True)  # who is forked has none of it
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
def ended(fd):
    """What an accept came to; its connection is closed."""
    if isinstance(fd, int): os.close(fd)
    return fd if isinstance(fd, str) else "taken"
def is_waiting(task):
    """Whether it is in accept4."""
    try:
        return open(f"/proc/{task}/syscall").read().split()[0] == "288"
    except OSError:
        return False
def beside(call):
    """Has another thread make a call that waits: the thread, and what it has come to."""
    found = []
    thread = threading.Thread(target=lambda: found.append(ended(call())))
    thread.start()
    while not thread.native_id or not is_waiting(f"self/task/{thread.native_id}"): time.sleep(0.01)
    return thread, found
def signalled(thread):
    """Until it has ended: the kernel has a call begin anew that seccompd has not heard of yet."""
    while thread.is_alive():
        libc.syscall(TGKILL, os.getpid(), thread.native_id, signal.SIGUSR1)
        thread.join(0.2)
class Full:
    """A table of descriptors that has no number left."""
    def __init__(self, most):
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, self.limit[1]))
        self.held = []
        try:
            while True: self.held.append(os.dup(0))
        except OSError: pass
    def free(self):
        for fd in self.held: os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limit)
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


def as_without(person: Person, place: Path, script: str) -> None:
    """A program says the same with and without seccompd."""
    bare = subprocess.run(
        [sys.executable, "-c", HEAD + script], capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert inside(person, place, script, rules(place), HEAD) == bare.stdout.splitlines()


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
    as_without(person, place, script)


def test_what_is_looked_at_first(person: Person, place: Path) -> None:
    """Descriptors of other kinds, a table that is full (nobody is lost), memory that is none."""
    script = '''
import mmap, tempfile
home = tempfile.TemporaryDirectory(); os.chdir(home.name)
server = listener()
pipe, opath = os.pipe(), os.open("/", os.O_PATH)
locals = [socket.socket(socket.AF_UNIX, kind) for kind in
          (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)]
others = [opath, pipe[0], -1, 999999, *(one.fileno() for one in locals)]
print([(accept4(fd), accept4(fd, flags=1)) for fd in others])
for most in (64, 5000):
    full = Full(most)
    print([(accept4(fd), accept4(fd, flags=1)) for fd in (*others, server.fileno())])
    pid = os.fork()
    if not pid:
        for fd in full.held: os.close(fd)
        one = client(server); print(one.recv(9), flush=True); os._exit(0)
    select.select([server], [], [])
    print(accept4(server.fileno()))
    os.close(full.held.pop(9))
    fd = accept4(server.fileno()); os.write(fd, b"here"); os.close(fd)
    os.waitpid(pid, 0)
    full.free()
# the numbers above a limit that was lowered do not count
os.dup2(0, 500); full = Full(64); print(accept4(server.fileno())); full.free()
# what stands in the upper halves of registers
client(server)
print(ended(libc.syscall(288, ctypes.c_long(server.fileno() | 1 << 35), None, None,
                         ctypes.c_long(1 << 32))))
# unix peers with names
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    local = socket.socket(socket.AF_UNIX, kind); local.bind(f"a{kind}"); local.listen()
    for at, room in enumerate((0, 1, 3, 30, 110)):
        one = socket.socket(socket.AF_UNIX, kind); one.bind(f"b{kind}{at}"); one.connect(f"a{kind}")
        name, length = ctypes.create_string_buffer(b"#" * 128, 128), ctypes.c_int(room)
        print(ended(accept4(local.fileno(), name, ctypes.byref(length))), length.value, name.raw)
# an address, or its length, of which a part is nowhere
room = mmap.mmap(-1, 8192)
at = ctypes.addressof(ctypes.c_char.from_buffer(room))
libc.munmap(ctypes.c_void_p(at + 4096), 4096)
for name, length in ((at + 4092, at), (at, at + 4094), (1, at), (at, 1), (at, 0), (0, 1)):
    ctypes.c_int.from_address(at).value = 16
    one = client(server)
    found = ended(accept4(server.fileno(), ctypes.c_void_p(name), ctypes.c_void_p(length)))
    print(found, ctypes.c_int.from_address(at).value, found == "taken" or end(one))
for length in (-2**31, 2**31 - 1):
    one = client(server)
    name, length = ctypes.create_string_buffer(64), ctypes.c_int(length)
    print(ended(accept4(server.fileno(), name, ctypes.byref(length))), length.value)
# a listener that is closed for all while one waits
for one in (listener(), locals[0]):
    if one.family == socket.AF_UNIX: one.bind("c"); one.listen()
    thread, found = beside(lambda: accept4(one.fileno()))
    one.shutdown(socket.SHUT_RDWR); thread.join(); print(found)
# the signals of a thread that does not lead, and those that end a wait with a timeout
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, True)
thread, found = beside(lambda: accept4(server.fileno()))
signalled(thread); print(found)
signal.siginterrupt(signal.SIGUSR1, False)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 20, 0))
thread, found = beside(lambda: accept4(server.fileno()))
signalled(thread); print(found)
# peers that have gone already
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
one = client(server); one.sendall(b"bye"); one.close()
taken, _ = server.accept(); print(taken.recv(9), taken.recv(9))
one = client(server)
one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); one.close()
taken, address = server.accept(); print(address[0], end(taken))
os.chdir("/"); home.cleanup()
'''
    as_without(person, place, script)


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
def alarmed(call):
    """What it comes to, while signals come until one has been heard by who makes it."""
    hits.clear()
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    found = call()
    signal.setitimer(signal.ITIMER_REAL, 0)
    return found, bool(hits)
signal.siginterrupt(signal.SIGALRM, True)
print(*alarmed(lambda: accept4(server.fileno())))
signal.siginterrupt(signal.SIGALRM, False)
pid = os.fork()
if not pid:
    while not is_waiting(os.getppid()): time.sleep(0.01)
    time.sleep(0.5); client(server); os._exit(0)
print(*alarmed(lambda: accept4(server.fileno()) > 2)); os.waitpid(pid, 0)
# also while others knock and are refused, one after the other
pid = os.fork()
if not pid:
    while True:
        try: client(server, "127.0.0.2").close()
        except OSError: pass
signal.siginterrupt(signal.SIGALRM, True)
print(*alarmed(lambda: accept4(server.fileno()))); os.kill(pid, 9); os.waitpid(pid, 0)
# the last number goes while one waits: nobody is lost
go, goes = os.pipe()
pid = os.fork()
if not pid:
    os.read(go, 1); one = client(server); print(one.recv(9), flush=True); os._exit(0)
server.setblocking(False)
while accept4(server.fileno()) != "EAGAIN": pass
server.setblocking(True)
thread, found = beside(lambda: accept4(server.fileno()))
full = Full(64); os.write(goes, b"!"); thread.join(); print(found, accept4(server.fileno()))
os.close(full.held.pop()); fd = accept4(server.fileno()); os.write(fd, b"here")
os.waitpid(pid, 0); os.close(fd); full.free()
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
while not is_waiting(pid): time.sleep(0.01)
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
        "EINTR True",
        "True True",
        "EINTR True",
        "['EMFILE'] EMFILE", "b'here'",
        "4",
        "b'alive'",
    ]  # fmt: skip


VERDICTS = """version: 1
syscalls:
  accept:
    otherwise: kernel
    rules:
      - {uid: 5, do: {errno: EXDEV}}
      - {uid: 6, do: {return: 99}}
      - {uid: 7, do: kill}
      - {uid: 8, do: continue}
      - {uid: 9, mode: audit, do: kill}
      - {from: "127.0.0.2", do: {errno: EXDEV}}
      - {from: "127.0.0.3", do: {return: 99}}
      - {from: "127.0.0.4", do: kill}
      - {from: "127.0.0.5", mode: audit, do: kill}
      - {from: "127.0.0.6", do: continue}
      - {from: "127.0.0.7", do: refuse}
"""


def test_every_verdict(root: Person, place: Path) -> None:
    """By who calls, before anybody is taken; and by who connects, whose connection is closed or
    handed over: that of who is only recorded, or left to the kernel, is handed over."""
    script = '''
def outcome(server, uid):
    """What an accept comes to for somebody with that uid, and who it has taken."""
    told = os.pipe()
    pid = os.fork()
    if not pid:
        os.setresuid(uid, uid, uid)
        found = accept4(server.fileno())
        if isinstance(found, int) and found != 99:
            found = socket.socket(fileno=found).getpeername()[0]
        os.write(told[1], str(found).encode()); os._exit(0)
    os.close(told[1])
    with open(told[0]) as said: found = said.read()
    status = os.waitpid(pid, 0)[1]
    return found or f"signal {os.WTERMSIG(status)}"
server = listener()
server.setblocking(False)
for uid in (5, 6, 7):
    one = client(server)
    print(outcome(server, uid), ended(accept4(server.fileno())))
for uid in (8, 9):
    one = client(server, "127.0.0.2")
    print(outcome(server, uid), end(one))
for peer in range(2, 9):
    one = client(server, f"127.0.0.{peer}")
    print(outcome(server, 0), end(one))
'''
    log = place / "verdicts.json"
    options = [*rules(place, VERDICTS), "--audit", str(log)]
    assert inside(root, place, script, options, HEAD) == [
        "EXDEV taken", "99 taken", "signal 9 taken", "127.0.0.2 end", "127.0.0.2 end",
        "EXDEV ECONNRESET", "99 ECONNRESET", "signal 9 ECONNRESET", "127.0.0.5 end",
        "127.0.0.6 end", "EAGAIN ECONNRESET", "127.0.0.8 end",
    ]  # fmt: skip
    records = [one for one in map(json.loads, log.read_text().splitlines()) if "syscall" in one]
    found = [
        (
            one["verdict"], one.get("mode"), one["facts"].get("peer", "").partition(":")[0],
            one.get("errno", one.get("result")), one["rule"].rpartition(":")[2],
        )
        for one in records if one["syscall"] == "accept4"
    ]  # fmt: skip
    others = [one for one in found if one[2] != LOCAL]
    assert others == [
        ("errno", None, "", "EXDEV", "6"), ("return", None, "", 99, "7"),
        ("kill", None, "", "EPERM", "8"), ("continue", None, "", None, "9"),
        ("kill", "audit", "", None, "10"), ("errno", None, "127.0.0.2", "EXDEV", "11"),
        ("return", None, "127.0.0.3", 99, "12"), ("kill", None, "127.0.0.4", "EPERM", "13"),
        ("kill", "audit", "127.0.0.5", others[8][3], "14"),
        ("continue", None, "127.0.0.6", others[9][3], "15"),
        ("refuse", None, "127.0.0.7", "EAGAIN", "16"),
        ("continue", None, "127.0.0.8", others[11][3], "4"),
    ]  # fmt: skip
    assert all(isinstance(others[at][3], int) for at in (8, 9, 11))


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


def test_who_waits_leaves_porters_to_others(root: Person, place: Path) -> None:
    """However many wait for connections, others connect; what is too much is refused."""
    script = '''
server = listener()
found = []
def take():
    found.append(ended(accept4(server.fileno())))
threading.stack_size(1 << 17)
for _ in range(203): threading.Thread(target=take, daemon=True).start()
while len(found) < 3: time.sleep(0.01)
one = client(server)
while len(found) < 4: time.sleep(0.01)
print(found, flush=True)
os._exit(0)
'''
    text = RULES + "  connect: [{to: \"127.0.0.1\", do: emulate}]\n"
    assert inside(root, place, script, rules(place, text), HEAD) == [
        "['EPERM', 'EPERM', 'EPERM', 'taken']"
    ]


def heard(port: int, source: str, said: bytes = b"") -> bytes | None:
    """What a server says to somebody who comes from `source`; b"": it closes; None: there is none.
    """
    with socket.socket() as sock:
        sock.settimeout(20)
        sock.bind((source, 0))
        try:
            sock.connect((LOCAL, port))
            sock.sendall(said)
            return b"".join(iter(lambda: sock.recv(4096), b""))
        except ConnectionRefusedError:
            return None
        except (ConnectionResetError, BrokenPipeError):
            return b""


def is_there(port: int) -> bool:
    """Whether a server listens, which takes nothing of who asks."""
    return heard(port, "127.0.0.2") is not None


NGINX = """
daemon off; worker_processes 2; pid {file}.pid; error_log {file}.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {file}-body; proxy_temp_path {file}-proxy; fastcgi_temp_path {file}-fast;
  uwsgi_temp_path {file}-uwsgi; scgi_temp_path {file}-scgi;
  server {{ listen {local}:{port}; return 200 "hello $remote_addr"; }}
}}
"""


@pytest.mark.needs("nginx")
def test_nginx(person: Person, place: Path) -> None:
    """Its workers share a listener; they answer some peers, and never hear of others."""
    port, file = free_port(), place / f"nginx-{person.name}"
    config = file.with_suffix(".conf")
    text = NGINX.format(file=file, local=LOCAL, port=port)
    config.write_text(("" if person.uid else "user root root;") + text)
    nginx = Started(person, ["run", *rules(place), "--", "nginx", "-c", str(config)])
    try:
        wait_for(lambda: is_there(port), bool)
        ask = b"GET / HTTP/1.0\r\n\r\n"
        for _ in range(3):
            assert heard(port, "127.0.0.2", ask) == b""
            assert (heard(port, LOCAL, ask) or b"").endswith(b"hello 127.0.0.1")
    finally:
        nginx.process.terminate()
        nginx.finish()
    assert nginx.wait_gone() == []


@pytest.mark.needs("nc")
def test_nc(person: Person, place: Path) -> None:
    """It waits for the one connection that it takes."""
    port = free_port()
    words = ["nc", "-N", "-l", LOCAL, str(port)]
    nc = Started(person, ["run", *rules(place), "--", *words])
    try:
        wait_for(lambda: is_there(port), bool)
        assert heard(port, "127.0.0.2", b"one") == b""
        with socket.create_connection((LOCAL, port), 20) as sock:
            sock.sendall(b"two")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(9) == b""
        assert nc.finish().stdout == "two"
    finally:
        nc.kill()
    assert nc.wait_gone() == []
