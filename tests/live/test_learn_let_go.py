"""What a base policy let go is in no record: the same run passes all the same under what was
learned from it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch

# Says what comes of calls of every family: ones that the bases below carry out, others that they
# let go.
PROGRAM = r"""
import ctypes, os, socket, sys
place = sys.argv[1]
os.makedirs(place, exist_ok=True)
os.chdir(place)
libc = ctypes.CDLL(None, use_errno=True)
def said(name, call, *args):
    try:
        got = call(*args)
    except OSError as error:
        got = str(error)
    print(name, got, flush=True)
for name, dev in ("null", 0x103), ("zero", 0x105):
    said(name, os.mknod, name, 0o20666, dev)
for name in "led", "kernels":
    said(name, os.mkdir, name)
for name in "led", "kernels":
    done = libc.mount(b"none", f"{place}/{name}".encode(), b"tmpfs", 0, None)
    print("mount", name, done and os.strerror(ctypes.get_errno()))
open("file", "w").close()
for name in "user.one", "user.two":
    said(name, os.setxattr, "file", name, b"y")
for name in "/etc/lent", "/etc/hostname-not", "/proc/self/comm":
    said(name, lambda: open(name).read())
servers = [socket.socket() for _ in range(2)]
for at, one in enumerate(servers):
    one.settimeout(5)
    said("reuse", one.setsockopt, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    said("keepalive", one.setsockopt, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    said("mark", one.setsockopt, socket.SOL_SOCKET, 36, 1)
    said("type", one.getsockopt, socket.SOL_SOCKET, socket.SO_TYPE)
    said("told", one.getsockopt, socket.SOL_SOCKET, socket.SO_REUSEADDR)
    said("cookie", one.getsockopt, socket.SOL_SOCKET, 57)
    said("bind", one.bind, (f"127.0.0.{at + 1}", int(sys.argv[2 + at])))
    said("listen", one.listen)
    with socket.socket() as sock:
        said("connect", sock.connect, one.getsockname())
        sock.settimeout(5)
        said("accept", lambda: one.accept()[1][0])
with socket.socket(socket.AF_UNIX) as there, socket.socket(socket.AF_UNIX) as here:
    there.settimeout(5)
    said("bind", there.bind, "\0" + place)
    said("listen", there.listen)
    said("connect", here.connect, "\0" + place)
    said("accept", lambda: len(there.accept()))
"""

REST_TO_KERNEL = """
version: 1
syscalls:
  mknod: {otherwise: kernel, rules: [{devices: ["null"], path: PLACE/**, do: emulate}]}
  mkdir: {otherwise: kernel, rules: [{path: PLACE/led, do: emulate}]}
  mount:
    otherwise: kernel
    rules: [{fstype: tmpfs, target: PLACE/led, do: {emulate: {via: kernel}}}]
  open: [{path: /etc/lent, do: {inject: {content: "lent\\n"}}}]
  xattr: {otherwise: kernel, rules: [{name: user.one, path: PLACE/**, do: emulate}]}
  connect: {otherwise: kernel, rules: [{to: 127.0.0.1, do: emulate}]}
  bind: {otherwise: kernel, rules: [{address: 127.0.0.1, do: emulate}]}
  accept: {otherwise: kernel, rules: [{from: 127.0.0.1, do: emulate}]}
  setsockopt:
    otherwise: kernel
    rules:
      - {optname: SO_MARK, do: {errno: ENOPROTOOPT}}
      - {optname: SO_KEEPALIVE, do: {emulate: {value: 0}}}
  getsockopt:
    otherwise: kernel
    rules:
      - {optname: SO_REUSEADDR, do: {emulate: {value: 5}}}
      - {optname: SO_COOKIE, do: refuse}
"""
# With rules that let calls go, or answer them, in the place of `otherwise`.
REST_REFUSED = """
version: 1
syscalls:
  mknod: [{devices: ["null"], path: PLACE/**, do: emulate}, {devices: [zero], do: {errno: EIO}}]
  mkdir: [{path: PLACE/kernels, do: continue}, {do: emulate}]
  mount: {otherwise: kernel}
  xattr: [{name: user.one, do: emulate}, {name: user.two, do: {return: 0}}]
  connect: [{abstract: "*", do: continue}, {do: emulate}]
  bind: [{family: unix, do: continue}, {do: emulate}]
  accept: [{host_uid: 4294967294, do: emulate}, {do: continue}]
  setsockopt:
    - {optname: SO_KEEPALIVE, do: {errno: EIO}}
    - {optname: SO_REUSEADDR, do: emulate}
    - {optname: SO_MARK, do: {return: 0}}
  getsockopt:
    - {optname: SO_REUSEADDR, do: {emulate: {value: 5}}}
    - {level: SOL_SOCKET, do: continue}
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(0o777, "/var/tmp") as folder:
        yield folder


def ports() -> list[str]:
    """Two that nobody has at the moment."""
    with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as other:
        return [str(sock.getsockname()[1]) for sock in (one, other)]


@pytest.mark.parametrize("rules", [REST_TO_KERNEL, REST_REFUSED])
def test_what_the_base_let_go_goes_on(person: Person, place: Path, rules: str) -> None:
    base, out, merged = place / "base.yaml", place / "out.yaml", place / "merged.yaml"
    work = person.given(place) / "work"
    base.write_text(rules.replace("PLACE", str(work)))
    (place / "program.py").write_text(PROGRAM)
    (place / "old.yaml").write_text("version: 1\nsyscalls: {}\n")
    words = [python(person), f"{place}/program.py", str(work), *ports()]
    script = f"{' '.join(words)}; umount {work}/* 2>/dev/null; rm -rf {work}"
    said = []
    for options in (
        ["--policy", str(base), "--learn", str(out)],
        ["--policy", str(out)],
        ["--policy", str(base), "--learn", str(merged), "--merge", str(place / "old.yaml")],
        ["--policy", str(merged)],
    ):
        done = run(person, "sh", "-c", script, options=options)
        assert "Traceback" not in done.stderr
        lines = done.stdout.splitlines()
        # a user's tmpfs is the kernel's to mount alone: what failed is not learned
        said.append([line for line in lines if person.name is None or "mount led" not in line])
    assert len(said[0]) > 30
    assert said[1] == said[0], out.read_text()
    assert said[3] == said[2] == said[0], merged.read_text()
