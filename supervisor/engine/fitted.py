"""Files that fit a cgroup: what /proc/cpuinfo, /proc/meminfo and the lists of processors in /sys
would say of a machine as big as the cgroup of a caller, and those above it, let it be.

Both versions of cgroups are looked at, where they are mounted; what nothing limits is the host's.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from supervisor.kernel.task import PROC

_HOSTS_MEMORY: Final = f"{PROC}/meminfo"
_HOSTS_PROCESSORS: Final = f"{PROC}/cpuinfo"
_ONLINE: Final = "/sys/devices/system/cpu/online"
# What meminfo has of a cgroup, by the members of its memory.stat that are summed up: of version 2,
# and of version 1, which has them with those of the cgroups below as total_NAME.
_USES: Final[Mapping[str, tuple[str, str]]] = {
    "Cached": ("file", "cache"),
    "Active": ("active_anon active_file", "active_anon active_file"),
    "Inactive": ("inactive_anon inactive_file", "inactive_anon inactive_file"),
    "Active(anon)": ("active_anon", "active_anon"),
    "Inactive(anon)": ("inactive_anon", "inactive_anon"),
    "Active(file)": ("active_file", "active_file"),
    "Inactive(file)": ("inactive_file", "inactive_file"),
    "Unevictable": ("unevictable", "unevictable"),
    "Dirty": ("file_dirty", "dirty"),
    "Writeback": ("file_writeback", "writeback"),
    "AnonPages": ("anon", "rss"),
    "Mapped": ("file_mapped", "mapped_file"),
    "Shmem": ("shmem", "shmem"),
    "Slab": ("slab", ""),
    "SReclaimable": ("slab_reclaimable", ""),
    "SUnreclaim": ("slab_unreclaimable", ""),
}

# What of a cgroup's memory somebody else can have, by the same names.
_RECLAIMED: Final = ("active_file", "inactive_file", "slab_reclaimable")


class _Cgroup:
    """One of a caller's, or above it. `version`: 1 or 2."""

    def __init__(self, place: Path, version: int) -> None:
        self._place = place
        self.version = version

    def text(self, name: str) -> str:
        """What one of its files says; "" where it has none."""
        try:
            return (self._place / name).read_text("ascii", "replace")
        except OSError:
            return ""

    def number(self, second: str, first: str) -> int | None:
        """What the file of version 2, or of 1, says; None where that is no number, as "max" is."""
        return _number(self.text(second if self.version == 2 else first))

    def statistics(self) -> dict[str, int]:
        """Its memory.stat, by the names of the version."""
        start = "" if self.version == 2 else "total_"
        return {
            name.removeprefix(start): number
            for name, number in _table(self.text("memory.stat"), " ").items()
            if name.startswith(start)
        }


def cgroups_of(tid: int) -> str:
    """Which cgroups the thread is in, as the kernel says it."""
    return _read(f"{PROC}/{tid}/cgroup")


def text_of(which: str, tid: int) -> str:
    """One of these files (policy/open_values.FITTED) for a caller, thread `tid`."""
    return _TEXTS[which](tid)


# -- cgroups


def _of(tid: int, controller: str) -> list[_Cgroup]:
    """Those that can limit what the thread has of something: its own first, then those above."""
    own: dict[str, str] = {}
    for line in _lines(cgroups_of(tid)):
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    found: list[_Cgroup] = []
    for root, top, name in _mounts():
        if name in ("", controller) and name in own:
            inner = PurePosixPath(own[name])
            if not inner.is_relative_to(root) or ".." in inner.relative_to(root).parts:
                continue  # not in sight here
            place = Path(top, inner.relative_to(root))
            found += [
                _Cgroup(one, 1 if name else 2)
                for one in (place, *place.parents)
                if one.is_relative_to(top)
            ]
    return found


def _mounts() -> Iterator[tuple[str, str, str]]:
    """Where hierarchies are mounted that we see: what is the root there, the place, and a
    controller of version 1, or "" for version 2."""
    for line in _lines(_read(f"{PROC}/self/mountinfo")):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, top = map(_unescaped, before.split(" ")[3:5])
        if kind == "cgroup2":
            yield root, top, ""
        elif kind == "cgroup":
            yield from ((root, top, one) for one in options.split(" ")[-1].split(","))


# -- processors


def _processors(tid: int) -> list[int]:
    """The host's numbers of as many as the thread's cgroups can keep busy."""
    online = there = _numbers(_read(_ONLINE)) or sorted(os.sched_getaffinity(0))
    for cgroup in _of(tid, "cpuset"):
        names = ("cpuset.cpus.effective",) if cgroup.version == 2 else (
            "cpuset.effective_cpus", "cpuset.cpus",
        )  # fmt: skip
        if set_ := next(filter(None, map(_numbers, map(cgroup.text, names))), []):
            there = [number for number in online if number in set_] or online
            break  # those above have all of these
    count = float(len(there))
    for cgroup in _of(tid, "cpu"):
        quota, period = (cgroup.text("cpu.max").split() + ["", ""])[:2]
        if cgroup.version == 1:
            quota, period = cgroup.text("cpu.cfs_quota_us"), cgroup.text("cpu.cfs_period_us")
        used, whole = _number(quota), _number(period)
        if used and whole and used > 0:
            count = min(count, used / whole)
    return there[: max(1, math.ceil(count))]


def _cpus(tid: int) -> str:
    count = len(_processors(tid))
    return f"0-{count - 1}\n" if count > 1 else "0\n"


def _cpuinfo(tid: int) -> str:
    """What the host says of these, with numbers that begin at 0."""
    known = _hosts_processors(_read(_ONLINE))
    found = ""
    for number, one in enumerate(_processors(tid)):
        head, _, rest = known.get(one, f"processor\t: {one}\n\n").partition("\n")
        found += f"{head.partition(':')[0]}: {number}\n{rest}"
    return found


@functools.lru_cache(maxsize=1)
def _hosts_processors(_online: str) -> dict[int, str]:
    """By their numbers; read again where other processors are online, for it takes long."""
    found = {}
    for part in _read(_HOSTS_PROCESSORS).split("\n\n"):
        name, _, value = part.partition("\n")[0].partition(":")
        if name.strip() == "processor" and (number := _number(value)) is not None:
            found[number] = f"{part}\n\n"
    return found


# -- memory


def _meminfo(tid: int) -> str:
    """The host's where no cgroup has less than that."""
    hosts = _read(_HOSTS_MEMORY)
    host = {name: number << 10 for name, number in _table(hosts.replace(" kB", ""), ":").items()}
    total = free = available = host.get("MemTotal", 0)
    least: _Cgroup | None = None
    for cgroup in _of(tid, "memory"):
        limit = cgroup.number("memory.max", "memory.limit_in_bytes")
        if limit is None or limit >= host.get("MemTotal", 0):
            continue
        used = cgroup.number("memory.current", "memory.usage_in_bytes") or 0
        left, uses = max(0, limit - used), cgroup.statistics()
        free = min(free, left)
        available = min(available, left + sum(uses.get(name, 0) for name in _RECLAIMED))
        if limit < total:
            total, least = limit, cgroup
    if least is None:
        return hosts
    uses = least.statistics()
    swap, unused = _swap(tid, host)
    said = {
        "MemTotal": total, "MemFree": free, "MemAvailable": min(total, available),
        "Buffers": 0, "SwapCached": 0, "SwapTotal": swap, "SwapFree": unused,
        **{
            name: sum(uses.get(one, 0) for one in names[2 - least.version].split())
            for name, names in _USES.items()
        },
    }  # fmt: skip
    return "".join(f"{name + ':':15} {value >> 10:8} kB\n" for name, value in said.items())


def _swap(tid: int, host: Mapping[str, int]) -> tuple[int, int]:
    """How much it may have, and how much of that is left."""
    total, free = host.get("SwapTotal", 0), host.get("SwapFree", 0)
    for cgroup in _of(tid, "memory"):
        limit = cgroup.number("memory.swap.max", "memory.memsw.limit_in_bytes")
        used = cgroup.number("memory.swap.current", "memory.memsw.usage_in_bytes") or 0
        if limit is not None and cgroup.version == 1:  # of both together
            if limit >= host.get("MemTotal", 0) + total:
                continue  # there is none
            limit -= cgroup.number("", "memory.limit_in_bytes") or 0
            used -= cgroup.number("", "memory.usage_in_bytes") or 0
        if limit is not None and 0 <= limit < total:
            total, free = limit, min(free, max(0, limit - max(0, used)))
    return total, min(total, free)


# -- texts


def _read(name: str) -> str:
    try:
        with open(name, encoding="ascii", errors="surrogateescape", newline="\n") as file:
            return file.read()
    except OSError:
        return ""


def _lines(text: str) -> list[str]:
    """As the kernel ends them: what a container calls its cgroups may have all other characters
    in it, of which Python would end lines by some."""
    return [line for line in text.split("\n") if line]


def _unescaped(text: str) -> str:
    """A path of mountinfo, where some characters are octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _number(text: str) -> int | None:
    with contextlib.suppress(ValueError):
        return int(text)
    return None


def _numbers(text: str) -> list[int]:
    """Of a list such as "0-2,5"."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        low, high = _number(first), _number(last or first)
        if low is not None and high is not None:
            found += range(low, high + 1)
    return found


def _table(text: str, after: str) -> dict[str, int]:
    """A name and a number in each line."""
    lines = (line.partition(after) for line in text.splitlines())
    found = ((name, _number(value)) for name, _, value in lines)
    return {name: number for name, number in found if number is not None}


_TEXTS: Final[Mapping[str, Callable[[int], str]]] = {
    "cpuinfo": _cpuinfo, "meminfo": _meminfo, "cpus": _cpus,
}  # fmt: skip
