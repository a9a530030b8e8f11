"""Numbers of loop devices for tests, and what the host has attached to them."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.inside import wait_for

# Numbers that nobody else on this machine has, another run of the tests hardly; busybox's losetup
# knows of none above 1023.
FIRST = 64 + os.getpid() % 238 * 4
LAST = FIRST + 3
_CTL_REMOVE = 0x4C81
# What a policy says that gives these.
GIVEN = f"""
syscalls:
  mknod:
    - {{devices: ["block 7:{FIRST}-{LAST}", "char 10:237"], do: {{emulate: {{realise: closed}}}}}}
  open:
    - {{path: [/dev/loop-control, "/dev/loop*"], do: {{inject: {{loops: "{FIRST}-{LAST}"}}}}}}
  mount:
    otherwise: kernel
    rules:
      - {{fstype: ext4, source: "block 7:{FIRST}-{LAST}", do: {{emulate: {{via: kernel}}}}}}
"""


def is_attached(number: int) -> bool:
    """As the host sees it."""
    return Path(f"/sys/block/loop{number}/loop").exists()


def attached() -> list[int]:
    """Those of ours that are."""
    return [number for number in range(FIRST, LAST + 1) if is_attached(number)]


def none_is_left() -> None:
    """Waits until nothing is attached to any."""
    wait_for(attached, lambda found: not found)


@contextmanager
def removed() -> Iterator[None]:
    """The devices are gone afterwards."""
    try:
        yield
    finally:
        for number in attached():
            subprocess.run(["losetup", "-d", f"/dev/loop{number}"], check=False)
        none_is_left()
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        for number in range(FIRST, LAST + 1):
            try:
                fcntl.ioctl(control, _CTL_REMOVE, number)
            except OSError:
                assert not Path(f"/sys/block/loop{number}").exists()
        os.close(control)
