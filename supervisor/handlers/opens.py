"""open, openat, openat2 and creat: descriptors that a policy gives.

What asks for O_PATH is never notified, for nothing that is given is that; nor is what asks for a
directory, where no rule gives one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from errno import EFAULT
from functools import lru_cache
from typing import ClassVar, Final

from supervisor.handlers.base import (
    AT_FDCWD,
    CALLER_KEYS,
    AccessMatch,
    CallSpec,
    Condition,
    Family,
    KeyMatch,
    Kind,
    Match,
    PathMatch,
    UnreadableArgument,
    call,
)
from supervisor.kernel.opening import ACCESS_WORDS, O_ACCMODE, O_DIRECTORY, O_PATH
from supervisor.model import Arg, Decision, Inject, Snapshot, Verdict
from supervisor.plans import Open, Place
from supervisor.policy.match import lexical
from supervisor.policy.opens import OpenRules, how_of, path_at

_AT: Final = ("dirfd", Kind.FD)
_PATH: Final = ("pathname", Kind.PATH)
_FLAGS: Final = ("flags", Kind.OPEN_FLAGS)
_MODE: Final = ("mode", Kind.MODE)


class Opens(Family):
    """The family "open" of a policy."""

    name: ClassVar[str] = "open"
    doc: ClassVar[str] = "open, openat, openat2 and creat, but with O_PATH"
    calls: ClassVar[tuple[CallSpec, ...]] = (
        call("open", "open", _PATH, _FLAGS, _MODE),
        call("open", "openat", _AT, _PATH, _FLAGS, _MODE),
        call("open", "openat2", _AT, _PATH, ("how", Kind.HOW), ("size", Kind.SIZE)),
        call("open", "creat", _PATH, _MODE),
    )
    keys: ClassVar[Mapping[str, KeyMatch] | None] = {
        "path": PathMatch(
            "what is opened, as a glob below the caller's root directory; it need not be there",
            path="pathname",
        ),
        "access": AccessMatch("how it is opened: read-only, write-only, read-write"),
        **CALLER_KEYS,
    }
    verdicts: ClassVar[frozenset[Verdict]] = frozenset(Verdict) - {Verdict.EMULATE}
    # Whatever no rule is about is the kernel's: a list of all that may be opened would be a race.
    otherwise: ClassVar[tuple[str, ...]] = ("kernel",)
    io_uring: ClassVar[bool] = True

    def always(self, spec: CallSpec, rules: object) -> Sequence[Match]:
        """What some rule can be about; of openat2 all, for how it opens lies in memory."""
        if not isinstance(rules, OpenRules) or not (wanted := rules.accesses):
            return ()
        if spec.name == "creat":
            return ((),) if "write-only" in wanted else ()
        at = spec.index("flags")
        if at is None:
            return ((),)
        never = O_PATH if rules.gives_directories else O_PATH | O_DIRECTORY
        if wanted == frozenset(ACCESS_WORDS.values()):
            return ((Condition(at, never, 0),),)
        return tuple(
            (Condition(at, never | O_ACCMODE, mode),)
            for mode, word in ACCESS_WORDS.items()
            if word in wanted
        )

    def plan(self, snapshot: Snapshot, decision: Decision) -> Open:
        """What is opened, and how."""
        inject = decision.settings if isinstance(decision.settings, Inject) else None
        return _plan(snapshot.name, snapshot.args, inject, decision.as_written)


@lru_cache(maxsize=256)
def _plan(name: str, args: tuple[Arg, ...], inject: Inject | None, as_written: bool) -> Open:
    at = path_at(name)
    path, dirfd = args[at], args[0] if at else AT_FDCWD
    how = how_of(name, args)
    if isinstance(path, int):
        raise UnreadableArgument(-path)
    if how is None:
        raise UnreadableArgument(EFAULT)
    if isinstance(dirfd, bytes):
        raise TypeError("dirfd is a number")
    granted = lexical(path) if as_written and inject is not None else None
    return Open(Place(dirfd, path), how.flags, inject, granted)
