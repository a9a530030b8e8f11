"""Which calls a policy's filter notifies, so that two policies can be compared.

A filter is fixed when its container starts. Under another policy it still notifies what the first
one wanted to hear of, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from supervisor.kernel import bpf
from supervisor.kernel.mounts import MS_REMOUNT
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.cubes import Cube, subtract
from supervisor.policy.directories import DirectoryRules
from supervisor.policy.families import FamilySpec
from supervisor.policy.options import OptionRules
from supervisor.policy.rules import RuleSet
from supervisor.policy.settle import settle_mounts, settle_nodes, settle_options
from supervisor.policy.sockets import AnyRules, SocketRules
from supervisor.policy.xattr_filter import settle_xattrs
from supervisor.policy.xattrs import XattrRules

_ALL: Final = (Cube("", 0, 0),)


@dataclass(frozen=True, slots=True, eq=False)
class Notified:
    """By the name of each call when it is notified, as far as registers tell: as cubes, whose kind
    tells apart what has nothing in common."""

    calls: Mapping[str, tuple[Cube, ...]]

    @classmethod
    def of(cls, policy: CompiledPolicy, families: Mapping[str, FamilySpec]) -> Notified:
        """What the filter notifies that is made for `policy`."""
        by_family = {
            name: tuple(_cubes(rules, families[name])) for name, rules in policy.families.items()
        }
        found = {
            spec.name: by_family.get(spec.family, _ALL) for spec in policy.calls.values()
        }  # fmt: skip
        for spec in policy.calls.values():
            rules = policy.families.get(spec.family)
            if isinstance(rules, XattrRules):  # not the same for all calls of the family
                found[spec.name] = tuple(settle_xattrs(rules, spec)[bpf.RET_USER_NOTIF])
        return cls(found)

    def to_json(self) -> dict[str, Any]:
        """As JSON's types."""
        return dict(self.calls)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Notified:
        """What to_json() wrote."""
        return cls({name: tuple(Cube(*row) for row in rows) for name, rows in data.items()})


@lru_cache(maxsize=256)
def beyond(new: Notified, old: Notified) -> tuple[str, ...]:
    """The calls that `new` wants to hear of, at least some of them, where `old` does not."""
    return tuple(sorted(
        name for name, cubes in new.calls.items() if subtract(cubes, old.calls.get(name, ()))
    ))  # fmt: skip


def _cubes(rules: AnyRules, family: FamilySpec) -> Iterable[Cube]:
    if isinstance(rules, XattrRules):
        return ()
    if isinstance(rules, SocketRules | DirectoryRules):
        return _ALL if rules.watches else ()
    if isinstance(rules, OptionRules):
        return settle_options(rules)[bpf.RET_USER_NOTIF]
    if isinstance(rules, RuleSet):
        return settle_nodes(rules)[bpf.RET_USER_NOTIF]
    (spec,) = family.calls
    every = [test for (test,) in family.always(spec, rules)]
    again = [test for test in every if test.value & MS_REMOUNT]
    new = [(test,) for test in every if test not in again]
    return [
        *(Cube("again", test.mask, test.value) for test in again),
        *(
            Cube("new", test.mask, test.value)
            for action, (test,) in settle_mounts(rules, new) if action == bpf.RET_USER_NOTIF
        ),
    ]  # fmt: skip
