"""Who calls, and what becomes of a call, in every family: by calls of a real program."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch

# Of each family: the keys of a rule about call number N, and the call.
FAMILIES = {
    "mknod": ('devices: "char 200:{n}"', 'libc.mknod(b"x", 0o20666, os.makedev(200, {n}))'),
    "mkdir": ('path: "**/made{n}"', 'libc.mkdir(b"made{n}", 0o755)'),
    "mount": ("fstype: type{n}", 'libc.mount(b"a", b"/mnt", b"type{n}", 0, None)'),
    "connect": ('to: "127.0.0.1", port: {n}', "to(libc.connect, {n})"),
    "bind": ('address: "127.0.0.1", port: {n}', "to(libc.bind, {n})"),
    "accept": ('from: "127.0.0.{n}"', 'accepted("127.0.0.{n}")'),
    "setsockopt": ('optname: "1:{n}000"', "libc.setsockopt(sock.fileno(), 1, {n}000, None, 0)"),
    "getsockopt": ('optname: "1:{n}000"', "libc.getsockopt(sock.fileno(), 1, {n}000, None, None)"),
    "open": ("path: /etc/given{n}", 'libc.open(b"/etc/given{n}", os.O_RDONLY)'),
    "xattr": ("name: user.n{n}", 'libc.setxattr(b".", b"user.n{n}", b"v", 1, 0)'),
}
SEVEN, ELSE = "{return: 7}", "{errno: EXDEV}"
HEAD = """
import ctypes, errno, os, signal, socket
libc = ctypes.CDLL(None, use_errno=True)
sock = socket.socket()
def to(call, port):
    address = socket.AF_INET.to_bytes(2, "little") + port.to_bytes(2, "big") + bytes((127, 0, 0, 1))
    return call(sock.fileno(), address + bytes(8), 16)
def accepted(peer):
    server, client = socket.socket(), socket.socket()
    server.bind(("127.0.0.1", 0)); server.listen(); server.setblocking(False)
    client.bind((peer, 0)); client.connect(server.getsockname())
    return libc.accept(server.fileno(), None, None)
def outcome(call):
    pid = os.fork()
    if not pid:
        done = call()
        print(errno.errorcode[ctypes.get_errno()] if done < 0 else done, flush=True)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        print(signal.Signals(os.WTERMSIG(status)).name, flush=True)
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o777, "/var/tmp") as folder:
        yield folder


def outcomes(
    person: Person, place: Path, rules: dict[str, list[str]], calls: list[str], head: str = ""
) -> list[str]:
    """What each call comes to in a container under rules by family; its root has no sys_time."""
    file, script = place / "p.yaml", place / "script.py"
    lines = ["version: 1", head, "syscalls:" if rules else "syscalls: {}"]
    for family, some in rules.items():
        lines += [f"  {family}:", "    otherwise: kernel", "    rules:"]
        lines += [f"      - {rule}" for rule in some]
    file.write_text("\n".join(lines) + "\n")
    own = place / f"of-{person.uid}"
    shutil.rmtree(own, ignore_errors=True)  # with what an earlier run has made there
    own.mkdir()
    (own / "a").touch()  # what is mounted: a path that leads nowhere is refused by seccompd
    (own / "a").chmod(0o666)
    there = f"os.chdir({str(person.given(own))!r})\n"
    script.write_text(HEAD + there + "".join(f"outcome(lambda: {call})\n" for call in calls))
    done = run(
        person, "setpriv", "--bounding-set", "-sys_time", "--inh-caps", "-sys_time", "--",
        python(person), str(script), options=["--policy", str(file)], timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def test_who_calls_is_found_out_in_every_family(person: Person, place: Path) -> None:
    """A rule that refuses matches as well where something is not known: none of those decides."""
    who = {
        "uid": ("0", "5"),
        "gid": ("0", "5"),
        "host_uid": (str(person.inner_root), "4242"),
        "host_gid": (str(person.inner_root if person.uid == 0 else person.gid), "4242"),
        "capability": ("[sys_time, sys_admin]", "sys_time"),
        "executable": ('"**/python3*"', '"/no/such/program"'),
        "cgroup": ('"**"', '"/no/such/cgroup"'),
    }
    rules: dict[str, list[str]] = {}
    calls = []
    for family, (where, call) in FAMILIES.items():
        given = "{inject: {content: seven}}" if family == "open" else SEVEN
        for number, (key, (mine, others)) in enumerate(who.items(), start=1):
            at = where.format(n=number)
            rules.setdefault(family, []).extend([
                f"{{{at}, {key}: {others}, do: {{errno: ENOANO}}}}",
                f"{{{at}, {key}: {mine}, do: {given}}}",
            ])  # fmt: skip
            calls.append(call.format(n=number))
        rules[family].append("{do: continue, accept_race: true}")
    found = outcomes(person, place, rules, calls)
    asked = itertools.product(FAMILIES, who)
    descriptor = "4"  # the lowest that is free: the streams come first, and the socket
    assert dict(zip(asked, found, strict=True)) == {
        (family, key): descriptor if family == "open" else "7"
        for family, key in itertools.product(FAMILIES, who)
    }


def test_what_is_only_recorded_goes_as_without_seccompd_in_every_family(
    root: Person, place: Path
) -> None:
    """By rules that are only recorded, by a policy that is, and by one that has no rules."""
    verdicts = ["{errno: EXDEV}", SEVEN, "kill", "refuse", "{EMULATE}"]
    emulated = {
        "mount": '{emulate: {via: fuse, program: [/bin/false, "{source}", "{target}"]}}',
        "open": "{inject: {content: x}}",
    }  # fmt: skip
    rules: dict[str, list[str]] = {}
    calls = []
    for family, (where, call) in FAMILIES.items():
        for number, do in enumerate(verdicts, start=1):
            does = emulated.get(family, "emulate") if do == "{EMULATE}" else do
            # an option that has no name is emulated for nobody: of its level all are
            whole = do == "{EMULATE}" and "optname" in where
            at = "level: SOL_SOCKET" if whole else where.format(n=number)
            rules.setdefault(family, []).append(
                f"{{{at}, mode: audit, accept_race: true, do: {does}}}"
            )
            calls.append(call.format(n=number))
        # where all of a family is only recorded nobody would have to look at the others
        rules[family] += [
            f"{{{where.format(n=9)}, do: refuse}}", "{do: continue, accept_race: true}",
        ]  # fmt: skip
    alone = outcomes(root, place, {}, calls)
    assert len(alone) == len(FAMILIES) * len(verdicts)
    assert not {"EXDEV", "7", "SIGKILL"} & set(alone)
    assert outcomes(root, place, rules, calls) == alone
    assert outcomes(root, place, rules, calls, "mode: audit") == alone


def test_every_verdict_in_every_family(person: Person, place: Path) -> None:
    verdicts = {"{errno: EXDEV}": "EXDEV", "{return: 7}": "7", "kill": "SIGKILL"}
    refused = {"mknod": "EPERM", "mount": "EPERM", "connect": "EACCES", "bind": "EACCES",
               "open": "EACCES", "mkdir": "EACCES", "setsockopt": "EPERM",
               "getsockopt": "EPERM", "accept": "EAGAIN", "xattr": "EPERM"}  # fmt: skip
    rules: dict[str, list[str]] = {}
    calls, wanted = [], {}
    for family, (where, call) in FAMILIES.items():
        mine = {**verdicts, "refuse": refused[family]}
        for number, (do, outcome) in enumerate(mine.items(), start=1):
            rules.setdefault(family, []).append(f"{{{where.format(n=number)}, do: {do}}}")
            calls.append(call.format(n=number))
            wanted[family, do] = outcome
        rules[family].append("{do: continue, accept_race: true}")
    assert dict(zip(wanted, outcomes(person, place, rules, calls), strict=True)) == wanted
