"""attach.sock: what an admin grants a user for one command, who cannot have it, and its end."""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.policy import store
from supervisor.policy.traits import Traits
from tests.live.test_mount_kernel import make_image
from tests.support import people
from tests.support.daemon import Daemon, serving
from tests.support.inside import wait_for
from tests.support.mounting import loops, no_loops
from tests.support.people import ROOT, Person, python
from tests.support.program import Started, seccompd
from tests.support.scratch import a_place, compile_c, scratch

GRANTED = """
version: 1
match: {{door: attach, peer_uid: [{uid}]}}
on_error: ENOMEDIUM
syscalls:
  mknod:
    - {{devices: ["null"], do: emulate}}
    - {{devices: ["block 7:*"], do: emulate}}
    - {{devices: [full], do: {{emulate: {{realise: node}}}}}}
  mount:
    otherwise: kernel
    rules:
      - {{fstype: ext4, source: "**/by-fuse", options: {{allow: ["*"]}}, do: {{emulate: {{via: fuse}}}}}}
      - {{fstype: ext4, source: "**/by-kernel", options: {{allow: ["*"]}},
         do: {{emulate: {{via: kernel}}}}}}
"""  # noqa: E501
LOOPS = """
  open:
    - {path: [/dev/loop-control, "/dev/loop*"], do: {inject: {loops: "200-203"}}}
"""
# Nobody's at this door: it stands first, and would be everybody's at another one.
FOR_ALL = """
version: 1
match: {}
syscalls:
  mknod:
    - {devices: ["null", full], do: emulate}
"""

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def alone(root: Person) -> Person:
    """Somebody with a policy, and a single id."""
    assert root.name is None
    return people.without_ranges("sd-alone")


@pytest.fixture(scope="module")
def daemon(root: Person, user: Person, alone: Person, place: Path) -> Iterator[Daemon]:
    policies = {
        "all": FOR_ALL,
        "users": GRANTED.format(uid=user.uid),
        "roots": GRANTED.format(uid=0),
        "bare": GRANTED.format(uid=alone.uid) + LOOPS,
    }
    limits = {"attached": 3}
    before = os.getgroups()
    os.setgroups([0])  # as a login of root's has, and no session may
    try:
        with serving(root, place, policies, doors=["oci", "attach"], limits=limits) as found:
            os.setgroups(before)
            yield found
    finally:
        os.setgroups(before)


@pytest.fixture
def folder(place: Path, user: Person) -> Iterator[Path]:
    """A directory of the user's."""
    with scratch(0o755, below=str(place)) as found:
        os.chown(found, user.uid, user.gid)
        yield found


def door(daemon: Daemon) -> str:
    return str(daemon.runtime / "attach.sock")


def words(daemon: Daemon, script: str, *options: str) -> list[str]:
    return ["run", f"--attach={door(daemon)}", *options, "--", "sh", "-c", script]


def run(
    daemon: Daemon, person: Person, script: str, *options: str
) -> subprocess.CompletedProcess[str]:
    started = Started(person, words(daemon, script, *options))
    done = started.finish()
    assert started.wait_gone() == []
    nothing_left(daemon)
    return done


def nothing_left(daemon: Daemon) -> None:
    """No session, no helper, no program that served a mount."""
    kinds = ("session", "path", "make", "spare")
    wait_for(lambda: [daemon.ours(kind) for kind in kinds], lambda found: not any(found))


# -- what is granted


def test_nodes_as_roots(daemon: Daemon, user: Person, folder: Path) -> None:
    """Below no user's right: a block device, whose node an ordinary user has nowhere."""
    script = f"""cd {folder}; set -e
        mknod n c 1 3; mknod -m 640 b b 7 200; chown 5:6 b; chmod 601 n
        stat -c '%F %t:%T %a %u:%g' n b; echo hello >n; mv n m; ln m o; stat -c %h m; rm o
        id -u; grep -c . /proc/self/uid_map"""
    done = run(daemon, user, script)
    assert done.stdout.splitlines() == [
        "character special file 1:3 601 0:0", "block special file 7:c8 640 5:6", "2", "0", "2",
    ], done.stderr  # fmt: skip
    new = daemon.records()
    assert {one["policy"] for one in new if one["session"].startswith("attach:")} == {"users"}
    # outside, and later, there is nothing of it but the places where it stood
    assert sorted(os.listdir(folder)) == ["b", "m"]
    assert all(stat.S_ISREG(os.lstat(folder / name).st_mode) for name in ("b", "m"))


def test_with_a_single_id(daemon: Daemon, alone: Person, place: Path) -> None:
    """Nobody can drop groups in such a user namespace: the groups are the user's, never root's."""
    with scratch(0o755, below=str(place)) as closed:
        (closed / "d").mkdir()
        for folder in (closed, closed / "d"):
            os.chown(folder, alone.uid, alone.gid)
        script = f"cd {closed}/d && mknod n c 1 3 && stat -c %F n; grep ^Groups /proc/self/status"
        said = run(daemon, alone, script).stdout.splitlines()
        assert said[0] == "character special file"
        assert said[1].split()[1:] == ["0"]
        groups = Path(f"/proc/{daemon.pid}/status").read_text().partition("Groups:")[2].split("\n")
        assert "0" in groups[0].split(), "root's group is what the rest is about"
        os.chown(closed, 0, 0)
        closed.chmod(0o750)
        assert "Permission denied" in run(daemon, alone, f"mknod {closed}/d/m c 1 3").stderr
        assert not (closed / "d" / "m").exists()


def test_no_node_stays(daemon: Daemon, user: Person, folder: Path) -> None:
    """A real one would be the user's own, for ever. (mknod full is `realise: node`.)"""
    seen = f"""cd {folder}; mkdir d; mount -t tmpfs none d
        mknod full c 1 7; mknod d/null c 1 3; test -c d/null && echo made"""
    done = run(daemon, user, seen)
    assert done.stdout == "made\n"
    assert "Operation not permitted" in done.stderr
    assert os.listdir(folder) == ["d"]
    (refused,) = [one for one in daemon.records() if one.get("rule") == "users.yaml:9"]
    assert refused["how"].startswith("no real node")


def test_mounts(daemon: Daemon, user: Person, folder: Path) -> None:
    for name in ("by-fuse", "by-kernel"):
        made = make_image(folder)
        made.rename(folder / name)
        os.chown(folder / name, user.uid, user.gid)
    plain = compile_c("plain_mount", folder, "-static")
    script = f"""cd {folder}; set -e; mkdir m
        for how in fuse kernel; do
            {plain} {folder}/by-$how {folder}/m ext4; cat m/file; stat -c ' %u' m/file
            echo new >m/new; umount m
        done
        {plain} {folder}/by-fuse {folder}/m ext4; echo last >m/last"""
    done = run(daemon, user, script)
    assert done.stdout.splitlines() == ["text 0", "text 0"], done.stderr
    for name, file in (("by-fuse", "new"), ("by-kernel", "new"), ("by-fuse", "last")):
        words = ["debugfs", "-R", f"cat {file}", str(folder / name)]
        shown = subprocess.run(words, capture_output=True, check=True)
        assert shown.stdout.decode() == f"{file}\n"
    no_loops(folder)


def test_the_status_is_the_commands(daemon: Daemon, user: Person) -> None:
    assert run(daemon, user, "exit 7").returncode == 7
    assert run(daemon, user, "kill -TERM $$").returncode == 128 + signal.SIGTERM


def test_of_root(daemon: Daemon, root: Person, place: Path) -> None:
    with scratch(0o755, below=str(place)) as folder:
        root.given(folder)
        done = run(daemon, root, f"cd {folder}; mknod n c 1 3; stat -c %F n")
        assert done.stdout == "character special file\n", done.stderr
        assert {one["policy"] for one in daemon.records()} >= {"roots"}


# -- who cannot have it


@pytest.mark.parametrize("options", [[], ["--policy", "users"], ["--policy", "all"]])
def test_somebody_without_a_policy(
    daemon: Daemon, bare_user: Person, place: Path, options: Sequence[str]
) -> None:
    """Not even one that is for everybody at other doors. The command never runs."""
    done = run(daemon, bare_user, "echo it runs", *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not meant for you" in done.stderr or "no policy is meant for you" in done.stderr
    assert "roots" not in done.stderr, "what others have is not this user's business"


def test_a_policy_of_somebody_else(daemon: Daemon, user: Person) -> None:
    done = run(daemon, user, "echo it runs", "--policy", "roots")
    assert (done.returncode, done.stdout) == (1, "")
    assert run(daemon, user, "echo it runs", "--policy", "users").stdout == "it runs\n"


class Launcher:
    """tests/programs/launcher.py as `person`."""

    def __init__(
        self, daemon: Daemon, person: Person, folder: Path, *more: str, fds: Sequence[int] = ()
    ) -> None:
        self.record = folder / "record"
        text = (ROOT / "tests/programs/launcher.py").read_text()  # which others may not read
        self.process = subprocess.Popen(
            person.argv([python(person), "-c", text, door(daemon), str(self.record), *more]),
            env=person.environ(), cwd=folder, pass_fds=fds, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def said(self) -> dict[str, str]:
        assert self.process.stdout
        found: dict[str, str] = json.loads(self.process.stdout.readline() or "{}")
        return found

    def results(self) -> list[str]:
        return self.record.read_text().split() if self.record.exists() else []

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def foreign(daemon: Daemon, user: Person, folder: Path) -> Iterator[Launcher]:
    found = Launcher(daemon, user, folder)
    yield found
    found.close()
    nothing_left(daemon)


def test_another_launcher(daemon: Daemon, foreign: Launcher) -> None:
    """By the messages that docs/daemon.md has; and what ends with the connection."""
    assert foreign.said() == {"policy": "users"}
    assert "attached" in foreign.said()
    wait_for(foreign.results, lambda found: len(found) > 3)
    assert set(foreign.results()) == {"OK"}
    assert foreign.process.stdin
    print(file=foreign.process.stdin, flush=True)
    wait_for(foreign.results, lambda found: found[-1] == "ENOSYS")
    nothing_left(daemon)


def test_a_process_that_is_not_ones_own(
    daemon: Daemon, user: Person, root: Person, bare_user: Person, folder: Path
) -> None:
    """Somebody else's user namespace, none of one's own, one below one's own, no process at all."""
    with (
        _unshared(bare_user) as others,
        _unshared(user, "unshare", "-r", "-m") as below,
        _unshared(user, user_namespace_only=True) as no_mounts,
    ):
        wrong = {
            str(others): "another user's", str(os.getpid()): "not in a user namespace",
            str(below): "not in a user namespace", str(no_mounts): "mount namespace", "fd": "pidfd",
        }  # fmt: skip
        for pid, why in wrong.items():
            launcher = Launcher(daemon, user, folder, pid)
            try:
                launcher.said()
                assert why in launcher.said()["error"], pid
                assert launcher.process.wait(10) == 0
                assert "OK" not in launcher.results()
            finally:
                launcher.close()
        nothing_left(daemon)


@contextlib.contextmanager
def _unshared(person: Person, *more: str, user_namespace_only: bool = False) -> Iterator[int]:
    """A process of `person`'s in a user namespace, and below `more`."""
    mounts = [] if user_namespace_only else ["-m"]
    script = ["sh", "-c", "echo $$; exec sleep 100"]
    process = subprocess.Popen(
        person.argv(["unshare", "-r", *mounts, *more, *script]), stdout=subprocess.PIPE, cwd="/"
    )
    try:
        assert process.stdout
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


LEND = """
import array, os, select, socket, sys
from supervisor.kernel import idmap
from supervisor.kernel.launch import Init, Kind, Launch, Namespace
code, record = bytes.fromhex(sys.argv[1]), sys.argv[2]
maps = idmap.single(os.getuid(), os.getgid())
words = [sys.executable, "-c", sys.argv[3], record]
init = Init(Launch(words, code, Namespace.USER | Namespace.MOUNT | Namespace.PID, maps.identity))
idmap.write(init.pid, maps)
init.go()
while True:
    select.select([init.sock], [], [])
    event = init.next()
    if event is not None and event.kind is Kind.LISTENER:
        break
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [event.listener]))]
socket.socket(fileno=int(sys.argv[4])).sendmsg([b"l"], rights)
sys.stdin.read()
"""
CALLS = """
import errno, os, sys
try:
    os.mknod("stolen", 0o20666, 0x103)
    said = "OK"
except OSError as error:
    said = errno.errorcode[error.errno]
print(said, file=open(sys.argv[1], "a"), flush=True)
__import__("time").sleep(100)
"""


def test_a_listener_of_somebody_elses_command(
    daemon: Daemon, user: Person, bare_user: Person, folder: Path
) -> None:
    """Handed over with a process of one's own: its callers are strangers, and get nothing."""
    file = daemon.place / "policies/users.yaml"
    code = store.load(str(file), Traits("private"), families=FAMILIES)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with scratch(0o755) as other:
        os.chown(other, bare_user.uid, bare_user.gid)
        lender = subprocess.Popen(
            bare_user.argv([python(bare_user), "-c", LEND, code.filter.hex(), str(other / "said"),
                            CALLS, str(theirs.fileno())]),
            env=bare_user.environ(), cwd=other, pass_fds=[theirs.fileno()], stdin=subprocess.PIPE,
        )  # fmt: skip
        try:
            theirs.close()
            ours.settimeout(20)
            _, fds, _, _ = socket.recv_fds(ours, 10, 1)
            own = Launcher(daemon, user, folder, "0", str(fds[0]), fds=fds)
            try:
                own.said()
                assert "attached" in own.said()
                wait_for((other / "said").exists, bool)
                assert (other / "said").read_text() == "ENOMEDIUM\n", "on_error"
                assert not (other / "stolen").exists()
            finally:
                own.close()
                os.close(fds[0])
        finally:
            lender.kill()
            lender.communicate()
            ours.close()
    nothing_left(daemon)


def test_only_so_many_commands_of_one_user(daemon: Daemon, user: Person) -> None:
    waiting = [Started(user, words(daemon, "echo; sleep 100")) for _ in range(3)]
    try:
        for one in waiting:
            assert one.process.stdout
            one.process.stdout.readline()
        assert "3 commands of yours" in run_only(daemon, user, "true").stderr
    finally:
        for one in waiting:
            one.kill()
    nothing_left(daemon)
    assert run(daemon, user, "true").returncode == 0


def run_only(daemon: Daemon, person: Person, script: str) -> subprocess.CompletedProcess[str]:
    return Started(person, words(daemon, script)).finish()


WRONG = {
    "no JSON": b"{]",
    "no object": b"[]",
    "no version": b'{"do": "filter"}',
    "another version": b'{"version": 2, "do": "filter"}',
    "nothing to do": b'{"version": 1}',
    "an unknown field": b'{"version": 1, "do": "filter", "uid": 0}',
    "no name": b'{"version": 1, "do": "filter", "policy": "../x"}',
    "descriptors that did not come":
        b'{"version": 1, "do": "attach", "fds": ["seccompFd", "pidFd"]}',
    "descriptors without names": b'{"version": 1, "do": "filter"}+fd',
    "too large": b'{"version": 1, "do": "filter", "policy": "' + b"x" * 70_000 + b'"}',
}  # fmt: skip


def test_messages_that_are_wrong(daemon: Daemon) -> None:
    """They cost whoever sent them the connection and the descriptors, and nobody else anything."""
    before = daemon.held()
    read, write = os.pipe()
    for what, data in WRONG.items():
        message, plus, _ = data.partition(b"+fd")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(20)
            sock.connect(door(daemon))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write]))]
            sock.sendmsg([message], rights if plus else [])
            assert json.loads(sock.recv(4096)).keys() == {"error"}, what
            assert sock.recv(4096) == b"", what
    os.close(read)
    os.close(write)
    wait_for(daemon.held, lambda now: now == before)


# -- the end


BUSY = """cd {folder}; mkdir m k
{plain} {folder}/by-fuse {folder}/m ext4 && {plain} {folder}/by-kernel {folder}/k ext4 &&
mknod n c 1 3 && (setsid sleep 1000 & setsid sleep 1001 & echo $! >pid; echo ready; wait)"""


@pytest.mark.parametrize("what", ["front", "daemon", "command"])
def test_nothing_outlives(
    root: Person, user: Person, what: str, place: Path, folder: Path, daemon: Daemon
) -> None:
    """Not the command and what it left behind, no helper, no FUSE program, no loop device."""
    assert daemon
    for name in ("by-fuse", "by-kernel"):
        make_image(folder).rename(folder / name)
        os.chown(folder / name, user.uid, user.gid)
    plain = compile_c("plain_mount", folder, "-static")
    with scratch(0o755) as own:
        policies = {"users": GRANTED.format(uid=user.uid)}
        with serving(root, own, policies, doors=["oci", "attach"]) as other:
            script = BUSY.format(folder=folder, plain=plain)
            started = Started(user, words(other, script))
            try:
                assert started.process.stdout
                assert started.process.stdout.readline() == b"ready\n", started.finish().stderr
                assert loops(folder)
                assert _programs(folder)
                if what == "front":
                    os.kill(started.process.pid, signal.SIGKILL)
                elif what == "daemon":
                    other.kill()
                else:
                    _end_command(started)
                assert started.wait_gone() == []
                no_loops(folder)
                wait_for(lambda: _programs(folder), lambda found: not found)
                nothing_left(other)
                said = started.finish().stderr
                if what == "daemon":
                    assert started.process.returncode == 128 + signal.SIGKILL
                    assert "the daemon has gone" in said
                    other.start()
            finally:
                started.kill()


def _end_command(started: Started) -> None:
    """Ends the shell that is CMD, and then, since it leaves others, the rest as Ctrl-C does."""
    for pid in _shells(started):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: _shells(started), lambda found: not found)
    os.kill(started.process.pid, signal.SIGTERM)


def _shells(started: Started) -> list[int]:
    found = []
    for pid in started.processes():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if Path(f"/proc/{pid}/comm").read_text() == "sh\n":
                found.append(pid)
    return found


def _programs(folder: Path) -> list[str]:
    """FUSE programs that have the image in `folder` open."""
    image = os.stat(folder / "by-fuse")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"fuse2fs" in (entry / "cmdline").read_bytes() and any(
                os.path.samestat(os.stat(fd), image) for fd in (entry / "fd").iterdir()
            ):
                found.append(entry.name)
    return found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trace"], "--trace and --attach"),
        (["--audit", "/dev/null"], "--audit and --attach"),
        (["--map", "none"], "needs a user namespace"),
        (["--policy", "./mine.yaml"], "one of the daemon's"),
    ],
)
def test_options_that_do_not_go_with_it(user: Person, options: list[str], said: str) -> None:
    done = subprocess.run(
        seccompd(user, "run", "--attach", *options, "--", "true"),
        env=user.environ(), capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr


def test_where_no_daemon_is(user: Person, place: Path) -> None:
    done = Started(user, ["run", f"--attach={place}/nobody.sock", "--", "true"]).finish()
    assert done.returncode == 1
    assert "no daemon serves here" in done.stderr
    assert "Traceback" not in done.stderr


def test_somebody_who_comes_again_and_again(daemon: Daemon, alone: Person, root: Person) -> None:
    """Neither the log nor the daemon's descriptors are filled, and others are served meanwhile."""
    log, held = len(daemon.log()), len(os.listdir(f"/proc/{daemon.pid}/fd"))
    script = f"""
import socket, sys
for number in range(3000):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.connect({door(daemon)!r})
    try:
        one.send(b"{{]")
    except OSError:
        pass
    if number == 1500:
        print("half", flush=True)
"""
    crowd = subprocess.Popen(alone.argv([python(alone), "-c", script]), stdout=subprocess.PIPE)
    try:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == b"half\n"
        assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < held + 1000
        assert run(daemon, root, "true").returncode == 0
        assert crowd.wait(60) == 0
    finally:
        crowd.kill()
        crowd.communicate()
    lines = daemon.log()[log:].count("is refused: not JSON")
    assert 0 < lines <= 100, "of 3000"
    nothing_left(daemon)


def test_no_loop_devices(daemon: Daemon, alone: Person) -> None:
    """Who holds the listener could let their ioctls go on."""
    code = """if True:
    import errno, fcntl, os
    for name, op in (("loop-control", 0x4C82), ("loop200", 0x4C05)):
        try:
            fcntl.ioctl(os.open("/dev/" + name, os.O_RDWR), op, bytes(232))
        except OSError as error:
            print(errno.errorcode[error.errno])
    """
    done = run(daemon, alone, f"{python(alone)} -c '{code}'")
    assert done.stdout.split() == ["EPERM", "EPERM"], done.stderr
