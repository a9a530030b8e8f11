"""`seccompd profile`: the seccomp profile that a runtime has to load for a policy."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

from supervisor.errors import SeccompdError, UsageError
from supervisor.handlers.registry import FAMILIES
from supervisor.policy import lxc_profile, profile, store
from supervisor.policy.compile import rules_of
from supervisor.policy.traits import Traits

_BASE_MAX = 1 << 24
# From this version on it takes the flag and does not say so (`features` came later).
_CRUN = (1, 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("--policy", required=True, metavar="NAME|FILE")
    parser.add_argument("--format", choices=("oci", "lxc"), default="oci")
    parser.add_argument(
        "--base", metavar="FILE",
        help="a profile whose rules come after the policy's (without one all else is allowed)",
    )
    parser.add_argument(
        "--listener", metavar="PATH", help="the daemon's socket (where `seccompd serve` has it)"
    )
    parser.add_argument("--metadata", metavar="TEXT", help="what `match: {metadata: ...}` sees")
    parser.add_argument(
        "--nodes", choices=("private", "host"),
        default="private" if os.geteuid() == 0 else "host",
        help="for the daemon of root (private) or of an ordinary user (host); yours is the default",
    )
    parser.add_argument(
        "--runtime", metavar="PROGRAM",
        help="use the filter flags that this runtime knows; without it none, as all can do",
    )


def main(args: argparse.Namespace) -> int:
    """Prints the profile."""
    _check(args)
    file = store.find(args.policy)
    content = store.read(file, args.policy if "/" in args.policy else None)
    rules = rules_of(file, content, Traits(args.nodes), FAMILIES)
    base = None if args.base is None else _base(Path(args.base))
    if args.format == "lxc":
        sys.stdout.write(lxc_profile.lxc(rules, base))
        return 0
    parsed = None
    if base is not None:
        try:
            parsed = json.loads(base)
        except (ValueError, RecursionError) as error:
            raise SeccompdError(f"not JSON: {error}", where=args.base) from None
        if not isinstance(parsed, dict):
            raise SeccompdError("not a seccomp profile", where=args.base)
    out = profile.oci(
        rules,
        parsed,
        listener=args.listener or _listener(),
        metadata=args.metadata,
        flags=_flags(args.runtime) if args.runtime else (),
    )
    json.dump(out, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises UsageError for options that would come to nothing, or to a profile of no use."""
    if args.format == "lxc":
        for option in ("listener", "metadata", "runtime"):
            if getattr(args, option) is not None:
                raise UsageError(
                    f"profile: --{option} is for --format oci",
                    hint="LXC has it in a container's own configuration: lxc.seccomp.notify.proxy "
                    "and lxc.seccomp.notify.cookie",
                )
    elif args.listener is not None and not args.listener.startswith("/"):
        raise UsageError(
            f"profile: --listener {args.listener}: not an absolute path",
            hint="a runtime looks for it from a folder of its own",
        )


def _listener() -> str:
    from supervisor.daemon.config import default_runtime_directory

    return str(default_runtime_directory() / "oci.sock")


def _base(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_BASE_MAX).decode()
    except (OSError, UnicodeDecodeError) as error:
        text = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SeccompdError(f"cannot be read: {text}", where=str(file)) from None


def _flags(runtime: str) -> tuple[str, ...]:
    """The filter flags of use that the runtime's program says it knows."""
    try:
        known = json.loads(_said(runtime, "features"))["linux"]["seccomp"]["supportedFlags"]
    except (ValueError, KeyError, TypeError):
        found = re.match(r"crun version (\d+)\.(\d+)", _said(runtime, "--version"))
        known = []
        if found and (int(found[1]), int(found[2])) >= _CRUN:
            known = [profile.WAIT_KILLABLE]
    return (profile.WAIT_KILLABLE,) if profile.WAIT_KILLABLE in known else ()


def _said(program: str, word: str) -> str:
    """What a program writes; "" where it fails. SeccompdError where there is none."""
    out, into = os.pipe()
    try:
        child = os.posix_spawnp(
            program, [program, word], os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, into, 1), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
            ],
        )
    except OSError as error:
        os.close(out)
        raise SeccompdError(f"cannot be executed: {error.strerror}", where=program) from None
    finally:
        os.close(into)
    with os.fdopen(out, "rb") as pipe:
        said = pipe.read(_BASE_MAX).decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return "" if status else said
