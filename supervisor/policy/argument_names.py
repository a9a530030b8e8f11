"""The names of arguments: those of CallSpec, which records have, and those of manual pages.

Manual pages differ, by call and by their age: what was `pathname` up to man-pages 6.9 is `path`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supervisor.kernel.syscalls import CallSpec

# Our name, and others; an argument of the call that is called so itself comes first.
OTHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "pathname": ("path", "filename"),  # setxattr(2) and its kin; utime(2)
    "len": ("size",),  # sendto(2)
    "vlen": ("n",),  # sendmmsg(2)
    "op": ("request",),  # ioctl(2)
    "request": ("op",),
    "argp": ("arg",),
    "attribute": ("name",),  # setxattrat(2), removexattrat(2)
    "uargs": ("args",),
    "usize": ("size",),
}


def own_name(spec: CallSpec, name: str) -> str:
    """What CallSpec calls the argument `name`. ValueError where the call has none."""
    if name in spec.names:
        return name
    for own in spec.names:
        if name in OTHERS.get(own, ()):
            return own
    names = ", ".join(spec.names)
    raise ValueError(f"{spec.name} has no argument {name}: it has {names}")


def own_names(spec: CallSpec, args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names of CallSpec. ValueError where there is none, or one is there twice."""
    out: dict[str, Any] = {}
    for name in sorted(args):
        own = own_name(spec, name)
        if own in out:
            raise ValueError(f"{own} is given twice: {name} is the same")
        out[own] = args[name]
    return out
