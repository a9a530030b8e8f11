"""Ids of a user namespace: which ones a user may map, and how they are written.

Ranges come from /etc/subuid and /etc/subgid (subuid(5)), by name or by number. An ordinary user's
maps are written by newuidmap and newgidmap, which are set-id programs; root writes them itself.
A user of network accounts whose ranges only a plug-in of libsubid knows names them with --map.
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from supervisor.errors import KernelError, SeccompdError, UsageError

MOST_IDS: Final = 4294967295
MOST_EXTENTS: Final = 340  # the kernel's limit for one map (user_namespaces(7))

# Root without a line in /etc/subuid: 0x70000000. systemd's table of ids leaves the numbers from
# here to 2147483647 unused, and those above are negative to programs that keep an id in an int.
DEFAULT_START: Final = 1879048192
DEFAULT_COUNT: Final = 65536


class Range(NamedTuple):
    """`length` ids, from `inside` on in the namespace and from `outside` on in ours."""

    inside: int
    outside: int
    length: int

    def words(self) -> list[str]:
        """As a line of /proc/PID/uid_map and as three arguments of newuidmap."""
        return [str(self.inside), str(self.outside), str(self.length)]


class IdMaps(NamedTuple):
    """The two maps of a user namespace. `helpers`: newuidmap and newgidmap have to write them."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]
    helpers: bool = False

    @property
    def identity(self) -> tuple[int, int]:
        """Who the command is inside: 0, or where 0 is not mapped the first id that is."""
        return _first(self.uids), _first(self.gids)

    def outside_gid(self) -> int:
        """The group of `identity`, as it is outside."""
        return next(r.outside for r in self.gids if r.inside == self.identity[1])


def _first(ranges: Sequence[Range]) -> int:
    return min(r.inside for r in ranges)


def subordinate(path: str, uid: int) -> list[tuple[int, int]]:
    """(start, count) of each range of user `uid` in /etc/subuid or /etc/subgid.

    Lines that are wrong are passed over, as newuidmap does; a missing file has no lines.
    """
    owners = {str(uid)}
    try:
        owners.add(pwd.getpwuid(uid).pw_name)
    except KeyError:
        pass
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                words = line.strip().split(":")
                if len(words) != 3 or words[0] not in owners:
                    continue
                if not (words[1].isdecimal() and words[2].isdecimal()):
                    continue
                start, count = int(words[1]), int(words[2])
                if 0 < count <= MOST_IDS - start:
                    found.append((start, count))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SeccompdError(f"cannot be read: {error.strerror}", where=path) from error
    return _disjoint(found)


def _disjoint(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same ids, each of them once: the kernel refuses a map with an id in it twice."""
    result: list[tuple[int, int]] = []
    taken = 0  # all below it
    for start, count in sorted(set(ranges)):
        end = start + count
        if end > taken:
            result.append((max(start, taken), end - max(start, taken)))
            taken = end
    return result


def _without(ranges: Iterable[tuple[int, int]], taken: int) -> list[tuple[int, int]]:
    """`ranges` less the id `taken`, which the map has in another place."""
    result: list[tuple[int, int]] = []
    for start, count in ranges:
        if start <= taken < start + count:
            result += [(start, taken - start), (taken + 1, start + count - taken - 1)]
        else:
            result.append((start, count))
    return [(start, count) for start, count in result if count]


def _in_a_row(ranges: Iterable[tuple[int, int]], inside: int) -> tuple[Range, ...]:
    """Maps `ranges` one after the other, from `inside` on."""
    result: list[Range] = []
    for start, count in ranges:
        if len(result) == MOST_EXTENTS - 1:
            break
        result.append(Range(inside, start, count))
        inside += count
    return tuple(result)


def find_helper(name: str) -> str | None:
    """Where newuidmap or newgidmap is: PATH, and the places that a user's PATH may lack."""
    places = os.environ.get("PATH", "").split(":") + ["/usr/bin", "/bin", "/usr/local/bin"]
    for place in places:
        path = os.path.join(place, name)
        if place.startswith("/") and os.access(path, os.X_OK):
            return path
    return None


def own_namespace() -> tuple[Range, ...]:
    """The ids that this process's own user namespace has."""
    with open("/proc/self/uid_map", encoding="ascii") as lines:
        rows = [[int(word) for word in line.split()] for line in lines]
    return tuple(Range(*row) for row in rows)


def in_initial_namespace() -> bool:
    """Whether this process lives in the initial user namespace, and not in a container's."""
    return own_namespace() == (Range(0, 0, MOST_IDS),)


def may_set_groups() -> bool:
    """Whether this user namespace, and those made in it, let setgroups(2) be called at all."""
    try:
        with open("/proc/self/setgroups", encoding="ascii") as file:
            return file.read().strip() != "deny"
    except OSError:
        return True


def single(uid: int, gid: int) -> IdMaps:
    """The map that needs no one's help: the one own id is 0 inside."""
    return IdMaps((Range(0, uid, 1),), (Range(0, gid, 1),))


def automatic() -> tuple[IdMaps, str | None]:
    """What `--map auto` maps for this user, and why that is less than it should be.

    An ordinary user: 0 is the own id, 1 and up are the subordinate ids. Root: 0 and up are root's
    subordinate ids, or DEFAULT_COUNT ids from DEFAULT_START on. Root of a container: all ids that
    the container has, as they are, since nobody else lives there.
    """
    uid, gid = os.geteuid(), os.getegid()
    uids, gids = subordinate("/etc/subuid", uid), subordinate("/etc/subgid", uid)
    if uid == 0:
        if not in_initial_namespace():
            everything = tuple(Range(r.inside, r.inside, r.length) for r in own_namespace())
            return IdMaps(everything, everything), None
        if not uids or not gids:
            uids = gids = [(DEFAULT_START, DEFAULT_COUNT)]
        return IdMaps(_in_a_row(uids, 0), _in_a_row(gids, 0)), None
    missing = None
    if not (find_helper("newuidmap") and find_helper("newgidmap")):
        missing = "newuidmap and newgidmap are not installed (package uidmap)"
    elif not uids or not gids:
        lacking = "/etc/subuid" if not uids else "/etc/subgid"
        missing = f"{lacking} has no range for you (usermod --add-subuids, --add-subgids)"
    if missing:
        return single(uid, gid), missing
    return IdMaps(
        (Range(0, uid, 1), *_in_a_row(_without(uids, uid), 1)),
        (Range(0, gid, 1), *_in_a_row(_without(gids, gid), 1)),
        helpers=True,
    ), None


def parse(specs: Sequence[str]) -> IdMaps:
    """The maps that `--map INSIDE:OUTSIDE:COUNT ...` asks for; `u:` or `g:` before it for one kind.

    UsageError where a map is wrong by itself; whether the user may have it is the kernel's to say.
    """
    uids: list[Range] = []
    gids: list[Range] = []
    for spec in specs:
        kind, _, rest = spec.partition(":") if spec[:2] in ("u:", "g:") else ("", "", spec)
        words = rest.split(":")
        if len(words) != 3 or not all(word.isdecimal() for word in words):
            raise UsageError(
                f"--map {spec}: not a map",
                hint="auto, none, or INSIDE:OUTSIDE:COUNT, as in 0:100000:65536",
            )
        found = Range(*(int(word) for word in words))
        if not found.length or max(found.inside, found.outside) + found.length > MOST_IDS:
            raise UsageError(f"--map {spec}: ids go from 0 to {MOST_IDS - 1}, and COUNT from 1")
        if kind != "g":
            uids.append(found)
        if kind != "u":
            gids.append(found)
    for name, ranges in (("user", uids), ("group", gids)):
        if not ranges:
            raise UsageError(f"--map: no {name} ids are mapped")
        _no_overlap(name, ranges)
    maps = IdMaps(tuple(uids), tuple(gids))
    own = single(os.geteuid(), os.getegid())
    alone = all(
        len(ranges) == 1 and ranges[0].length == 1 and ranges[0].outside == mine[0].outside
        for ranges, mine in ((maps.uids, own.uids), (maps.gids, own.gids))
    )
    return IdMaps(maps.uids, maps.gids, helpers=os.geteuid() != 0 and not alone)


def _no_overlap(name: str, ranges: Sequence[Range]) -> None:
    for side in ("inside", "outside"):
        rows = sorted((getattr(r, side), r.length) for r in ranges)
        for (start, count), (following, _) in pairwise(rows):
            if start + count > following:
                raise UsageError(f"--map: {name} id {following} is mapped twice {side}")


def write(pid: int, maps: IdMaps) -> None:
    """Writes the maps of process `pid`'s new user namespace. KernelError says who refused."""
    if maps.helpers:
        _write_by_helpers(pid, maps)
        return
    try:
        # The kernel wants to know that groups cannot be dropped before an ordinary user maps one.
        if os.geteuid() != 0:
            _write_file(f"/proc/{pid}/setgroups", "deny")
        for kind, ranges in (("uid", maps.uids), ("gid", maps.gids)):
            _write_file(
                f"/proc/{pid}/{kind}_map", "".join(" ".join(r.words()) + "\n" for r in ranges)
            )
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise KernelError(
            f"the id map is refused: {error.strerror}",
            where=str(error.filename),
            hint="`seccompd doctor` says what this machine allows",
        ) from error


def _write_file(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def _write_by_helpers(pid: int, maps: IdMaps) -> None:
    """Both programs at once: each costs some milliseconds, most of them waiting for the disk."""
    running = []
    for name, ranges in (("newuidmap", maps.uids), ("newgidmap", maps.gids)):
        path = find_helper(name)
        if path is None:
            raise KernelError(f"{name} is not installed", hint="apt-get install uidmap")
        words = [name, str(pid), *(word for r in ranges for word in r.words())]
        out, into = os.pipe()
        child = os.posix_spawn(
            path, words, os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, into, 1), (os.POSIX_SPAWN_DUP2, into, 2)],
            setsigmask=[],
        )
        os.close(into)
        running.append((name, child, out))
    problem = None
    for name, child, out in running:
        with os.fdopen(out, "rb") as pipe:
            said = pipe.read().decode(errors="replace").strip()
        _, status = os.waitpid(child, 0)
        if status and problem is None:
            problem = said or f"{name} ended with status {os.waitstatus_to_exitcode(status)}"
    if problem:
        raise KernelError(
            problem, hint="look at /etc/subuid and /etc/subgid, and that newuidmap is set-id root"
        )
