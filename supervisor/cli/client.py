"""What the verbs that ask a daemon have in common: its control.sock, one line each way."""

from __future__ import annotations

import argparse
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from supervisor.errors import SeccompdError

_SYSTEM = Path("/run/seccompd/control.sock")


def add_arguments(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Those of all these verbs. `again`: of a verb's own verb, after the same of the verb."""
    parser.add_argument(
        "--socket", metavar="PATH", default=argparse.SUPPRESS if again else None,
        help="the daemon's control.sock (your own daemon's where there is one, else the system's)",
    )
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default=argparse.SUPPRESS if again else "text"
    )


def ask(args: argparse.Namespace, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request. SeccompdError where there is none, or it is an error."""
    for answer in stream(args, request):
        return answer
    hint = "--socket names its control.sock, and no other of its sockets"
    raise SeccompdError("the daemon has closed the connection", hint=hint)


def stream(args: argparse.Namespace, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All answers to a request, until the daemon ends them."""
    path = Path(args.socket) if args.socket else _default()
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as lines:
                for line in lines:
                    answer = _read(line, path)
                    if "error" in answer:
                        raise SeccompdError(str(answer["error"]))
                    yield answer
        except OSError as error:
            raise SeccompdError(
                f"no daemon answers: {error.strerror or error}", where=str(path),
                hint="is `seccompd serve` running? --socket names another one",
            ) from None


def _read(line: bytes, path: Path) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise SeccompdError("what answers is no daemon of seccompd", where=str(path))
    return answer


def _default() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    own = Path(base) / "seccompd" / _SYSTEM.name
    return own if os.geteuid() and os.path.isabs(base) and own.exists() else _SYSTEM
