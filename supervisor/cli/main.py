"""The command line: finds the verb, imports its module alone, and shows errors as one message.

A verb is a module with `add_arguments(parser)` and `main(args) -> int`, and one line in VERBS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from supervisor.errors import SeccompdError

# verb -> (module, what it does)
VERBS: Final = {
    "run": ("supervisor.cli.run", "run one command under a policy"),
    "check": ("supervisor.cli.check", "look for mistakes in policies"),
    "schema": ("supervisor.cli.schema", "print the JSON Schema of a policy"),
    "explain": ("supervisor.cli.explain", "say what a policy does with a call, and why"),
    "doctor": ("supervisor.cli.doctor", "say what works on this machine and what is missing"),
}


def _available(module: str) -> bool:
    name = module.rpartition(".")[2] + ".py"
    return os.path.exists(os.path.join(os.path.dirname(__file__), name))


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("seccompd")
    except PackageNotFoundError:
        return "0 (from a source tree)"


def _help() -> str:
    lines = ["usage: seccompd [--version] [--help] VERB ...", ""]
    for verb, (module, text) in VERBS.items():
        if _available(module):
            lines.append(f"  {verb:8} {text}")
    return "\n".join([*lines, "", "`seccompd VERB --help` says more."])


def _dispatch(words: list[str]) -> int:
    if not words:
        print(_help(), file=sys.stderr)
        return 2
    verb, *rest = words
    if verb in ("-h", "--help", "help"):
        print(_help())
        return 0
    if verb in ("-V", "--version"):
        print("seccompd", _version())
        return 0
    module, text = VERBS.get(verb, ("", ""))
    if not module or not _available(module):
        print(f"seccompd: no such verb: {verb}\n{_help()}", file=sys.stderr)
        return 2
    import argparse
    import importlib

    chosen = importlib.import_module(module)
    parser = argparse.ArgumentParser(prog=f"seccompd {verb}", description=text, allow_abbrev=False)
    chosen.add_arguments(parser)
    return int(chosen.main(parser.parse_args(rest)))


def main(words: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit status; usage errors end in 2, as argparse has them."""
    try:
        status = _dispatch(list(sys.argv[1:] if words is None else words))
        sys.stdout.flush()
        return status
    except SeccompdError as error:
        return _say(f"seccompd: {error}", error.status)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; what Python still has of it must not be tried again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


def _say(text: str, status: int) -> int:
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, AttributeError):
        pass  # stderr is closed; the status says it
    return status
