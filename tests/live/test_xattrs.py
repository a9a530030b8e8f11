"""Extended attributes: who sets which, on whose files, and what does not change."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cli import learn
from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import compile_c, scratch

RULES = """
version: 1
syscalls:
  xattr:
    - {path: "/**/secret", do: {errno: EXDEV}}
    - {name: trusted.overlay.opaque, value: "y", do: {emulate: {as: root}}}
    - {name: trusted.named, path: "/**/allowed/*", do: {emulate: {as: root}}}
    - {name: "user.given*", path: "/**/allowed/*", do: emulate}
    - {name: "user.given*", do: {errno: ENOANO}}
    - {name: user.no, do: {errno: EXDEV}}
    - {name: ["user.*", "security.*", "system.*"], do: emulate}
"""
HEAD = """
import ctypes, errno, os, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def put(path, name=b"trusted.overlay.opaque", value=b"y", flags=0):
    call = libc.fsetxattr if isinstance(path, int) else libc.setxattr
    failed = call(path, name, value, len(value), flags)
    return errno.errorcode[ctypes.get_errno()] if failed else "0"
def removed(path, name):
    failed = libc.removexattr(path, name)
    return errno.errorcode[ctypes.get_errno()] if failed else "0"
def within(*command):
    command = [*command, sys.executable, "-c", HEAD + THEN]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr
def acl(uid):
    whole = 0xffffffff
    entries = ((1, 6, whole), (2, 4, uid), (4, 4, whole), (0x10, 6, whole), (0x20, 4, whole))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)
"""
ACL = "system.posix_acl_access"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        compile_c("xattr_calls", folder)
        (folder / "rules.yaml").write_text(RULES)
        (folder / "hosts").write_text("")
        (folder / "hosts").chmod(0o666)
        yield folder


def outcomes(
    person: Person, place: Path, script: str, *options: str, rules: str = "rules.yaml"
) -> list[str]:
    """What a program prints in a container, in a folder of that person's."""
    own = place / f"of-{person.uid}"
    if not own.exists():
        own.mkdir()
        person.given(own)
    file = place / "script.py"
    file.write_text(f"HEAD = {HEAD!r}\n{HEAD}\nos.chdir({str(own)!r})\n{script}")
    options = ("--policy", str(place / rules), *options)
    done = run(person, python(person), str(file), options=options, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def lines(*said: str) -> str:
    return "".join(f"print({one}, flush=True)\n" for one in said)


SCRIPT = """
for name in ("f", "secret", "g"):
    open(name, "w").close()
os.symlink("secret", "alias")
os.mkdir("allowed")
open("allowed/f", "w").close()
THEN = 'print(put("f".encode()), put(b"f", b"user.nested"), put(b"f", b"%s", acl(0)))'
""" % ACL  # noqa: UP031


def test_who_may_do_what(root: Person, place: Path) -> None:
    log = place / "log"
    found = outcomes(root, place, SCRIPT + lines(
        'put(b"f")', 'put(b"f", value=b"n")', 'put(b"f", b"trusted.other")',
        # another name of it, and a descriptor
        'put(b"alias", b"user.x")', 'put(os.open("alias", os.O_RDONLY), b"user.x")',
        'put(b"allowed/f", b"user.given")', 'put(b"./allowed/../f", b"user.given")',
        'put(os.open("allowed/f", os.O_RDONLY), b"user.given2")',
        'put(b"allowed/f", b"trusted.named", b"")', 'put(b"f", b"trusted.named")',
        'removed(b"allowed/f", b"trusted.named")', 'removed(b"f", b"trusted.overlay.opaque")',
        # a file of the host's own, which everybody may write to
        f'put(b"{place}/hosts")', f'put(b"{place}/hosts", b"user.all")',
        f'put(b"{place}/hosts", b"{ACL}", acl(0))',
        f'put(b"g", b"{ACL}", acl(1))', f'put(b"g", b"{ACL}", acl(70000))',
        'put(b"g", b"security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))',
        'put(b"g", b"security.other")',
        'within("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")',
        'within("unshare", "--user", "--map-root-user")',
    ), "--audit", str(log))  # fmt: skip
    assert found == [
        "0", "EPERM", "EPERM", "EXDEV", "EXDEV", "0", "ENOANO", "0", "0", "EPERM", "0", "EPERM",
        "EPERM", "0", "EPERM", "0", "EINVAL", "0", "EPERM", "EPERM 0 0", "EPERM 0 EPERM",
    ]  # fmt: skip
    own = place / f"of-{root.uid}"
    assert os.getxattr(own / "f", "trusted.overlay.opaque") == b"y"
    assert os.listxattr(own / "secret") == []
    # ids are those of the container, and capabilities hold in it alone
    entries = os.getxattr(own / "g", ACL)[4:]
    named = [struct.unpack("<HHI", entries[at : at + 8]) for at in range(0, len(entries), 8)]
    assert (2, 4, root.inner_root + 1) in named
    capability = os.getxattr(own / "g", "security.capability")
    assert struct.unpack("<6I", capability)[0] >> 24 == 3
    assert struct.unpack("<6I", capability)[-1] == root.inner_root
    check_records(place, log)


def check_records(place: Path, log: Path) -> None:
    """What was done says how, and enough to decide it again; and a policy is learned from it."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    first = next(one for one in records if one.get("syscall") == "setxattr")
    assert first["emulate"] == {"as": "root"}
    assert (first["how"], first["result"]) == ("as root", 0)
    assert first["args"] == {
        "pathname": "f", "name": "trusted.overlay.opaque", "value": "y", "size": 1, "flags": 0,
    }  # fmt: skip
    learn.learn([log], str(place / "learned.yaml"), merge=None)
    text = (place / "learned.yaml").read_text()
    rules = text.partition("syscalls:")[2]
    for part in ("name: trusted.overlay.opaque\n", "value: y\n", "do: {emulate: {as: root}}\n"):
        assert rules.count(part) == 1
    assert "trusted.named" not in rules
    assert "(what the host's root alone may say of a file: never learned)" in text


def test_a_file_that_has_no_name_any_more_is_at_no_path(root: Person, place: Path) -> None:
    """Its descriptor's name in /proc is one that a rule grants, and leads elsewhere."""
    found = outcomes(root, place, """
os.makedirs("gone/allowed")
assert libc.mount(b"t", b"gone", b"tmpfs", 0, None) == 0
os.mkdir("gone/allowed")
open("gone/allowed/f", "w").close()
file = os.open("gone/allowed/f", os.O_RDONLY)
print(put(file, b"trusted.named"), flush=True)
# a label, which the kernel would let it set on its own file system
print(put(file, b"security.label"), flush=True)
assert libc.umount2(b"gone", 2) == 0
print(put(file, b"trusted.named"), flush=True)
open("gone/allowed/f", "w").close()
print(put(file, b"trusted.named"), flush=True)
os.chroot("gone")
print(put(b"/allowed/f", b"trusted.named"), put(file, b"trusted.named"), flush=True)
""")
    # the rule that refuses by a path decides where nobody knows that
    assert found == ["0", "EPERM", "EXDEV", "EXDEV", "0 EXDEV"]


CLOSED = """
version: 1
syscalls:
  xattr:
    - {path: "/**/closed/*", do: {errno: EXDEV}}
    - {name: trusted.named, path: "/**/allowed/*", do: {emulate: {as: root}}}
    - {name: user.x, do: emulate}
    - {name: user.deep, path: "/**/shut/deep/*", do: emulate}
  open:
    - {path: "/**/closed/*", access: read-write, do: {errno: EXDEV}}
    - {do: continue, accept_race: true}
  mkdir:
    - {path: "/**/closed/*", do: {errno: EXDEV}}
    - {do: emulate}
  mknod:
    - {path: "/**/closed/*", devices: zero, do: {errno: EXDEV}}
    - {devices: zero, do: emulate}
"""


def test_names_that_working_directories_only_had(root: Person, user: Person, place: Path) -> None:
    """A relative path, too, leads where the file is below the caller's root, or to no path; with
    the rules of other families as well."""
    (place / "closed.yaml").write_text(CLOSED)
    start = """
import socket
for name in ("closed", "open_"):
    os.makedirs(name, exist_ok=True)
open("closed/f", "w").close()
"""
    # a directory by another name, which it has in another mount namespace
    handed = start + """
ours, theirs = socket.socketpair()
THEN = f'''
import socket
assert libc.mount(b"closed", b"open_", None, 4096, None) == 0
folder = os.open("open_", os.O_RDONLY)
with socket.socket(fileno={theirs.fileno()}) as sock:
    socket.send_fds(sock, [b"."], [folder])
    sock.recv(1)
'''
child = subprocess.Popen(
    ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", HEAD + THEN],
    pass_fds=[theirs.fileno()])
theirs.close()
folder = socket.recv_fds(ours, 1, 1)[1][0]
def tried(call, *args):
    try:
        return str(call(*args))
    except OSError as error:
        return errno.errorcode[error.errno]
print(put(b"closed/f", b"user.x"), put(b"open_/none", b"user.x"), flush=True)
os.fchdir(folder)
print(put(b"f", b"user.x"), put(b"/proc/self/cwd/f", b"user.x"), flush=True)
print(tried(os.open, "f", os.O_RDWR), tried(os.open, "new", os.O_RDWR | os.O_CREAT),
      tried(os.mkdir, "d"), tried(os.mknod, "n", 0o20666, os.makedev(1, 5)), flush=True)
ours.close()
child.wait()
"""
    found = outcomes(user, place, handed, rules="closed.yaml")
    assert found == ["EXDEV ENOENT", "EXDEV EXDEV", "EXDEV EXDEV EXDEV EACCES"]
    own = place / f"of-{root.uid}"
    found = outcomes(root, place, start + """
os.makedirs("lost", exist_ok=True)
assert libc.mount(b"t", b"lost", b"tmpfs", 0, None) == 0
os.makedirs("lost/allowed")
open("lost/allowed/f", "w").close()
os.chdir("lost/allowed")
print(put(b"f", b"trusted.named"), flush=True)
assert libc.umount2(b"../../lost", 2) == 0
print(put(b"f", b"trusted.named"), flush=True)
os.chdir(FOLDER)
os.makedirs("jail", exist_ok=True)
os.makedirs("allowed", exist_ok=True)
open("allowed/f", "w").close()
os.makedirs("shut/deep", exist_ok=True)
open("shut/deep/f", "w").close()
os.chown("shut/deep/f", 1, 1)
if not os.fork():  # who may not search what is above its working directory
    os.chdir("shut/deep")
    os.chmod("..", 0)
    os.setresuid(1, 1, 1)
    print(put(b"f", b"user.deep"), put(b"../deep/f", b"user.deep"), flush=True)
    os._exit(0)
os.wait()
os.chdir("allowed")
print(put(b"f", b"trusted.named"), flush=True)
os.chroot("../jail")
print(put(b"f", b"trusted.named"), flush=True)
""".replace("FOLDER", repr(str(own))), rules="closed.yaml")  # fmt: skip
    assert found == ["0", "EXDEV", "0 EACCES", "0", "EXDEV"]


def test_a_name_that_changes_while_it_is_looked_at(root: Person, place: Path) -> None:
    """What was decided on is what is set."""
    found = outcomes(root, place, """
import threading
open("raced", "w").close()
name, seen, over = ctypes.create_string_buffer(b"user.ok"), set(), False
def flip():
    while not over:
        ctypes.memmove(ctypes.addressof(name) + 5, b"no", 2)
        ctypes.memmove(ctypes.addressof(name) + 5, b"ok", 2)
thread = threading.Thread(target=flip)
thread.start()
tries = 0
while tries < 500 or (len(seen) < 2 and tries < 20000):
    seen.add(put(b"raced", name))
    tries += 1
over = True
thread.join()
print(sorted(seen), "user.no" in os.listxattr("raced"), flush=True)
""")
    assert found == ["['0', 'EXDEV'] False"]


def test_32_bit_callers(root: Person, place: Path) -> None:
    own = place / f"of-{root.uid}"
    found = outcomes(root, place, f"""
open("32", "w").close()
sys.stdout.flush()
os.execv("{place}/xattr_calls", ["xattr_calls", "32", "user.of"])
""")
    assert dict(line.split() for line in found) == {
        "setxattr": "0", "again": "EEXIST", "lsetxattr": "0", "fsetxattr": "0", "large": "E2BIG",
        "removexattr": "0", "lremovexattr": "ENODATA", "fremovexattr": "ENODATA",
        "setxattrat": "ENOSYS", "setxattrat32": "ENOSYS", "removexattrat": "ENOSYS",
    }  # fmt: skip
    assert os.listxattr(own / "32") == []


def test_an_ordinary_user(user: Person, place: Path) -> None:
    """Nobody acts as the host's root for one; the caller's own rights are what they are."""
    found = outcomes(user, place, SCRIPT + lines(
        'put(b"f")', 'put(b"f", b"user.x")', 'put(b"allowed/f", b"user.given")',
        f'put(b"f", b"{ACL}", acl(0))', f'put(b"{place}/hosts", b"{ACL}", acl(0))',
        'put(b"alias", b"user.x")', 'put(b"missing")',
    ))  # fmt: skip
    assert found == ["EPERM", "0", "0", "0", "EPERM", "EXDEV", "ENOENT"]
    assert os.getxattr(place / f"of-{user.uid}" / "f", "user.x") == b"y"


@pytest.mark.parametrize(
    "rest",
    [
        "{do: emulate}", '{path: "/**", do: continue}',
        '{name: "system.*", do: refuse, mode: audit}', '{name: "system.*", do: kill, mode: audit}',
        '{path: "/**", do: {return: 7}, mode: audit}',
    ],
)  # fmt: skip
def test_a_node_of_the_hosts_keeps_its_list(user: Person, place: Path, rest: str) -> None:
    """What `cp -a` sets on a node is accepted, and nothing comes of it; of a file it does."""
    (place / "nodes.yaml").write_text(f"""
version: 1
syscalls:
  mknod: [{{devices: zero, do: emulate}}]
  xattr: {{otherwise: kernel, rules: [{rest}]}}
""")
    host = os.stat("/dev/zero")
    found = outcomes(user, place, """
for name in ("zero", "plain"):
    if os.path.exists(name):
        os.unlink(name)
open("plain", "w").close()
os.mknod("zero", 0o20666, os.makedev(1, 5))
""" + lines(
        f'put(b"zero", b"{ACL}", acl(0))', f'put(os.open("zero", 0), b"{ACL}", acl(0))',
        'put(b"zero", b"user.x")', f'put(b"plain", b"{ACL}", acl(0))',
        'os.listxattr("plain") + os.listxattr("zero")',
    ), rules="nodes.yaml")  # fmt: skip
    assert found == ["0", "0", "EPERM", "0", f"['{ACL}']"]
    assert os.stat("/dev/zero") == host
