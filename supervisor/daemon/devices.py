"""Devices that an admin gives to containers that run, and takes away again.

Each lies in a tmpfs of its own, of which the daemon keeps a descriptor (csrc/giver.c): with that it
can be made one that nobody in the container opens, whatever the container has done with its mount.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from errno import EXDEV
from typing import Any, Final

import trio

from supervisor.daemon.container import Container
from supervisor.daemon.containers import Containers
from supervisor.daemon.forks import Forks
from supervisor.daemon.given import Given, Wish, nobodys, outside, wish_of
from supervisor.daemon.giving import Farewell, Givers
from supervisor.errors import SeccompdError
from supervisor.kernel import giver
from supervisor.kernel.giver import Answer, Holder, Receiver
from supervisor.kernel.target import Target, device_cgroups, mounts_of
from supervisor.observe.complaint import complain
from supervisor.observe.text import printable

_NAMES_SHOWN: Final = 20
_AT_ONCE: Final = 8


class Devices:
    """The devices that containers have been given."""

    def __init__(self, forks: Forks, containers: Containers, seconds: float) -> None:
        """`seconds`: how long a helper may take for one order."""
        self._containers = containers
        self._forks = forks
        self._givers = Givers(forks, seconds)
        self._under_way: set[tuple[Container, bytes]] = set()

    async def add(self, uid: int, request: Mapping[str, Any]) -> dict[str, Any]:
        """Gives one; `uid` is who wants it. SeccompdError says what is in the way."""
        if not self._containers.as_root:
            raise SeccompdError("only the daemon of root, with its privileges, can give devices")
        wish = wish_of(request)
        container = find(self._containers.all(), request)
        with self._alone(container, wish.path):
            if wish.path in container.given:
                raise SeccompdError("it has been given a device there", hint="remove it first")
            given = await self._add(container, wish, uid)
            if container not in self._containers.all():
                # somebody may hold its mount namespace still
                self._forks.order(Farewell(given, _known(container)))
                raise SeccompdError("the container has ended meanwhile")
            container.given[wish.path] = given
            self._containers.save(container)
        text = f"uid {uid} has given it {wish.text} as {_shown(wish.path)}"
        complain(f"{container.keeper.name}: {text}")
        return {"added": _row(container, given)}

    async def _add(self, container: Container, wish: Wish, uid: int) -> Given:
        target = _known(container)
        owner = outside(target.uids, wish.uid, "uid"), outside(target.gids, wish.gid, "gid")
        began = time.time()
        receiver = Receiver()
        try:
            with _namespaces(target) as (mounts, userns):
                cgroups = device_cgroups(target.pid)
                answer = await self._givers.answer(
                    lambda sock: giver.ask_to_add(
                        sock, wish.node(*owner), _root(target), cgroups, mounts, userns
                    ),
                    receiver,
                )
        except SeccompdError:
            # How far it has come is not known: so nobody may open what may be there.
            if receiver.home is not None:
                with contextlib.suppress(SeccompdError):
                    await self._take(target, wish, (0, 0), receiver.home, None, None)
                os.close(receiver.home)
            raise
        except OSError as error:
            raise SeccompdError(f"the container has gone: {error.strerror}") from None
        if answer.errno or receiver.home is None:
            if receiver.home is not None:
                os.close(receiver.home)
            raise _refusal(answer, wish)
        notes = _notes(answer)
        return Given(wish, uid, began, receiver.home, answer.device, answer.place, notes)

    async def remove(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Takes one away for whoever would open it, and says who has it still."""
        container = find(self._containers.all(), request)
        path = os.fsencode(_text(request, "path"))
        with self._alone(container, path):
            given = container.given.get(path)
            if given is None:
                raise SeccompdError(
                    f"the container has not been given a device at {_shown(path)}",
                    hint="`seccompd device list` shows what it has",
                )
            # While we have it the number of its tmpfs is nobody else's: the container may end.
            home = os.dup(given.home)
            try:
                answer = await self._remove(container, given, home)
                holders, complete = await self._givers.holders(
                    [given.device], block=_block(container, given)
                )
            finally:
                os.close(home)
        complain(f"{container.keeper.name}: {_shown(path)} is taken away from it")
        return {
            "removed": os.fsdecode(path),
            "hidden": answer.hidden,
            "holders": [_holder(one) for one in holders],
            "complete": complete,
        }

    async def _remove(self, container: Container, given: Given, home: int) -> Answer:
        target = _known(container)
        with contextlib.ExitStack() as stack:
            namespaces: tuple[int | None, int | None] = None, None
            try:
                namespaces = stack.enter_context(_namespaces(target))
            except SeccompdError as error:  # its first process has gone, perhaps
                path = _shown(given.wish.path)
                complain(f"{container.keeper.name}: {path} stays mounted: {error}")
            answer = await self._take(target, given.wish, given.place, home, *namespaces)
        if answer.errno and answer.stage == "node":
            raise SeccompdError(f"it cannot be taken away: {os.strerror(answer.errno)}")
        given.taken = True
        mine = container.given.get(given.wish.path) is given
        if mine and not answer.errno and not answer.hidden:
            os.close(container.given.pop(given.wish.path).home)
        self._containers.save(container)
        if answer.errno:
            raise SeccompdError(
                f"it is nobody's in the container any more, but its mount stays: "
                f"{os.strerror(answer.errno)}"
            )
        return answer

    async def _take(
        self, target: Target, wish: Wish, place: tuple[int, int], home: int,
        mounts: int | None, userns: int | None,
    ) -> Answer:
        node = nobodys(wish, target)
        return await self._givers.answer(
            lambda sock: giver.ask_to_take(
                sock, node, _root(target), place, home, mounts, userns
            ),
            Receiver(),
        )

    async def show(self, seen: Sequence[Container], request: Mapping[str, Any]) -> dict[str, Any]:
        """What the containers `seen` (or one of them) have been given, and where that is now."""
        chosen = seen
        if request.get("container") is not None:
            chosen = [find(seen, request)]
        rows: list[dict[str, Any]] = []
        limit = trio.CapacityLimiter(_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for container in chosen:
                if container.given:
                    nursery.start_soon(self._rows, container, rows, limit)
        rows.sort(key=lambda row: (row["container"] or "", row["at"]))
        return {"devices": rows}

    async def _rows(
        self, container: Container, rows: list[dict[str, Any]], limit: trio.CapacityLimiter
    ) -> None:
        those = list(container.given.values())
        async with limit:
            for start in range(0, len(those), giver.MOST_LOOKED):
                some = those[start : start + giver.MOST_LOOKED]
                found, complete = await self._givers.holders(
                    [one.device for one in some], mounts_of=_known(container).pid
                )
                if not _lives(_known(container)):  # that was another process, perhaps
                    found, complete = [], False
                for one in some:
                    where = [held.path for held in found if held.device == one.device]
                    state = _state(one, where) if where or complete else "unknown"
                    rows.append({**_row(container, one), "state": state,
                                 "mounted": [_shown(path) for path in where]})  # fmt: skip

    @contextlib.contextmanager
    def _alone(self, container: Container, path: bytes) -> Iterator[None]:
        """One order at a time about one path."""
        key = container, path
        if key in self._under_way:
            raise SeccompdError("another order about that path is under way")
        self._under_way.add(key)
        try:
            yield
        finally:
            self._under_way.remove(key)


def find(seen: Sequence[Container], request: Mapping[str, Any]) -> Container:
    """The container that is meant: by its id, "door:id", or the beginning of one id alone."""
    name = _text(request, "container")
    found = [one for one in seen if name in (one.subject.container, one.keeper.name)]
    if not found and name:
        found = [one for one in seen if (one.subject.container or "").startswith(name)]
    if len({(one.keeper.name, one.subject.peer_uid) for one in found}) == 1:
        return found[0]
    names = sorted({one.keeper.name for one in found or seen})
    more = f", and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    there = ", ".join(names[:_NAMES_SHOWN]) + more
    if found:
        raise SeccompdError(f"{_shown(os.fsencode(name))} may be any of these: {there}")
    raise SeccompdError(
        f"there is no container {_shown(os.fsencode(name))}",
        hint=f"there are: {there}" if names else "there is none at all",
    )


def _known(container: Container) -> Target:
    if container.target is None:
        raise SeccompdError("who the container is will be seen when it calls first")
    return container.target


@contextlib.contextmanager
def _namespaces(target: Target) -> Iterator[tuple[int, int | None]]:
    """The mount namespace and, where it has its own, the user namespace, for as long as they are
    needed: the container may end meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            mounts = mounts_of(target)
            stack.callback(os.close, mounts)
            userns = None
            if target.userns is not None:
                userns = os.dup(target.userns)
                stack.callback(os.close, userns)
        except OSError as error:
            raise SeccompdError(f"the container cannot be entered: {error.strerror}") from None
        yield mounts, userns


def _lives(target: Target) -> bool:
    try:
        os.close(mounts_of(target))
    except PermissionError:
        return True  # in one that is not the container's own, by now
    except OSError:
        return False
    return True


def _block(container: Container, given: Given) -> tuple[int, int]:
    """See giver.ask_who_has."""
    wish = given.wish
    if wish.kind == "b":
        with contextlib.suppress(SeccompdError), _namespaces(_known(container)) as (mounts, _):
            return os.makedev(wish.major, wish.minor), os.fstat(mounts).st_ino
    return 0, 0


def _root(target: Target) -> tuple[int, int]:
    one = [(0, 0, 1)]
    return min(target.uids or one)[0], min(target.gids or one)[0]


def _refusal(answer: Answer, wish: Wish) -> SeccompdError:
    why, path = os.strerror(answer.errno), _shown(wish.path)
    match answer.stage:
        case "cgroup":
            return SeccompdError(
                f"the runtime's device cgroup does not let the container open {wish.text}",
                hint="allow it when the container is made: runc and crun: linux.resources.devices; "
                "podman: --device-cgroup-rule or --device; LXC: lxc.cgroup.devices.allow",
            )
        case "node":
            return SeccompdError(f"no node for {wish.text} can be made: {why}")
        case "enter":
            return SeccompdError(f"the container cannot be entered: {why}")
        case "parent":
            return SeccompdError(f"{path}: its directory cannot be reached: {why}")
        case "attach" if answer.errno == EXDEV:
            return SeccompdError(
                f"{path} is on a shared mount: the device would be seen outside, too"
            )
    return SeccompdError(f"{path}: {why}")


def _notes(answer: Answer) -> list[str]:
    notes = []
    if answer.unknown:
        notes.append(f"whether its cgroup may open it is not known: {os.strerror(answer.unknown)}")
    if not (answer.may_read and answer.may_write):
        notes.append(f"its cgroup may only {'read' if answer.may_read else 'write'} it")
    return notes


def _state(given: Given, where: Sequence[bytes]) -> str:
    if given.taken:
        return "hidden" if where else "taken"
    if given.wish.path in where:
        return "there"
    return "moved" if where else "gone"


def _row(container: Container, given: Given) -> dict[str, Any]:
    wish = given.wish
    return {
        "container": container.subject.container,
        "path": os.fsdecode(wish.path),
        "device": wish.text,
        "mode": f"{wish.mode:04o}",
        "owner": f"{wish.uid}:{wish.gid}",
        "by": given.by,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(given.at)),
        "notes": given.notes,
    }


def _holder(holder: Holder) -> dict[str, Any]:
    return {
        "pid": holder.pid, "comm": _shown(holder.comm), "how": holder.how,
        "path": _shown(holder.path),
    }  # fmt: skip


def _text(request: Mapping[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise SeccompdError(f"{name} is a text")
    return value


def _shown(data: bytes) -> str:
    return printable(data)
