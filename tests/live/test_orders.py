"""Orders of events that nobody wants, each made to happen for certain: what is on its way while it
ceases to be wanted, what dies while somebody counts on it, what comes after its asker has gone."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENODEV, ENOMEDIUM, ENXIO, EPERM
from pathlib import Path
from time import sleep

import pytest

from tests.support.daemon import Daemon, serving
from tests.support.handovers import CALLER, POLICY, Caller, hand_over
from tests.support.inside import wait_for
from tests.support.listener import received, waits
from tests.support.manager import Manager
from tests.support.people import Person
from tests.support.scratch import a_place, scratch
from tests.support.tracing import (
    SYS_SENDMSG,
    child_held,
    held_before,
    message,
    stop_after,
    stop_after_message,
)

SYS_RECVMSG = 47
SYS_PIDFD_SEND_SIGNAL = 424
EPOLL_WAIT = "232 "

NOBODYS = POLICY.replace("host}", "own}")
OTHER = POLICY.replace("ENODEV", "ENXIO")
NULL = POLICY.replace("mknod:", 'mknod:\n    - {devices: ["null"], do: emulate}')
# Makes a node of null where it can; 0 says that it could.
NODES = """
import os, sys
while True:
    try:
        os.mknod(sys.argv[1] + ".node", 0o20666, 0x103)
        said = 0
        os.unlink(sys.argv[1] + ".node")
    except OSError as error:
        said = error.errno
    print(said, file=open(sys.argv[1], "a"), flush=True)
    if os.path.exists(sys.argv[2]):
        break
    __import__("time").sleep(0.02)
"""
ACCEPTS = POLICY.replace("mknod:", "accept: [{from: 127.0.0.1, do: emulate}]\n  mknod:")
# Accepts, once it is told to: for as long as nobody connects.
ACCEPT = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0))
while not os.path.exists(sys.argv[1] + ".go"):
    __import__("time").sleep(0.02)
try:
    server.accept()
except OSError as error:
    print(error.errno, file=open(sys.argv[1], "a"), flush=True)
"""
# In a mount namespace of its own.
APART = f"""
import ctypes
libc = ctypes.CDLL(None)
assert libc.unshare(0x20000) == 0
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
{CALLER}"""
# Calls each time that it is told to.
DEMAND = """
import os, sys, time
turn = 0
while True:
    while not os.path.exists(f"{sys.argv[1]}.go{turn}"):
        time.sleep(0.01)
    turn += 1
    try:
        os.mknod("/none/x", 0o20666, 0x103)
    except OSError as error:
        print(error.errno, file=open(sys.argv[1], "a"), flush=True)
"""
# From two threads, as fast as it goes.
BUSY = """
import os, sys, threading
def call():
    while True:
        try:
            os.mknod("/none/x", 0o20666, 0x103)
        except OSError as error:
            pass
for _ in range(2):
    threading.Thread(target=call, daemon=True).start()
print("began", file=open(sys.argv[1], "a"), flush=True)
while not os.path.exists(sys.argv[2]):
    __import__("time").sleep(0.1)
"""

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"host": POLICY}, limits={"mount": 1, "hang": 60}) as found:
        yield found


@pytest.fixture
def ours(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon, with its first policy; no container is left at the end."""
    use(daemon, POLICY)
    yield daemon
    wait_for(lambda: daemon.ask("ps"), lambda rows: rows == [])


def use(daemon: Daemon, text: str) -> None:
    """From now on that is its policy."""
    (daemon.place / "policies" / "host.yaml").write_text(text)
    assert daemon.command("reload").returncode == 0


@contextmanager
def calling(daemon: Daemon, *more: str, name: str = "one") -> Iterator[Caller]:
    """A caller whose listener the daemon has."""
    found = Caller(daemon.place, *more)
    try:
        hand_over(daemon, found, name)
        yield found
    finally:
        found.close()


@contextmanager
def silent(zygote: int, begin: Callable[[], object]) -> Iterator[None]:
    """It has forked a session, which `begin` makes it, and does not say so as long as this lasts.
    """
    said = lambda words: b'"pid"' in message(zygote, words)  # noqa: E731
    with held_before(zygote, SYS_SENDMSG, said, begin=begin):
        yield


@contextmanager
def standing(pid: int) -> Iterator[None]:
    """A process that does nothing as long as this lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def state(pid: int) -> str:
    """The letter of a process's state; X: there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "X"
    return text.rpartition(")")[2].split()[0]


def gone(pid: int) -> bool:
    """Whether a process has ended, if nobody has reaped it, too."""
    return state(pid) in ("Z", "X")


# -- sessions on their way


def test_another_policy_while_a_session_is_on_its_way(ours: Daemon) -> None:
    """And none in between: a session under the first one would go on with that."""
    with standing(ours.one("zygote")):
        caller = Caller(ours.place)
        hand_over(ours, caller, "one")
        wait_for(lambda: ours.container("one")["policy"], lambda policy: policy == "host")
        use(ours, NOBODYS)
        use(ours, OTHER)
    try:
        caller.gets(ENXIO)
        assert str(ENODEV) not in caller.errnos()
        # nor is one more listener forgotten
        with calling(ours) as another:
            another.gets(ENXIO)
    finally:
        caller.close()


def test_no_policy_any_more_while_a_session_is_on_its_way(ours: Daemon) -> None:
    with standing(ours.one("zygote")):
        caller = Caller(ours.place)
        hand_over(ours, caller, "one")
        wait_for(lambda: ours.container("one")["policy"], lambda policy: policy == "host")
        use(ours, NOBODYS)
    try:
        caller.gets(EPERM)
        assert set(caller.errnos()) == {str(EPERM)}
        wait_for(lambda: ours.ours("session"), lambda found: found == [])
        use(ours, POLICY)
        caller.gets(ENODEV)
    finally:
        caller.close()


def test_no_policy_any_more_before_it_is_known_that_a_session_serves(ours: Daemon) -> None:
    """It is ended once it is known; the two must not receive beside each other."""
    caller = Caller(ours.place, BUSY)
    try:
        with silent(ours.one("zygote"), lambda: hand_over(ours, caller, "one")):
            wait_for(lambda: ours.container("one")["calls"], lambda count: count > 100)
            use(ours, NOBODYS)
            sleep(1)
            assert "the session failed" not in ours.log()
        wait_for(lambda: ours.ours("session"), lambda found: found == [])
        with calling(ours, name="one") as other:
            other.gets(EPERM)
            use(ours, POLICY)
            other.gets(ENODEV)
    finally:
        caller.close()


def test_two_policies_before_the_first_has_makers(ours: Daemon) -> None:
    """The second has the ceiling of the first: but what the session has is of the one before."""
    with calling(ours, NODES) as caller:
        caller.gets(ENODEV)
        session = ours.one("session")
        with standing(ours.one("zygote")):
            use(ours, NULL)
            use(ours, NULL.replace("ENODEV", "ENXIO"))
        caller.gets(0)
        # those of the first policy are ended by then
        sleep(7)
        caller.gets(0)
        assert ours.one("session") == session


def test_a_policy_that_comes_before_a_call(ours: Daemon) -> None:
    """To a session that finds both there as it wakes."""
    with calling(ours, DEMAND) as caller:
        Path(f"{caller.said}.go0").touch()
        wait_for(caller.errnos, lambda said: said == [str(ENODEV)])
        session = ours.one("session")
        asleep = Path(f"/proc/{session}/syscall")
        for turn in range(1, 9):
            wait_for(asleep.read_text, lambda text: text.startswith(EPOLL_WAIT))
            with standing(session):
                use(ours, OTHER if turn % 2 else POLICY)
                Path(f"{caller.said}.go{turn}").touch()
                wait_for(lambda: waits(caller.listener), bool)
            wait_for(lambda: len(caller.errnos()), (turn + 1).__eq__)
            assert caller.errnos()[-1] == str(ENXIO if turn % 2 else ENODEV)


# -- calls that nobody answers


def test_a_call_received_before_its_session_is_killed(root: Person) -> None:
    """It was not there yet when all calls were to be refused, nor does any other call come."""
    with scratch(0o755) as place, serving(root, place, {"host": ACCEPTS}) as daemon:
        with calling(daemon, ACCEPT, ACCEPTS) as caller, calling(daemon) as other:
            other.gets(ENODEV)  # so there is a session
            session = daemon.one("session")
            (daemon.place / "policies" / "host.yaml").write_text(NOBODYS)
            reload = []
            with held_before(
                daemon.pid, SYS_PIDFD_SEND_SIGNAL,
                begin=lambda: reload.append(subprocess.Popen(daemon.words("reload"))),
            ):
                Path(f"{caller.said}.go").touch()
                wait_for(lambda: received(caller.listener), bool)
                assert not gone(session)
            assert reload[0].wait(20) == 0
            wait_for(caller.errnos, lambda said: said == [str(EPERM)])


# -- zygotes and what they fork


def test_a_zygote_that_dies_before_its_session_lives(ours: Daemon) -> None:
    """A session whose zygote has ended before it asked for that signal would be one that nobody
    knows, with another one beside it."""
    zygote = ours.one("zygote")
    wait_for(lambda: ours.ours("second"), bool)
    caller = Caller(ours.place)
    try:
        with child_held(zygote, 1, begin=lambda: hand_over(ours, caller, "one")) as child:
            os.kill(zygote, signal.SIGKILL)
            wait_for(lambda: gone(zygote), bool)
        wait_for(lambda: gone(child), bool)
        caller.gets(ENODEV)
        assert ours.one("session") != child
    finally:
        caller.close()


@pytest.mark.parametrize("known", [True, False])
def test_a_session_that_dies_before_it_has_makers(ours: Daemon, *, known: bool) -> None:
    """As one that dies later: another one serves. It may have died before its zygote goes on."""
    zygote, caller = ours.one("zygote"), Caller(ours.place)
    try:
        with child_held(zygote, 1, begin=lambda: hand_over(ours, caller, "one")) as child:
            if not known:
                os.kill(zygote, signal.SIGSTOP)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)  # as who traces it; its zygote's turn is next
        assert gone(child)
        os.kill(zygote, signal.SIGCONT)
        caller.gets(ENODEV)
        assert ours.one("session") != child
        assert ours.one("zygote") == zygote
        assert len(ours.ours("make")) == 2
    finally:
        caller.close()


def test_a_session_that_can_have_no_makers(ours: Daemon) -> None:
    """Its calls are refused; that is said, and why, by its keeper alone."""
    zygote, caller = ours.one("zygote"), Caller(ours.place)
    try:
        with child_held(zygote, 1, begin=lambda: hand_over(ours, caller, "one")) as child:
            _, most = resource.prlimit(child, resource.RLIMIT_NOFILE)
            resource.prlimit(child, resource.RLIMIT_NOFILE, (3, most))
            os.kill(zygote, signal.SIGSTOP)  # which would kill it before it has said anything
        wait_for(lambda: gone(child), bool)
        os.kill(zygote, signal.SIGCONT)
        caller.gets(ENOMEDIUM)
        ours.said(": fork: Too many open files; every supervised call is refused from now on\n")
        assert ours.log().count("open files") == 1
        assert ours.one("zygote") == zygote
        assert ours.ours("make") == []
    finally:
        caller.close()


def test_a_zygote_that_dies_before_it_says_who_serves(root: Person) -> None:
    """The next session is told of all listeners again, and nobody waits for the first one."""
    with scratch(0o755) as place, serving(
        root, place, {"host": ACCEPTS}, limits={"hang": 60}
    ) as daemon:
        wait_for(lambda: daemon.ours("second"), bool)
        zygote, other = daemon.one("zygote"), Caller(place)
        caller = Caller(place, ACCEPT, ACCEPTS)
        try:
            hand_over(daemon, caller, "one")
            with silent(zygote, lambda: hand_over(daemon, other, "one")):
                other.gets(ENODEV)
                Path(f"{caller.said}.go").touch()
                wait_for(lambda: received(caller.listener), bool)
                os.kill(zygote, signal.SIGKILL)
            wait_for(caller.errnos, lambda said: said == [str(ENOMEDIUM)])
            other.gets(ENODEV)
        finally:
            caller.close()
            other.close()


def test_a_second_zygote_that_dies_at_once(ours: Daemon) -> None:
    """Before the daemon hears of it."""
    first, second = ours.one("zygote"), ours.one("second")
    stop_after(
        ours.pid, SYS_SENDMSG, begin=lambda: os.kill(first, signal.SIGKILL),
        good=lambda result: result > 0,
    )
    try:
        third = wait_for(lambda: ours.ours("second"), lambda found: found not in ([], [second]))
        os.kill(third[0], signal.SIGKILL)
        wait_for(lambda: gone(third[0]), bool)
    finally:
        os.kill(ours.pid, signal.SIGCONT)
    with calling(ours) as caller:
        caller.gets(ENODEV)
    assert "defect" not in ours.log()


@pytest.fixture
def stopped() -> Iterator[Callable[[int], None]]:
    """Stops processes until the end of the test."""
    pids: list[int] = []

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        pids.append(pid)

    yield stop
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_makers_end_though_one_has_before(
    ours: Daemon, stopped: Callable[[int], None]
) -> None:
    """A session that was taken over might keep those of an earlier policy."""
    use(ours, NULL)
    with calling(ours) as caller:
        wait_for(caller.errnos, bool)
        makers = ours.ours("make")
        assert len(makers) == 2
        stopped(ours.one("session"))  # which lets go of nothing then
        os.kill(makers[0], signal.SIGKILL)
        wait_for(lambda: gone(makers[0]), bool)
        use(ours, POLICY)
        wait_for(lambda: gone(makers[1]), bool)


def test_makers_end_in_time_beside_others(root: Person, stopped: Callable[[int], None]) -> None:
    """Those of a policy with a shorter limit do not wait for those with a longer one."""

    def text(name: str, seconds: int, policy: str = NULL) -> str:
        return policy.replace("host}", f"host, container: {name}}}") + (
            f"limits: {{mount: {seconds}s}}\n"
        )

    both = {"long": text("one", 100), "short": text("two", 1)}
    with scratch(0o755) as place, serving(
        root, place, both, limits={"hang": 60}
    ) as daemon:
        with contextlib.ExitStack() as stack:
            wait_for(stack.enter_context(calling(daemon)).errnos, bool)
            long = set(daemon.ours("make"))
            wait_for(stack.enter_context(calling(daemon, name="two")).errnos, bool)
            short = set(daemon.ours("make")) - long
            assert (len(long), len(short)) == (2, 2)
            for session in daemon.ours("session"):
                stopped(session)
            for name, container, seconds in (("long", "one", 100), ("short", "two", 1)):
                file = daemon.place / "policies" / f"{name}.yaml"
                file.write_text(text(container, seconds, POLICY))
            assert daemon.command("reload").returncode == 0
            wait_for(lambda: all(map(gone, short)), bool)
            assert not any(map(gone, long))


def test_makers_that_end_as_their_time_is_over(
    ours: Daemon, stopped: Callable[[int], None]
) -> None:
    """Before the zygote has heard that they have."""
    use(ours, NULL)
    with calling(ours) as caller:
        wait_for(caller.errnos, bool)
        makers, zygote = ours.ours("make"), ours.one("zygote")
        stopped(ours.one("session"))
        use(ours, POLICY)
        wait_for(lambda: len(ours.ours("make")), (len(makers) + 2).__eq__)
        other = Caller(ours.place)
        try:
            stop_after(
                zygote, SYS_RECVMSG, begin=lambda: hand_over(ours, other, "two"),
                good=lambda result: result > 0,
            )
            sleep(7)
            for maker in makers:
                os.kill(maker, signal.SIGKILL)
            wait_for(lambda: all(map(gone, makers)), bool)
            os.kill(zygote, signal.SIGCONT)
            other.gets(ENODEV)
            assert ours.one("zygote") == zygote
        finally:
            other.close()


def test_a_helper_that_comes_too_late(ours: Daemon) -> None:
    """Whoever ordered it has given up."""
    with calling(ours, APART) as caller:
        caller.gets(ENODEV)
        before = ours.held()
        with standing(ours.one("zygote")):
            done = ours.command("device", "add", "one", "/dev/null", str(ours.place / "null"))
            assert "no answer within 1 seconds" in done.stderr
        wait_for(lambda: ours.ours("give"), lambda found: found == [])
        assert ours.held() == before


def test_a_device_that_comes_too_late(ours: Daemon) -> None:
    """Its container has ended, and somebody outside holds that one's mount namespace still."""
    where, holder = ours.place / "null", None
    try:
        with calling(ours, APART) as caller:
            caller.gets(ENODEV)
            mounts = f"--mount=/proc/{ours.container('one')['pid']}/ns/mnt"
            holder = subprocess.Popen(["nsenter", mounts, "sleep", "1000"])
            inside = Path(f"/proc/{holder.pid}/root{where}")
            wait_for(lambda: Path(f"/proc/{holder.pid}/comm").read_text(), "sleep\n".__eq__)
            added = []

            def add() -> None:
                words = ours.words("device", "add", "one", "/dev/null", str(where))
                added.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True))

            with child_held(ours.one("zygote"), 1, begin=add):
                caller.close()
                wait_for(lambda: ours.ask("ps"), lambda rows: rows == [])
            _, said = added[0].communicate(timeout=20)
            assert "the container has ended meanwhile" in said
            wait_for(lambda: stat.S_IMODE(inside.stat().st_mode), lambda mode: mode == 0)
            assert stat.S_ISCHR(inside.stat().st_mode)
    finally:
        if holder is not None:
            holder.kill()
            holder.wait()


# -- signals


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=["hup", "term"])
def test_a_signal_as_soon_as_it_is_ready(root: Person, number: int) -> None:
    """Who hears that it is may send one."""
    with scratch(0o755) as place, contextlib.closing(Manager(place)) as manager:
        pid = place / "pid"
        wait = 'echo $$ >"$0.new"; mv "$0.new" "$0"; kill -STOP $$; exec "$@"'
        stopping: list[subprocess.Popen[bytes]] = []

        def stop() -> None:
            wait_for(pid.exists, bool)
            daemon = pid.read_text().strip()
            wait_for(lambda: state(int(daemon)), "T".__eq__)
            words = [sys.executable, "-m", "tests.support.tracing", daemon, "READY=1"]
            stopping.append(subprocess.Popen(words, cwd=Path(__file__).parents[2]))

        thread = threading.Thread(target=stop)
        thread.start()
        with serving(
            root, place, {"host": POLICY}, environ=manager.environ,
            start=["sh", "-c", wait, str(pid)],
        ) as daemon:
            thread.join()
            assert stopping[0].wait(20) == 0
            os.kill(daemon.pid, number)
            os.kill(daemon.pid, signal.SIGCONT)
            if number == signal.SIGHUP:
                daemon.said("loaded again")
                assert daemon.ask("ps") == []
            else:
                assert daemon.started.process.wait(20) == 0


def test_signals_at_its_end(root: Person) -> None:
    """It has been told to end, and does: in order, whatever it is told then."""
    with scratch(0o755) as place, contextlib.closing(Manager(place)) as manager:
        with serving(root, place, {"host": POLICY}, environ=manager.environ) as daemon:
            manager.until("READY=1")
            stop_after_message(
                daemon.pid, b"STOPPING=1", lambda: os.kill(daemon.pid, signal.SIGTERM)
            )
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                os.kill(daemon.pid, number)
            os.kill(daemon.pid, signal.SIGCONT)
            assert daemon.started.process.wait(20) == 0
            assert list(daemon.runtime.glob("*.sock")) == []


def test_two_signals_at_once(root: Person) -> None:
    """The second one is not heard any more, and does not end it out of order."""
    with scratch(0o755) as place, contextlib.closing(Manager(place)) as manager:
        with serving(root, place, {"host": POLICY}, environ=manager.environ) as daemon:
            manager.until("READY=1")
            with standing(daemon.pid):
                for number in (signal.SIGINT, signal.SIGTERM):
                    os.kill(daemon.pid, number)
            assert daemon.started.process.wait(20) == 0
            assert list(daemon.runtime.glob("*.sock")) == []


# -- a rate


def test_a_low_rate_is_not_standing_still(root: Person) -> None:
    """Several listeners share it, and each of their loops waits for its turn."""
    with scratch(0o755) as place, serving(
        root, place, {"host": POLICY}, limits={"hang": 1, "rate": 100}
    ) as daemon:
        callers: list[Caller] = []
        try:
            for _ in range(5):
                callers.append(Caller(place, BUSY))
                hand_over(daemon, callers[-1], "one")
            session = daemon.one("session")
            wait_for(lambda: daemon.container("one")["listeners"], lambda count: count == 5)
            sleep(8)
            assert daemon.one("session") == session
            assert "hangs" not in daemon.log()
        finally:
            (place / "stop").touch()
            for caller in callers:
                caller.close()
