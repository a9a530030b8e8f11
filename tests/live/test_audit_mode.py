"""mode: audit: what is decided is recorded, and the call goes as it goes without seccompd."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.people import Person
from tests.support.program import run, seccompd
from tests.support.scratch import a_place

place = a_place(0o777, "/var/tmp")


def recorded(
    person: Person, place: Path, policy: str, script: str
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    file, log = place / "p.yaml", place / "log"
    file.write_text(policy)
    options = ["--policy", str(file), "--audit", str(log), "--trace"]
    done = run(person, "sh", "-c", f"cd {person.given(place)}; {script}", options=options)
    found = [json.loads(line) for line in log.read_text().splitlines()]
    return done, [one for one in found if "syscall" in one]


POLICY = """version: 1
mode: audit
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
    - {devices: [zero], do: {errno: EIO}}
    - {devices: [full], do: {return: 0}}
    - {devices: [random], do: kill}
    - {devices: [tty], path: "/**/allowed/*", do: emulate}
  mount:
    - {fstype: tmpfs, target: "/nowhere", do: {errno: EIO}}
    - {fstype: [ext4], source: "/**", do: emulate}
"""


def test_a_whole_policy(person: Person, place: Path) -> None:
    script = (
        "for n in 3 5 7 8; do mknod a c 1 $n; done; mkdir allowed; mknod allowed/tty c 5 0;"
        "mknod tty c 5 0; mount -t tmpfs none allowed && echo mounted; mknod x/y c 5 0; true"
    )
    done, found = recorded(person, place, POLICY, script)
    # As without seccompd: no node is made, nobody dies, the kernel's own errnos.
    assert done.returncode == 0
    assert done.stdout == "mounted\n"
    assert done.stderr.count("Operation not permitted") == 6
    assert done.stderr.count("No such file or directory") == 1
    assert not [entry for entry in place.iterdir() if entry.is_char_device()]
    assert {one["mode"] for one in found} == {"audit"}
    assert {one.get("answered_by") for one in found} == {"kernel"}
    verdicts = [one["verdict"] for one in found]
    assert verdicts == ["emulate", "errno", "return", "kill", "emulate", "refuse", "refuse",
                        "emulate"]  # fmt: skip
    granted = found[4]
    assert granted["resolved"] == f"{place}/allowed/tty"
    assert "facts" in granted
    assert "[audit, would be emulated: p.yaml:5]" in done.stderr
    assert "[audit, would be killed: p.yaml:8]" in done.stderr


def test_one_rule(person: Person, place: Path) -> None:
    policy = """version: 1
syscalls:
  mknod:
    - {devices: ["null"], mode: audit, do: emulate}
    - {devices: [zero], mode: audit, do: kill}
    - {devices: [full], do: {errno: EIO}}
    - {devices: [urandom], uid: 0, mode: audit, do: kill}
    - {devices: [random], uid: 5, mode: audit, do: kill}
"""
    script = "for n in 3 5 7 9 8; do mknod a c 1 $n; done; true"
    done, found = recorded(person, place, policy, script)
    assert done.returncode == 0
    assert done.stderr.count("Operation not permitted") == 4
    assert [one.get("mode") for one in found] == ["audit", "audit", None, "audit", None]
    assert [one["verdict"] for one in found[3:]] == ["kill", "refuse"]


def test_it_costs_no_io_uring_and_no_companions(person: Person, place: Path) -> None:
    """What makes nothing needs nothing else to be looked at."""
    from tests.support.policies import policy

    audited = policy("version: 1\nmode: audit\nsyscalls: {mknod: [{path: /a/*, do: emulate}]}")
    assert {spec.name for spec in audited.calls.values()} == {"mknod", "mknodat"}
    assert audited.ceiling == ()
    done, _ = recorded(person, place, POLICY, "unshare -m true; touch f; rm f")
    assert done.returncode == 0


# What leads nowhere, each by its own name, with what a call says of it.
NOWHERE = """
import ctypes, errno, os, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
def of_libc(name, *args):
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), "")
def unix(call, path):
    with socket.socket(socket.AF_UNIX) as one:
        getattr(one, call)(path)
def tried(what, call, *args):
    try:
        call(*args)
        print(what, "0")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
for kind in b"ext4", b"nosuchfs", b"tmpfs":
    tried(f"mount {kind}", of_libc, "mount", b"/gone/a.img", b"/mnt", kind, 0, None)
    tried(f"mount {kind} at", of_libc, "mount", b"/dev/null", b"/gone/mnt", kind, 0, None)
tried("mknod", os.mknod, "/gone/x", stat.S_IFCHR | 0o666, os.makedev(1, 3))
tried("mknod there", os.mknod, "/etc/passwd", stat.S_IFCHR | 0o666, os.makedev(1, 3))
tried("mknod below a file", os.mknod, "/etc/passwd/x", stat.S_IFCHR | 0o666, os.makedev(1, 3))
tried("mkdir", os.mkdir, "/gone/x")
tried("mkdir there", os.mkdir, "/etc")
tried("open", os.open, "/gone/x", os.O_RDONLY)
tried("open below a file", os.open, "/etc/passwd/x", os.O_RDONLY)
tried("setxattr", os.setxattr, "/gone/x", "user.x", b"")
tried("connect", unix, "connect", "/gone/x")
tried("bind", unix, "bind", "/gone/x")
"""
BESIDE_OTHERS = """version: 1
syscalls:
  mount:
    otherwise: kernel
    rules:
      - {uid: 5, do: {errno: EIO}}
      - {fstype: [ext4, nosuchfs], source: "/gone/*.img", mode: audit, do: refuse}
      - fstype: [ext4, nosuchfs]
        source: "/**"
        mode: audit
        do: {emulate: {via: fuse, program: [/usr/bin/fuse2fs, "{source}", "{target}"]}}
      - {fstype: tmpfs, target: "/**", mode: audit, do: emulate}
  mknod:
    otherwise: kernel
    rules:
      - {devices: ["null"], path: "/**", mode: audit, do: emulate}
      - {devices: [zero], do: {errno: EIO}}
  mkdir:
    otherwise: kernel
    rules:
      - {uid: 5, do: {errno: EIO}}
      - {path: "/**", mode: audit, uid: 0, do: {errno: EIO}}
      - {path: "/**", mode: audit, do: emulate}
  open:
    - {path: "/gone/*", mode: audit, do: {errno: EIO}}
    - {path: "/etc/passwd/x", mode: audit, do: {inject: {device: "null"}}}
  xattr:
    otherwise: kernel
    rules:
      - {uid: 5, do: {errno: EIO}}
      - {name: user.x, path: "/**", mode: audit, do: {errno: EIO}}
  connect:
    otherwise: kernel
    rules:
      - {uid: 5, do: {errno: EIO}}
      - {path: "/**", mode: audit, do: {redirect: "127.0.0.1:1"}}
  bind:
    otherwise: kernel
    rules:
      - {uid: 5, do: {errno: EIO}}
      - {path: "/**", mode: audit, do: {errno: EIO}}
"""


def told(person: Person, place: Path, policy: str, script: str) -> list[str]:
    (place / "p.yaml").write_text(policy)
    done = run(person, "python3", "-c", script, options=["--policy", str(place / "p.yaml")])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_leads_nowhere_is_the_kernels_to_say(person: Person, place: Path) -> None:
    """Also beside rules that are in force: those are about other calls."""
    without = told(person, place, "version: 1\nsyscalls: {}\n", NOWHERE)
    assert {line.rpartition(" ")[2] for line in without} >= {"EPERM", "ENODEV", "ENOENT", "EEXIST"}
    assert told(person, place, BESIDE_OTHERS, NOWHERE) == without


@pytest.mark.parametrize("audit", [False, True])
def test_replay_knows_that_nobody_has_looked_again(
    person: Person, place: Path, audit: bool
) -> None:
    """Of what leads nowhere the first look is what counts: under the same policy nothing flips."""
    file, log = place / "p.yaml", place / "log"
    mode = "mode: audit\nsyscalls" if audit else "syscalls"
    file.write_text(BESIDE_OTHERS.replace("syscalls", mode, 1))
    options = ["--policy", str(file), "--audit", str(log)]
    done = run(person, "python3", "-c", NOWHERE, options=options)
    assert done.returncode == 0, done.stderr
    found = [one for one in map(json.loads, log.read_text().splitlines()) if "syscall" in one]
    assert {one["nowhere"] for one in found if "nowhere" in one} >= {"ENOENT"}
    assert not [one for one in found if "nowhere" in one and "facts" in one]
    replayed = subprocess.run(
        seccompd(person, "replay", "--policy", str(file), "-o", "json", str(log)),
        env=person.environ(), capture_output=True, text=True,
    )  # fmt: skip
    told = json.loads(replayed.stdout)
    assert told["calls"] > 3
    assert (told["flips"], replayed.returncode) == ([], 0)
    assert told["not_recorded"] == 0


TO_AND_FRO = """
import ctypes, os, sys, threading, time
libc = ctypes.CDLL(None)
ways = [f"{sys.argv[1]}/{name}/x".encode() for name in ("gone", "here")]
path = ctypes.create_string_buffer(ways[0], 200)
end = time.monotonic() + 3
def turn():
    while time.monotonic() < end:
        for one in ways:
            path[:len(one)] = one
threading.Thread(target=turn).start()
tries = 0
while time.monotonic() < end:
    libc.mkdir(path, 0o777)
    tries += 1
print(tries, os.path.isdir(ways[1]))
"""


def test_who_is_refused_does_not_pass_by_what_leads_nowhere(person: Person, place: Path) -> None:
    """The first look knows nothing of who calls: another rule's audit mode lets nobody go whom a
    rule in force refuses."""
    (place / "here").mkdir()
    (place / "here").chmod(0o777)
    file = place / "p.yaml"
    script = ["python3", "-c", TO_AND_FRO, str(person.given(place))]
    for refuses, made in (("0", "False"), ("5", "True")):
        file.write_text(
            "version: 1\nsyscalls:\n  mkdir:\n    otherwise: kernel\n    rules:\n"
            f"      - {{uid: {refuses}, do: {{errno: EIO}}}}\n"
            f"      - {{path: '{place}/**', mode: audit, do: emulate}}\n"
        )
        done = run(person, *script, options=["--policy", str(file)])
        assert done.returncode == 0, done.stderr
        tries, found = done.stdout.split()
        assert int(tries) > 100
        assert found == made


def test_an_open_for_the_records_gets_nobody_past_a_refusal(person: Person, place: Path) -> None:
    """Who calls is known at the second look alone: an audit rule behind does not spare that."""
    policy = """version: 1
syscalls:
  open:
    - {uid: 0, path: "/**/held", do: {errno: EIO}, accept_race: true}
    - {path: "/**/held", mode: audit, do: {errno: EACCES}, accept_race: true}
    - {do: continue, accept_race: true}
"""
    for name in ("held", "other"):
        (place / name).write_text(name)
        (place / name).chmod(0o644)
    script = "cat held; cat $PWD/held; cat other"
    done, found = recorded(person, place, policy, script)
    assert done.stdout == "other"
    assert [one["errno"] for one in found] == ["EIO", "EIO"]
    assert not [one for one in found if "mode" in one]
