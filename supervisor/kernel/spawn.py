"""The birth of helpers. What they are asked for later is in supervisor.engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from errno import ENOMEM
from typing import Any

from supervisor.kernel.mounts import NAMED_OPTIONS, attr_of
from supervisor.kernel.shim import check, ffi, lib
from supervisor.model import Inject, MountCeiling, XattrCeiling

_READY_MS = 5000
# What a maker goes by, which is all of its parent's memory that it does not let go of.
_kept = ffi.new_allocator(lib.sd_kept_new, should_clear_after_alloc=False)


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


def spawn_opener(kind: int, netns: int) -> Helper:
    """Forks an opener of the host's nodes, which is to be in that network namespace (-1: in ours).
    It says by itself when it is ready."""
    child = ffi.new("struct sd_child *")
    check(lib.sd_opener_spawn(kind, netns, child), "fork")
    return Helper(child.pid, child.pidfd, child.sock)


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


class Ceiling:
    """What a maker may ever do, as C has it. It has to stay until the maker is there."""

    def __init__(self, bounds: Any, memory: Any) -> None:
        self.bounds = bounds
        self._memory = memory

    def release(self) -> None:
        """Gives its memory back."""
        lib.sd_kept_free(self._memory)
        self.bounds = self._memory = ffi.NULL


def maker_ceiling(
    devices: Sequence[tuple[str, int, int, int, int, bool]],
    uids: Sequence[tuple[int, int, int]],
    gids: Sequence[tuple[int, int, int]],
    mounts: Sequence[MountCeiling] = (),
    userns: int | None = None,
    *,
    lent: Sequence[Inject] = (),
    xattrs: Sequence[XattrCeiling] = (),
    real_nodes: bool = True,
    mark: str = "",
) -> Ceiling:
    """What bounds makers.

    `devices` are those that they may ever make: type ("c" or "b"), lowest and highest major, lowest
    and highest minor, and whether they are made only where nobody can open them (which without a
    user namespace there is nowhere, and is not looked at). `uids` and `gids` are (inside, outside,
    count) of the target's user namespace; none: it has none of its own. `mounts` is what they may
    ever mount, and `userns` the target's user namespace, for whose ids it is mounted. Without
    `real_nodes` they make those that can be opened only to be mounted, so that none of them stays.
    `xattrs` is what they may ever do with extended attributes, as root.
    `lent` are devices, files, directories and loop devices that they lend for opens; `mark`, a
    secret, is by what the makers of one session know the loop devices again that are its own.
    """
    try:
        bounds = _kept("struct sd_ceiling *")
        bounds.uids = _kept("struct sd_range[]", [tuple(r) for r in uids])
        bounds.gids = _kept("struct sd_range[]", [tuple(r) for r in gids])
        listed = [(ord(kind), *numbers) for kind, *numbers in devices]
        bounds.devices = _kept("struct sd_devices[]", listed)
        bounds.uid_count, bounds.gid_count, bounds.device_count = len(uids), len(gids), len(listed)
        bounds.mounts, bounds.mount_count = _mount_rules(mounts), len(mounts)
        bounds.named_options = _strings([name.encode() for name in NAMED_OPTIONS])
        bounds.named_count = len(NAMED_OPTIONS)
        bounds.userns = -1 if userns is None else userns
        bounds.no_real_nodes = not real_nodes
        bounds.lent, bounds.lent_count = _lent(lent), len(lent)
        bounds.xattrs, bounds.xattr_count = _xattr_rules(xattrs), len(xattrs)
        bounds.mark = _kept("char[]", mark.encode())
    except BaseException:
        lib.sd_kept_free(lib.sd_kept_seal())
        raise
    memory = lib.sd_kept_seal()
    if memory == ffi.NULL:
        raise OSError(ENOMEM, os.strerror(ENOMEM))
    return Ceiling(bounds, memory)


def spawn_maker(ceiling: Ceiling, *, sibling: bool = False) -> Helper:
    """Forks a maker; needs root's privileges in the initial user namespace.

    A `sibling` is a child of our parent's, and has one share of the processors with us, where the
    kernel goes by sessions (autogroup, sched(7)); else it is our child, with a smaller share of
    its own.
    """
    child = ffi.new("struct sd_child *")
    check(lib.sd_maker_spawn(ceiling.bounds, sibling, child), "fork")
    return _ready(child, "a maker could not be set up")


def _lent(lent: Sequence[Inject]) -> Any:
    """A C array of them."""
    things = _kept("struct sd_lent[]", max(len(lent), 1))
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
            thing.path = _kept("char[]", os.fsencode(name))
            thing.directory = inject.directory is not None
    return things


def _strings(texts: Sequence[bytes]) -> Any:
    """A C array of them."""
    return _kept("char *[]", [_kept("char[]", text) for text in texts])


def _xattr_rules(xattrs: Sequence[XattrCeiling]) -> Any:
    """A C array of them."""
    rules = _kept("struct sd_xattr_rule[]", max(len(xattrs), 1))
    for rule, xattr in zip(rules, xattrs, strict=False):
        rule.name = _kept("char[]", xattr.name)
        if xattr.value is not None:
            rule.value = _kept("char[]", xattr.value)
            rule.size = len(xattr.value)
    return rules


def _mount_rules(mounts: Sequence[MountCeiling]) -> Any:
    """A C array of them."""
    rules = _kept("struct sd_mount_rule[]", len(mounts))
    for rule, mount in zip(rules, mounts, strict=True):
        rule.fstype = _kept("char[]", mount.fstype)
        devices = [(ord("b"), *numbers) for numbers in mount.devices]
        rule.devices = _kept("struct sd_devices[]", devices)
        rule.device_count = len(devices)
        rule.names, rule.name_count = _strings(mount.names), len(mount.names)
        rule.options, rule.option_count = _strings(mount.options), len(mount.options)
        rule.force, rule.flags = attr_of(mount.force), mount.flags
        rule.images, rule.text, rule.shift = mount.images, mount.text, mount.shift
    return rules
