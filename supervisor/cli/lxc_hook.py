"""`seccompd lxc-hook`: what a hook of LXC runs where a container has no notify proxy."""

from __future__ import annotations

import argparse
import json
import socket
from pathlib import Path

from supervisor.errors import SeccompdError

_PATIENCE = 10.0
_EARLY = "pre-start"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb, and what LXC gives every hook."""
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="the daemon's lxc.sock (where it usually is)"
    )
    parser.add_argument(
        "--lxcpath", default="/var/lib/lxc", metavar="PATH",
        help="where the container is, as lxc-start -P says (%(default)s)",
    )
    parser.add_argument("--cookie", metavar="TEXT", help="what `match: {cookie: ...}` sees")
    parser.add_argument(
        "container", metavar="CONTAINER", help="its name; LXC says it, and two words more"
    )
    parser.add_argument("rest", nargs="*", default=[], help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Tells the daemon that the container starts. Where it does not hear it, LXC gives up."""
    from supervisor.daemon.config import default_runtime_directory
    from supervisor.intake.lxc_commands import Announced, announcement

    announced = Announced(args.container, args.lxcpath, args.cookie, _EARLY in args.rest)
    path = args.socket or default_runtime_directory() / "lxc.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(str(path))
            sock.send(announcement(announced))
            answer = sock.recv(4096)
        except OSError as error:
            text = f"no daemon hears: {error.strerror or error}"
            raise SeccompdError(text, where=str(path)) from error
    if not _taken(answer):
        raise SeccompdError("the daemon does not take it; its log says why", where=str(path))
    return 0


def _taken(answer: bytes) -> bool:
    try:
        return "announced" in json.loads(answer)
    except (ValueError, TypeError, RecursionError):  # nothing, or somebody else's socket
        return False
