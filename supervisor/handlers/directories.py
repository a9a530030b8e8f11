"""mkdir and mkdirat: which directories a container makes, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from supervisor.handlers.base import (
    CALLER_KEYS,
    CallSpec,
    Family,
    KeyMatch,
    Kind,
    Match,
    Named,
    PathMatch,
    call,
    number,
    place,
)
from supervisor.model import Decision, DirectorySettings, Snapshot
from supervisor.plans import MakeDirectory
from supervisor.policy.directories import DirectoryRules

_PATH: Final = ("pathname", Kind.PATH)
_MODE: Final = ("mode", Kind.MODE)
_NOTHING: Final = DirectorySettings()


class Directories(Family):
    """The family "mkdir" of a policy."""

    name: ClassVar[str] = "mkdir"
    doc: ClassVar[str] = "mkdir and mkdirat"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call("mkdir", "mkdir", _PATH, _MODE),
        call("mkdir", "mkdirat", ("dirfd", Kind.FD), _PATH, _MODE),
    )
    keys: ClassVar[Mapping[str, KeyMatch] | None] = {
        "path": PathMatch(
            "where the directory is to be, as a glob below the caller's root directory",
            path="pathname",
        ),
        **CALLER_KEYS,
    }
    io_uring: ClassVar[bool] = True
    redirects: ClassVar[bool] = True
    settles: ClassVar[bool] = False

    def always(self, spec: CallSpec, rules: object) -> Sequence[Match]:  # noqa: ARG002
        """Each call, where some of them may come to anything but the kernel's answer."""
        return ((),) if isinstance(rules, DirectoryRules) and rules.watches else ()

    def plan(self, snapshot: Snapshot, decision: Decision) -> MakeDirectory:
        """The directory to make, with the mode as the caller gave it (before its umask)."""
        args = Named(_CALLS[snapshot.name], snapshot.args)
        settings = decision.settings
        return MakeDirectory(
            place(args, "pathname", "dirfd"), number(args, "mode"),
            settings if isinstance(settings, DirectorySettings) else _NOTHING,
        )  # fmt: skip


_CALLS: Final = {spec.name: spec for spec in Directories.calls}
