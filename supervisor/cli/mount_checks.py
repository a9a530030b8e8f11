"""What of the machine mounts need; see checks.py. All of it is for `via: fuse`, and no more than
noted where it is missing: everything else works without.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from supervisor.cli.checks import NOTE, OK, Finding
from supervisor.kernel.fuse_programs import PROGRAMS

FUSE_NODE = "/dev/fuse"
FUSE_DEVICE = (10, 229)


def fuse() -> Iterator[Finding]:
    """/dev/fuse: whoever mounts by a FUSE program has to open it. Makers make root's."""
    label = "FUSE"
    try:
        found = os.stat(FUSE_NODE)
    except OSError as error:
        yield Finding(label, NOTE, f"{FUSE_NODE}: {error.strerror}: no mounts `via: fuse`",
                      "as root: modprobe fuse; it comes with a devtmpfs")
        return
    if not stat.S_ISCHR(found.st_mode) or (
        os.major(found.st_rdev), os.minor(found.st_rdev)
    ) != FUSE_DEVICE:  # fmt: skip
        yield Finding(label, NOTE, f"{FUSE_NODE} is something else: no mounts `via: fuse`",
                      "as root: mknod -m 666 /dev/fuse c 10 229")
        return
    try:
        os.close(os.open(FUSE_NODE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        mode = stat.S_IMODE(found.st_mode)
        yield Finding(label, NOTE, f"{FUSE_NODE} cannot be opened ({error.strerror}; its mode is "
                      f"{mode:04o}): no mounts `via: fuse` for this user",
                      f"as root: chmod 0666 {FUSE_NODE}, as udev has it")
        return
    yield Finding(label, OK, f"{FUSE_NODE} can be opened")


def fuse_programs() -> Iterator[Finding]:
    """The programs that `via: fuse` knows by name."""
    here = [name for name, words in PROGRAMS.items() if os.access(words[0], os.X_OK)]
    lacking = [name for name in PROGRAMS if name not in here]
    if lacking:
        yield Finding("FUSE programs", NOTE, f"not there: {', '.join(lacking)}",
                      f"where a policy names them: apt install {' '.join(lacking)}")
    else:
        yield Finding("FUSE programs", OK, ", ".join(here))
