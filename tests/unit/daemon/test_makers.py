"""Makers that cannot be had: who ordered the session hears why."""

from __future__ import annotations

import os
import subprocess
import sys

# In a process of its own, whose children the makers are that its child forks.
SCRIPT = """
import os, socket, sys
from supervisor.daemon.makers import hear_of_makers, own_makers, text_of
from supervisor.kernel.spawn import maker_ceiling
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ceiling = maker_ceiling((), (), ()) if sys.argv[1] != "none" else None
if os.geteuid() == 0 and sys.argv[1] != "rights":
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
child = os.fork()
if child == 0:
    ours.close()
    if sys.argv[1] == "dead":
        os._exit(0)
    try:
        socks = own_makers(ceiling, theirs)
    except OSError as error:
        print(text_of(error), flush=True)
        os._exit(0)
    print(len(socks), flush=True)
    for sock in socks:
        assert os.fstat(sock)
    os._exit(0)
theirs.close()
try:
    found = hear_of_makers(ours)
except OSError as error:
    found = error
os.waitpid(child, 0)
if isinstance(found, OSError):
    print("heard:", text_of(found))
else:
    print("heard:", len(found))
    for pidfd in found:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
"""


def born(how: str) -> list[str]:
    """What a session and its zygote say."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_without_the_rights() -> None:
    said, heard = born("unprivileged")
    text = "a maker could not be set up: Operation not permitted"
    assert said == text
    assert heard == f"heard: {text}"


def test_none_are_wanted() -> None:
    assert born("none") == ["0", "heard: 0"]


def test_a_session_that_dies() -> None:
    """Whoever watches it sees that."""
    assert born("dead") == ["heard: 0"]


def test_with_the_rights() -> None:
    """They are the zygote's children, who can wait for them, and end with the session."""
    if os.geteuid() == 0:
        assert born("rights") == ["2", "heard: 2"]
