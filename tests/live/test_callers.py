"""Who calls, and how: threads, 32-bit callers, callers without rights, callers in namespaces."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import a_place, compile_c, scratch

BUILD = ("--policy", "build")


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with scratch(0o755) as folder:
        compile_c("callers", folder, "-pthread")
        yield folder

place = a_place()


def call(person: Person, programs: Path, place: Path, *what: str, policy: str = "build") -> str:
    person.given(place)
    done = run(
        person, str(programs / "callers"), str(place), *what, options=("--policy", policy)
    )
    assert done.stderr == ""
    return done.stdout


def inside(person: Person, place: Path, script: str) -> str:
    done = run(person, "sh", "-ec", f"cd {person.given(place)}; {script}", options=BUILD)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_32_bit_callers(person: Person, programs: Path, place: Path) -> None:
    assert call(person, programs, place, "i386") == (
        "i386-mknod 0\ni386-mknodat 0\ni386-block EPERM\n"
    )


def test_a_whole_32_bit_program(person: Person, place: Path) -> None:
    compile_c("callers", place, "-pthread", "-m32")
    person.given(place)
    done = run(person, str(place / "callers"), str(place), "nodes", "thread", options=BUILD)
    assert done.stdout.splitlines()[:2] == ["null 0", "disk EPERM"]
    assert "thread-mknod 0" in done.stdout


def test_x32_callers_do_not_exist(person: Person, programs: Path, place: Path) -> None:
    assert call(person, programs, place, "x32") == "x32-mknod ENOSYS\nx32-getpid ENOSYS\n"


def test_garbage_above_an_arguments_type(person: Person, programs: Path, place: Path) -> None:
    assert call(person, programs, place, "garbage") == "garbage-mknod 0\ngarbage-mknodat 0\n"


def test_threads_have_their_own_directory_and_umask(
    person: Person, programs: Path, place: Path
) -> None:
    out = call(person, programs, place, "thread", "orphan-thread")
    lines = out.splitlines()
    assert lines[0] == "thread-mknod 0"
    assert lines[-1] == "orphan-thread-mknod 0"
    # an ordinary user's node is the host's own inode, whose mode is not ours to choose
    assert lines[1] == ("thread-mode 600" if person.name is None else "thread-mode 666")
    assert (place / "of-thread" / "thread").exists()
    assert (place / "orphan").exists()


def test_no_listener_of_its_own_and_no_io_uring(
    person: Person, programs: Path, place: Path
) -> None:
    out = call(person, programs, place, "uring", "listener")
    assert out == "io-uring ENOSYS\nnew-listener EBUSY\nplain-filter 0\n"


RINGS = [
    ('connect: [{to: "127.0.0.1", do: emulate}]', "ENOSYS"),
    ("bind: [{do: emulate}]", "ENOSYS"),
    ("accept: [{do: emulate}]", "ENOSYS"),
    ("setsockopt: [{optname: SO_MARK, do: refuse}, {do: continue}]", "ENOSYS"),
    ("open: [{path: /x, do: {inject: {device: zero}}}]", "ENOSYS"),
    ("open: [{uid: 7, do: refuse}]", "ENOSYS"),  # a path is none of its business
    ("mknod: [{devices: [zero], path: /x, do: emulate}]", "ENOSYS"),
    # the kernel's own answer: the arguments are none
    ("open: [{uid: 7, mode: audit, do: refuse}]", "EFAULT"),
]


@pytest.mark.parametrize(("rules", "answer"), RINGS, ids=range(len(RINGS)))
def test_rings_where_sockets_or_paths_are_gated(
    person: Person, place: Path, rules: str, answer: str
) -> None:
    """What goes through a ring passes no filter."""
    file = place / "rings.yaml"
    file.write_text(f"version: 1\nsyscalls: {{{rules}}}\n")
    script = (
        "import ctypes, errno; libc = ctypes.CDLL(None, use_errno=True); "
        "libc.syscall(425, 4, None); print(errno.errorcode[ctypes.get_errno()])"
    )
    done = run(person, python(person), "-c", script, options=("--policy", str(file)))
    assert (done.stdout, done.stderr) == (f"{answer}\n", "")


NODES = (
    "null 0\ndisk EPERM\nkmsg EPERM\nwhiteout 0\nfifo 0\nsocket 0\nregular 0\n"
)


def test_only_what_the_policy_allows(person: Person, programs: Path, place: Path) -> None:
    assert call(person, programs, place, "nodes") == NODES


def test_without_cap_mknod(person: Person, programs: Path, place: Path) -> None:
    out = call(person, programs, place, "without-capability")
    assert out == NODES.replace("null 0", "null EPERM")


def test_a_nested_user_namespace_gives_nothing(
    person: Person, programs: Path, place: Path
) -> None:
    (place / "nested-there").touch()
    out = call(person, programs, place, "nested")
    assert out == "nested-null EPERM\nnested-exists EEXIST\n"


def test_chrooted(person: Person, place: Path) -> None:
    """The caller's root and cwd count: absolute links, "..", and what lies above stay inside."""
    out = inside(
        person, place,
        "mkdir -p jail/bin jail/dev jail/sub jail/lib; cp $(command -v busybox) jail/bin/;"
        " ln -s /dev jail/link; ln -s ../../../../dev jail/sub/up;"
        " chroot jail /bin/busybox sh -ec 'cd /sub; busybox mknod /link/a c 1 3;"
        " busybox mknod up/b c 1 5; busybox mknod ../../../c c 1 7; busybox mknod d c 1 8';"
        " stat -c %n:%t:%T jail/dev/a jail/dev/b jail/c jail/sub/d",
    )  # fmt: skip
    assert out.split() == ["jail/dev/a:1:3", "jail/dev/b:1:5", "jail/c:1:7", "jail/sub/d:1:8"]


def test_proc_self_is_the_callers(person: Person, place: Path) -> None:
    out = inside(
        person, place,
        "mkdir in out; cd in; exec 7<../out; mknod /proc/self/cwd/a c 1 3;"
        " mknod /proc/thread-self/cwd/b c 1 3; mknod /proc/self/fd/7/c c 1 3;"
        " mknod /dev/fd/7/d c 1 3; mknod /proc/self/root/$PWD/e c 1 3; cd ..; ls in out | xargs",
    )  # fmt: skip
    # /proc/self is the program `mknod` itself, a child of the shell: its cwd and its fd 7 are meant
    assert out.split() == ["in:", "a", "b", "e", "out:", "c", "d"]


def test_in_a_pid_namespace_of_its_own(person: Person, place: Path) -> None:
    out = inside(
        person, place,
        "unshare -pf --mount-proc sh -ec 'mknod a c 1 3; mknod /proc/self/cwd/b c 1 3; ls'",
    )  # fmt: skip
    assert out.split() == ["a", "b"]


def test_in_a_mount_namespace_of_its_own(person: Person, place: Path) -> None:
    """It lands where the caller is, not where the container's other processes are."""
    out = inside(
        person, place,
        "mkdir t; unshare -m sh -ec 'mount -t tmpfs -o mode=755 t t; mknod t/a c 1 3; echo x >t/a;"
        " ls t;"
        " rm t/a; ls t'; ls t; echo end",
    )  # fmt: skip
    assert out.split() == ["a", "end"]


def test_as_another_user_of_the_container(person: Person, place: Path) -> None:
    """File system ids and groups of the caller decide about the directory."""
    out = inside(
        person, place,
        "mkdir mine group none; chown 5:5 mine; chown 0:9 group; chmod 775 group;"
        " with() { setpriv --reuid 5 --regid 5 --groups 9 --inh-caps +mknod --ambient-caps +mknod"
        " -- \"$@\"; }; for d in mine group none; do with mknod $d/n c 1 3 2>&1 || :; done;"
        " stat -c '%n %u:%g' mine group",
    )  # fmt: skip
    lines = out.splitlines()
    assert lines == ["mknod: none/n: Permission denied", "mine 5:5", "group 0:9"]
    assert stat.S_ISREG(os.lstat(place / "mine" / "n").st_mode) or person.name is None


def test_every_row_under_a_kernel_without_the_newer_features(
    person: Person, programs: Path, place: Path
) -> None:
    person.given(place)
    done = run(
        person, str(programs / "callers"), str(place), "nodes", "thread", options=BUILD,
        env={"SECCOMPD_TEST_HIDE": "wait_killable,sync_wake_up"},
    )  # fmt: skip
    assert done.stdout.startswith(NODES)
    assert "thread-mknod 0" in done.stdout


VERDICTS = """
version: 1
name: verdicts
on_error: EPERM
syscalls:
  mknod:
    - {devices: "null", do: emulate}
    - {devices: zero, do: {errno: ENOMEDIUM}}
    - {devices: full, do: {return: 0}}
    - {devices: random, do: kill}
    - {devices: urandom, do: refuse}
    - {devices: tty, path: "/allowed/**", do: emulate}
    - {devices: console, uid: 7, do: emulate}
"""


def test_the_rules_decide(person: Person, place: Path) -> None:
    policy = place / "verdicts.yaml"
    policy.write_text(VERDICTS)
    policy.chmod(0o644)
    script = (
        f"cd {person.given(place)}; for m in 1:3 1:5 1:7 1:8 1:9 5:0 5:1 4:64; do"
        " mknod n$m c ${m%:*} ${m#*:} 2>err; echo $m $? $(sed 's/.*: //' err); done; ls -1 n*"
    )
    done = run(person, "sh", "-c", script, options=("--policy", str(policy)))
    lines = done.stdout.splitlines()
    assert lines[:8] == [
        "1:3 0",
        "1:5 1 No medium found",
        # "answered" without anything having been made; mknod(1) wants to chmod nothing here
        "1:7 0",
        "1:8 137 Killed",
        "1:9 1 Operation not permitted",
        "5:0 1 Operation not permitted",
        "5:1 1 Operation not permitted",
        "4:64 1 Operation not permitted",
    ]
    assert lines[8:] == ["n1:3"]


def test_an_ordinary_users_node_needs_no_privileges(user: Person, place: Path) -> None:
    assert shutil.which("unshare")
    before = subprocess.run(["findmnt", "-rno", "TARGET"], capture_output=True, check=True).stdout
    out = inside(user, place, "mknod a c 1 3; echo x >a; stat -c %t:%T a; chmod 600 a; chown 3:3 a")
    assert out == "1:3\n"
    after = subprocess.run(["findmnt", "-rno", "TARGET"], capture_output=True, check=True).stdout
    assert before == after
    assert stat.S_ISREG(os.lstat(place / "a").st_mode), "the placeholder stays behind"
    assert os.lstat(place / "a").st_size == 0
