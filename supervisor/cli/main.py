"""The command line: finds the verb, imports its module alone, and shows errors as one message.

A verb is a module with `add_arguments(parser)` and `main(args) -> int`, and one line in VERBS.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from supervisor.errors import SeccompdError, UsageError

# verb -> (module, what it does)
VERBS: Final = {
    "run": ("supervisor.cli.run", "run one command under a policy"),
    "serve": ("supervisor.cli.serve", "supervise the containers of this host, as a daemon"),
    "profile": ("supervisor.cli.profile", "print what a container runtime must load for a policy"),
    "ps": ("supervisor.cli.ps", "list the containers that a daemon serves"),
    "stats": ("supervisor.cli.stats", "print a daemon's figures"),
    "trace": ("supervisor.cli.trace", "watch what a daemon's sessions decide, as it happens"),
    "reload": ("supervisor.cli.reload", "have a daemon load its policies again"),
    "device": ("supervisor.cli.device", "give a running container a device, or take it away"),
    "lxc-hook": ("supervisor.cli.lxc_hook", "tell the daemon that an LXC container starts"),
    "check": ("supervisor.cli.check", "look for mistakes in policies"),
    "explain": ("supervisor.cli.explain", "say what a policy does with a call, and why"),
    "test": ("supervisor.cli.test", "run the cases beside policies"),
    "learn": ("supervisor.cli.learn", "write a policy from what was asked for"),
    "replay": ("supervisor.cli.replay", "say what another policy would have decided"),
    "schema": ("supervisor.cli.schema", "print the JSON Schema of a policy"),
    "doctor": ("supervisor.cli.doctor", "say what works on this machine and what is missing"),
}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("seccompd")
    except PackageNotFoundError:
        return "0 (from a source tree)"


def _help() -> str:
    lines = ["usage: seccompd [--version] [--help] VERB ...", ""]
    lines += [f"  {verb:8} {text}" for verb, (_, text) in VERBS.items()]
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
    if not module:
        return _say(f"seccompd: no such verb: {verb}\n{_help()}", 2)
    import argparse
    import importlib

    class Parser(argparse.ArgumentParser):
        """argparse, with errors in the form that all our errors have."""

        def error(self, message: str) -> NoReturn:
            raise UsageError(f"{verb}: {message}", hint=f"`seccompd {verb} --help` has the options")

        def print_help(self, file: object = None) -> None:  # noqa: ARG002
            """The help, whose errors argparse would not tell."""
            print(self.format_help(), end="")

    chosen = importlib.import_module(module)
    parser = Parser(prog=f"seccompd {verb}", description=text, allow_abbrev=False)
    chosen.add_arguments(parser)
    return int(chosen.main(parser.parse_args(rest)))


def main(words: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit status, 2 for wrong usage; never raises."""
    try:
        fill_closed_streams()
        try:
            status = _dispatch(list(sys.argv[1:] if words is None else words))
        except SystemExit as end:  # argparse has shown its help
            status = int(end.code or 0)
        sys.stdout.flush()
        return status
    except SeccompdError as error:
        return _say(f"seccompd: {error}", error.status)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()  # whoever read it has enough
        return 141
    except MemoryError:
        hint = "`ulimit -v` shows a limit; seccompd takes some 100 MB of address space"
        return _fail("no memory is left", hint)
    except ImportError as error:  # a library that cannot be mapped is one, too
        return _fail(f"a part of seccompd does not load: {error}", "`seccompd doctor` says which")
    except OSError as error:
        return _fail(_what(error), _HINTS.get(error.errno or 0))


_HINTS: Final = {
    errno.EMFILE: "`ulimit -n` shows a limit on descriptors: raise it",
    errno.ENFILE: "the machine has no descriptor left: see /proc/sys/fs/file-max",
    errno.EAGAIN: "`ulimit -u` or a cgroup limits the number of processes: raise it",
    errno.ENOMEM: "no memory is left: see `ulimit -v`, or a cgroup's limit",
    errno.ENOSPC: "the output, or a file of the cache, finds no room",
}


def fill_closed_streams() -> None:
    """Where 0, 1 or 2 is closed, no descriptor of ours may get that number by chance.

    These are close-on-exec: a command finds its streams closed, as it would without us.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if getattr(sys, name) is None:
            stream = open(fd, "w" if fd else "r", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _what(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


def _fail(what: str, hint: str | None) -> int:
    _drop_output()
    return _say(f"seccompd: {SeccompdError(what, hint=hint)}", 1)


def _drop_output() -> None:
    """What Python still holds for stdout must not be tried again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.close(1)
        os.open(os.devnull, os.O_WRONLY)  # becomes 1, even where no other may be opened


def _say(text: str, status: int) -> int:
    try:
        # Names that are no UTF-8 come as surrogates: shown as \\xNN.
        data = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        print(data, file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        pass  # stderr cannot be written; the status says it
    return status
