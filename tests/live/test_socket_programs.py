"""Programs as they are, whose connections are led elsewhere, shared out and gated."""

from __future__ import annotations

import http.server
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.program import Started, run
from tests.support.scratch import a_place
from tests.support.sockets import LOCAL, Greeter, NameServer, a_free_port, inside, policy

NOWHERE = "203.0.113.7"  # RFC 5737: nobody is there

place = a_place(0o777, scope="module")
free = a_free_port()


class _Six(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[int, int]]:
    """The ports of web servers of IPv4 and IPv6."""
    servers = [http.server.ThreadingHTTPServer((LOCAL, 0), Greeter), _Six(("::1", 0), Greeter)]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield servers[0].server_port, servers[1].server_port
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def led(place: Path, web: tuple[int, int]) -> list[str]:
    """Port 80 is led to a socket of another family, port 81 shared out over both."""
    return policy(
        place / "led.yaml",
        [f'to: "{NOWHERE}", port: 80, do: {{redirect: {{to: "[::1]:{web[1]}", peername: asked}}}}',
         f'to: "{NOWHERE}", port: 81, do: {{balance: ["[::1]:{web[1]}", "{LOCAL}:{web[0]}"]}}',
         "do: emulate"],
    )  # fmt: skip


@pytest.mark.needs("curl")
def test_curl(person: Person, led: list[str]) -> None:
    """Two connections of one program, which are kept."""
    urls = [f"http://{NOWHERE}/", f"http://{NOWHERE}:81/", f"http://{NOWHERE}/"]
    done = run(person, "curl", "-sS", "--max-time", "20", *urls, options=led)
    expected = f"hello {NOWHERE}" + f"hello {NOWHERE}:81" + f"hello {NOWHERE}"
    assert (done.stdout, done.stderr) == (expected, "")


@pytest.mark.needs("busybox")
@pytest.mark.parametrize("port", [80, 81])
def test_a_static_program(person: Person, led: list[str], port: int) -> None:
    """No C library of the system's is in its way."""
    url = f"http://{NOWHERE}:{port}/"
    done = run(person, "busybox", "wget", "-q", "-O", "-", url, options=led)
    assert done.stdout.startswith(f"hello {NOWHERE}"), done.stderr


@pytest.mark.needs("nc")
def test_nc(person: Person, led: list[str]) -> None:
    text = f"printf 'GET / HTTP/1.0\\r\\nHost: nc\\r\\n\\r\\n' | nc -w 20 {NOWHERE} 80"
    done = run(person, "sh", "-c", text, options=led)
    assert done.stdout.endswith("hello nc"), done.stderr


@pytest.mark.needs("podman")
def test_a_go_program(root: Person, led: list[str]) -> None:
    """It makes its calls itself, and has no C library make them. It is answered, though by nobody
    whom it knows."""
    words = ("podman", "--remote", "--url", f"tcp://{NOWHERE}:80", "version")
    done = run(root, *words, options=led)
    assert "did not provide Libpod-API-Version" in done.stderr


def test_asyncio(person: Person, place: Path, led: list[str]) -> None:
    """Many connections at a time, none of which blocks."""
    script = f"""
import asyncio
async def said(port):
    reader, writer = await asyncio.open_connection("{NOWHERE}", port)
    writer.write(b"GET / HTTP/1.0\\r\\nHost: many\\r\\n\\r\\n")
    text = await reader.read()
    writer.close()
    return text.rpartition(b"\\r\\n")[2]
async def main():
    found = await asyncio.gather(*(said(80 + number % 2) for number in range(40)))
    print(set(found), len(found))
asyncio.run(main())
"""
    assert inside(person, place, script, led) == ["{b'hello many'} 40"]


@pytest.mark.needs("dig")
def test_dig(person: Person, place: Path) -> None:
    names = NameServer("192.0.2.99")
    options = policy(
        place / "dig.yaml",
        [f'to: "{NOWHERE}", port: 53, do: {{balance: ["{LOCAL}:{names.port}"]}}',
         "family: [unix, netlink], do: emulate"],
        ["do: emulate"],
    )  # fmt: skip
    try:
        done = run(
            person, "dig", f"@{NOWHERE}", "+short", "+tries=2", "name.test", options=options
        )
        assert done.stdout.splitlines() == ["192.0.2.99"], done.stdout + done.stderr
    finally:
        names.close()


NGINX = """
daemon off; worker_processes 2; pid {place}/nginx-{name}.pid; error_log {place}/nginx-{name}.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {place}/body-{name}; proxy_temp_path {place}/proxy-{name};
  fastcgi_temp_path {place}/fast-{name}; uwsgi_temp_path {place}/uwsgi-{name};
  scgi_temp_path {place}/scgi-{name};
  server {{
    listen {local}:{port};
    location / {{ proxy_pass http://{nowhere}:82; proxy_set_header Host behind-nginx; }}
  }}
}}
"""


@pytest.mark.needs("nginx")
def test_nginx(person: Person, place: Path, web: tuple[int, int], free: int) -> None:
    """It listens where it may, and its own connections are shared out; one backend refuses."""
    text = NGINX.format(
        place=place, name=person.name, local=LOCAL, port=free, nowhere=NOWHERE
    )  # fmt: skip
    if not person.uid:
        text = "user root root;" + text
    (place / "nginx.conf").write_text(text)
    options = policy(
        place / "nginx.yaml",
        [f'to: "{NOWHERE}", port: 82, do: {{balance: ["{LOCAL}:{web[0]}", "{LOCAL}:1"]}}',
         "family: [unix, netlink], do: emulate"],
        [f'address: "{LOCAL}", port: {free}, do: emulate'],
    )  # fmt: skip
    nginx = Started(person, ["run", *options, "--", "nginx", "-c", str(place / "nginx.conf")])
    try:
        def answers() -> bool:
            with socket.socket() as sock:
                return not sock.connect_ex((LOCAL, free))

        wait_for(answers, bool)
        for _ in range(4):
            with urllib.request.urlopen(f"http://{LOCAL}:{free}/", timeout=20) as answer:
                assert answer.read() == b"hello behind-nginx"
    finally:
        nginx.process.terminate()
        nginx.finish()
    assert nginx.wait_gone() == []
