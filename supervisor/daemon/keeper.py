"""The watchdog of one session: it starts it, starts it again, and answers what it left behind.

It never reads a target's memory or paths, so nothing that a target does can stall it. It holds a
reference to the listener, and shares the watch: the ids that the session has received.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from errno import ENOTCONN
from typing import Any

from supervisor.engine.config import SessionConfig
from supervisor.engine.limits import DEFAULT, Limits
from supervisor.kernel.shim import check, ffi, lib, receive_fds, send_fds
from supervisor.observe.complaint import complain

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Keeper:
    """Keeps one session going. Made before the launch, so that its modules load meanwhile."""

    def __init__(self, config: SessionConfig, limits: Limits = DEFAULT) -> None:
        self._config = config
        self._limits = limits
        self._error = -config.policy.on_error
        self._listener = -1
        self._userns: int | None = None
        self._deaths: deque[float] = deque(maxlen=limits.restarts)
        self._session: int | None = None
        self._sessions = 0
        self._only_refuse = False
        self._zygote_lives = True
        self.failed: str | None = None
        self._stalls = 0
        self._watch_fd = os.memfd_create("seccompd-watch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._watch_fd, mmap.PAGESIZE)
        # A session that has been taken over must not cut away what we look at.
        fcntl.fcntl(self._watch_fd, fcntl.F_ADD_SEALS, _SEALS)
        self._memory = mmap.mmap(self._watch_fd, mmap.PAGESIZE)
        self._watch: Any = ffi.from_buffer("struct sd_watch *", self._memory, True)
        self._timer = check(lib.sd_deadline_timer(), "timerfd_create")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._zygote_socket = ours
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # None where it was closed when we were started
                with contextlib.suppress(OSError):
                    stream.flush()
        self._zygote = os.fork()
        if self._zygote == 0:
            from supervisor.daemon.zygote import child

            ours.close()
            child(theirs, config, self._watch_fd, self._timer, limits)
        theirs.close()

    def start(self, listener: int, userns: int | None) -> None:
        """Hands the listener to a new session. Takes over both descriptors."""
        self._listener = listener
        self._userns = userns
        self._order()

    def fds(self) -> list[int]:
        """What is to be polled for POLLIN."""
        fds = [self._timer]
        if self._zygote_lives:
            fds.append(self._zygote_socket.fileno())
        if self._session is not None:
            fds.append(self._session)
        if self._only_refuse:
            fds.append(self._listener)
        return fds

    def handle(self, fd: int) -> None:
        """Deals with a descriptor of `fds` that is readable, or hung up."""
        if fd == self._timer:
            self._deadline()
        elif fd == self._session:
            self._session_ended()
        elif fd == self._zygote_socket.fileno():
            self._news()
        elif fd == self._listener and lib.sd_refuse_next(self._listener, self._error) == -ENOTCONN:
            self._only_refuse = False

    def close(self) -> None:
        """Ends the session and everything that belongs to it; its last records are written."""
        if self._listener >= 0:
            os.close(self._listener)
            self._listener = -1
        # A session that serves nobody ends by itself, and the zygote then. One that has not even
        # forked a session is still loading: nobody ever called, so nothing is lost with it.
        with contextlib.suppress(OSError):
            self._zygote_socket.shutdown(socket.SHUT_WR)
        poller = select.poll()
        poller.register(self._zygote_socket, select.POLLIN)
        if self._sessions == 0 and not poller.poll(0):
            os.kill(self._zygote, signal.SIGKILL)
        self._wait_for_zygote()
        self._zygote_socket.close()
        for fd in (self._userns, self._session, self._timer, self._watch_fd):
            if fd is not None:
                os.close(fd)

    # -- the session's life

    def _order(self) -> None:
        fds = [self._listener] if self._userns is None else [self._listener, self._userns]
        try:
            send_fds(self._zygote_socket.fileno(), b"session", fds)
        except OSError as error:
            self._give_up(f"the zygote does not answer: {error.strerror}")

    def _news(self) -> None:
        try:
            message, fds = receive_fds(self._zygote_socket.fileno())
        except OSError:
            message, fds = b"", []
        if message == b"session" and len(fds) == 1:
            if self._session is not None:
                os.close(self._session)
            self._session = fds[0]
            self._sessions += 1
            return
        for fd in fds:
            os.close(fd)
        self._zygote_lives = False
        self._give_up(message.decode("utf-8", "replace") or "the zygote has died")

    def _session_ended(self) -> None:
        assert self._session is not None
        os.close(self._session)
        self._session = None
        if lib.sd_listener_state(self._listener) == -ENOTCONN:
            return
        now = time.monotonic()
        refused = lib.sd_refuse_pending(self._listener, self._watch, self._error)
        self._deaths.append(now)
        if (
            len(self._deaths) == self._limits.restarts
            and now - self._deaths[0] < self._limits.restart_window
        ):
            self._give_up(f"{len(self._deaths)} sessions have died one after the other")
            return
        self._order()
        self._complain(f"a session has died; {refused} calls refused, another one is started")

    def _give_up(self, why: str) -> None:
        """From here on all is refused: better than to let callers wait, or to let them go."""
        if self.failed is None:
            self.failed = why
            if self._listener >= 0:
                lib.sd_refuse_pending(self._listener, self._watch, self._error)
            self._complain(f"{why}; every supervised call is refused from now on")
        self._only_refuse = self._listener >= 0

    # -- the deadline of a snapshot

    def _deadline(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._timer, 8)
        since = self._watch.reading_since
        if not since:
            return
        deadline = int(self._limits.snapshot * 1e9)
        left = since + deadline - time.monotonic_ns()
        if left > 0:
            left = min(left, deadline)  # the session may write what it likes
            self._watch.armed_at = since
            check(lib.sd_arm_timer(self._timer, left), "timerfd_settime")
            return
        self._stalled()

    def _stalled(self) -> None:
        """A caller's memory does not come. The reader is given up, the caller refused unread."""
        watch = self._watch
        tid = watch.reading_tid
        place = self._stalls
        if place < lib.SD_STALLS:
            tgid = ffi.new("uint32_t *")
            start = ffi.new("uint64_t *")
            if lib.sd_task_start(tid, tgid, start) == 0:
                watch.stalled[place].tgid = tgid[0]
                watch.stalled[place].start_time = start[0]
            self._stalls += 1
        watch.stalls = self._stalls
        if self._session is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._session, signal.SIGKILL)
            # It may hang in the kernel for as long as the caller wants; it will never answer again.
            os.close(self._session)
            self._session = None
        refused = lib.sd_refuse_pending(self._listener, watch, self._error)
        more = "" if self._stalls < lib.SD_STALLS else "; no caller's memory will be read any more"
        watch.armed_at = 0
        self._order()
        self._complain(
            f"thread {tid} made the reading of its memory hang; {refused} calls refused{more}"
        )

    def _complain(self, text: str) -> None:
        complain(f"{self._config.name}: {text}")

    def _wait_for_zygote(self) -> None:
        """Waits for the zygote's end, not for ever."""
        pidfd = os.pidfd_open(self._zygote)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(self._limits.goodbye * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        os.waitpid(self._zygote, 0)
