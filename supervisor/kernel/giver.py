"""What the giver (csrc/giver.c) is asked, and what it answers."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from errno import EPIPE
from typing import Any, Final

from supervisor.kernel.shim import ffi, lib, receive_fds, send_fds

MOST_LOOKED: Final = int(lib.SD_MOST_LOOKED)
_KINDS: Final = {
    lib.SD_HELD_OPEN: "open", lib.SD_HELD_MAPPED: "mapped", lib.SD_HELD_MOUNTED: "mounted",
}  # fmt: skip
_STAGES: Final = {
    lib.SD_GIVE_NODE: "node", lib.SD_GIVE_CGROUP: "cgroup", lib.SD_GIVE_ENTER: "enter",
    lib.SD_GIVE_PARENT: "parent", lib.SD_GIVE_PLACE: "place", lib.SD_GIVE_ATTACH: "attach",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Node:
    """A device as it is given: its type ("c" or "b"), its numbers, the permissions of its node, the
    owner as our user namespace numbers ids, and the path from the container's root directory."""

    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    path: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`errno` 0, or what went wrong at `stage` ("" where that is not known).

    `may_read`, `may_write`: what the container's cgroups let it open; `unknown` is the errno why
    that could not be found out, or 0. `device` is the st_dev of the tmpfs that holds the inode,
    `place` the device and inode of the file that it is mounted on. `detached` mounts have gone,
    `hidden` ones could not be reached.
    """

    errno: int
    stage: str
    may_read: bool
    may_write: bool
    unknown: int
    device: int
    place: tuple[int, int]
    detached: int
    hidden: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Process `pid` has `device` (see Answer) still: `how` is "open", "mapped" or "mounted", at
    `path` as it sees that. `mounts` is the inode of its mount namespace; it has chosen `comm`."""

    pid: int
    how: str
    device: int
    mounts: int
    comm: bytes
    path: bytes


def ask_to_add(
    sock: int, node: Node, root: tuple[int, int], cgroups: tuple[bytes, bytes, bytes],
    mounts: int, userns: int | None,
) -> None:
    """`root` are the ids, as the container numbers them, of who acts in it. `cgroups`: the path in
    version 2, the controllers of the hierarchy of version 1 that has "devices", the path in that;
    b"" where there is none. `mounts` and `userns` are its namespaces."""
    give = _give(lib.SD_GIVE_ADD, node, root)
    give.cgroup, give.controllers, give.device_cgroup = cgroups
    _send(sock, give, [mounts] if userns is None else [mounts, userns])


def ask_to_take(
    sock: int, node: Node, root: tuple[int, int], place: tuple[int, int], home: int,
    mounts: int | None, userns: int | None,
) -> None:
    """`node` has an owner whom the container does not know; `place`: see Answer; `home`:
    see Receiver. Without `mounts` nobody can open it any more, and its mounts stay."""
    give = _give(lib.SD_GIVE_TAKE, node, root)
    give.place_device, give.place_inode = place
    fds = [home]
    if mounts is not None:
        fds += [mounts] if userns is None else [mounts, userns]
    _send(sock, give, fds)


def ask_who_has(
    sock: int, devices: Sequence[int], *, mounts_of: int = 0, block: tuple[int, int] = (0, 0)
) -> None:
    """Who has one of these (at most MOST_LOOKED), or only where process `mounts_of` sees them.
    `block`: the number of a block device that the only one of `devices` is, and the inode of the
    mount namespace in which a filesystem on that counts, too."""
    look = ffi.new("struct sd_look *")
    look.op, look.count, look.mounts_of = lib.SD_GIVE_LOOK, len(devices), mounts_of
    look.block, look.within = block
    look.devices[0 : len(devices)] = devices
    _send(sock, look, [])


class Receiver:
    """Puts an answer together from its messages. `home` is a descriptor of the tmpfs, which comes
    ahead of the answer to `ask_to_add`, before anything is done in the container; it is for who
    asked to close."""

    def __init__(self) -> None:
        self.home: int | None = None

    def receive(self, sock: int) -> Answer | None:
        """The answer to `ask_to_add` or `ask_to_take`; None: more is to come. OSError where the
        giver has died."""
        found = ffi.new("struct sd_given *")
        data, fds = receive_fds(sock, size=ffi.sizeof(found[0]))
        if fds:
            self.home = fds[0]
            return None
        if len(data) != ffi.sizeof(found[0]):
            raise OSError(EPIPE, "the helper has died")
        ffi.memmove(found, data, len(data))
        return Answer(
            -found.error, _STAGES.get(found.stage, ""),
            bool(found.may & lib.SD_GIVE_READ), bool(found.may & lib.SD_GIVE_WRITE),
            found.unknown, found.device, (found.place_device, found.place_inode),
            found.detached, found.hidden,
        )  # fmt: skip


def receive_holder(sock: int) -> Holder | None:
    """The next that `ask_who_has` has found; None: that was all. OSError where the giver died."""
    found = ffi.new("struct sd_holder *")
    data, _ = receive_fds(sock, size=ffi.sizeof(found[0]))
    if len(data) != ffi.sizeof(found[0]):
        raise OSError(EPIPE, "the helper has died")
    ffi.memmove(found, data, len(data))
    if found.kind == lib.SD_HELD_END:
        return None
    return Holder(
        found.pid, _KINDS[found.kind], found.device, found.mounts,
        ffi.string(found.comm), ffi.string(found.path),
    )  # fmt: skip


def _give(op: int, node: Node, root: tuple[int, int]) -> Any:
    give = ffi.new("struct sd_give *")
    kind = stat.S_IFCHR if node.kind == "c" else stat.S_IFBLK
    give.op, give.mode = op, kind | node.mode
    give.major, give.minor, give.uid, give.gid = node.major, node.minor, node.uid, node.gid
    give.root_uid, give.root_gid = root
    give.path = node.path
    return give


def _send(sock: int, order: Any, fds: list[int]) -> None:
    send_fds(sock, ffi.buffer(order)[:], fds)
