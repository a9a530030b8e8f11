"""A node that is a bind mount behaves as a node: what is done to it later, and what is left."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counts import ours
from tests.support.needs import need
from tests.support.people import Person
from tests.support.program import Started, run
from tests.support.scratch import scratch
from tests.support.shell import NO

POLICY = """\
version: 1
name: bind
syscalls:
  mknod:
    - {devices: ["null", zero, full], do: {emulate: {realise: bind}}}
"""

NAMES = """
mknod a c 1 3; mknod b c 1 5; echo > file; ln -s a link; mkdir dir
test -c a; echo x > a; test "$(head -c 2 b | od -An -tx1 | tr -d ' ')" = 0000
# rename: onto nothing, onto a file, onto a node, of a file onto a node, of the directory, exchange
mv a c; test -c c; test ! -e a
mv -T file f2; mv -fT c f2; test "$(stat -c %t:%T f2)" = 1:3
mknod c c 1 7; mv -fT f2 c; test "$(stat -c %t:%T c)" = 1:3; test ! -e f2
echo > file; mv -fT file c; test -f c; rm c
mv b dir/; mv dir dir2; test -c dir2/b; mv dir2/b .; mv dir2 dir
# link: same inode, and each name goes by itself
ln b b2; test "$(stat -c %i b)" = "$(stat -c %i b2)"; ln b dir/b3; rm b; test -c b2; rm dir/b3
ln b2 dir; test -c dir/b2; rm dir/b2
no ln -T b2 link 2>/dev/null
test "$(stat -c %t:%T b2)" = 1:5
# a name that was taken is free again
mknod a c 1 3; no mknod a c 1 3 2>/dev/null; rm a; mknod a c 1 3
# through a symlink, by descriptor, and as another name
chmod 600 link; chown 0:0 link; touch -h link; touch a
exec 3< a; chmod 644 /proc/self/fd/3; exec 3<&-
rm link; test -c a
# unlinked where a copy of the mount namespace has it too
unshare -m sh -euc 'rm a; test ! -e a; mknod a c 1 3; test -c a; mv a aa; test -c aa'
test ! -e a; test ! -s aa; rm aa
# permissions are those of the directory
mkdir sticky; chmod 1777 sticky; mknod sticky/n c 1 3
"""

AS_ANOTHER = """
another() { setpriv --reuid 33 --regid 33 --clear-groups "$@"; }
another test -c sticky/n
no another rm -f sticky/n 2>/dev/null; no another mv sticky/n sticky/m 2>/dev/null
no another chmod 777 sticky/n 2>/dev/null
test -c sticky/n
"""

AFTER = """
rm -rf dir sticky; rm -f a b2; test -z "$(ls -A)"
test "$(grep -c "$PWD" /proc/self/mountinfo)" = "$before"
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(below="/var/tmp") as folder:
        (folder / "policy.yaml").write_text(POLICY)
        (folder / "policy.yaml").chmod(0o644)
        yield folder


def inside(person: Person, place: Path, script: str, policy: str = "policy.yaml") -> str:
    done = run(person, "sh", "-euc", NO + script, options=("--policy", str(place / policy)),
               timeout=60)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("where", ["disk", "tmpfs"])
def test_names(person: Person, place: Path, where: str) -> None:
    start = "d=/mnt; mount -t tmpfs -o mode=755 t $d; "
    if where == "disk":
        start = "d=$(mktemp -d); chmod 755 $d; "
    script = f"cd {place}; {start} cd $d; before=$(grep -c $PWD /proc/self/mountinfo || :); "
    end = "cd /; umount /mnt" if where == "tmpfs" else "cd ..; rmdir $d"
    inside(person, place, script + NAMES + AS_ANOTHER + AFTER + end)


def test_a_private_node_shows_what_is_done_to_it(root: Person, place: Path) -> None:
    script = """
    mount -t tmpfs t /mnt; cd /mnt; umask 027; mknod n c 1 3
    test "$(stat -c %a:%u:%g:%h n)" = 640:0:0:1
    chmod 4711 n; chown 5:6 n; chmod 4711 n; touch -d @1000 n
    test "$(stat -c %a:%u:%g:%Y n)" = 4711:5:6:1000
    ln n m; test "$(stat -c %h n)" = 2; ln m k; rm n; test "$(stat -c %h k)" = 2; rm m k
    mkdir s; chgrp 7 s; chmod 2775 s; mknod s/n c 1 3; test "$(stat -c %u:%g s/n)" = 0:7
    for i in 1 2 3; do mknod n c 1 3; ln n m; rm n m; done
    """
    inside(root, place, script)


def test_a_link_is_counted_before_its_call_returns(root: Person, place: Path) -> None:
    """By makers that take their time: the caller waits for them. So it does when a name goes."""
    (place / "patient.yaml").write_text(POLICY + "limits: {path: 60s}\n")
    script = """
    mount -t tmpfs t /mnt; cd /mnt; mknod n c 1 3; echo made
    read word; ln n m; stat -c %h n; read word; rm m; stat -c %h n
    """
    options = ["run", "--policy", str(place / "patient.yaml"), "--", "sh", "-euc", script]
    started = Started(root, options, stdin=subprocess.PIPE)
    try:
        assert started.process.stdin
        assert started.process.stdout
        assert started.process.stdout.readline() == b"made\n"
        makers = [pid for pid, name in ours(started.process.pid).items() if name == "seccompd-make"]
        assert len(makers) == 2
        for count in (b"2\n", b"1\n"):
            for pid in makers:
                os.kill(pid, signal.SIGSTOP)
            started.process.stdin.write(b"go on\n")
            started.process.stdin.flush()
            signal.sigtimedwait([], 0.3)  # a caller that does not wait has looked by then
            for pid in makers:
                os.kill(pid, signal.SIGCONT)
            assert started.process.stdout.readline() == count
        assert started.finish().returncode == 0
    finally:
        started.kill()


def test_a_real_node_where_it_would_open(root: Person, place: Path) -> None:
    (place / "auto.yaml").write_text(POLICY.replace("{emulate: {realise: bind}}", "emulate"))
    script = """
    mkdir -p /mnt; mount -t tmpfs t /mnt; cd /mnt; mknod n c 1 3; echo > n
    grep -q /mnt/n /proc/self/mountinfo
    """
    inside(root, place, script, "auto.yaml")
    folder = place / "mapped"
    folder.mkdir()
    root.given(folder)
    inside(root, place, f"cd {folder}; mknod n c 1 3; no grep {folder} /proc/self/mountinfo",
           "auto.yaml")  # fmt: skip
    assert os.major((folder / "n").lstat().st_rdev) == 1


def test_the_hosts_nodes_are_as_they_were(user: Person, place: Path) -> None:
    paths = [Path("/dev/null"), Path("/dev/zero"), Path("/dev/full")]
    before = [(s.st_mode, s.st_uid, s.st_gid, s.st_ctime_ns) for s in (p.lstat() for p in paths)]
    script = f"""
    cd {place}; d=$(mktemp -d); cd $d; for n in null:3 zero:5 full:7; do
      mknod ${{n%:*}} c 1 ${{n#*:}}; chmod 600 ${{n%:*}}; chown 5:6 ${{n%:*}}; touch -d @1 ${{n%:*}}
    done; rm -rf $d
    """
    inside(user, place, script)
    after = [(s.st_mode, s.st_uid, s.st_gid, s.st_ctime_ns) for s in (p.lstat() for p in paths)]
    assert after == before


def test_nothing_is_held(person: Person, place: Path) -> None:
    """At once after each call the file system can be unmounted, and the directory removed."""
    script = """
    for i in 1 2 3 4 5; do
      mount -t tmpfs t /mnt; mkdir /mnt/d; cd /mnt/d; mknod n c 1 3
      no mknod /mnt/no/x c 1 3 2>/dev/null; rm n; cd /; umount /mnt
      unshare -m sh -euc 'mount -t tmpfs t /mnt; cd /mnt; mknod n c 1 3; rm n; cd /; umount /mnt'
    done
    """
    inside(person, place, script)


def test_a_file_system_goes_with_its_nodes(person: Person, place: Path) -> None:
    """As it would with real ones; but not where it is busy, or has other mounts on it."""
    script = """
    exec 2>/dev/null
    mount -t tmpfs -o mode=755 r /mnt; cd /mnt; mkdir d; ln -s d l
    before=$(grep -c /mnt /proc/self/mountinfo)
    new() { mount -t tmpfs -o mode=755 t d; mknod d/null c 1 3; mknod d/zero c 1 5; ln d/zero d/z; }
    there() { echo > d/null; test "$(head -c 2 d/z | od -An -tx1 | tr -d ' ')" = 0000; }
    for i in 1 2 3; do new; umount d; test -z "$(ls d)"; done
    new; umount l; new; umount -l d; new
    no sh -c 'cd d && umount /mnt/d'; there
    mkdir d/x; mount -t tmpfs t d/x; no umount d; there; umount d/x; there
    mount -B /dev/full d/null; no umount d; umount d/null; there
    setpriv --bounding-set -sys_admin sh -c '! umount d'; there
    umount d; test "$(grep -c /mnt /proc/self/mountinfo)" = "$before"
    """
    inside(person, place, script)


def test_a_console_that_nobody_opens(root: Person, place: Path) -> None:
    (place / "closed.yaml").write_text(POLICY + """\
    - {devices: [console], do: {emulate: {realise: closed}}}
""")
    script = """
    umask 022
    opens() { (exec 3< $1) 2>/dev/null; }
    closed() { no opens console; test "$(stat -c %t:%T console)" = 5:1; }
    for d in /mnt /mnt/d; do
      mount -t tmpfs -o mode=755 t /mnt; mkdir -p $d; cd $d
      mknod console c 5 1; closed; test "$(stat -c %a:%u:%g:%h console)" = 644:0:0:1
      chmod 666 console; chown 5:6 console; test "$(stat -c %a:%u:%g console)" = 666:5:6; closed
      mount -o remount,bind,dev $d/console; mount -o remount,bind,dev /mnt; closed
      mv console c; ln c console; rm c; closed; touch other; mount -B console other
      no opens other; umount other; rm console
      mknod console c 5 1; closed; rm console other; cd /; umount /mnt
    done
    """
    inside(root, place, script, "closed.yaml")
    folder = place / "disk"
    folder.mkdir()
    root.given(folder)
    inside(root, place, f"cd {folder}; mknod console c 5 1; ! (exec 3< console) 2>/dev/null",
           "closed.yaml")  # fmt: skip
    assert stat.S_ISREG((folder / "console").lstat().st_mode), "nothing but its placeholder stays"


def test_a_policy_without_bind_mounts_pays_nothing(root: Person, place: Path) -> None:
    (place / "node.yaml").write_text(POLICY.replace("bind}}", "node}}"))
    done = run(
        root, "sh", "-euc", "cd /tmp; echo > x$$; mv x$$ y$$; rm y$$",
        options=("--policy", str(place / "node.yaml"), "--trace"),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_no_placeholder_where_there_is_no_node(user: Person, place: Path) -> None:
    (place / "odd.yaml").write_text(POLICY.replace('"null"', '"null", "char 250:77"'))
    script = f"cd {place}; d=$(mktemp -d); cd $d; no mknod n c 250 77; test -z $(ls -A); rmdir $d"
    done = run(user, "sh", "-euc", NO + script, options=("--policy", str(place / "odd.yaml")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Operation not permitted" in done.stderr


def test_a_fuse_directory(root: Person, place: Path) -> None:
    """The maker never waits for a FUSE server: there a node is a bind mount."""
    need("fuse2fs")
    image = place / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", str(image)], check=True)
    image.chmod(0o666)
    script = f"""
    mount -t tmpfs t /mnt; mkdir /mnt/f; mknod /mnt/fuse c 10 229; mount -B /mnt/fuse /dev/fuse
    fuse2fs -o fakeroot {image} /mnt/f >/dev/null 2>&1
    for i in 1 2 3 4 5 6 7 8 9; do grep -q /mnt/f /proc/self/mountinfo && break; sleep 0.1; done
    cd /mnt/f; mknod n c 1 3; echo > n; mv n m; test "$(stat -c %t:%T m)" = 1:3; rm m
    test "$(ls)" = lost+found; cd /; umount /mnt/f
    """
    (place / "fuse.yaml").write_text(POLICY.replace("full", "full, fuse"))
    inside(root, place, script, "fuse.yaml")
