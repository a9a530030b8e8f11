"""`seccompd run --learn`: the same run passes under what was learned from it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from errno import EINPROGRESS
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run, seccompd
from tests.support.scratch import scratch


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(0o777, "/var/tmp") as folder:
        below = folder / "work-1a2b3c"  # scratch's own name may look like a word
        below.mkdir()
        below.chmod(0o777)
        yield below


SCRIPT = r"""
mkdir -p tree/dev; cd tree
for n in 'null 1 3' 'zero 1 5' 'full 1 7' 'tty 5 0'; do set -- $n; mknod dev/$1 c $2 $3; done
ln -s dev link; mknod link/random c 1 8
T=$(mktemp -d); mknod $T/null c 1 3; mknod "$T/a\"b: *[x]" c 1 3
mknod sda b 8 0; mkdir m; mount -t tmpfs none m; chroot . /nothing; rm -r $T
"""


def test_the_same_run_passes(person: Person, place: Path) -> None:
    out, log = place / "out.yaml", place / "log"
    script = f"cd {place}; {SCRIPT}"
    first = run(person, "sh", "-c", script, options=["--learn", str(out)])
    assert first.stderr.count("Operation not permitted") == 1, first.stderr
    assert "1 refused" in first.stderr
    text = out.read_text()
    assert "block 8:0" not in text
    assert "the host's block devices: never learned" in text
    checked = subprocess.run(
        seccompd(person, "check", str(out)), env=person.environ(), capture_output=True, text=True
    )
    assert checked.returncode == 0
    assert checked.stderr == ""
    run(person, "rm", "-rf", str(place / "tree"))
    again = run(person, "sh", "-c", script, options=["--policy", str(out), "--audit", str(log)])
    assert again.returncode == first.returncode
    assert again.stderr.count("Operation not permitted") == 1, again.stderr
    records = [json.loads(line) for line in log.read_text().splitlines()]
    nodes = [one for one in records if one.get("syscall", "").startswith("mknod")]
    assert len([one for one in nodes if one.get("result") == 0]) == 7
    replayed = subprocess.run(
        seccompd(person, "replay", "--policy", "learn", str(log)),
        env=person.environ(), capture_output=True, text=True,
    )  # fmt: skip
    assert replayed.returncode == 0, replayed.stdout


# No rule asks for a path: where relative names lead is known from the records alone.
PATHLESS = """
version: 1
syscalls:
  mknod:
    - {devices: ["null", zero, full, tty], do: emulate}
    - {devices: [console, "char 7:*", "char 10:175"], do: {emulate: {realise: closed}}}
"""
RELATIVE = r"""
mkdir -p dev/pts; mknod null c 1 3; mknod dev/zero c 1 5; ln -s dev link; mknod link/full c 1 7
mknod /dev/null c 1 3; mknod '' c 1 3; mknod nowhere/x c 1 3; mknod console c 5 1
cd dev/pts; mknod ../tty c 5 0; mknod /dev/x c 1 3 2>/dev/null && rm /dev/x; mknod kvm c 10 232
"""


def test_nor_has_the_base_to_name_a_path(person: Person, place: Path) -> None:
    """The name of the result would be a number, and what is there already is not learned."""
    base, out, log = place / "base.yaml", place / "1.yaml", place / "log"
    base.write_text(PATHLESS)
    script = f"mkdir {place}/$0; cd {place}/$0; {RELATIVE}"
    words = ("sh", "-c", script)
    first = run(person, *words, "a", options=["--policy", str(base), "--learn", str(out)])
    text = out.read_text()
    assert 'name: "1"' in text
    rules = [line for line in text.splitlines() if "devices:" in line]
    assert rules
    assert not any('"/dev/' in line or '"/null' in line for line in rules)
    run(person, "rm", "-rf", str(place / "a"))
    again = run(
        person, *words, "a", options=["--policy", str(out), "--audit", str(log)]
    )
    assert again.stderr == first.stderr.split("seccompd:")[0]
    records = [json.loads(line) for line in log.read_text().splitlines()]
    made = [one for one in records if one.get("verdict") == "emulate" and "result" in one]
    assert {one["resolved"].removeprefix(f"{person.given(place)}/a") for one in made} >= {
        "/null", "/dev/zero", "/dev/full", "/dev/tty",
    }  # fmt: skip


LENT = """
version: 1
syscalls:
  connect:
    - {to: "127.0.0.1", do: emulate}
  open:
    - {path: /etc/lent, do: {inject: {content: "lent: \\"1\\"\\n"}}}
"""
ASKS = """
import select, socket, sys
print(open("/etc/lent").read(), end="")
with socket.socket() as sock:
    sock.setblocking(False)
    print(sock.connect_ex(("127.0.0.1", int(sys.argv[1]))))
    select.select([], [sock], [])
    print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
"""


def test_what_was_lent_and_who_does_not_wait(person: Person, place: Path) -> None:
    """A content is in no record; a connection that is under way is no failure."""
    base, out = place / "base.yaml", place / "out.yaml"
    base.write_text(LENT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [python(person), "-c", ASKS, str(server.getsockname()[1])]
        options = ["--policy", str(base), "--learn", str(out)]
        first = run(person, *command, options=options)
        again = run(person, *command, options=["--policy", str(out)])
    assert first.stdout == f'lent: "1"\n{EINPROGRESS}\n0\n'
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr


def test_a_policy_that_cannot_be_written_leaves_the_records(person: Person, place: Path) -> None:
    out = place / "gone" / "out.yaml"
    (place / "gone").mkdir()
    (place / "gone").chmod(0o777)
    script = f"mknod {person.given(place)}/null c 1 3; rmdir {place}/gone; exit 7"
    done = run(person, "sh", "-c", script, options=["--learn", str(out)])
    assert done.returncode == 7, done.stderr
    log = Path(done.stderr.rpartition("the records are in ")[2].strip())
    try:
        assert json.loads(log.read_text().splitlines()[0])["syscall"].startswith("mknod")
    finally:
        log.unlink()


def test_what_is_there_stays(person: Person, place: Path) -> None:
    out = place / "out.yaml"
    out.write_text("mine")
    done = run(person, "touch", str(place / "ran"), options=["--learn", str(out)])
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert out.read_text() == "mine"
    assert not (place / "ran").exists()


def test_a_policy_is_extended(person: Person, place: Path) -> None:
    old, out = place / "old.yaml", place / "out.yaml"
    rule = "- {devices: [zero], do: emulate}"
    old.write_text(f"# mine\nversion: 1\nsyscalls:\n  mknod:\n    {rule}\n")
    done = run(
        person, "sh", "-c", f"cd {person.given(place)}; mknod a c 1 5; mknod b c 1 3",
        options=["--learn", str(out), "--merge", str(old)],
    )  # fmt: skip
    assert done.returncode == 0
    # The command's own stdout is not ours to write to.
    assert done.stdout == ""
    added = [line for line in done.stderr.splitlines() if line.startswith("+ ")]
    comment, line = added
    assert "mknod" in comment
    assert line.startswith('+    - {devices: ["null"], path: "/var/tmp/')
    assert line.endswith('/work-*/b", do: emulate}')
    assert out.read_text().startswith("# mine\n")
