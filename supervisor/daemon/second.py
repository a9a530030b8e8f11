"""The second zygote of a daemon, which has read and opened nothing and waits.

It takes the place of the first where that dies, and only then makes a second one of its own. The
daemon could not fork a zygote any more, having given up what makers are made with.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import time

from supervisor.kernel import privileges
from supervisor.kernel.shim import send_fds


def spared(sock: socket.socket) -> socket.socket:
    """Has a second zygote wait beside this one, and tells the other side of its socket. Returns the
    socket of whoever serves: of the second one, too, once the first has gone."""
    while True:
        gc.collect()
        gc.freeze()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first = os.getpid()
        pid = os.fork()
        if pid:
            # Where nobody hears it any more the second one sees that its other side has gone.
            with contextlib.suppress(OSError):
                send_fds(sock.fileno(), json.dumps({"second": pid}).encode(), [ours.fileno()])
            ours.close()
            theirs.close()
            return sock
        sock.close()
        ours.close()
        sock = theirs
        os.setpgid(0, 0)
        privileges.set_dumpable(False)
        privileges.set_name("seccompd-second")
        # Nothing is said to it before it is needed. At the end of the other side it has to end too,
        # and must not fork a second one, which would do the same.
        select.select([sock], [], [])
        if not _peek(sock):
            os._exit(0)
        while os.getppid() == first:  # which is dying: what follows is not about that
            time.sleep(0.001)
        privileges.set_parent_death_signal(signal.SIGKILL)  # the daemon's, who is our parent now
        privileges.set_name("seccompd-zygote")


def _peek(sock: socket.socket) -> bytes:
    """b"" where the other side has gone."""
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except OSError:
        return b""
