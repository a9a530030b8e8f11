"""Who mounts: 32-bit callers, threads, callers with another root or in other namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import ENOSYS, EPERM
from pathlib import Path

import pytest

from tests.live.test_mount_programs import fuse, image, inner_root
from tests.support.people import Person
from tests.support.program import run
from tests.support.scratch import compile_c, scratch
from tests.support.shell import NO

__all__ = ["fuse"]
pytestmark = pytest.mark.needs("fuse2fs")

RULES = """
version: 1
syscalls:
  mount:
    otherwise: kernel
    rules:
      - {fstype: ext3, source: "/**/ext4.img", do: {emulate: {via: fuse}}}
      - {fstype: ext4, source: "**", do: {emulate: {via: kernel}}}
"""


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with scratch(0o755) as folder:
        compile_c("mount_callers", folder, "-pthread")
        (folder / "32").mkdir()
        compile_c("mount_callers", folder / "32", "-pthread", "-m32")
        yield folder


@pytest.fixture
def place(person: Person) -> Iterator[Path]:
    with scratch() as folder:
        file = image(folder)
        os.chown(file, inner_root() if person.name is None else person.uid, -1)
        (folder / "m" / "x").mkdir(parents=True)
        (folder / "rules.yaml").write_text(RULES)
        yield folder


@pytest.fixture(params=["fuse", "kernel"])
def kind(request: pytest.FixtureRequest, person: Person) -> str:
    """The type that is mounted by a program, or by the kernel, which only root can have."""
    if request.param == "kernel" and person.name is not None:
        pytest.skip("only root can mount through the kernel")
    return "ext3" if request.param == "fuse" else "ext4"


def inside(person: Person, programs: Path, place: Path, kind: str, script: str) -> str:
    """`c WHAT` is a call of mount_callers: the image on m; `fails ERRNO ...` expects that."""
    begin = f"""
    cd {place}
    c() {{ {programs}/mount_callers $1 {place}/ext4.img {place}/m ${{2-{kind}}}; }}
    fails() {{ want=$1; shift; s=0; "$@" || s=$?; test $s = $want || {{ echo $s; exit 9; }}; }}
    there() {{ grep -q " {place}/m " /proc/self/mountinfo; test -d m/lost+found; }}
    {NO}
    gone() {{ no grep " {place}/m " /proc/self/mountinfo; no test -e m/lost+found; }}
    """
    options = ("--policy", str(place / "rules.yaml"), "--audit", str(place / "audit"))
    done = run(person, "sh", "-eu", "-c", begin + script, options=options, timeout=60)
    why = (place / "audit").read_text() if done.returncode else ""
    assert (done.returncode, done.stderr) == (0, ""), (done.stdout, why)
    return done.stdout


@pytest.mark.parametrize("what", ["plain", "thread", "orphan", "i386-mount", "chroot"])
def test_a_mount_is_there_for_all(
    person: Person, programs: Path, place: Path, kind: str, what: str
) -> None:
    """A thread's own directory and root count, and not the leader's; nor whether it still lives."""
    script = f"c {what}; there; umount m; gone"
    if what != "i386-mount":  # its umounts are below
        script += f"; c plain; there; c {what} -; gone"
    inside(person, programs, place, kind, script)


def test_a_whole_32_bit_program(person: Person, programs: Path, place: Path, kind: str) -> None:
    script = "c plain; there; umount m; c thread; there; umount m"
    inside(person, programs / "32", place, kind, script)


def test_umounts_of_32_bit_callers(
    person: Person, programs: Path, place: Path, kind: str
) -> None:
    script = """
    c i386-mount; there; c i386-umount; gone
    c i386-mount; there; c i386-umount2; gone
    """
    inside(person, programs, place, kind, script)


def test_x32_callers_do_not_exist(person: Person, programs: Path, place: Path, kind: str) -> None:
    script = f"fails {ENOSYS} c x32-mount; c plain; fails {ENOSYS} c x32-umount2; there"
    inside(person, programs, place, kind, script)


def test_it_lands_in_the_callers_own_mount_namespace(
    person: Person, programs: Path, place: Path, kind: str
) -> None:
    inside(person, programs, place, kind, "c own-namespace; gone")


def test_and_goes_where_that_one_propagates(
    person: Person, programs: Path, place: Path, kind: str
) -> None:
    """As any mount does: below a shared mount to its peers, and away again with the umount."""
    script = f"""
    mkfifo in out
    mount --bind m m; mount --make-shared m
    unshare -m --propagation unchanged sh -c 'while read c; do sh -c "$c"; echo $?; done' <in >out &
    exec 4>in 5<out
    ask() {{ echo "$1" >&4; read answer <&5; test $answer = $2; }}
    ask "test -e {place}/m/x/lost+found" 1
    {programs}/mount_callers plain {place}/ext4.img {place}/m/x {kind}
    ask "test -e {place}/m/x/lost+found" 0
    umount m/x
    ask "test -e {place}/m/x/lost+found" 1
    exec 4>&- 5<&-; wait
    """
    inside(person, programs, place, kind, script)


def test_a_nested_user_namespace_gives_nothing(
    person: Person, programs: Path, place: Path, kind: str
) -> None:
    """Neither a mount, nor what is locked; what it may do by itself, it still may."""
    script = f"""
    fails {EPERM} c nested
    c plain
    unshare -Urm sh -ec '{NO}
      no umount {place}/m 2>/dev/null; test -d {place}/m/lost+found
      no mount -o remount,bind,dev,suid {place}/m 2>/dev/null
      no mount -o remount,dev,suid {place}/m 2>/dev/null
      mount -t tmpfs t /mnt; mkdir /mnt/x; umount /mnt
    '
    there; grep " {place}/m " /proc/self/mountinfo | grep -q nodev
    """
    inside(person, programs, place, kind, script)


def test_without_the_capability(person: Person, programs: Path, place: Path, kind: str) -> None:
    script = f"""
    fails {EPERM} setpriv --bounding-set -sys_admin --inh-caps -sys_admin \\
      {programs}/mount_callers plain {place}/ext4.img {place}/m {kind}
    gone
    """
    inside(person, programs, place, kind, script)
