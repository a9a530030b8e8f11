"""The birth of helpers. What they are asked for later is in supervisor.engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.kernel.mounts import attr_of
from supervisor.kernel.shim import check, ffi, lib
from supervisor.model import Inject, MountCeiling

_READY_MS = 5000


@dataclass(frozen=True, slots=True)
class Helper:
    """A process that answers on `sock`. `pidfd` is -1 where the kernel has none."""

    pid: int
    pidfd: int
    sock: int


def _ready(child: Any, what: str) -> Helper:
    helper = Helper(child.pid, child.pidfd, child.sock)
    try:
        check(lib.sd_helper_ready(helper.sock, _READY_MS), what)
    except OSError:
        os.close(helper.sock)
        if helper.pidfd >= 0:
            os.close(helper.pidfd)
        raise
    return helper


def spawn_resolver() -> Helper:
    """Forks a resolver, which inherits the user namespace and the capabilities of this process."""
    child = ffi.new("struct sd_child *")
    check(lib.sd_resolver_spawn(child), "fork")
    return _ready(child, "a resolver could not be set up")


def spawn_fuse_starter() -> Helper:
    """Forks who makes the beginnings of FUSE programs, as children of this process."""
    child = ffi.new("struct sd_child *")
    check(lib.sd_spare_spawn(child), "fork")
    return Helper(child.pid, child.pidfd, child.sock)


def spawn_maker(
    ceiling: Sequence[tuple[str, int, int, int, int, bool]],
    uids: Sequence[tuple[int, int, int]],
    gids: Sequence[tuple[int, int, int]],
    mounts: Sequence[MountCeiling] = (),
    userns: int | None = None,
    *,
    lent: Sequence[Inject] = (),
    real_nodes: bool = True,
) -> Helper:
    """Forks a maker; needs root's privileges in the initial user namespace.

    `ceiling` has the devices it may ever make: type ("c" or "b"), lowest and highest major, lowest
    and highest minor, and whether they are made only where nobody can open them (which without a
    user namespace there is nowhere, and is not looked at). `uids` and `gids` are (inside, outside,
    count) of the target's user namespace; none: it has none of its own. `mounts` is what it may
    ever mount, and `userns` the target's user namespace, for whose ids it is mounted. Without
    `real_nodes` it makes those that can be opened only to be mounted, so that none of them stays.
    `lent` are devices and files that it lends for opens.
    """
    keep = (
        ffi.new("struct sd_range[]", [tuple(r) for r in uids]),
        ffi.new("struct sd_range[]", [tuple(r) for r in gids]),
        ffi.new("struct sd_devices[]", [(ord(kind), *numbers) for kind, *numbers in ceiling]),
    )
    bounds = ffi.new("struct sd_ceiling *")
    bounds.uids, bounds.gids, bounds.devices = keep
    bounds.uid_count, bounds.gid_count, bounds.device_count = map(len, keep)
    rules, kept = _mount_rules(mounts)
    bounds.mounts, bounds.mount_count = rules, len(mounts)
    bounds.userns = -1 if userns is None else userns
    bounds.no_real_nodes = not real_nodes
    things, paths = _lent(lent)
    bounds.lent, bounds.lent_count = things, len(lent)
    child = ffi.new("struct sd_child *")
    check(lib.sd_maker_spawn(bounds, child), "fork")
    del kept, paths
    return _ready(child, "a maker could not be set up")


def _lent(lent: Sequence[Inject]) -> tuple[Any, list[Any]]:
    """The array, and what has to live as long as it does."""
    things = ffi.new("struct sd_lent[]", max(len(lent), 1))
    paths: list[Any] = []
    for thing, inject in zip(things, lent, strict=False):
        thing.writes = inject.writes
        if inject.device is not None:
            kind, thing.major, thing.minor = inject.device
            thing.type = ord(kind)
        elif inject.file is not None:
            paths.append(path := ffi.new("char[]", os.fsencode(inject.file)))
            thing.path = path
    return things, paths


def _mount_rules(mounts: Sequence[MountCeiling]) -> tuple[Any, list[Any]]:
    """The array, and what has to live as long as it does."""
    rules = ffi.new("struct sd_mount_rule[]", len(mounts))
    kept: list[Any] = []
    for rule, mount in zip(rules, mounts, strict=True):
        names = [ffi.new("char[]", name) for name in mount.names]
        devices = [(ord("b"), *numbers) for numbers in mount.devices]
        kept += names
        kept.append(fstype := ffi.new("char[]", mount.fstype))
        kept.append(name_list := ffi.new("char *[]", names))
        kept.append(device_list := ffi.new("struct sd_devices[]", devices))
        rule.fstype, rule.names, rule.devices = fstype, name_list, device_list
        rule.name_count, rule.device_count = len(names), len(devices)
        rule.force = attr_of(mount.force)
        rule.images, rule.text = mount.images, mount.text
    return rules, kept
