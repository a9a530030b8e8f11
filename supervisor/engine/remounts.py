"""The remount of what the kernel mounted for us: of the filesystem, and of one mount of it.

As the kernel does it: what is locked stops the whole, and so do options that are none; then the
superblock is changed, and the mount's own flags last. But the kernel locks a mount's atime flags
with the others, for good. There another mount takes its place, where nobody uses it.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, EPERM
from typing import Any

from supervisor.engine import mount_makers
from supervisor.engine.helpers import Makers
from supervisor.engine.mount_call import Look, MountCall, MountError
from supervisor.kernel.mounts import ATIME, MS_REMOUNT, attr_of, remounted
from supervisor.kernel.shim import ffi, lib
from supervisor.plans import Remount


async def remount(makers: Makers, call: MountCall, look: Look, plan: Remount) -> bool:
    """Gives the mount at the target other flags, and its filesystem other options. False: it has
    gone, and what is there now is none of ours. Raises MountError.
    """
    error = await call.change(look, *remounted(plan.flags), only_try=True)
    if not error:
        return await _change(makers, call, look, plan, plan.flags)
    rest = plan.flags & ~ATIME
    if error != EPERM or rest == plan.flags:
        raise _failed(error)
    if error := await call.change(look, *remounted(rest), only_try=True):
        raise _failed(error)
    # from here on nobody has the target, but for the time of the change
    _replaceable(await call.mark(look) or await call.idle(look))
    again = await _look_again(call, look, plan)
    try:
        if not await _change(makers, call, again, plan, rest):
            return False
    finally:
        again.close()
    await _replace(makers, call, look, plan)
    return True


def _failed(error: int) -> MountError:
    return MountError(error, "remount: a flag is locked" if error == EPERM else "remount")


def _replaceable(error: int) -> None:
    if error == EBUSY:
        raise MountError(EBUSY, "remount: atime is locked, and the mount is in use")
    if error:
        raise MountError(EPERM, "remount: atime is locked, and the mount cannot be replaced")


async def _look_again(call: MountCall, look: Look, plan: Remount) -> Look:
    call.ask(plan)
    again = await call.look()
    if again is None:
        raise call.failed("path: the caller's groups cannot be taken")
    before, now = look.seen, again.seen
    if (before.target_major, before.target_minor) != (now.target_major, now.target_minor):
        again.close()
        raise call.failed("remount: another mount has come there")
    return again


async def _change(
    makers: Makers, call: MountCall, look: Look, plan: Remount, flags: int
) -> bool:
    """The superblock, and then the mount, as `flags` say."""
    if not await _filesystem(makers, call, look, plan):
        return False
    if error := await call.change(look, *remounted(flags)):
        raise MountError(error, "remount: of the mount, after the filesystem's")
    return True


async def _filesystem(makers: Makers, call: MountCall, look: Look, plan: Remount) -> bool:
    # mount(8) hands back the options that mountinfo shows, this one too
    words = [word for word in (plan.data or b"").split(b",") if word != b"idmapped"]
    new = ffi.new("struct sd_new_mount *")
    new.kind, new.flags = lib.SD_NEW_AGAIN, plan.flags
    mount_makers.fill(new.data, b",".join(words), lib.SD_PATH_MAX, EINVAL)
    mounted, _ = await mount_makers.mounted(makers, call, look, new)
    _checked(mounted)
    return not mounted.flags & lib.SD_MOUNTED_STRANGER


def _checked(mounted: Any) -> None:
    if mounted.error and not mounted.flags & lib.SD_MOUNTED_STRANGER:
        raise MountError(-mounted.error, mount_makers.why(mounted) or "remount")


async def _replace(makers: Makers, call: MountCall, look: Look, plan: Remount) -> None:
    """Another mount of the filesystem, with all flags of `plan`, in the place of the marked one."""
    new = ffi.new("struct sd_new_mount *")
    new.kind = lib.SD_NEW_COPY
    new.major, new.minor = look.seen.target_major, look.seen.target_minor
    new.flags, new.set = plan.flags & ~MS_REMOUNT, attr_of(plan.flags)
    mounted, error = await mount_makers.mounted(makers, call, look, new)
    _checked(mounted)
    _replaceable(-mounted.error or error)
