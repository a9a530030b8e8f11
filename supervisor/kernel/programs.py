"""Asks another program something: its output, under a deadline."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from typing import Final

_MOST: Final = 1 << 20


def output_of(words: Sequence[str], seconds: float = 5.0) -> bytes | None:
    """What `words`, looked for in PATH, prints; None where it is not there, fails or takes longer.

    Its stdin and stderr are /dev/null; 1 MiB of output at most.
    """
    out, into = os.pipe()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        child = os.posix_spawnp(
            words[0], list(words), os.environ, setsigmask=[],
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, into, 1),
                          (os.POSIX_SPAWN_DUP2, null, 2)],
        )  # fmt: skip
    except (OSError, ValueError):  # an empty name is a ValueError
        os.close(out)
        return None
    finally:
        os.close(into)
        os.close(null)
    said = bytearray()
    end = time.monotonic() + seconds
    poller = select.poll()
    poller.register(out, select.POLLIN)
    while len(said) <= _MOST and poller.poll(max(0.0, end - time.monotonic()) * 1000):
        part = os.read(out, 65536)
        if not part:
            break
        said += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(out)
    _, status = os.waitpid(child, 0)
    return bytes(said) if status == 0 else None
