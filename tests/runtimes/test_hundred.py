"""A hundred containers at once, each with nodes of its own; and nothing of them afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import Bundle, bundle
from tests.support.daemon import Daemon, serving
from tests.support.inside import cpu_seconds, wait_for
from tests.support.people import Person
from tests.support.program import marked
from tests.support.scratch import a_place, mounts_below

POLICY = """
version: 1
match: {door: oci}
syscalls:
  mknod:
    - {devices: ["null", zero], do: emulate}
"""
COUNT = 100
AT_ONCE = 4  # starts of the runtime; the containers themselves are all there together
SCRIPT = (
    "mknod /dev/a c 1 3 && mknod /dev/b c 1 5 && echo x >/dev/a && "
    "[ $(head -c 3 /dev/b | wc -c) = 3 ] && echo $HOSTNAME >>/tmp/made;"
    "cat /tmp/end; mknod /dev/c c 1 3 && rm /dev/a /dev/b /dev/c && echo x >>/tmp/ended"
)

place = a_place(0o755)


@pytest.fixture
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"nodes": POLICY}) as found:
        yield found


def private_kb(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.M)))


def of_session(session: int, makers: int) -> int:
    """A session's private memory, in kB, with its resolvers', and `makers` for its makers."""
    children = Path(f"/proc/{session}/task/{session}/children").read_text().split()
    return sum(map(private_kb, [session, *map(int, children)])) + makers


def lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def start(box: Bundle, count: int) -> list[str]:
    """Containers of one bundle; their ids."""
    names = [box.prepare(["/bin/sh", "-c", SCRIPT]) for _ in range(count)]
    with open(os.devnull, "r+b") as null, (box.path / "log").open("ab") as log:
        for first in range(0, count, AT_ONCE):
            started = [
                subprocess.Popen(
                    box.command("run", "-d", "-b", str(box.path), name),
                    stdin=subprocess.PIPE, stdout=log, stderr=log,
                )
                for name in names[first : first + AT_ONCE]
            ]  # fmt: skip
            for process in started:
                assert process.stdin
                process.stdin.close()
                assert process.wait(60) == 0, (box.path / "log").read_text()
        assert null
    return names


def test_a_hundred_at_once(daemon: Daemon, place: Path) -> None:
    with bundle(place, daemon.profile("nodes")) as box:
        made, ended, end = (box.root / "tmp" / name for name in ("made", "ended", "end"))
        for file in (made, ended):
            file.touch()
            os.chown(file, box.first_id, box.first_id)
        os.mkfifo(end)
        os.chown(end, box.first_id, box.first_id)
        # one for itself, so that all there is for the first time is there
        start(box, 1)
        wait_for(lambda: lines(made), lambda count: count == 1)
        makers = daemon.ours("make")
        assert len(makers) == 2
        session = daemon.one("session")
        first = of_session(session, sum(map(private_kb, makers)))
        end.write_text("")
        wait_for(lambda: daemon.ours("session"), lambda found: not found)
        mounts = mounts_below(place)
        held, processes = daemon.held(), len(marked(daemon.started.mark))

        names = start(box, COUNT)
        wait_for(lambda: lines(made), lambda count: count == 1 + COUNT, 60)
        rows = daemon.ask("ps")
        assert {row["container"] for row in rows} == set(names)
        sessions = {row["session"] for row in rows}
        assert len(sessions) == COUNT
        assert all((row["calls"], row["denials"]) == (2, 0) for row in rows)
        of_makers = sum(map(private_kb, daemon.ours("make"))) // COUNT
        each = [of_session(session, of_makers) for session in sessions]
        assert max(each) <= first * 1.1, "the hundredth is as cheap as the first"
        assert max(each) <= 6 * 1024

        end.write_text("")
        wait_for(lambda: lines(ended), lambda count: count == 1 + COUNT, 60)
        wait_for(lambda: daemon.ours("session"), lambda found: not found)
        wait_for(lambda: daemon.ask("ps"), lambda rows: rows == [])
        wait_for(daemon.held, lambda now: now == held)
        wait_for(
            lambda: len(marked(daemon.started.mark)), lambda count: count == processes
        )
        box.close()
        assert mounts_below(place) == mounts
        zygote = daemon.one("zygote")
        used = cpu_seconds(daemon.pid) + cpu_seconds(zygote)
        signal.sigtimedwait([], 1.0)
        assert cpu_seconds(daemon.pid) + cpu_seconds(zygote) - used <= 0.02, "2 % of a second"
