"""What a process of ours may do, and how it looks: the sole importer of python-prctl.

Capabilities are taken away through the shim, because python-prctl does not know every capability
of a newer kernel (CAP_CHECKPOINT_RESTORE among them) and so cannot drop it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterable
from typing import Any

import prctl as _untyped_prctl

from supervisor.kernel.capabilities import NUMBERS
from supervisor.kernel.shim import check, lib

_prctl: Any = _untyped_prctl

def set_name(name: str) -> None:
    """The process's name in /proc/PID/comm: at most 15 bytes of it count."""
    _prctl.set_name(name)


def set_dumpable(dumpable: bool) -> None:
    """Whether those with our ids may trace us and read our /proc files."""
    _prctl.set_dumpable(dumpable)


def set_parent_death_signal(number: int) -> None:
    """The signal we get when the thread that forked us ends; a change of credentials clears it."""
    _prctl.set_pdeathsig(number)


def end_with(parent: int) -> None:
    """SIGKILL once the process `parent`, which has forked us, ends; the end where it has already.
    To be called again after a change of credentials."""
    _prctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def set_subreaper(subreaper: bool) -> None:
    """Whether orphaned descendants become our children."""
    _prctl.set_child_subreaper(subreaper)


def take_more_descriptors() -> None:
    """As many as we may have: so many may be under way between processes of our user's, too, before
    the kernel lets us send no more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def set_no_new_privileges() -> None:
    """No execve gives more rights from now on: for good, and for all descendants."""
    _prctl.set_no_new_privs(1)


def limit_capabilities(keep: Iterable[str] = ()) -> None:
    """Takes away every capability but `keep`, permitted and effective; inheritable all of them.

    Names are as in capabilities(7), in small letters and without "CAP_". What is not held now is
    not gained. OSError where the kernel refuses.
    """
    mask = 0
    for name in keep:
        mask |= 1 << NUMBERS[name]
    check(lib.sd_limit_capabilities(mask), "capset")


def holds(capability: str) -> bool:
    """Whether this process has `capability` in its effective set."""
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> NUMBERS[capability] & 1)
    return False
