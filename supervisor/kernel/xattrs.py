"""What the kernel says of extended attributes (xattr(7), <linux/xattr.h>)."""

from __future__ import annotations

from typing import Final

from supervisor.kernel.shim import lib
from supervisor.model import Arg

# Bytes of a name, without its NUL.
NAME_MAX: Final[int] = lib.SD_XATTR_NAME - 1
# Bytes of a value that are decided on.
VALUE_SHOWN: Final[int] = lib.SD_XATTR_SHOWN
NAMESPACES: Final = ("user", "trusted", "security", "system")


def measure(values: list[Arg], at: int, *, said: bool) -> None:
    """Makes a value, the argument before number `at`, what is decided on of it; and number `at`,
    its size, that of all of it, unless somebody has `said` another one.
    """
    value = values[at - 1]
    if not said:
        values[at] = len(value) if isinstance(value, bytes) else 0
    if isinstance(value, bytes):
        values[at - 1] = value[:VALUE_SHOWN]
