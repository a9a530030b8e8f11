"""The birth of helpers. What they are asked for later is in supervisor.engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.kernel.mounts import NAMED_OPTIONS, attr_of
from supervisor.kernel.shim import check, ffi, lib
from supervisor.model import Inject, MountCeiling, XattrCeiling

_READY_MS = 5000
# What a maker goes by, which is all of its parent's memory that it does not let go of.
_kept = ffi.new_allocator(lib.sd_kept_new, lib.sd_kept_free)


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


def spawn_porters() -> Helper:
    """Forks the process of porters, which has the capabilities of this one."""
    child = ffi.new("struct sd_child *")
    check(lib.sd_porters_spawn(child), "fork")
    return _ready(child, "porters could not be set up")


def spawn_fuse_starter() -> Helper:
    """Forks who makes the beginnings of FUSE programs, as children of this process."""
    child = ffi.new("struct sd_child *")
    check(lib.sd_spare_spawn(child), "fork")
    return Helper(child.pid, child.pidfd, child.sock)


def spawn_giver() -> Helper:
    """Forks a giver (kernel/giver.py), which takes one order and ends; needs what a maker needs."""
    child = ffi.new("struct sd_child *")
    check(lib.sd_giver_spawn(child), "fork")
    return Helper(child.pid, child.pidfd, child.sock)


def spawn_maker(
    ceiling: Sequence[tuple[str, int, int, int, int, bool]],
    uids: Sequence[tuple[int, int, int]],
    gids: Sequence[tuple[int, int, int]],
    mounts: Sequence[MountCeiling] = (),
    userns: int | None = None,
    *,
    lent: Sequence[Inject] = (),
    xattrs: Sequence[XattrCeiling] = (),
    real_nodes: bool = True,
    mark: str = "",
    apart: bool = True,
) -> Helper:
    """Forks a maker; needs root's privileges in the initial user namespace.

    `ceiling` has the devices it may ever make: type ("c" or "b"), lowest and highest major, lowest
    and highest minor, and whether they are made only where nobody can open them (which without a
    user namespace there is nowhere, and is not looked at). `uids` and `gids` are (inside, outside,
    count) of the target's user namespace; none: it has none of its own. `mounts` is what it may
    ever mount, and `userns` the target's user namespace, for whose ids it is mounted. Without
    `real_nodes` it makes those that can be opened only to be mounted, so that none of them stays.
    `xattrs` is what it may ever do with extended attributes, as root.
    `lent` are devices, files, directories and loop devices that it lends for opens; `mark`, a
    secret, is by what the makers of one session know the loop devices again that are its own.
    `apart`: its share of the processors is not ours, where the kernel goes by sessions.
    """
    keep = (
        _kept("struct sd_range[]", [tuple(r) for r in uids]),
        _kept("struct sd_range[]", [tuple(r) for r in gids]),
        _kept("struct sd_devices[]", [(ord(kind), *numbers) for kind, *numbers in ceiling]),
    )
    bounds = _kept("struct sd_ceiling *")
    bounds.uids, bounds.gids, bounds.devices = keep
    bounds.uid_count, bounds.gid_count, bounds.device_count = map(len, keep)
    rules, kept = _mount_rules(mounts)
    bounds.mounts, bounds.mount_count = rules, len(mounts)
    bounds.named_options = _strings(kept, [name.encode() for name in NAMED_OPTIONS])
    bounds.named_count = len(NAMED_OPTIONS)
    bounds.userns = -1 if userns is None else userns
    bounds.no_real_nodes = not real_nodes
    things, paths = _lent(lent)
    paths.append(name := _kept("char[]", mark.encode()))
    bounds.mark = name
    bounds.xattrs, bounds.xattr_count = _xattr_rules(paths, xattrs), len(xattrs)
    bounds.lent, bounds.lent_count = things, len(lent)
    child = ffi.new("struct sd_child *")
    check(lib.sd_maker_spawn(bounds, apart, child), "fork")
    del kept, paths
    return _ready(child, "a maker could not be set up")


def _lent(lent: Sequence[Inject]) -> tuple[Any, list[Any]]:
    """The array, and what has to live as long as it does."""
    things = _kept("struct sd_lent[]", max(len(lent), 1))
    paths: list[Any] = []
    for thing, inject in zip(things, lent, strict=False):
        thing.writes = inject.writes
        if inject.device is not None:
            kind, thing.major, thing.minor = inject.device
            thing.type = ord(kind)
            continue
        if inject.loops is not None:
            first, last = inject.loops
            thing.minor, thing.loops = first, last - first + 1
        name = inject.file or inject.directory
        if name is not None:
            paths.append(path := _kept("char[]", os.fsencode(name)))
            thing.path, thing.directory = path, inject.directory is not None
    return things, paths


def _strings(kept: list[Any], texts: Sequence[bytes]) -> Any:
    """A C array of them; what has to live as long as it does is added to `kept`."""
    strings = [_kept("char[]", text) for text in texts]
    kept += strings
    kept.append(array := _kept("char *[]", strings))
    return array


def _xattr_rules(kept: list[Any], xattrs: Sequence[XattrCeiling]) -> Any:
    """A C array of them; what has to live as long as it does is added to `kept`."""
    rules = _kept("struct sd_xattr_rule[]", max(len(xattrs), 1))
    for rule, xattr in zip(rules, xattrs, strict=False):
        kept.append(name := _kept("char[]", xattr.name))
        rule.name = name
        if xattr.value is not None:
            kept.append(value := _kept("char[]", xattr.value))
            rule.value, rule.size = value, len(xattr.value)
    kept.append(rules)
    return rules


def _mount_rules(mounts: Sequence[MountCeiling]) -> tuple[Any, list[Any]]:
    """The array, and what has to live as long as it does."""
    rules = _kept("struct sd_mount_rule[]", len(mounts))
    kept: list[Any] = []
    for rule, mount in zip(rules, mounts, strict=True):
        kept.append(fstype := _kept("char[]", mount.fstype))
        devices = [(ord("b"), *numbers) for numbers in mount.devices]
        kept.append(device_list := _kept("struct sd_devices[]", devices))
        rule.fstype, rule.devices, rule.device_count = fstype, device_list, len(devices)
        rule.names, rule.name_count = _strings(kept, mount.names), len(mount.names)
        rule.options, rule.option_count = _strings(kept, mount.options), len(mount.options)
        rule.force, rule.flags = attr_of(mount.force), mount.flags
        rule.images, rule.text, rule.shift = mount.images, mount.text, mount.shift
    return rules, kept
