"""Descriptors that our caller left open go to nobody whom a target could take over."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.counts import ours
from tests.support.people import Person
from tests.support.program import seccompd


@pytest.mark.parametrize("trace", [(), ("--trace",)])
def test_a_stray_pipe(person: Person, trace: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    inode = os.fstat(writer).st_ino
    process = subprocess.Popen(
        seccompd(person, "run", *trace, "--policy", "build", "--",
                 "sh", "-c", "mknod /none/x c 1 3; echo ready; read answer"),
        env=person.environ(), cwd="/", pass_fds=(writer,), process_group=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        holders = []
        for pid, name in ours(process.pid).items():
            links = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
            if f"pipe:[{inode}]" in links:
                holders.append(name)
        assert holders == ["front"]
    finally:
        process.communicate(b"\n", timeout=20)
        os.close(reader)
        os.close(writer)
