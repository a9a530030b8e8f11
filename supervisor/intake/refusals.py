"""What a launch says to the user when the kernel will not have it."""

from __future__ import annotations

import os
import stat
from errno import EACCES, EBUSY, EINVAL, ENOENT, ENOEXEC, ENOSPC, ENXIO, EPERM

from supervisor.errors import CommandNotExecutable, CommandNotFound, KernelError, SeccompdError
from supervisor.kernel.launch import Event, Stage
from supervisor.observe.text import printable

# What goes on without it, and what that means to the user.
_NOTES = {
    Stage.PROC: "no fresh /proc in the new pid namespace ({error}): it shows the host's",
    Stage.SYSFS: "no fresh /sys in the new network namespace ({error}): it shows the host's",
    Stage.MQUEUE: "no fresh /dev/mqueue in the new ipc namespace ({error})",
    Stage.LOOPBACK: "the loopback interface stays down ({error})",
    Stage.TIME: "no time namespace of its own ({error})",
}
_FAILURES = {
    Stage.IDENTITY: "cannot become the mapped user",
    Stage.MOUNTS: "cannot separate the mounts from the host's",
    Stage.FORK: "cannot start a process for the command",
    Stage.NO_NEW_PRIVS: "cannot set no_new_privs",
    Stage.FILTER: "the kernel refuses the filter",
    Stage.HANDOVER: "cannot hand the listener over",
}
_NAMESPACES = {
    EPERM: "user namespaces are switched off for you, or this is a chroot: ask `seccompd doctor`",
    ENOSPC: "the limit in /proc/sys/user/max_*_namespaces is reached, or is 0",
    EINVAL: "this kernel was built without one of the namespaces",
}


def namespaces(error: OSError) -> SeccompdError:
    """The error for a clone(2) that failed."""
    return KernelError(
        f"cannot make the namespaces: {error.strerror}", hint=_NAMESPACES.get(error.errno or 0)
    )


def note(event: Event) -> str | None:
    """What to say about something that a command has to do without; None where nothing is."""
    text = _NOTES.get(Stage(event.stage))
    return text.format(error=os.strerror(event.value)) if text else None


def launch(event: Event, name: str, *, mapped: bool) -> SeccompdError:
    """The error for an event FAILED of a launch of command `name`."""
    stage = Stage(event.stage)
    if stage is Stage.EXEC:
        return exec_failure(name, event.value, mapped=mapped)
    if stage is Stage.FILTER and event.value == EBUSY:
        return KernelError(
            "another listener is above this process: seccompd inside seccompd cannot supervise",
            hint="run this one outside of the other (of any program that has a seccomp listener)",
        )
    return KernelError(
        f"{_FAILURES[stage]}: {os.strerror(event.value)}",
        hint="`seccompd doctor` says what this machine lacks",
    )


def exec_failure(name: str, error: int, *, mapped: bool) -> SeccompdError:
    """The error for a command that execve(2) refused with `error`, as a shell would class it."""
    shown = printable(os.fsencode(name)) if name else "''"
    path = _find(name)
    # A directory of PATH that is closed to the command's user makes it EACCES, to no use.
    if path is None and (error == ENOENT or "/" not in name):
        if "/" in name:
            return CommandNotFound("no such file", where=shown)
        hint = "PATH is " + printable(os.fsencode(_path()))
        return CommandNotFound("command not found", where=shown, hint=hint)
    if error == ENOENT:
        return CommandNotFound(
            "its interpreter does not exist", where=printable(os.fsencode(path or name)),
            hint="look at its #! line, or with `file` at the loader it wants",
        )
    if error == EACCES and path is not None and os.path.isdir(path):
        return CommandNotExecutable(
            "is a directory", where=shown, hint="name a program that is in it"
        )
    reason: str | None = None
    if error == EACCES and mapped and path is not None and os.access(path, os.X_OK):
        reason = "inside, root is another user: the path has to be open to others (or --map none)"
    elif error == EACCES:
        reason = "is it a program, and may you execute it (chmod +x)?"
    elif error == ENOEXEC:
        reason = "it is no program for this machine, and no script"
    what = f"cannot be executed: {os.strerror(error)}"
    return CommandNotExecutable(what, where=shown, hint=reason)


def audit_file(path: str, error: OSError) -> SeccompdError:
    """The error for an audit file that cannot be opened."""
    where = printable(os.fsencode(path))
    try:
        unread = error.errno == ENXIO and stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        unread = False
    if unread:
        return SeccompdError("nobody reads it", where=where, hint="start its reader first")
    return SeccompdError(f"cannot be written: {error.strerror}", where=where)


def _path() -> str:
    return os.environ.get("PATH", "/bin:/usr/bin")


def _find(name: str) -> str | None:
    """The file that execvp would have tried, by our own view of the file system."""
    if "/" in name:
        return name if os.path.lexists(name) else None
    for place in _path().split(":") if name else ():
        candidate = os.path.join(place or ".", name)
        if os.path.lexists(candidate):
            return candidate
    return None
