"""Rules about extended attributes as text: the smallest one for a call, and those that are learned
from many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from supervisor.policy import write
from supervisor.policy.asked import Asked
from supervisor.policy.generalise import globs_for
from supervisor.policy.write import NewRule
from supervisor.policy.xattrs import TRUSTED, XattrCall, call_of

# So many names of one namespace are that namespace's.
_NAMES_MAX: Final = 3
_AS_ROOT: Final = "{emulate: {as: root}}"


def _call(asked: Asked) -> XattrCall:
    return call_of(asked.snapshot.name, asked.snapshot.args)


def xattr_rule(asked: Asked) -> str | None:
    """A rule for one name, value and file; what nobody can do for a container has none."""
    call = _call(asked)
    if call.errno:
        return None
    root = call.text.startswith(TRUSTED)
    pairs = [("name", write.quoted(_glob(call)))]
    if (value := _value(call)) is not None:
        pairs.append(("value", write.quoted(value)))
    if places := asked.places():
        pairs.append(("path", write.one_or_list([write.glob_of(path) for path in places])))
    return write.rule([*pairs, ("do", _AS_ROOT if root else "emulate")])


def _value(call: XattrCall) -> str | None:
    """What a policy can say of the value."""
    whole = call.whole
    return None if whole is None or any("\udc80" <= one <= "\udcff" for one in whole) else whole


def _glob(call: XattrCall) -> str:
    return write.text_glob_of(call.name) if isinstance(call.name, bytes) else ""


def xattr_rules(
    calls: Sequence[Asked], pick: Callable[[Iterable[bytes]], list[str]]
) -> list[NewRule]:
    """Rules for attributes: those that were set or removed in the same way share one. What the
    host's root set keeps its value. `pick` makes globs of paths: with globs_for, names are
    generalised as well.
    """
    groups: dict[tuple[bool, str], list[Asked]] = {}
    for asked in calls:
        root = ((asked.recorded or {}).get("emulate") or {}).get("as") == "root"
        value = _value(_call(asked)) if root else None
        groups.setdefault((root, "" if value is None else value), []).append(asked)
    out = []
    for (root, value), some in sorted(groups.items(), key=lambda pair: not pair[0][0]):
        names = list(dict.fromkeys(_glob(_call(asked)) for asked in some))
        general = not root and pick is globs_for
        pairs: list[tuple[str, str | Sequence[str]]] = [
            ("name", _general(names) if general else sorted(names))
        ]
        if root and all(_value(_call(asked)) == value for asked in some):
            pairs.append(("value", write.quoted(value)))
        paths = pick([path for asked in some for path in asked.places()])
        if paths:
            pairs.append(("path", paths))
        more = f", and {len(some) - 1} more" if len(some) > 1 else ""
        pairs.append(("do", _AS_ROOT if root else "emulate"))
        out.append(NewRule(pairs, f"{some[0].text()}{more}"))
    return out


def _general(names: Sequence[str]) -> list[str]:
    """Names as a person would write them: of many in one namespace all of that. Of security.* and
    system.* each says something else.
    """
    users = [name for name in names if name.startswith("user.")]
    if len(users) <= _NAMES_MAX:
        return sorted(names)
    return sorted({*(name for name in names if name not in users), "user.*"})
