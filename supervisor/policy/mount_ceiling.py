"""What makers can ever be asked for by the rules of mounts: a session cannot go beyond it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.kernel.device_numbers import MAJOR_MAX, MINOR_MAX
from supervisor.model import MountCeiling, Verdict

if TYPE_CHECKING:
    from supervisor.policy.mounts import MountRule

_EVERY = ((0, MAJOR_MAX, 0, MINOR_MAX),)


def ceilings(rule: MountRule) -> list[MountCeiling]:
    """What a maker can be asked for with this rule, one for each type."""
    how = rule.settings
    if rule.audit or rule.verdict is not Verdict.EMULATE or how.via != "kernel":
        return []
    anything = not rule.by_source
    # The maker's globs for paths have no "**".
    wide = anything or any("**" in glob for glob in rule.sources or ())
    if how.text:
        names = ["*"] if rule.sources is None else [_wider(glob) for glob in rule.sources]
    else:
        names = [glob for glob in rule.sources or () if "**" not in glob]
    devices = tuple((low, high, first, last) for _, low, high, first, last in rule.devices)
    return [
        MountCeiling(
            fstype=name.encode(),
            force=how.force,
            flags=rule.allowed_flags,
            options=_encoded([_wider(glob) for glob in rule.options or ()]),
            shift=how.shift != "false",
            names=_encoded(names),
            devices=() if how.text else _EVERY if wide else devices,
            images=not how.text and (anything or rule.sources is not None),
            text=how.text,
        )
        for name in rule.types or ()
    ]


def _encoded(globs: list[str]) -> tuple[bytes, ...]:
    return tuple(glob.encode("utf-8", "surrogateescape") for glob in globs)


def _wider(glob: str) -> str:
    """One for C's fnmatch(3), which sees more in brackets: it grants all that `glob` does."""
    head, bracket, _ = glob.partition("[")
    return head + "*" if bracket else glob
