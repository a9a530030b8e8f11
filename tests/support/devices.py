"""Devices of the machine, for as long as a test needs them otherwise."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def for_everybody(device: str = "/dev/fuse") -> Iterator[None]:
    """The device with the mode that udev gives it.

    The mode is the machine's: no other test, of this run or of another one, changes it meanwhile.
    """
    name = device.replace("/", "-")
    with open(Path(tempfile.gettempdir()) / f"sd-test{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mode = os.stat(device).st_mode & 0o777
        try:
            os.chmod(device, 0o666)
            yield
        finally:
            os.chmod(device, mode)
