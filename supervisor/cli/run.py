"""`seccompd run`: one command under a policy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.errors import SeccompdError, UsageError

if TYPE_CHECKING:
    from supervisor.intake.command import Options

_MOST_FDS = 64
_NAMESPACES = ("net", "ipc", "uts", "cgroup", "time")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`; what follows the first word that is none is the command."""
    parser.usage = "%(prog)s [options] [--] COMMAND [ARGUMENT ...]"
    parser.add_argument(
        "--policy", metavar="NAME|FILE",
        help="the policy: a file where it has a slash or ends in .yaml, else a name (default)",
    )
    parser.add_argument(
        "--attach", nargs="?", const="", metavar="SOCKET",
        help="have the daemon of this host serve it, under a policy that the admin has for you;"
        " COMMAND has to stand behind --",
    )
    parser.add_argument(
        "--map", action="append", metavar="auto|none|SPEC",
        help="ids in the command's user namespace: all that are yours (auto), no namespace at all"
        " (none), or INSIDE:OUTSIDE:COUNT, which may be repeated and start with u: or g:",
    )
    parser.add_argument(
        "--unshare", action="append", default=[], metavar="NAMESPACE[,...]",
        help=f"more namespaces for the command: {', '.join(_NAMESPACES)}",
    )
    parser.add_argument("--audit", metavar="FILE", help="append one JSON object for each call")
    parser.add_argument(
        "--learn", metavar="FILE",
        help="write a policy that grants what the command asked for and was granted; the policy"
        " is then learn, where none is given",
    )
    parser.add_argument(
        "--merge", metavar="NAME|FILE",
        help="with --learn: add to this policy, and show what is added as a diff",
    )
    parser.add_argument("--trace", action="store_true", help="print each call on stderr")
    parser.add_argument(
        "--preserve-fds", default="0", metavar="N",
        help="let the command have N more descriptors after 0, 1 and 2",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Checks what argparse cannot, and runs the command; its exit status is ours."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UsageError("run: no command is given", hint="seccompd run -- COMMAND ARGUMENT ...")
    maps = tuple(args.map or ("auto",))
    if len(maps) > 1 and {"auto", "none"} & set(maps):
        raise UsageError("--map auto and --map none stand alone")
    unshare = [name for names in args.unshare for name in names.split(",") if name]
    for name in unshare:
        if name not in _NAMESPACES:
            raise UsageError(
                f"--unshare {name}: no such namespace", hint=f"there are {', '.join(_NAMESPACES)}"
            )
    if unshare and maps == ("none",):
        raise UsageError("--unshare needs a user namespace, which --map none does without")
    keep = args.preserve_fds
    if not (keep.isascii() and keep.isdecimal()) or int(keep) > _MOST_FDS:
        raise UsageError(
            f"--preserve-fds {keep}: not a number from 0 to {_MOST_FDS}",
            hint="say how many descriptors the command is to have after 0, 1 and 2",
        )
    if args.audit == "-":
        raise UsageError(
            "--audit -: the records need a file of their own",
            hint="a file's name; ./- for a file with that name, /dev/fd/N for an open descriptor",
        )
    if args.merge is not None and args.learn is None:
        raise UsageError("--merge is for --learn", hint="seccompd run --learn FILE --merge POLICY")
    attach = None
    if args.attach is not None:
        attach = _attach(args, maps)
    from supervisor.intake.command import Options, run

    options = Options(
        command=command,
        policy=args.policy or ("learn" if args.learn is not None else None),
        attach=attach,
        maps=maps,
        unshare=unshare,
        audit=args.audit,
        trace=args.trace,
        preserve_fds=int(keep),
    )
    if args.learn is None:
        return run(options)
    return _learning(options, args.learn, args.merge)


def _learning(options: Options, out: str, merge: str | None) -> int:
    """Runs the command with an audit log, and makes a policy of it; the status is the command's."""
    import os
    import sys
    import tempfile

    from supervisor.cli.learn import check_ready, learn
    from supervisor.intake.command import run

    if options.audit is not None:
        raise UsageError(
            "--learn keeps an audit log of its own",
            hint="with --audit FILE, `seccompd learn FILE --out OUT.yaml` makes a policy later",
        )
    check_ready(out, merge)
    fd, log = tempfile.mkstemp(prefix="seccompd-learn-", suffix=".jsonl")
    os.close(fd)
    try:
        status = run(options._replace(audit=log))
    except BaseException:
        os.unlink(log)
        raise
    try:
        # Not on stdout, which was the command's.
        learn([Path(log)], out, merge=merge, base=options.policy, show=sys.stderr)
    except SeccompdError as error:  # the command has run: its status and its records are kept
        sys.stderr.write(f"seccompd: {error}\nseccompd: the records are in {log}\n")
        return status
    os.unlink(log)
    return status


def _attach(args: argparse.Namespace, maps: tuple[str, ...]) -> Path:
    """The daemon's socket; UsageError for what --attach cannot do."""
    for option, value in (
        ("--audit", args.audit), ("--learn", args.learn), ("--trace", args.trace),
    ):  # fmt: skip
        if value:
            raise UsageError(
                f"{option} and --attach do not go together: the records are the daemon's",
                hint="the admin finds them where `audit` of the daemon's configuration says",
            )
    if maps == ("none",):
        raise UsageError("--attach needs a user namespace, which --map none does without")
    if "/" in (args.policy or "") or (args.policy or "").endswith(".yaml"):
        raise UsageError(
            f"--policy {args.policy}: with --attach it is one of the daemon's, by its name",
            hint="a policy of your own needs no daemon: leave --attach out",
        )
    return Path(args.attach or "/run/seccompd/attach.sock")
