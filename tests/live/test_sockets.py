"""Rules on sockets hold for every way in which a program can call."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inside import wait_for
from tests.support.people import Person, python
from tests.support.program import Started, names, run
from tests.support.scratch import compile_c, scratch
from tests.support.sockets import LOCAL, Counter, policy
from tests.support.sockets import inside as in_container

BY_PORT = 'to: "127.0.0.0/8", port: %d, do: emulate'


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o777) as folder:
        compile_c("socket_calls", folder, "-pthread")
        yield folder


@pytest.fixture
def ports() -> Iterator[tuple[Counter, Counter]]:
    both = Counter(), Counter()
    yield both
    for one in both:
        one.close()


@pytest.fixture
def full() -> Iterator[int]:
    """The port of a listener that takes nobody in: a connect waits there."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind((LOCAL, 0))
        sock.listen(0)
        port: int = sock.getsockname()[1]
        for _ in range(2):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((LOCAL, port))
        yield port


def calls(
    person: Person, place: Path, ports: tuple[Counter, Counter], how: str, rule: str = BY_PORT
) -> dict[str, str]:
    allowed, refused = ports
    options = policy(place / f"{how}.yaml", [rule % allowed.port], ["do: emulate"])
    done = run(
        person, str(place / "socket_calls"), how, str(allowed.port), str(refused.port),
        options=options,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert refused.count() == 0
    return dict(line.split() for line in done.stdout.splitlines())


def inside(person: Person, place: Path, script: str, options: list[str]) -> list[str]:
    return in_container(person, place, script, options, "import errno, os, socket, struct, time")


@pytest.mark.parametrize("how", ["socketcall", "direct"])
def test_32_bit_callers(
    person: Person, place: Path, ports: tuple[Counter, Counter], how: str
) -> None:
    found = calls(person, place, ports, how)
    expected = {
        "bind": "0", "connect": "0", "connect-refused": "EACCES", "sendto": "3",
        "sendto-refused": "EACCES", "send": "4", "sendmsg": "5", "sendmmsg": "1", "sent": "5",
        "sendmsg-refused": "EACCES", "nowhere": "EFAULT",
        # cmsghdr_from_user_compat(): all of the list has to be messages
        "control": "5", "control-behind": "EINVAL", "control-cut": "EINVAL",
        "control-short": "EINVAL", "control-nowhere": "EINVAL", "flag": "5",
    }  # fmt: skip
    if how == "socketcall":
        expected["no-arguments"] = "EFAULT"
    assert found == expected
    assert ports[0].count() == 6


MESSAGES = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("name_length", ctypes.c_uint),
                ("data", ctypes.c_void_p), ("count", ctypes.c_size_t),
                ("control", ctypes.c_char_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int)]
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]
taker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taker.bind(("127.0.0.1", 0))
to = struct.pack("=H", 2) + struct.pack("!H4s8x", taker.getsockname()[1], bytes((127, 0, 0, 1)))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
vector = Vector(b"one", 3)
def result(got):
    return got if got >= 0 else errno.errorcode[ctypes.get_errno()]
def sendmsg(control, length, flags=0):
    message = Message(to, 16, ctypes.addressof(vector), 1, control, length)
    return result(libc.sendmsg(sock.fileno(), ctypes.byref(message), flags))
ttl = struct.pack("=Qii4xi4x", 20, 0, 2, 9)[:16] + struct.pack("=i4x", 9)
print(sendmsg(ttl, 24), sendmsg(ttl + bytes(8), 32), sendmsg(None, 24), sendmsg(None, 0))
for flag in (1 << 31, 1 << 30, 0x4000):  # MSG_CMSG_COMPAT, one that is none here, MSG_NOSIGNAL
    flag = ctypes.c_int(flag)
    print(sendmsg(None, 0, flag), result(libc.sendto(sock.fileno(), b"one", 3, flag, to, 16)))
taker.setblocking(False)
count = 0
try:
    while taker.recv(9) == b"one":
        count += 1
except BlockingIOError:
    print(count)
"""


def test_flags_and_control_messages_of_all_sorts(person: Person, place: Path) -> None:
    options = policy(place / "messages.yaml", ["do: emulate"])
    found = inside(person, place, MESSAGES, options)
    assert found == ["3 3 EFAULT 3", "EINVAL 3", "3 3", "3 3", "8"]
    kernels = policy(place / "binds.yaml", [], ["do: emulate"])  # which is not asked here
    assert inside(person, place, MESSAGES, kernels) == found


SOURCE_ROUTE = """
import fcntl
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH22x", b"lo", 0x41))  # SIOCSIFFLAGS: up
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for host in ("fd00::1", "fd00::2"):
    packed = socket.inet_pton(socket.AF_INET6, host)
    fcntl.ioctl(six, 0x8916, packed + struct.pack("=Ii", 128, 1))  # SIOCSIFADDR
for name in ("all", "lo"):
    with open(f"/proc/sys/net/ipv6/conf/{name}/seg6_enabled", "w") as file:
        file.write("1")
taker = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
end = time.monotonic() + 20
while True:
    try:
        taker.bind(("fd00::2", 7000))
        break
    except OSError:  # until the kernel has seen that nobody else has that address
        assert time.monotonic() < end
        time.sleep(0.05)
taker.settimeout(0.5)
taker.setsockopt(17, 102, 1)  # UDP_NO_CHECK6_RX
six.setsockopt(17, 101, 1)  # UDP_NO_CHECK6_TX
header = struct.pack("8B", 0, 2, 4, 0, 0, 0, 0, 0) + packed  # no segment is left
for call in (lambda: six.sendto(b"x", ("fd00::2", 7000)), lambda: six.setsockopt(41, 57, header),
             lambda: six.sendto(b"x", ("fd00::1", 7000)), lambda: taker.recv(9)):
    try:
        print(call())
    except TimeoutError:
        print("nothing")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def test_no_other_end_of_a_source_route(root: Person, place: Path) -> None:
    """What the page says of IPV6_RTHDR: how it leads elsewhere, and what keeps it from that."""
    options = policy(place / "route.yaml", ['to: "fd00::1", do: emulate'])
    options += ["--unshare", "net"]
    found = inside(root, place, SOURCE_ROUTE, options)
    assert found == ["EACCES", "None", "1", "b'x'"]
    with (place / "route.yaml").open("a") as file:
        file.write(
            "  setsockopt:\n    otherwise: kernel\n"
            "    rules: [{optname: [IP_OPTIONS, IPV6_RTHDR], do: refuse}]\n"
        )
    assert inside(root, place, SOURCE_ROUTE, options) == ["EACCES", "EPERM", "1", "nothing"]


def test_descriptors_under_way_leave_room_for_ours(root: Person, place: Path) -> None:
    """They count as those of seccompd's user in the container, who could send none any more. (That
    is a user of this test's own: what others run meanwhile sends descriptors as well.)"""
    options = policy(place / "room.yaml", ["do: emulate"])
    options += ["--map", "0:1300000000:65536"]
    script = """
import array, resource
null, kept, count = os.open("/dev/null", os.O_RDONLY), [], 0
many = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 240))]
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
while True:
    kept.append(socket.socketpair())
    kept[-1][0].setblocking(False)
    try:
        while True:
            kept[-1][0].sendmsg([b"x"], many)
            count += 240
    except BlockingIOError:
        continue
    except OSError as error:
        print(errno.errorcode[error.errno], count > most // 2)
        break
for _ in range(3):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
kept[-1][1].recv(1)
kept[-1][0].sendmsg([b"x"])
print("done")
"""
    assert inside(root, place, script, options) == ["ETOOMANYREFS True", "done"]


def test_a_raw_socket_takes_no_address_for_another(root: Person, place: Path) -> None:
    """The kernel's raw_bind() takes one of any family for one of IPv4."""
    options = policy(place / "raw.yaml", [], ['address: ["127.0.0.1", "::1"], do: emulate'])
    script = """
import ctypes, fcntl
libc = ctypes.CDLL(None, use_errno=True)
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH22x", b"lo", 0x41))  # SIOCSIFFLAGS: up
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 200)
for family, ip in ((2, "127.0.0.5"), (10, "127.0.0.5"), (2, "127.0.0.1")):
    address = struct.pack("=H", family) + struct.pack("!H4s20x", 0, socket.inet_aton(ip))
    address = address if family == 2 else address[:23] + bytes([1]) + bytes(4)
    bad = libc.bind(sock.fileno(), address, len(address))
    print(bad and errno.errorcode[ctypes.get_errno()], sock.getsockname()[0])
"""
    assert inside(root, place, script, [*options, "--unshare", "net"]) == [
        "EACCES 0.0.0.0", "EAFNOSUPPORT 0.0.0.0", "0 127.0.0.1",
    ]  # fmt: skip


@pytest.mark.parametrize("hidden", ["", "pidfd_info"])
def test_a_thread_with_a_table_of_its_own(
    person: Person, place: Path, ports: tuple[Counter, Counter], hidden: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the thread's socket that is called on, never that of its process."""
    monkeypatch.setenv("SECCOMPD_TEST_HIDE", hidden)
    found = calls(person, place, ports, "table")
    # without pidfds of threads, whose table it is cannot be told: refused
    told = ("0", "EACCES", "1") if not hidden else ("EPERM", "EPERM", "ENOTCONN")
    assert found == {
        "connect": told[0], "refused": told[1], "peer": told[2], "the-leaders": "ENOTCONN",
    }  # fmt: skip


def test_a_table_that_is_full(
    person: Person, place: Path, ports: tuple[Counter, Counter]
) -> None:
    assert calls(person, place, ports, "limit") == {"full": "EMFILE", "connect": "0"}


def test_threads_where_the_kernel_has_no_pidfds_of_them(
    person: Person, place: Path, ports: tuple[Counter, Counter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lesson of others: a thread's number is no process's."""
    monkeypatch.setenv("SECCOMPD_TEST_HIDE", "pidfd_info")
    options = policy(place / "threads.yaml", [BY_PORT % ports[0].port])
    script = f"""
import threading
def call():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", {ports[0].port}))
    print("ok")
thread = threading.Thread(target=call)
thread.start()
thread.join()
"""
    assert inside(person, place, script, options) == ["ok"]


def test_addresses_that_mean_the_same(
    person: Person, place: Path, ports: tuple[Counter, Counter]
) -> None:
    """A refused port stays refused however its address is written."""
    allowed, refused = ports
    options = policy(
        place / "same.yaml",
        [f'to: ["127.0.0.0/8", "::1"], port: {refused.port}, do: {{errno: ECONNREFUSED}}',
         "family: [inet, inet6], do: emulate"],
    )  # fmt: skip
    script = f"""
for family, host in ((2, "127.0.0.1"), (2, "127.9.9.9"), (2, "0.0.0.0"), (10, "::ffff:127.0.0.1"),
                     (10, "::"), (10, "::1"), (10, "::ffff:0.0.0.0")):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    for port in ({refused.port}, {allowed.port}):
        for call in (sock.connect, lambda to: sock.sendto(b"x", to),
                     lambda to: sock.sendmsg([b"x"], [], 0, to)):
            try:
                call((host, port))
            except OSError as error:
                if port == {refused.port}:
                    assert error.errno == errno.ECONNREFUSED, (host, error)
            else:
                assert port == {allowed.port}, (host, port)
import ctypes
libc = ctypes.CDLL(None)
unspec = struct.pack("=H", 0) + struct.pack("!H4s8x", {refused.port}, bytes((127, 0, 0, 1)))
for family in (2, 10):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    assert libc.sendto(sock.fileno(), b"x", 1, 0, unspec, 16) == -1
print("done")
"""
    assert inside(person, place, script, options) == ["done"]
    assert refused.count() == 0
    assert allowed.count() > 5


def test_unix_sockets_by_path_and_by_name(person: Person, place: Path) -> None:
    """A path is what it leads to, and not how it is written."""
    folder = place / f"unix-{person.name}"
    folder.mkdir()
    folder.chmod(0o777)
    rules = [
        f'path: "{folder}/open/*", do: emulate',
        'abstract: "seccompd-test-*", do: emulate',
    ]
    options = policy(place / "unix.yaml", rules, rules)
    script = f"""
os.chdir("{folder}")
os.mkdir("open"); os.mkdir("shut")
def attempt(call, to):
    sock = socket.socket(socket.AF_UNIX)
    try:
        getattr(sock, call)(to)
        if call == "bind":
            sock.listen(5)
        kept.append(sock)
        print(call, str(to)[:7].encode(), "ok")
    except OSError as error:
        print(call, str(to)[:7].encode(), errno.errorcode[error.errno])
kept = []
attempt("bind", "{folder}/open/a")
attempt("bind", "open/b")
attempt("bind", "shut/c")
os.symlink("../open/b", "shut/link")
os.symlink("../shut", "open/dir")
attempt("connect", "shut/link")
attempt("connect", "shut/../open/b")
attempt("bind", "open/dir/d")
attempt("connect", "open/none")
name = f"{{os.getpid()}}-{{time.time_ns()}}"
attempt("bind", "\\0seccompd-test-" + name)
attempt("connect", "\\0seccompd-test-" + name)
attempt("bind", "\\0other-" + name)
print(sorted(os.listdir("shut")))
"""
    found = inside(person, place, script, options)
    start = str(folder)[:7].encode()
    assert found == [
        f"bind {start!r} ok", "bind b'open/b' ok", "bind b'shut/c' EACCES",
        "connect b'shut/li' ok", "connect b'shut/..' ok", "bind b'open/di' EACCES",
        "connect b'open/no' ENOENT",
        "bind b'\\x00seccom' ok", "connect b'\\x00seccom' ok", "bind b'\\x00other-' EACCES",
        "['link']",
    ]  # fmt: skip


def test_privileged_ports_take_the_callers_own_rights(root: Person, place: Path) -> None:
    """In a network namespace of its own root may, and somebody else of the container may not."""
    options = policy(place / "ports.yaml", ["do: emulate"], ["do: emulate"])
    options += ["--unshare", "net"]
    script = """
def attempt():
    try:
        socket.socket().bind(("127.0.0.1", 80))
        print("ok")
    except OSError as error:
        print(errno.errorcode[error.errno])
attempt()
os.setresuid(1000, 1000, 1000)
attempt()
"""
    assert inside(root, place, script, options) == ["ok", "EACCES"]


def test_a_connect_that_waits_holds_up_nobody(
    person: Person, place: Path, full: int, ports: tuple[Counter, Counter]
) -> None:
    options = policy(place / "wait.yaml", ["do: emulate"])
    script = f"""
import threading
def wait():
    socket.socket().connect(("127.0.0.1", {full}))
for _ in range(60):
    threading.Thread(target=wait, daemon=True).start()
time.sleep(0.5)
start = time.monotonic()
for _ in range(20):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", {ports[0].port}))
print(time.monotonic() - start < 10, flush=True)
os._exit(0)
"""
    assert inside(person, place, script, options) == ["True"]


def test_however_many_wait_others_are_served(root: Person, place: Path, full: int) -> None:
    """At a black hole, for minutes: what would be too many is refused, and keeps nobody from calls
    that end."""
    options = policy(place / "crowd.yaml", ["do: emulate"], ["do: emulate"])
    script = f"""
import threading
threading.stack_size(1 << 17)
server = socket.create_server(("127.0.0.1", 0))
refused = []
def wait():
    try:
        socket.socket().connect(("127.0.0.1", {full}))
    except OSError as error:
        refused.append(errno.errorcode[error.errno])
for _ in range(300):
    threading.Thread(target=wait, daemon=True).start()
end = time.monotonic() + 20
while len(refused) < 80 and time.monotonic() < end:
    time.sleep(0.1)
time.sleep(1)
print(len(refused), *set(refused))
for _ in range(30):
    socket.create_connection(server.getsockname()).close()
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
print("served", flush=True)
os._exit(0)
"""
    assert inside(root, place, script, options) == ["80 EPERM", "served"]


def test_a_caller_that_is_killed_while_it_waits(person: Person, place: Path, full: int) -> None:
    """The call ends with it, and whoever makes the calls is there for the next ones."""
    options = policy(place / "killed.yaml", ["do: emulate"])
    script = f"""
import signal
for turn in range(5):
    child = os.fork()
    if not child:
        socket.socket().connect(("127.0.0.1", {full}))
        os._exit(0)
    time.sleep(0.3)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("127.0.0.1", 9))
print("next")
"""
    assert inside(person, place, script, options) == ["9"] * 5 + ["next"]


def test_nothing_is_left_of_calls_that_are_over(person: Person, place: Path, full: int) -> None:
    """Lesson of others: threads and descriptors that leak, call by call."""
    options = policy(place / "left.yaml", ["do: emulate"], ["do: emulate"])
    script = f"""
import os, signal, socket, sys, time
def some():
    for _ in range(100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 9))
        a, b = socket.socketpair()
        socket.send_fds(a, [b"x"], [0, 1])
        a.close(); b.close()
    children = []
    for _ in range(30):
        children.append(os.fork())
        if not children[-1]:
            break
    if 0 in children:
        socket.socket().connect(("127.0.0.1", {full}))
    time.sleep(0.5)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
for line in sys.stdin:
    some()
    print("done", flush=True)
"""
    words = ["run", *options, "--", python(person), "-c", script]
    started = Started(person, words, stdin=subprocess.PIPE)
    try:

        def held() -> dict[tuple[str, str], int]:
            found = {}
            for pid, name in names(started.processes).items():
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    for kind in ("task", "fd"):
                        found[name, kind] = len(os.listdir(f"/proc/{pid}/{kind}"))
            return found

        def few(now: dict[tuple[str, str], int]) -> bool:
            tasks, fds = (now.get(("seccompd-port", kind), 99) for kind in ("task", "fd"))
            return tasks <= 4 and fds <= 6

        counts = []
        for _ in range(2):
            assert started.process.stdin is not None
            assert started.process.stdout is not None
            started.process.stdin.write(b"\n")
            started.process.stdin.flush()
            assert started.process.stdout.readline() == b"done\n"
            counts.append(wait_for(held, few))
        first, _ = counts
        wait_for(held, lambda now: all(count <= first[what] for what, count in now.items()))
    finally:
        started.kill()


def test_porters_that_let_go_late(person: Person, place: Path, full: int) -> None:
    """Their callers have gone, and nobody calls any more: they are looked for again."""
    options = policy(place / "late.yaml", ["do: emulate"])
    script = f"""
import os, signal, socket, sys
children = []
for _ in range(8):
    children.append(os.fork())
    if not children[-1]:
        socket.socket().connect(("127.0.0.1", {full}))
        os._exit(0)
sys.stdin.readline()
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print("done", flush=True)
sys.stdin.read()
"""
    words = ["run", *options, "--", python(person), "-c", script]
    started = Started(person, words, stdin=subprocess.PIPE)

    def porters() -> int:
        those = names(started.processes).items()
        (pid,) = (pid for pid, name in those if name == "seccompd-port")
        return pid

    def threads() -> int:
        return len(os.listdir(f"/proc/{pid}/task"))

    try:
        assert started.process.stdin is not None
        assert started.process.stdout is not None
        wait_for(lambda: "seccompd-port" in names(started.processes).values(), bool)
        pid = porters()
        wait_for(threads, lambda count: count >= 9)
        os.kill(pid, signal.SIGSTOP)
        started.process.stdin.write(b"\n")
        started.process.stdin.flush()
        assert started.process.stdout.readline() == b"done\n"
        time.sleep(1)  # the session finds that nobody has let go, and sleeps
        os.kill(pid, signal.SIGCONT)
        wait_for(threads, lambda count: count <= 4)
    finally:
        started.kill()


def test_the_end_does_not_wait_for_a_connect(person: Person, place: Path, full: int) -> None:
    """Rule 9: when seccompd ends, so does all of it."""
    options = policy(place / "end.yaml", ["do: emulate"])
    script = f'import socket; print("go", flush=True); socket.socket().connect(("{LOCAL}", {full}))'
    started = Started(person, ["run", *options, "--", python(person), "-c", script])
    try:
        assert started.process.stdout is not None
        assert started.process.stdout.readline() == b"go\n"
        time.sleep(0.3)
        os.kill(started.process.pid, signal.SIGKILL)
        assert started.wait_gone() == []
    finally:
        started.kill()


def test_what_is_recorded(root: Person, place: Path) -> None:
    """The address as people write it, and by which rule it was decided."""
    log = place / "audit.json"
    options = policy(
        place / "record.yaml", ['to: "127.0.0.0/8", do: emulate', 'to: "10.0.0.1", do: refuse']
    )
    script = """
for to in (("127.0.0.1", 9), ("10.0.0.1", 80), ("192.0.2.1", 80)):
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(to)
    except OSError:
        pass
"""
    inside(root, place, script, [*options, "--audit", str(log)])
    records = [json.loads(line) for line in log.read_text().splitlines()]
    found = [
        (one["args"]["addr"], one["verdict"], one["rule"].rpartition(":")[2], one.get("errno"))
        for one in records if one.get("syscall") == "connect"
    ]  # fmt: skip
    assert found == [
        ("127.0.0.1:9", "emulate", "4", None),
        ("10.0.0.1:80", "refuse", "5", "EACCES"),
        ("192.0.2.1:80", "refuse", "3", "EACCES"),
    ]


def test_netlink_messages_that_change_something_are_not_ours_to_send(
    root: Person, place: Path
) -> None:
    """They could name descriptors and processes, which would be those of whoever sends them."""
    options = policy(place / "netlink.yaml", ["do: emulate"], ["do: emulate"])
    script = """
def ask(kind):
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    sock.bind((0, 0))
    body = struct.pack("=BBHiII", 0, 0, 0, 1, 0, 0)
    head = struct.pack("=IHHII", 16 + len(body), kind, 1 | 4, 1, 0)
    try:
        sock.sendto(head + body, (0, 0))
    except OSError as error:
        return errno.errorcode[error.errno]
    return struct.unpack_from("=IH", sock.recv(65536))[1]
print(ask(18), ask(16), ask(17), ask(19))
"""
    # RTM_GETLINK is answered by an RTM_NEWLINK; RTM_NEWLINK, RTM_DELLINK, RTM_SETLINK
    assert inside(root, place, script, options) == ["16 EPERM EPERM EPERM"]
