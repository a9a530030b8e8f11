"""Who connected, as the kernel says."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.intake.identity import Peer, cgroups_of, keeps_its_number, peer_of
from supervisor.kernel import features
from supervisor.kernel.task import start_time


def test_ourselves(tmp_path: Path) -> None:
    with _listening(tmp_path) as listening, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        with listening.accept()[0] as connection:
            found = peer_of(connection)
            assert (found.pid, found.uid, found.gid) == (os.getpid(), os.geteuid(), os.getegid())
            assert found.program == Path("/proc/self/comm").read_text().strip()
            assert found.shares_pids


@pytest.mark.skipif(not features.available("peer_pidfd"), reason="a kernel without SO_PEERPIDFD")
def test_who_has_gone(tmp_path: Path) -> None:
    """Its ids are known; what else there is to see below its number may be another process's, but
    for as long as nobody has waited for it."""
    with _listening(tmp_path) as listening:
        pid = os.fork()
        if pid == 0:
            socket.socket(socket.AF_UNIX).connect(str(tmp_path / "s"))
            os._exit(0)
        with listening.accept()[0] as connection:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert keeps_its_number(connection)
            found = peer_of(connection)
            assert (found.pid, found.uid) == (pid, os.geteuid())
            assert found.program == Path("/proc/self/comm").read_text().strip()
            assert found.start is not None
            os.waitpid(pid, 0)
            assert not keeps_its_number(connection)
            found = peer_of(connection)
            assert (found.pid, found.uid) == (pid, os.geteuid())
            assert (found.program, found.start, found.shares_pids) == (None, None, None)


def test_a_number_that_is_another_process_by_now() -> None:
    own = start_time(os.getpid())
    assert own is not None
    peer = Peer(os.getpid(), 0, 0, "x", own, True)
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    assert set(cgroups_of(peer)) == {line.split(":", 2)[2] for line in lines}
    assert cgroups_of(replace(peer, start=own - 1)) == ()
    assert cgroups_of(replace(peer, start=None)) == ()


def _listening(place: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(place / "s"))
    sock.listen()
    return sock
