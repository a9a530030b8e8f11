"""Sockets of containers of runc and crun, whose filter notifies sendmsg too."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from errno import ENETUNREACH
from pathlib import Path

import pytest

from tests.support.bundles import Bundle, bundle
from tests.support.daemon import Daemon, serving
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.scratch import a_place, compile_c
from tests.support.sockets import LOCAL, Counter

POLICY = """
version: 1
match: {door: oci}
syscalls:
  connect:
    - {to: "127.0.0.0/8", port: %d, do: emulate}
    - {to: "127.0.0.0/8", do: {errno: EHOSTUNREACH}}
  bind:
    - {do: emulate}
  setsockopt:
    - {optname: SO_KEEPALIVE, do: {errno: EXDEV}}
    - {do: continue}
  getsockopt:
    - {optname: SO_DOMAIN, do: {errno: EACCES}}
    - {do: continue}
"""

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[Counter, Counter]]:
    both = Counter(), Counter()
    yield both
    for one in both:
        one.close()


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path, ports: tuple[Counter, Counter]) -> Iterator[Daemon]:
    with serving(root, place, {"sockets": POLICY % ports[0].port}) as found:
        yield found


@pytest.fixture(params=["runc", "crun"])
def box(request: pytest.FixtureRequest, daemon: Daemon, place: Path) -> Iterator[Bundle]:
    with bundle(place, daemon.profile("sockets"), runtime=request.param) as found:
        spaces = found.config["linux"]["namespaces"]
        found.config["linux"]["namespaces"] = [one for one in spaces if one["type"] != "network"]
        mounts = found.config["mounts"]  # sysfs is for who has a network of its own
        found.config["mounts"] = [one for one in mounts if one["destination"] != "/sys"]
        shutil.copy(compile_c("socket_calls", place, "-static", "-pthread"), found.root / "bin")
        yield found


@pytest.mark.parametrize("how", ["direct", "socketcall"])
def test_of_runc_and_crun(box: Bundle, ports: tuple[Counter, Counter], how: str) -> None:
    allowed, refused = ports
    allowed.count()
    done = box.run("", args=["/bin/socket_calls", how, str(allowed.port), str(refused.port)])
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert (found["connect"], found["sendmsg"], found["sent"]) == ("0", "5", "5")
    assert found["connect-refused"] == found["sendmsg-refused"] == "EHOSTUNREACH"
    assert (allowed.count(), refused.count()) == (6, 0)
    done = box.run("", args=["/bin/socket_calls", f"{how}-option", "0", "0"])
    found = dict(line.split() for line in done.stdout.splitlines())
    assert (found["refused"], found["domain"]) == ("EXDEV", "EACCES")
    assert (found["allowed"], found["set"], found["type"]) == ("0", "1", "0")


HOSTS = """
version: 1
match: {door: oci}
syscalls:
  connect:
    - {to: "127.0.0.1", port: %d, do: {emulate: {network: host}}}
    - {do: emulate}
  bind:
    - {do: emulate}
"""

WITHOUT_HOSTS = """
version: 1
match: {door: oci}
syscalls:
  connect:
    - {do: emulate}
  bind:
    - {do: emulate}
"""


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_the_hosts_network(root: Person, place: Path, runtime: str) -> None:
    """Of a container that has one of its own, and nothing in it."""
    folder = place / runtime
    folder.mkdir()
    folder.chmod(0o755)
    heard: list[bytes] = []

    def hear(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            heard.append(client.recv(9))

    with socket.create_server((LOCAL, 0)) as server:
        server.settimeout(30)
        thread = threading.Thread(target=hear, args=(server,))
        thread.start()
        port = server.getsockname()[1]
        script = f"""
echo hello | busybox nc -w 5 {LOCAL} {port}
busybox nc -w 1 {LOCAL} {port + 1 if port < 65535 else 1} </dev/null; echo $?
"""
        with (
            serving(root, folder, {"hosts": HOSTS % port}) as found,
            bundle(folder, found.profile("hosts"), runtime=runtime) as box,
        ):
            done = box.run(script)
            assert done.stdout.splitlines() == ["1"], done.stderr
        thread.join()
        assert heard == [b"hello\n"]


def test_a_socket_of_the_hosts_is_one_after_a_reload(root: Person, place: Path) -> None:
    """And after the end of the session that made it: what the rules that are left allow is meant
    for the container's own network."""
    folder = place / "reload"
    folder.mkdir()
    folder.chmod(0o755)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
    ):
        for one in (first, second):
            one.bind((LOCAL, 0))
        ports = [str(one.getsockname()[1]) for one in (first, second)]
        with (
            serving(root, folder, {"hosts": HOSTS % int(ports[0])}) as found,
            bundle(folder, found.profile("hosts")) as box,
        ):
            shutil.copy(compile_c("host_socket", folder, "-static"), box.root / "bin")
            name = box.start("/bin/host_socket", "/tmp", *ports)
            said = box.root / "tmp/said"
            wait_for(lambda: said.exists() and said.read_text(), lambda text: text == "0\n")
            (folder / "policies" / "hosts.yaml").write_text(WITHOUT_HOSTS)
            assert found.command("reload").returncode == 0
            session = found.one("session")
            os.kill(session, signal.SIGKILL)
            wait_for(lambda: found.ours("session"), lambda pids: session not in pids)
            (box.root / "tmp/go").write_text("\n")
            lines = wait_for(lambda: said.read_text().split(), lambda lines: len(lines) == 2)
            assert lines[1] == str(ENETUNREACH)
            box.delete(name)
