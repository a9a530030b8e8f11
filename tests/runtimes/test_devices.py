"""Devices that are given to a container while it runs, and taken away again."""

from __future__ import annotations

import json
import mmap
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import FIRST_ID, Bundle, bundle
from tests.support.daemon import Daemon, serving
from tests.support.device_cgroup import hierarchy, only_minor
from tests.support.inside import wait_for
from tests.support.manager import Manager
from tests.support.people import Person
from tests.support.scratch import a_place, scratch

POLICY = """
version: 1
match: {door: oci, user_namespace: [own, host]}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
"""
STILL_HELD = 3
BACKGROUND = ">/dev/null 2>&1 &"


def served(daemon: Daemon) -> list[str]:
    return [row["container"] for row in daemon.ask("ps")]


class Box:
    """A container that runs, and what the daemon does for it."""

    def __init__(self, daemon: Daemon, found: Bundle) -> None:
        self.daemon = daemon
        self.bundle = found
        self.name = found.start()
        wait_for(lambda: served(daemon), lambda names: self.name in names)

    def sh(self, script: str) -> str:
        """What a script says in the container."""
        done = self.bundle.exec(self.name, script)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, script: str) -> str:
        """What a script complains of."""
        done = self.bundle.exec(self.name, script)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def device(self, order: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.daemon.command("device", order, self.name, *words)

    def add(self, path: str, *options: str, device: str = "/dev/zero") -> None:
        done = self.device("add", device, path, *options)
        assert (done.returncode, done.stderr) == (0, "")

    def remove(self, path: str, status: int = 0) -> dict[str, Any]:
        done = self.device("remove", path, "-o", "json")
        assert done.returncode == status, (done.stdout, done.stderr, self.daemon.log())
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.device("list", "-o", "json").stdout)
        return found

    def states(self) -> dict[str, str]:
        return {row["path"]: row["state"] for row in self.rows()}

    def seen(self, path: str) -> str:
        """A path of the container's, for the host."""
        return f"/proc/{self.bundle.pid(self.name)}/root{path}"

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"nodes": POLICY}, limits={"mount": 5}) as found:
        yield found


def new_box(daemon: Daemon, place: Path, *, userns: bool = True) -> Iterator[Box]:
    with bundle(place, daemon.profile("nodes"), userns=userns) as found:
        box = Box(daemon, found)
        yield box
        found.delete(box.name)
    wait_for(lambda: served(daemon), lambda names: box.name not in names)


@pytest.fixture(scope="module")
def box(daemon: Daemon, place: Path) -> Iterator[Box]:
    yield from new_box(daemon, place)


@pytest.fixture(scope="module")
def rootful(daemon: Daemon, place: Path) -> Iterator[Box]:
    yield from new_box(daemon, place, userns=False)


@pytest.mark.parametrize("kind", ["box", "rootful"])
def test_a_device_comes_and_goes(request: pytest.FixtureRequest, kind: str) -> None:
    box: Box = request.getfixturevalue(kind)
    box.add("/my/own/zero", "--mode", "0640", "--owner", "7:8")
    said = box.sh("stat -c '%F %a %u:%g %t:%T' /my/own/zero; head -c 5 /my/own/zero | wc -c")
    assert said == "character special file 640 7:8 1:5\n5\n"
    assert box.sh("stat -c '%a %u' /my /my/own").split() == ["755", "0"] * 2
    (row,) = box.rows()
    assert [row[name] for name in ("container", "path", "device", "mode", "owner", "by")] == [
        box.name, "/my/own/zero", "char 1:5", "0640", "7:8", 0,
    ]  # fmt: skip
    assert (row["state"], row["mounted"], row["notes"]) == ("there", ["/my/own/zero"], [])
    shown = box.device("list").stdout.splitlines()[1].split()
    assert shown[:6] == [box.name, "/my/own/zero", "char", "1:5", "0640", "7:8"]
    assert box.remove("/my/own/zero")["holders"] == []
    assert box.sh("ls -A /my/own") == ""
    assert box.rows() == []
    assert "has not been given" in box.device("remove", "/my/own/zero").stderr


def test_mode_and_owner_by_themselves(box: Box) -> None:
    host = os.stat("/dev/random")
    box.add("/tmp/random", device="/dev/random")
    box.add("/tmp/numbers", device="char 1:5")
    found = os.stat(box.seen("/tmp/random"))
    assert stat.S_IMODE(found.st_mode) == stat.S_IMODE(host.st_mode)
    assert (found.st_uid, found.st_gid, found.st_rdev) == (FIRST_ID, FIRST_ID, host.st_rdev)
    assert box.sh("stat -c '%a %t:%T' /tmp/numbers") == "660 1:5\n"
    # the container's root has it as its own; the host's node is another
    box.sh("chmod 600 /tmp/random && chown 9:9 /tmp/random")
    assert os.stat("/dev/random") == host
    for path in ("/tmp/random", "/tmp/numbers"):
        box.remove(path)


def test_what_holds_it_is_named(box: Box) -> None:
    box.add("/held")
    script = "exec 3</held; while ! test -e /go; do sleep 0.1; done; head -c 4 <&3 | wc -c >/said"
    box.sh(f"sh -c '{script}' {BACKGROUND}\nwhile ! test -e /proc/$!/fd/3; do sleep 0.1; done")
    ours = os.open(box.seen("/held"), os.O_RDONLY)
    with mmap.mmap(ours, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        os.close(ours)
        found = box.remove("/held", STILL_HELD)
        assert mapped[0] == 0
    how = {(one["comm"], one["how"]) for one in found["holders"] if one["pid"] != os.getpid()}
    assert ("sh", "open") in how
    assert {name for name, _ in how} <= {"sh", "sleep"}
    # Python's mmap keeps a descriptor of its own beside the mapping
    assert [one["how"] for one in found["holders"] if one["pid"] == os.getpid()] == ["open"]
    assert "No such file" in box.fails("head -c 1 /held")
    box.sh("touch /go; while ! test -s /said; do sleep 0.1; done; rm /go")
    assert box.sh("cat /said; rm /said") == "4\n"


MAPPING = "import ctypes, os, sys; c = ctypes.CDLL(None, use_errno=True); c.mmap.restype = \
ctypes.c_void_p; fd = os.open(sys.argv[1], 0); c.mmap(None, 4096, 1, 2, fd, ctypes.c_long(0)); \
os.close(fd); print(flush=True); sys.stdin.read()"


def test_a_mapping_holds_it(box: Box) -> None:
    box.add("/mapped")
    words = ["python3", "-c", MAPPING, box.seen("/mapped")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        done = box.device("remove", "/mapped")
        comm = Path(f"/proc/{holder.pid}/comm").read_text().strip()
        assert (done.returncode, done.stderr) == (STILL_HELD, "")
        assert done.stdout == f"still mapped: {comm}[{holder.pid}]\n"
        holder.communicate()
    assert holder.returncode == 0


# What the container has done, the state that `list` shows then, and how it is cleaned up.
MOVED = [
    ("touch /h/to; mount --move /h/z /h/to", "moved", "test ! -c /h/to"),
    ("touch /h/to; mount -o bind /h/z /h/to", "there", "test ! -c /h/to"),
    ("touch /h/to; mount -o bind /h/z /h/to; umount /h/z", "moved", "test ! -c /h/to"),
    ("umount /h/z", "gone", ":"),
    ("umount /h/z; rm /h/z; echo kept >/h/z", "gone", "test -s /h/z"),
    # as the kernel says of what is mounted on, also where the policy's own nodes can be removed
    ("mknod /dev/n c 1 3 && ! rm /h/z && ! mv /h/z /h/y && rm /dev/n", "there", ":"),
    ("busybox unshare -m sh -c 'umount /h/z; busybox rm /h/z'", "gone", ":"),
]


@pytest.mark.parametrize(("script", "state", "after"), MOVED, ids=range(len(MOVED)))
def test_wherever_the_container_has_brought_it(
    box: Box, script: str, state: str, after: str
) -> None:
    box.add("/h/z")
    box.sh(script)
    assert box.states() == {"/h/z": state}
    assert box.remove("/h/z")["hidden"] == 0
    box.sh(f"{after} && rm -r /h")


@pytest.mark.parametrize("kind", ["box", "rootful"])
def test_hidden_below_another_mount(request: pytest.FixtureRequest, kind: str) -> None:
    box: Box = request.getfixturevalue(kind)
    box.add("/h/z")
    box.sh("mkdir /h2; mount -t tmpfs none /h2; touch /h2/copy; mount -o bind /h/z /h2/copy")
    box.sh("mount -t tmpfs none /h")
    found = box.remove("/h/z", STILL_HELD)
    assert found["hidden"] == 1
    assert [one["how"] for one in found["holders"]] == ["mounted"]
    assert "hidden below" in box.device("remove", "/h/z").stderr
    box.sh("test ! -c /h2/copy && umount /h2 && rm -r /h2")
    assert box.states() == {"/h/z": "hidden"}
    if kind == "box":  # whose root has no right to a file of the host's
        assert "Permission denied" in box.fails("umount /h; head -c 1 /h/z")
        assert box.fails("chmod 666 /h/z; chown 0:0 /h/z").count("not permitted") == 2
    else:
        box.sh("umount /h")
    assert box.remove("/h/z")["hidden"] == 0
    assert box.rows() == []
    box.sh("rmdir /h")


def test_a_copy_in_another_namespace_opens_no_more(box: Box) -> None:
    box.add("/z")
    script = (
        "touch /copy; mount -o bind /z /copy; touch /in; while ! test -e /try; do sleep 0.1; done; "
        "head -c 1 /copy >/got 2>/why; touch /tried"
    )
    box.sh(f"busybox unshare -m sh -c '{script}' {BACKGROUND}\n"
           "while ! test -e /in; do sleep 0.1; done")  # fmt: skip
    found = box.remove("/z", STILL_HELD)
    assert [(one["how"], one["path"]) for one in found["holders"]] == [("mounted", "/copy")]
    box.sh("touch /try; while ! test -e /tried; do sleep 0.1; done")
    assert "Permission denied" in box.sh("cat /why")
    box.sh("rm /copy /in /try /tried /got /why")


REFUSED = [
    (("/dev/zero", "/bin/sh"), "File exists"),
    (("/dev/zero", "/dangling"), "File exists"),
    (("/dev/zero", "/bin/sh/x"), "Not a directory"),
    (("/dev/zero", "/magic/x"), "symbolic links"),
    (("/dev/zero", "/sys/x"), "Read-only"),
    (("/dev/zero", "/a/../b"), 'begins with "/"'),
    (("/etc/passwd", "/x"), "no device"),
    (("/dev/none-such", "/x"), "No such file"),
    (("/dev/zero", "/x", "--owner", "70000:0"), "uid 70000 is not mapped"),
    # what runc allows is little, and a node that does not open is of no use
    (("char 10:229", "/x"), "device cgroup does not let the container open char 10:229"),
]


@pytest.fixture(scope="module")
def prepared(box: Box) -> Iterator[Box]:
    box.sh("ln -s /none /dangling; ln -s /proc/1/cwd /magic; ls / >/tmp/before")
    yield box
    box.sh("ls / | cmp - /tmp/before; rm /dangling /magic /tmp/before")
    assert box.rows() == []


@pytest.mark.parametrize(("words", "why"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(prepared: Box, words: tuple[str, ...], why: str) -> None:
    done = prepared.device("add", *words)
    assert done.returncode == 1
    assert why in done.stderr


@pytest.mark.skipif(not hierarchy(), reason="no cgroups of version 2")
def test_what_cgroups_of_version_2_refuse(box: Box) -> None:
    """Their device controller is a program of the runtime's."""
    with only_minor(5, box.bundle.pid(box.name)) as cgroup:
        done = box.device("add", "/dev/null", "/x")
        assert (done.returncode, "char 1:3" in done.stderr) == (1, True)
        assert "device cgroup" in done.stderr
        box.add("/x")
        box.remove("/x")
        # nobody of ours stays there
        assert (cgroup / "cgroup.procs").read_text().split() == [str(box.bundle.pid(box.name))]


def test_which_container(daemon: Daemon, box: Box, rootful: Box) -> None:
    for name in (box.name, f"oci:{box.name}", box.name[:-1]):
        assert daemon.command("device", "add", name, "/dev/zero", "/which").returncode == 0
        assert daemon.command("device", "remove", name, "/which").returncode == 0
    for name, words in (("nix", "there is no container nix"), ("sd-", "may be any of these")):
        done = daemon.command("device", "add", name, "/dev/zero", "/x")
        assert done.returncode == 1
        assert words in done.stderr
        assert f"oci:{box.name}" in done.stderr
        assert f"oci:{rootful.name}" in done.stderr


def test_others_give_and_see_nothing(daemon: Daemon, box: Box, user: Person) -> None:
    box.add("/others")
    for order in ("add", "remove"):
        words = ("/dev/zero", "/x") if order == "add" else ("/others",)
        done = daemon.command("device", order, box.name, *words, person=user)
        assert (done.returncode, "only root" in done.stderr) == (1, True)
    shown = daemon.command("device", "list", "-o", "json", person=user)
    assert json.loads(shown.stdout) == []
    box.remove("/others")


def test_parents_that_are_swapped_lead_nowhere_else(box: Box, place: Path) -> None:
    """Links that the container swaps in, to what the host has at the same path."""
    outside = place / "outside"
    outside.mkdir()
    swap = (
        f"mkdir -p /s/real{place}/outside; while test -e /s; do ln -sfn real /s/d; "
        f"ln -sfn {outside} /s/d; ln -sfn /proc/1/root{outside} /s/d; "
        f"ln -sfn ../../../../../../../..{outside} /s/d; done"
    )
    box.sh(f"mkdir /s; sh -c '{swap}' {BACKGROUND}")
    given = [
        path for path in (f"/s/d/n{number}" for number in range(6))
        if box.device("add", "/dev/zero", path).returncode == 0
    ]  # fmt: skip
    assert list(outside.iterdir()) == []
    assert list(box.states()) == given
    for path in given:
        box.remove(path)
    box.sh("while ! rm -rf /s; do :; done")
    assert list(outside.iterdir()) == []


def test_a_path_that_hangs_delays_nobody_else(box: Box) -> None:
    """A FUSE mount whose program never says a word."""
    box.sh("mkdir /stuck")
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0,allow_other"
    into = ["nsenter", "-t", str(box.bundle.pid(box.name)), "-m", "/bin/busybox"]
    subprocess.run([*into, "mount", "-t", "fuse", "-o", options, "none", "/stuck"], check=True,
                   pass_fds=[server])  # fmt: skip
    try:
        words = box.daemon.words("device", "add", box.name, "/dev/zero", "/stuck/x/zero")
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd="/") as waiting:
            wait_for(lambda: box.daemon.ours("give"), bool)
            box.add("/meanwhile")
            box.remove("/meanwhile")
            assert waiting.poll() is None
            _, said = waiting.communicate(timeout=30)
            assert (waiting.returncode, "no answer within 5 seconds" in said) == (1, True)
        assert box.rows() == []
    finally:
        os.close(server)
        subprocess.run([*into, "umount", "-l", "/stuck"], check=True)
    wait_for(lambda: box.daemon.ours("give"), lambda found: not found)


def test_nothing_is_left_when_the_container_ends(daemon: Daemon, place: Path) -> None:
    before = daemon.held()
    for box in new_box(daemon, place):
        box.add("/a")
        words = ["nsenter", "-t", str(box.bundle.pid(box.name)), "-m", "/bin/sleep", "1000"]
        stays = subprocess.Popen(words)
        comm = Path(f"/proc/{stays.pid}/comm")
        wait_for(comm.read_text, lambda name: name == "sleep\n")
    try:
        wait_for(lambda: daemon.ask("device", "list"), lambda rows: rows == [])
        wait_for(daemon.held, lambda now: now == before)
        # in a mount namespace that somebody keeps, it is nobody's
        found = os.stat(f"/proc/{stays.pid}/root/a")
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0, 0, 0)
    finally:
        stays.kill()
        stays.wait()


def test_the_next_daemon_knows_it(root: Person) -> None:
    with scratch(0o755) as place:
        manager = Manager(place)
        try:
            with serving(root, place, {"nodes": POLICY}, environ=manager.environ) as daemon:
                for box in new_box(daemon, place):
                    box.add("/tmp/z", "--mode", "0604")
                    before = box.rows()
                    manager.keeps(5)  # listener, watches, card, user namespace and the device
                    daemon.kill()
                    assert daemon.started.wait_gone() == []
                    daemon.lead = manager.start()
                    daemon.start()
                    assert box.rows() == before, daemon.log()
                    box.remove("/tmp/z")
                    box.sh("test ! -e /tmp/z")
                    manager.keeps(4)
        finally:
            manager.close()
