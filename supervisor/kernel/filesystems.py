"""Types of filesystems: those that there are, to tell a slip from a name, and this machine's."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Final

# What Linux has or had, and what is often built besides (aufs, lustre, vboxsf, zfs ...).
KNOWN: Final = frozenset(
    (
        "9p", "adfs", "affs", "afs", "apfs", "aufs", "autofs", "bcachefs", "beegfs", "befs", "bfs",
        "binfmt_misc", "bpf", "btrfs", "ceph", "cgroup", "cgroup2", "cifs", "coda", "configfs",
        "cpuset", "cramfs", "debugfs", "devpts", "devtmpfs", "ecryptfs", "efivarfs", "efs", "erofs",
        "exfat", "ext2", "ext3", "ext4", "f2fs", "famfs", "fuse", "fuseblk", "fusectl", "gfs2",
        "gpfs", "hfs", "hfsplus", "hostfs", "hpfs", "hugetlbfs", "iso9660", "jffs2", "jfs",
        "lustre", "minix", "mqueue", "msdos", "nfs", "nfs4", "nfsd", "nilfs2", "ntfs", "ntfs3",
        "ocfs2", "ocfs2_dlmfs", "omfs", "orangefs", "overlay", "prl_fs", "proc", "pstore", "qnx4",
        "qnx6", "ramfs", "reiser4", "reiserfs", "resctrl", "romfs", "rpc_pipefs", "securityfs",
        "selinuxfs", "shiftfs", "smackfs", "smb3", "smbfs", "squashfs", "sysfs", "sysv", "tmpfs",
        "tracefs", "ubifs", "udf", "ufs", "v9fs", "vboxsf", "vfat", "virtiofs", "vmhgfs", "xenfs",
        "xfs", "yaffs2", "zfs", "zonefs",
    )
)  # fmt: skip


def _shorter(name: str) -> set[str]:
    """A name, and what it is without one of its letters."""
    return {name, *(name[:at] + name[at + 1 :] for at in range(len(name)))}


@cache
def _shortened() -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for name in sorted(KNOWN):
        for short in _shorter(name):
            out.setdefault(short, []).append(name)
    return out


def slip_of(name: str) -> str:
    """The known type that `name` is but for a letter; "" for what is like none of them: a kernel
    may have types that nobody here has heard of.
    """
    # By a table, not by a search: a policy may name very many.
    near = {known for short in _shorter(name) for known in _shortened().get(short, ())}

    def likeness(known: str) -> tuple[float, str]:
        return SequenceMatcher(None, known, name).ratio(), known

    return max(near, key=likeness, default="")


def registered() -> frozenset[str]:
    """Those that the running kernel has; a module that is not loaded is not among them."""
    try:
        lines = Path("/proc/filesystems").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(line.rpartition("\t")[2] for line in lines)
