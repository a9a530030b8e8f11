"""A launcher that is not seccompd: has a command's calls answered by attach.sock.

    launcher.py SOCKET RECORD [PID] [FD]

The command, in user, mount and pid namespaces, tries to make a device node in the working
directory again and again, and writes what comes of it to RECORD. PID is the process that is handed
over in the command's place (0: none; "fd": a descriptor that is no pidfd), FD an inherited
descriptor to hand over instead of the command's listener. Prints each answer of the daemon. A line
of input: the connection is closed; the end of input: the end.
"""

from __future__ import annotations

import array
import base64
import json
import os
import select
import socket
import sys

from supervisor.kernel import idmap
from supervisor.kernel.launch import Init, Kind, Launch, Namespace

COMMAND = """
import errno, os, sys, time
for number in range(1000):
    try:
        os.mknod(f"x{number}", 0o20666, 0x103)
        said = "OK"
    except OSError as error:
        said = errno.errorcode[error.errno]
    print(said, file=open(sys.argv[1], "a"), flush=True)
    time.sleep(0.05)
"""


def talk(sock: socket.socket, message: dict[str, object], fds: list[int]) -> dict[str, str]:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps({"version": 1, **message}).encode()], rights)
    return hear(sock)


def hear(sock: socket.socket) -> dict[str, str]:
    found: dict[str, str] = json.loads(sock.recv(1 << 20) or "{}")
    shown = dict(found)
    shown.pop("filter", None)
    print(json.dumps(shown), flush=True)
    return found


def main() -> None:
    path, record, *rest = sys.argv[1:]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(path)
    answer = talk(sock, {"do": "filter"}, [])
    maps = idmap.single(os.getuid(), os.getgid())
    init = Init(
        Launch(
            [sys.executable, "-c", COMMAND, record],
            base64.b64decode(answer["filter"]),
            Namespace.USER | Namespace.MOUNT | Namespace.PID,
            maps.identity,
        )
    )
    idmap.write(init.pid, maps)
    init.go()
    while True:
        select.select([init.sock], [], [])
        event = init.next()
        if event is not None and event.kind is Kind.LISTENER:
            break
    pid = rest[0] if rest else ""
    number = init.pid if pid in ("", "0", "fd") else int(pid)
    pidfd = os.open("/dev/null", os.O_RDONLY) if pid == "fd" else os.pidfd_open(number)
    listener = int(rest[1]) if rest[1:] else event.listener
    answer = talk(sock, {"do": "attach", "fds": ["seccompFd", "pidFd"]}, [listener, pidfd])
    os.close(event.listener)
    if "error" in answer:
        return
    ready, _, _ = select.select([sys.stdin, sock], [], [])
    if sock in ready:
        hear(sock)
    elif sys.stdin.readline():
        sock.close()
        sys.stdin.read()
    init.close()


main()
