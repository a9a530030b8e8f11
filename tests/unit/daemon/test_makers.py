"""Makers that cannot be had: who ordered the session hears why."""

from __future__ import annotations

import os
import subprocess
import sys
from errno import EAGAIN

from supervisor.daemon.makers import text_of
from tests.support.people import Person

# In a process of its own, whose children the makers are that its child forks.
SCRIPT = """
import os, resource, signal, socket, sys
from supervisor.daemon import makers
from supervisor.daemon.makers import NoMakersError, hear_of_makers, own_makers, text_of
from supervisor.kernel.spawn import maker_ceiling
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ceiling = maker_ceiling((), (), ()) if sys.argv[1] != "none" else None
if os.geteuid() == 0 and sys.argv[1] not in ("rights", "full"):
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
child = os.fork()
if child == 0:
    ours.close()
    if sys.argv[1] == "dead":
        os._exit(0)
    if sys.argv[1] == "silent":
        signal.pause()
    try:
        socks = own_makers(ceiling, theirs)
    except NoMakersError:
        print("none", flush=True)
        os._exit(0)
    print(len(socks), flush=True)
    for sock in socks:
        assert os.fstat(sock)
    os._exit(0)
theirs.close()
if sys.argv[1] == "full":  # but for one
    free = os.dup(0)
    os.close(free)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, most))
if sys.argv[1] == "silent":
    makers._PATIENCE_MS = 1000
try:
    found = hear_of_makers(ours, 0 if ceiling is None else 2)
except OSError as error:
    found = error
if sys.argv[1] == "full":
    assert os.dup(0) == free
if sys.argv[1] == "silent":
    os.kill(child, signal.SIGKILL)
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
    assert said == "none"
    assert heard == "heard: a maker could not be set up: Operation not permitted"


def test_none_are_wanted() -> None:
    assert born("none") == ["0", "heard: 0"]


def test_a_session_that_dies() -> None:
    """Whoever watches it sees that."""
    assert born("dead") == ["heard: 0"]


def test_a_session_that_stands_still() -> None:
    assert born("silent") == ["heard: the session has no makers after 1 seconds"]


def test_with_the_rights(root: Person) -> None:
    """They are the zygote's children, who can wait for them, and end with the session."""
    assert root.name is None
    assert born("rights") == ["2", "heard: 2"]


def test_a_zygote_without_descriptors_left(root: Person) -> None:
    """It could not end them, should they hang."""
    assert root.name is None
    assert born("full") == ["2", "heard: the pidfds of makers: Too many open files"]


def test_what_went_wrong() -> None:
    fork = OSError(EAGAIN, os.strerror(EAGAIN))
    assert text_of(fork) == "fork: Resource temporarily unavailable"
    fork.filename = "the maker"
    assert text_of(fork) == "the maker: Resource temporarily unavailable"
    assert text_of(OSError("said by a session")) == "said by a session"
