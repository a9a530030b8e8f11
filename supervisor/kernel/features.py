"""What this kernel can do, asked once and only when somebody wants to know.

The one place that decides whether a newer kernel feature is used. The environment variable
SECCOMPD_TEST_HIDE (names with commas between them) hides features from all of seccompd, so that
every fallback can run on a kernel that would not need it; it can take away, never add.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

from supervisor.errors import KernelError
from supervisor.kernel import shim

HIDE = "SECCOMPD_TEST_HIDE"
OLDEST = (5, 14)


class Feature(NamedTuple):
    """One thing a kernel may have: `since` is the version that brought it.

    `required` features have no fallback. `purpose` says in a few words what it is good for, and
    `probe` is the name of the shim's number for it (enum sd_feature in csrc/shim_work.h).
    `by_launch`: a launch finds out by itself, and says more about it than a probe could.
    """

    name: str
    probe: str
    since: tuple[int, int]
    required: bool
    purpose: str
    by_launch: bool = False


_TABLE = (
    Feature("user_notif", "SD_HAS_USER_NOTIF", (5, 0), True, "stops a call and asks us"),
    Feature("new_listener", "SD_HAS_NEW_LISTENER", (5, 0), True, "hands us the stopped calls",
            by_launch=True),
    Feature("listener", "SD_HAS_LISTENER", (5, 0), True, "a filter can be installed here and now",
            by_launch=True),
    Feature("wait_killable", "SD_HAS_WAIT_KILLABLE", (5, 19), False,
            "signals wait for the answer; without it repeats are recognised by a table"),
    Feature("sync_wake_up", "SD_HAS_SYNC_WAKE_UP", (6, 6), False,
            "answers ten times faster; without it all works, slower"),
    Feature("namespaces", "SD_HAS_NAMESPACES", (3, 8), False,
            "user, mount and pid namespaces can be made and used", by_launch=True),
    Feature("proc", "SD_HAS_PROC", (3, 8), False, "a procfs of their own can be mounted in them"),
    Feature("pidfd", "SD_HAS_PIDFD", (5, 3), True, "names a process for certain"),
    Feature("openat2", "SD_HAS_OPENAT2", (5, 6), True, "opens paths with conditions"),
    Feature("close_range", "SD_HAS_CLOSE_RANGE", (5, 9), True, "leaves no stray descriptor"),
    Feature("statx_mnt_id", "SD_HAS_STATX_MNT_ID", (5, 8), True, "knows a mount again"),
    Feature("open_tree", "SD_HAS_OPEN_TREE", (5, 2), True, "makes bind mounts by descriptor"),
    Feature("move_mount", "SD_HAS_MOVE_MOUNT", (5, 2), True, "attaches mounts by descriptor"),
    Feature("mount_setattr", "SD_HAS_MOUNT_SETATTR", (5, 12), True, "sets a mount's attributes"),
    Feature("pidfd_info", "SD_HAS_PIDFD_INFO", (6, 13), False,
            "says who calls; without it records take longer to make"),
    Feature("peer_pidfd", "SD_HAS_PEER_PIDFD", (6, 5), False,
            "says for certain which process connected to a door; without it, by its number"),
    Feature("pass_rights", "SD_HAS_PASS_RIGHTS", (6, 16), False,
            "keeps strangers' descriptors out of the daemon; without it threads close them"),
)

FEATURES = {feature.name: feature for feature in _TABLE}


@functools.cache
def hidden() -> frozenset[str]:
    """The names that SECCOMPD_TEST_HIDE hides. A name that does not exist is an error."""
    names = frozenset(name for name in os.environ.get(HIDE, "").split(",") if name)
    if unknown := sorted(names - FEATURES.keys()):
        raise KernelError(
            f"{HIDE}: no such feature: {', '.join(unknown)}",
            hint=f"known are: {', '.join(sorted(FEATURES))}",
        )
    return names


@functools.cache
def probe(name: str) -> int:
    """Asks the kernel: 1 it is there, 0 it is not, or the negative errno that refused the trial."""
    return int(shim.lib.sd_probe(getattr(shim.lib, FEATURES[name].probe)))


@functools.cache
def available(name: str) -> bool:
    """Whether feature `name` is there and is to be used. Costs at most some 100 us, once."""
    return name not in hidden() and probe(name) == 1


def demand(*, namespaces: bool) -> None:
    """Refuses a kernel on which `seccompd run` cannot work: KernelError says what it lacks.

    Cheap: one short call for each required feature. What the launch itself finds out is looked
    at only whether it is hidden.
    """
    where = f"Linux {os.uname().release}"
    least = ".".join(map(str, OLDEST))
    if version() < OLDEST:
        raise KernelError("this kernel is too old", where=where, hint=f"run Linux {least} or later")
    for name, feature in FEATURES.items():
        if not (feature.required or (namespaces and name == "namespaces")):
            continue
        if name in hidden():
            hint = f"the environment variable {HIDE} hides it: unset that"
        elif feature.by_launch or available(name):
            continue
        else:
            hint = f"run Linux {least} or later, not below a filter that refuses this call; "
            hint += "`seccompd doctor` lists what is missing"
        raise KernelError(
            f"no {name}, which seccompd cannot do without ({feature.purpose})",
            where=where, hint=hint,
        )


def version() -> tuple[int, int]:
    """The running kernel's version, major and minor."""
    major, minor, *_ = os.uname().release.split(".")
    return int(major), int("".join(digit for digit in minor if digit.isdigit()))
