"""Devices of the machine, for as long as a test needs them otherwise."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FUSE = "/dev/fuse"


@contextmanager
def fuse_for_everybody() -> Iterator[None]:
    """/dev/fuse with the mode that udev gives it.

    The mode is the machine's: no other test, of this run or of another one, changes it meanwhile.
    """
    with open(Path(tempfile.gettempdir()) / "sd-test-fuse.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mode = os.stat(_FUSE).st_mode & 0o777
        try:
            os.chmod(_FUSE, 0o666)
            yield
        finally:
            os.chmod(_FUSE, mode)
