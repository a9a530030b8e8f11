"""Descriptors that strangers send to the daemon, whose end takes as long as the stranger likes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.kernel import features
from tests.support.daemon import Daemon, serving
from tests.support.people import Person, python
from tests.support.scratch import a_place

# Whoever closes this socket last waits for what its peer never reads.
STRANGER = """
import array, socket, struct, sys
path, kind, message = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
listening = socket.create_server(("127.0.0.1", 0))
lingers = socket.create_connection(listening.getsockname())
peer, _ = listening.accept()
lingers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))
lingers.setblocking(False)
try:
    while True:
        lingers.send(bytes(65536))
except BlockingIOError:
    pass
door = socket.socket(socket.AF_UNIX, kind)
door.connect(path)
rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [lingers.fileno()]))
try:
    door.sendmsg([message], [rights])
    lingers.close()
    print("sent", flush=True)
except PermissionError:
    print("refused", flush=True)
    lingers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
sys.stdin.read()
"""
STREAM, SEQPACKET = 1, 5
DOORS = {
    "control": ("control.sock", STREAM, '{"do": "ps"'),
    "attach": ("attach.sock", SEQPACKET, '{"version": 1, "do": "filter"}'),
}

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module", params=["", "pass_rights"], ids=["kernel", "older kernel"])
def daemon(request: pytest.FixtureRequest, root: Person, place: Path) -> Iterator[Daemon]:
    if not request.param and not features.available("pass_rights"):
        pytest.skip("a kernel without SO_PASSRIGHTS")
    environ = {"SECCOMPD_TEST_HIDE": request.param}
    with serving(root, place, {}, environ=environ, doors=["oci", "attach"]) as found:
        yield found


@pytest.mark.parametrize("door", DOORS)
def test_the_daemon_does_not_wait(daemon: Daemon, user: Person, door: str) -> None:
    name, kind, message = DOORS[door]
    words = [python(user), "-c", STRANGER, str(daemon.runtime / name), str(kind), message]
    os.kill(daemon.pid, signal.SIGSTOP)  # until the stranger has closed its own
    try:
        stranger = subprocess.Popen(
            user.argv(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert stranger.stdout is not None
        said = stranger.stdout.readline().strip()
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    try:
        older = bool(daemon.environ["SECCOMPD_TEST_HIDE"])
        assert said == ("sent" if older or door == "attach" else "refused")
        assert daemon.ask("ps") == []
        assert daemon.ask("stats")["containers"] == 0
    finally:
        stranger.communicate("")
