"""Whose calls a foreign listener brings: a container's user namespace, by one of its processes.

A number of a process means nothing for certain: it may be another process's by the time that it is
looked at. What is opened here is opened below one /proc/PID, and only used once the process was
seen to live (its pidfd) or to wait still (its notification). Nothing here is a target's memory or
path, so no target can stall it.
"""

from __future__ import annotations

import functools
import os
import select
import signal
from dataclasses import dataclass
from errno import EINVAL, EPERM, ESRCH
from typing import Any

from supervisor.kernel.shim import check, ffi, lib
from supervisor.kernel.task import (
    PROC,
    field,
    forked_only,
    open_task,
    program_of,
    start_time,
    status,
    thread_group,
)  # fmt: skip

IdMap = list[tuple[int, int, int]]
_FILTERED = b"2"  # SECCOMP_MODE_FILTER


@dataclass(slots=True)
class Target:
    """`userns` is a descriptor of the user namespace; None: it is our own. `uids`, `gids` are its
    maps, as (inside, outside, count). `groups`: where nobody in it can change groups, those of the
    process, as we number them. `runtime`: the process is a runtime's that has executed nothing yet
    (its id, its start in ticks since boot), and is called `program`. `cgroups`: its path in each
    hierarchy. `pid`: the process that said all this, and `began` its start. `network`: the inode
    of its network namespace.
    """

    userns: int | None
    uids: IdMap | None
    gids: IdMap | None
    groups: tuple[int, ...] = ()
    runtime: tuple[int, int] | None = None
    program: str | None = None
    cgroups: tuple[str, ...] = ()
    pid: int = 0
    began: int | None = None
    network: int = 0

    def close(self) -> None:
        """Lets go of the namespace."""
        if self.userns is not None:
            os.close(self.userns)
            self.userns = None

    def same_namespace(self, other: Target) -> bool:
        """Whether both are in one user namespace."""
        return _identity(self.userns) == _identity(other.userns)


def of_process(pid: int) -> Target:
    """What process `pid` says of the container that it belongs to. OSError where it has gone, has
    no filter, or does not let itself be looked at.
    """
    pidfd = os.pidfd_open(pid)
    try:
        task = open_task(pid)
        try:
            if field(status(pid), b"Seccomp") != _FILTERED:
                raise OSError(EINVAL, "the process has no filter", str(pid))
            target = _of_task(task)
        finally:
            os.close(task)
        began, program = start_time(pid), program_of(pid)
        if began is not None and forked_only(pid):
            target.runtime, target.program = (pid, began), program
        target.cgroups = cgroups(pid)
        target.pid, target.began = pid, began
        if has_ended(pidfd):
            target.close()
            raise ProcessLookupError(ESRCH, "the process has gone", str(pid))
        return target
    finally:
        os.close(pidfd)


def of_process_of(pidfd: int, owner: int) -> Target:
    """What the process behind `pidfd` says of its container, which user `owner` has made.

    That has to be a user namespace made in ours by `owner`, and the process in a mount namespace
    that belongs to it: PermissionError otherwise. Other OSErrors where it has gone, does not let
    itself be looked at, or `pidfd` is none.
    """
    pid = _number(pidfd)
    task = open_task(pid)
    try:
        if has_ended(pidfd):
            raise ProcessLookupError(ESRCH, "the process has gone", str(pid))
        target = _of_task(task)
        try:
            if target.userns is None or not _made_in_ours(target.userns):
                raise PermissionError(EPERM, "not in a user namespace made in the daemon's")
            if _owner(target.userns) != owner:
                raise PermissionError(EPERM, "the user namespace is another user's")
            if not _belongs(task, "ns/mnt", target.userns):
                raise PermissionError(EPERM, "not in a mount namespace of its own")
            target.cgroups = cgroups(pid)
            target.pid, target.began = pid, start_time(pid)
            if has_ended(pidfd):
                raise ProcessLookupError(ESRCH, "the process has gone", str(pid))
        except BaseException:
            target.close()
            raise
        return target
    finally:
        os.close(task)


def of_first_caller(listener: int, watch: Any, on_error: int) -> Target | None:
    """What the first caller says of its container; None where none has come, or none that could.

    The call becomes the session's, by the watch. The container's own user namespace has to be one
    that was made in ours: a process can make another one below it, and is root there. The calls of
    such a process are answered with the errno `on_error` here. Raises OSError (ENOTCONN) where no
    caller is left.
    """
    tid = ffi.new("uint32_t *")
    if not check(lib.sd_receive_first(listener, watch, tid), "NOTIF_RECV"):
        return None
    target = None
    try:
        if not tid[0]:
            raise ProcessLookupError(ESRCH, "a caller of another pid namespace")
        task = open_task(tid[0])
        try:
            target = _of_task(task)
        finally:
            os.close(task)
        if target.userns is not None and not _made_in_ours(target.userns):
            raise PermissionError(EPERM, "a caller of a namespace below the container's")
        target.pid = thread_group(tid[0]) or 0
        target.began = start_time(target.pid)
        check(lib.sd_id_valid(listener, watch.carried), "ID_VALID")
        return target
    except OSError:
        if target is not None:
            target.close()
        lib.sd_refuse_pending(listener, watch, -on_error)
        return None


def mounts_of(target: Target) -> int:
    """A descriptor of the mount namespace of the process that `target` was read from. OSError where
    that has gone, or the namespace is not the container's own: what is mounted in one that belongs
    to another user namespace, or is the host's, is no matter of the container's.
    """
    task = open_task(target.pid)
    try:
        # A process with that start and that number had it when its directory was opened, too.
        if target.began is None or start_time(target.pid) != target.began:
            raise ProcessLookupError(ESRCH, "its first process has ended")
        mounts = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=task)
        try:
            if target.userns is not None:
                own = _is_of(mounts, target.userns)
            else:
                own = not any(_is_mounts_of(mounts, who) for who in ("self", "1"))
            if not own:
                raise PermissionError(EPERM, "it has no mount namespace of its own")
        except BaseException:
            os.close(mounts)
            raise
        return mounts
    finally:
        os.close(task)


def _is_mounts_of(mounts: int, who: str) -> bool:
    """Whether that is the mount namespace of a process. What does not let itself be looked at is
    further from us than any container."""
    try:
        return os.path.samestat(os.fstat(mounts), os.stat(f"{PROC}/{who}/ns/mnt"))
    except PermissionError:
        return False


def device_cgroups(pid: int) -> tuple[bytes, bytes, bytes]:
    """The cgroups that say what process `pid` may open: its path in version 2, and of version 1 the
    controllers of the hierarchy that has "devices", and its path there. b"" where there is none, or
    it is that hierarchy's first one, which restricts nobody."""
    v2 = controllers = v1 = b""
    with open(f"{PROC}/{pid}/cgroup", "rb") as file:
        for line in file:
            number, names, path = line.rstrip(b"\n").split(b":", 2)
            if path == b"/":
                continue
            if number == b"0":
                v2 = path
            elif b"devices" in names.split(b","):
                controllers, v1 = names, path
    return v2, controllers, v1


def of_children(pid: int, start: int | None) -> tuple[int, int] | None:
    """The one child of runtime `pid` (which began at `start`) that runs the same program, below a
    filter, and has executed nothing: the process that it prepares for a container. None where there
    is not exactly one.
    """
    found = []
    try:
        program = os.stat(f"{PROC}/{pid}/exe")
        tasks = os.listdir(f"{PROC}/{pid}/task")
        children = [
            int(child)
            for task in tasks
            for child in _read(f"{PROC}/{pid}/task/{task}/children").split()
        ]
        for child in children:
            began = start_time(child)
            same = os.path.samestat(os.stat(f"{PROC}/{child}/exe"), program)
            filtered = field(status(child), b"Seccomp") == _FILTERED
            if same and filtered and began is not None and forked_only(child):
                found.append((child, began))
    except (OSError, ValueError):
        return None
    if start is None or start_time(pid) != start:
        return None  # all this was said of another process
    return found[0] if len(found) == 1 else None


def shares_our_pids(pid: int) -> bool:
    """Whether process `pid` numbers processes as we do."""
    try:
        return os.path.samestat(os.stat(f"{PROC}/{pid}/ns/pid"), os.stat(f"{PROC}/self/ns/pid"))
    except OSError:
        return False


def _of_task(task: int) -> Target:
    userns = os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=task)
    try:
        network = os.stat("ns/net", dir_fd=task).st_ino
        if _identity(userns) == _identity(None):
            os.close(userns)
            return Target(None, None, None, network=network)
        groups = _groups(task) if _content(task, "setgroups") == b"deny\n" else ()
        uids, gids = _map(task, "uid_map"), _map(task, "gid_map")
        return Target(userns, uids, gids, groups, network=network)
    except BaseException:
        os.close(userns)
        raise


def _content(task: int, name: str) -> bytes:
    with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=task), "rb") as file:
        return file.read()


def _groups(task: int) -> tuple[int, ...]:
    return tuple(map(int, field(_content(task, "status"), b"Groups").split()))


def _map(task: int, name: str) -> IdMap:
    rows = [[int(word) for word in line.split()] for line in _content(task, name).splitlines()]
    if not rows:
        raise OSError(EINVAL, "no ids are mapped", name)
    return [(inside, outside, count) for inside, outside, count in rows]


@functools.cache
def _own() -> tuple[int, int]:
    own = os.stat(f"{PROC}/self/ns/user")
    return own.st_dev, own.st_ino


def _identity(userns: int | None) -> tuple[int, int]:
    if userns is None:
        return _own()
    found = os.fstat(userns)
    return found.st_dev, found.st_ino


def _made_in_ours(userns: int) -> bool:
    parent = check(lib.sd_parent_user_namespace(userns), "NS_GET_PARENT")
    try:
        return _identity(parent) == _own()
    finally:
        os.close(parent)


def _owner(userns: int) -> int:
    uid = ffi.new("uint32_t *")
    check(lib.sd_owner_of_user_namespace(userns, uid), "NS_GET_OWNER_UID")
    return int(uid[0])


def _belongs(task: int, name: str, userns: int) -> bool:
    """Whether a namespace of the task belongs to that user namespace."""
    namespace = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=task)
    try:
        return _is_of(namespace, userns)
    finally:
        os.close(namespace)


def _is_of(namespace: int, userns: int) -> bool:
    """The same of a descriptor of one."""
    try:
        owner = check(lib.sd_user_namespace_of(namespace), "NS_GET_USERNS")
    except PermissionError:
        return False  # it is not below ours
    try:
        return _identity(owner) == _identity(userns)
    finally:
        os.close(owner)


def _number(pidfd: int) -> int:
    """The process that a pidfd stands for; OSError where it has gone, or that is no pidfd."""
    with open(f"{PROC}/self/fdinfo/{pidfd}", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "Pid":
                if int(value) > 0:
                    return int(value)
                raise ProcessLookupError(ESRCH, "the process has gone, or is not below ours")
    raise OSError(EINVAL, "no pidfd")


def cgroups(pid: int) -> tuple[str, ...]:
    """The paths of a process in all hierarchies; none where it has gone."""
    try:
        lines = _read(f"{PROC}/{pid}/cgroup").splitlines()
    except OSError:
        return ()
    return tuple(dict.fromkeys(line.split(":", 2)[2] for line in lines if line.count(":") >= 2))


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def has_ended(pidfd: int) -> bool:
    """Whether the process behind a pidfd has ended."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def was_reaped(pidfd: int) -> bool:
    """Whether the process behind a pidfd has ended and was waited for: its number is free then."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # there is somebody to be refused to
    return False
