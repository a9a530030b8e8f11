"""Snapshots to plans."""

from __future__ import annotations

import errno

import pytest

from supervisor.handlers.base import UnreadableArgument
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.syscalls import AT_FDCWD, X86_64
from supervisor.model import Arg, Decision, MountSettings, Settings, Snapshot, Verdict
from supervisor.plans import (
    ChangeNode,
    LinkNode,
    MakeNode,
    Mount,
    Place,
    Plan,
    Remount,
    RemoveNode,
    RenameNode,
    Unmount,
)

BIND = Settings(realise="bind")


def plan(family: str, name: str, *args: Arg) -> Plan | None:
    snapshot = Snapshot(1, 1, X86_64, 0, 0, name, args)
    return FAMILIES[family].plan(snapshot, Decision(Verdict.EMULATE, "x", settings=BIND))


ACL = b"system.posix_acl_access"
HERE = Place(AT_FDCWD, b"a")


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("mknod", (b"a", 0o20666, 0x103), MakeNode(HERE, 0o20666, (1, 3), BIND)),
        (
            "mknodat",
            (5, b"a", 0o60600, 0xFFF00700),
            MakeNode(Place(5, b"a"), 0o60600, (7, 0xFFF00), BIND),
        ),
    ],
)
def test_device_nodes(name: str, args: tuple[Arg, ...], expected: Plan) -> None:
    assert plan("mknod", name, *args) == expected


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("unlink", (b"a",), RemoveNode(HERE)),
        ("unlinkat", (4, b"a", 0), RemoveNode(Place(4, b"a"))),
        ("rename", (b"a", b"b"), RenameNode(HERE, Place(AT_FDCWD, b"b"), 0)),
        ("renameat", (3, b"a", 4, b"b"), RenameNode(Place(3, b"a"), Place(4, b"b"), 0)),
        ("renameat2", (3, b"a", 4, b"b", 2), RenameNode(Place(3, b"a"), Place(4, b"b"), 2)),
        ("link", (b"a", b"b"), LinkNode(HERE, Place(AT_FDCWD, b"b"), 0)),
        ("linkat", (3, b"a", 4, b"b", 0x400), LinkNode(Place(3, b"a"), Place(4, b"b"), 0x400)),
        ("chmod", (b"a", 0o644), ChangeNode(HERE, True, "fowner")),
        ("fchmod", (7, 0o644), ChangeNode(Place(7, None), True, "fowner")),
        ("fchmodat", (3, b"a", 0o644), ChangeNode(Place(3, b"a"), True, "fowner")),
        ("fchmodat2", (3, b"a", 0o644, 0x100), ChangeNode(Place(3, b"a"), False, "fowner")),
        ("fchmodat2", (3, b"", 0o644, 0x1000), ChangeNode(Place(3, None), True, "fowner")),
        ("chown", (b"a", 0, 0), ChangeNode(HERE, True, "chown")),
        ("lchown", (b"a", 0, 0), ChangeNode(HERE, False, "chown")),
        ("lchown32", (b"a", 0, 0), ChangeNode(HERE, False, "chown")),
        ("fchown", (7, 0, 0), ChangeNode(Place(7, None), True, "chown")),
        ("fchownat", (3, b"a", 0, 0, 0x100), ChangeNode(Place(3, b"a"), False, "chown")),
        ("fchownat", (3, b"", 0, 0, 0x1000), ChangeNode(Place(3, None), True, "chown")),
        ("utime", (b"a", 0), ChangeNode(HERE, True, "fowner")),
        ("utimes", (b"a", 0), ChangeNode(HERE, True, "fowner")),
        ("futimesat", (3, b"a", 0), ChangeNode(Place(3, b"a"), True, "fowner")),
        ("futimesat", (3, -errno.EFAULT, 0), ChangeNode(Place(3, None), True, "fowner")),
        ("utimensat", (3, b"a", 0, 0x100), ChangeNode(Place(3, b"a"), False, "fowner")),
        ("utimensat", (3, -errno.EFAULT, 0, 0), ChangeNode(Place(3, None), True, "fowner")),
        ("setxattr", (b"a", ACL, 0, 8, 0), ChangeNode(HERE, True, "fowner")),
        ("setxattr", (b"", ACL, 0, 8, 0x1100), ChangeNode(Place(AT_FDCWD, b""), True, "fowner")),
        ("lsetxattr", (b"a", ACL, 0, 8, 0), ChangeNode(HERE, False, "fowner")),
        ("fremovexattr", (3, ACL), ChangeNode(Place(3, None), True, "fowner")),
        ("setxattr", (b"a", b"user.x", 0, 8, 0), None),
        ("utimensat_time64", (3, b"a", 0, 0), ChangeNode(Place(3, b"a"), True, "fowner")),
    ],
)
def test_node_files(name: str, args: tuple[Arg, ...], expected: Plan | None) -> None:
    assert plan("node_files", name, *args) == expected


@pytest.mark.parametrize(
    ("family", "name", "args"),
    [
        ("mknod", "mknod", (-errno.ENAMETOOLONG, 0o20666, 1)),
        ("node_files", "unlink", (-errno.ENAMETOOLONG,)),
        ("node_files", "rename", (b"a", -errno.ENAMETOOLONG)),
        ("node_files", "utimensat", (AT_FDCWD, -errno.ENAMETOOLONG, 0, 0)),
        ("node_files", "fchownat", (3, -errno.ENAMETOOLONG, 0, 0, 0x1000)),
    ],
)
def test_a_path_that_could_not_be_read_is_the_kernels_errno(
    family: str, name: str, args: tuple[Arg, ...]
) -> None:
    with pytest.raises(UnreadableArgument) as caught:
        plan(family, name, *args)
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("umount", (b"a",), Unmount(HERE, 0)),
        ("umount2", (b"a", 11), Unmount(HERE, 11)),
        ("umount2", (b"a", 0x100), None),  # EINVAL is the kernel's to say
    ],
)
def test_umounts(name: str, args: tuple[Arg, ...], expected: Plan | None) -> None:
    assert plan("umounts", name, *args) == expected


def test_the_names_of_calls_are_all_planned() -> None:
    for spec in FAMILIES["node_files"].calls:
        args: tuple[Arg, ...] = tuple(
            (ACL if param.name == "name" else b"a") if param.kind == "path" else 0
            for param in spec.params
        )
        assert plan("node_files", spec.name, *args)


MNT = Place(AT_FDCWD, b"/mnt")
FUSE = MountSettings(via="fuse")


def mount(*args: Arg, verdict: Verdict = Verdict.EMULATE, reason: str = "") -> Plan | None:
    snapshot = Snapshot(1, 1, X86_64, 165, 0, "mount", args)
    return FAMILIES["mount"].plan(snapshot, Decision(verdict, "x", reason, settings=FUSE))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((b"a", b"/mnt", b"ext4", 1, b"x"), Mount(b"a", MNT, b"ext4", 1, b"x", FUSE)),
        ((0, b"/mnt", b"ext4", 0xC0ED0002, 0), Mount(None, MNT, b"ext4", 2, None, FUSE)),
        ((b"", b"/mnt", 0, 1 << 30, b""), Mount(b"", MNT, b"", 1 << 30, b"", FUSE)),
        ((0, b"/mnt", 0, 33, b"x"), Remount(MNT, 33, b"x", "why")),
        ((0, b"/mnt", 0, 0xC0ED0020, -errno.E2BIG), Remount(MNT, 32, None, "why", errno.EINVAL)),
    ],
)
def test_mounts(args: tuple[Arg, ...], expected: Plan) -> None:
    assert mount(*args, reason="why") == expected


def test_a_mount_that_is_refused_has_no_source_to_look_at() -> None:
    plan = mount(b"/secret", b"/mnt", b"ext4", 0, 0, verdict=Verdict.REFUSE)
    assert isinstance(plan, Mount)
    assert plan.settings == MountSettings(text=True)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((b"a", -errno.EFAULT, b"ext4", 0, 0), errno.EFAULT),
        ((b"a", -errno.ENAMETOOLONG, b"ext4", 0, 0), errno.ENAMETOOLONG),
        ((b"a", 0, b"ext4", 0, 0), errno.EFAULT),
        ((-errno.ESRCH, b"/mnt", b"ext4", 0, 0), errno.ESRCH),
    ],
)
def test_what_a_mount_needs_and_could_not_be_read(args: tuple[Arg, ...], error: int) -> None:
    with pytest.raises(UnreadableArgument) as caught:
        mount(*args)
    assert caught.value.errno == error
