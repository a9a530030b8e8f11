"""Calls that are led elsewhere."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import run
from tests.support.scratch import a_place
from tests.support.sockets import LOCAL, Counter, Greeter, NameServer, policy
from tests.support.sockets import inside as in_container

NOWHERE = "203.0.113.7"  # RFC 5737: nobody is there

place = a_place(0o777, scope="module")


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    """The port of a web server of the test's."""
    server = http.server.ThreadingHTTPServer((LOCAL, 0), Greeter)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def inside(person: Person, place: Path, script: str, options: list[str]) -> list[str]:
    head = f"import socket, select\nNOWHERE = {NOWHERE!r}"
    return in_container(person, place, script, options, head)


SCRIPT = """
sock = socket.create_connection((NOWHERE, 81), 5)
print("blocking", sock.getpeername()[0])
later = socket.socket()
later.setblocking(False)
try:
    later.connect((NOWHERE, 81))
except BlockingIOError:
    pass
select.select([], [later], [], 5)
print("later", later.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), later.getpeername()[0])
six = socket.socket(socket.AF_INET6)
six.connect((f"::ffff:{NOWHERE}", 81))
print("mapped", six.getpeername()[0])
shut = socket.socket()
try:
    shut.connect((NOWHERE, 82))
except OSError as error:
    print("refused", error.strerror)
"""


def test_a_connection(person: Person, place: Path, web: int) -> None:
    """To another port, or to the same one; the caller sees what its own call would have shown."""
    log = place / f"{person.name}.json"
    log.touch(0o666)
    log.chmod(0o666)
    options = policy(
        place / "connect.yaml",
        [f'to: "{NOWHERE}", port: 81, do: {{redirect: "{LOCAL}:{web}"}}',
         f'to: "{NOWHERE}", port: 82, do: {{redirect: "{LOCAL}:1"}}'],
    )  # fmt: skip
    found = inside(person, place, SCRIPT, [*options, "--audit", str(log)])
    assert found == [
        f"blocking {LOCAL}", f"later 0 {LOCAL}", f"mapped ::ffff:{LOCAL}",
        "refused Connection refused",
    ]  # fmt: skip
    records = [json.loads(line) for line in log.read_text().splitlines()]
    led = [one["how"] for one in records if one.get("syscall") == "connect"]
    assert led == [f"redirected to {LOCAL}:{web}"] * 3 + [f"redirected to {LOCAL}:1"]


def test_by_who_calls(person: Person, place: Path, web: int) -> None:
    """What is done is what the second look says."""
    options = policy(
        place / "who.yaml",
        [f'to: "{NOWHERE}", uid: 12345, do: {{redirect: "{LOCAL}:1"}}',
         f'to: "{NOWHERE}", uid: 0, do: {{redirect: "{LOCAL}:{web}"}}'],
    )  # fmt: skip
    script = "print(socket.create_connection((NOWHERE, 80), 5).getpeername()[1])"
    assert inside(person, place, script, options) == [str(web)]


@pytest.mark.parametrize("rule", ["uid: 12345", "mode: audit, accept_race: true"])
def test_a_path_that_is_not_there(person: Person, place: Path, web: int, rule: str) -> None:
    """It is led elsewhere only by a rule that the second look grants by, too."""
    options = policy(
        place / "missing.yaml",
        [f'path: {place}/for-all, uid: 0, do: {{redirect: "{LOCAL}:{web}"}}',
         f'path: "{place}/for-o*", {rule}, do: {{redirect: "{LOCAL}:{web}"}}'],
    )  # fmt: skip
    script = f"""
for name in ("for-all", "for-others"):
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect("{place}/" + name)
        print("connected")
    except OSError as error:
        print(error.strerror)
    print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_UNIX)
"""
    expected = ["connected", "False", "No such file or directory", "True"]
    assert inside(person, place, script, options) == expected


def test_datagrams(person: Person, place: Path) -> None:
    counter = Counter()
    options = policy(
        place / "datagrams.yaml", [f'to: "{NOWHERE}", do: {{redirect: "{LOCAL}"}}']
    )
    script = f"""
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print(sock.sendto(b"x", (NOWHERE, {counter.port})))
print(sock.sendmsg([b"y"], [], 0, (NOWHERE, {counter.port})))
sock.connect((NOWHERE, {counter.port}))
print(sock.send(b"z"))
"""
    try:
        assert inside(person, place, script, options) == ["1", "1", "1"]
        assert counter.count() == 3
    finally:
        counter.close()


def test_the_c_librarys_resolver(person: Person, place: Path) -> None:
    """It asks for both kinds of address with one sendmmsg."""
    names = NameServer(NOWHERE)
    options = policy(
        place / "names.yaml",
        [f'to: ["0.0.0.0/0"], port: 53, do: {{redirect: "{LOCAL}:{names.port}"}}',
         "family: [unix, netlink], do: emulate"],
        ["do: emulate"],
    )  # fmt: skip
    log = place / f"names-{person.name}.json"
    log.touch(0o666)
    log.chmod(0o666)
    script = "print(socket.getaddrinfo('name.test', 80, type=socket.SOCK_STREAM)[0][4])"
    try:
        found = inside(person, place, script, [*options, "--audit", str(log)])
        assert found == [str((NOWHERE, 80))]
    finally:
        names.close()
    called = {json.loads(line).get("syscall") for line in log.read_text().splitlines()}
    assert {"connect", "sendmmsg"} <= called


@pytest.mark.needs("curl")
def test_curl(person: Person, place: Path, web: int) -> None:
    options = policy(
        place / "curl.yaml",
        [f'to: "{NOWHERE}", port: 80, do: {{redirect: "{LOCAL}:{web}"}}',
         "family: [unix, netlink], do: emulate"],
    )  # fmt: skip
    done = run(person, "curl", "-sS", "--max-time", "20", f"http://{NOWHERE}/", options=options)
    assert (done.stdout, done.stderr) == (f"hello {NOWHERE}", "")
