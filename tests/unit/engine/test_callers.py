"""What /proc says of a caller, held against real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.engine.callers import Callers
from supervisor.kernel.capabilities import NAMES, NUMBERS
from supervisor.kernel.task import open_task
from supervisor.model import Facts

EVERY = frozenset(("host_uid", "host_gid", "capabilities", "executable", "cgroup"))
NOTHING = Facts(b"/x", 0, 0)


@contextmanager
def running(*command: str) -> Iterator[int]:
    """A process that sleeps, after whatever `command` does before it."""
    words = [*command, "sh", "-c", "echo ready; exec sleep 60"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        while not os.readlink(f"/proc/{process.pid}/exe").endswith("sleep"):
            time.sleep(0.01)
        task = open_task(process.pid)
        try:
            yield task
        finally:
            os.close(task)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def test_the_table_is_the_kernels() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("no kernel headers")
    names = dict(
        line.split()[1:3]
        for line in header.read_text().splitlines()
        if line.startswith("#define CAP_") and len(line.split()) == 3
    )
    known = {f"CAP_{name.upper()}": str(number) for name, number in NUMBERS.items()}
    assert names.pop("CAP_LAST_CAP") == "CAP_CHECKPOINT_RESTORE"
    assert names == known


def test_a_process_like_ours() -> None:
    with running() as task:
        facts = Callers(EVERY).complete(NOTHING, task)
    assert (facts.host_uid, facts.host_gid) == (os.geteuid(), os.getegid())
    assert facts.executable is not None
    assert facts.executable.endswith(b"/sleep")
    status = Path("/proc/self/status").read_text()
    held = int(status.split("CapEff:")[1].split()[0], 16)
    assert facts.capabilities == frozenset(
        name for bit, name in enumerate(NAMES) if held >> bit & 1
    )
    assert facts.cgroup is not None
    assert facts.cgroup.decode() in Path("/proc/self/cgroup").read_text()
    assert facts.path == b"/x"


def test_only_what_is_wanted_is_read() -> None:
    with running() as task:
        facts = Callers(frozenset({"executable"})).complete(NOTHING, task)
    assert facts.executable
    assert (facts.host_uid, facts.capabilities, facts.cgroup) == (None, None, None)


def test_capabilities_of_another_user_namespace_are_none() -> None:
    with running("unshare", "-U", "--map-root-user") as task:
        facts = Callers(EVERY).complete(NOTHING, task)
    assert facts.capabilities is None
    assert facts.host_uid == os.geteuid()


def test_ids_are_mapped_and_what_is_not_mapped_is_unknown() -> None:
    wants = frozenset(("host_uid", "host_gid"))
    me, group = os.geteuid(), os.getegid()
    with running() as task:
        mapped = Callers(wants, [(me + 5, 0, 1), (me, 7000, 1)], [(0, 100, group)])
        facts = mapped.complete(NOTHING, task)
    assert (facts.host_uid, facts.host_gid) == (7000, None)


def test_who_has_gone_is_unknown() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    task = open_task(process.pid)
    process.wait()
    try:
        facts = Callers(EVERY).complete(NOTHING, task)
    finally:
        os.close(task)
    assert facts == NOTHING


def test_a_program_that_was_removed_is_unknown(tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([str(program), "60"]) as process:
        try:
            task = open_task(process.pid)
            assert Callers(EVERY).complete(NOTHING, task).executable == str(program).encode()
            program.unlink()
            assert Callers(EVERY).complete(NOTHING, task).executable is None
            os.close(task)
        finally:
            process.kill()
