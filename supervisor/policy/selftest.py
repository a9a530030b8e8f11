"""NAME.test.yaml beside a policy: calls, and what the policy must say to them.

For mount, `mountflags` may be a list of names, `resolved` is the target, and `source` what the
source really is: "image /images/a.img", or "device 7:0 /dev/loop0".

nodes: host                  # or private, none; host if left out
cases:
  - call: mknod              # what the call is, by the names of its parameters
    args: {pathname: /dev/null, mode: char, dev: "1:3"}
    caller: {uid: 0, gid: 0, resolved: /dev/null}
    verdict: emulate         # "allow" is what the filter lets pass unseen
    rule: 12                 # the line of the rule; optional
    errno: EPERM             # of an errno verdict; optional
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from supervisor.kernel.mounts import MS
from supervisor.kernel.simulate import action_text
from supervisor.kernel.simulate import run as run_filter
from supervisor.kernel.syscalls import AT_FDCWD, X86_64, CallSpec, Kind, number
from supervisor.model import Arg, Decision, Facts, MountSettings, Snapshot, Verdict
from supervisor.model import Source as MountSource
from supervisor.policy import store
from supervisor.policy.compile import compile_policy
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.cubes import encode
from supervisor.policy.families import FamilySpec, Nodes, Traits
from supervisor.policy.source import Source
from supervisor.policy.values import ERRNOS

_MODES = {
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "file": stat.S_IFREG,
}
_CALLER = {"uid", "gid", "resolved", "source"}
_CASE = {"call", "args", "caller", "verdict", "rule", "errno"}


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that came out otherwise; `place` is FILE:LINE of the case."""

    place: str
    expected: str
    found: str

    def text(self) -> str:
        """One line for a person."""
        return f"{self.place}: expected {self.expected}, found {self.found}"


def test_file(policy: Path) -> Path:
    """Where the cases of a policy are."""
    return policy.with_suffix(".test.yaml")


def run(policy: Path, families: Mapping[str, FamilySpec]) -> tuple[int, list[Failure]]:
    """Runs the cases of a policy. Returns how many there were, and those that failed.

    Raises PolicyError where the policy or its cases cannot be read.
    """
    cases = test_file(policy)
    source = Source(str(cases), store.read(cases))
    source.fail()
    document = source.root.value()
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        source.add(source.root.mark, "a test file has `cases`, a list")
        source.fail()
    nodes = document.get("nodes", "host")
    if nodes not in ("host", "private", "none") or set(document) - {"nodes", "cases"}:
        source.add(source.root.mark, "a test file has `cases`, and `nodes`: host, private or none")
        source.fail()
    traits = Traits(cast("Nodes", nodes))
    compiled = compile_policy(policy, store.read(policy), traits, families)
    specs = {spec.name: spec for family in families.values() for spec in family.calls}
    failures: list[Failure] = []
    for index, case in enumerate(document["cases"]):
        mark = source.root.at(("cases", index)).mark
        try:
            failure = _case(compiled, specs, case, f"{cases}:{mark.line}")
        except (KeyError, TypeError, ValueError) as error:
            source.add(mark, f"not a case: {error}")
            continue
        if failure is not None:
            failures.append(failure)
    source.fail()
    return len(document["cases"]), failures


def _case(
    policy: CompiledPolicy, specs: Mapping[str, CallSpec], case: dict[str, Any], place: str
) -> Failure | None:
    if set(case) - _CASE:
        raise ValueError(f"unknown key {min(set(case) - _CASE)}")
    spec = specs[case["call"]]
    snapshot = _snapshot(spec, case["args"])
    found = _filtered(policy, snapshot)
    if found == "notify":
        found = _decision(policy, spec, snapshot, case.get("caller", {}), case)
    expected = str(case["verdict"])
    if "errno" in case:
        expected += f" {case['errno']}"
    if "rule" in case:
        expected += f" by line {case['rule']}"
    return None if found == expected else Failure(place, expected, found)


def _decision(
    policy: CompiledPolicy,
    spec: CallSpec,
    snapshot: Snapshot,
    caller: Mapping[str, Any],
    case: Mapping[str, Any],
) -> str:
    if set(caller) - _CALLER:
        raise ValueError(f"unknown key {min(set(caller) - _CALLER)}")
    decision = policy.decide(spec.family, snapshot)
    if decision.needs_facts:
        written = _written(spec, snapshot)
        resolved = caller["resolved"].encode() if "resolved" in caller else written
        facts = Facts(
            resolved,
            caller.get("uid", 0),
            caller.get("gid", 0),
            _source(snapshot, decision, caller),
        )
        decision = policy.decide(spec.family, snapshot, facts)
    text = decision.verdict.value
    if decision.verdict is Verdict.ERRNO and "errno" in case:
        names = [name for name, value in ERRNOS.items() if value == decision.value]
        text += f" {case['errno'] if case['errno'] in names else names[0]}"
    if "rule" in case:
        text += f" by line {decision.rule.rpartition(':')[2]}"
    return text


def _written(spec: CallSpec, snapshot: Snapshot) -> bytes | None:
    """The call's path, as it was written."""
    for param, arg in zip(spec.params, snapshot.args, strict=True):
        if param.kind is Kind.PATH and isinstance(arg, bytes):
            return arg
    return None


def _source(
    snapshot: Snapshot, decision: Decision, caller: Mapping[str, Any]
) -> MountSource | None:
    """What the source of a mount really is; as it was written where the case does not say."""
    text = snapshot.args[0]
    if not isinstance(decision.settings, MountSettings):
        return None
    if "source" not in caller:
        kind = "text" if decision.settings.text else "image"
        return MountSource(kind, text if isinstance(text, bytes) else b"")
    kind, _, rest = str(caller["source"]).partition(" ")
    if kind == "image":
        return MountSource(kind, rest.encode())
    number, _, name = rest.partition(" ")
    major, _, minor = number.partition(":")
    if kind != "device":
        raise ValueError(f"{caller['source']!r} is no source")
    return MountSource(kind, name.encode(), (int(major), int(minor)))


def _snapshot(spec: CallSpec, given: Mapping[str, Any]) -> Snapshot:
    nr = number(spec.name, X86_64)
    if nr is None:
        raise ValueError(f"x86_64 has no {spec.name}")
    unknown = set(given) - {param.name for param in spec.params}
    if unknown:
        raise ValueError(f"{spec.name} has no parameter {min(unknown)}")
    args = tuple(_arg(param.kind, given.get(param.name)) for param in spec.params)
    return Snapshot(0, 0, X86_64, nr, 0, spec.name, args)


def _arg(kind: Kind, value: object) -> Arg:
    if kind is Kind.PATH:
        return str(value).encode()
    if kind.is_string:
        return 0 if value is None else str(value).encode()
    if kind is Kind.MOUNT_FLAGS and isinstance(value, list):
        return sum(MS[str(name)] for name in value)
    if value is None:
        return AT_FDCWD if kind is Kind.FD else 0
    if kind is Kind.MODE and isinstance(value, str):
        return _MODES[value] | 0o666
    if kind is Kind.DEV and isinstance(value, str):
        major, _, minor = value.partition(":")
        return encode(int(major), int(minor))
    if isinstance(value, int):
        return value
    raise ValueError(f"{value!r} is no {kind.value}")


def _filtered(policy: CompiledPolicy, snapshot: Snapshot) -> str:
    """What the filter does with the call, by running it: "allow", "notify", "errno EPERM" ..."""
    registers = [arg if isinstance(arg, int) else 1 for arg in snapshot.args]
    return action_text(run_filter(policy.filter, snapshot.nr, snapshot.arch, registers).action)


def discover(directory: Path) -> Iterator[Path]:
    """The policies of a directory that have cases."""
    for cases in sorted(directory.glob("*.test.yaml")):
        yield cases.with_name(cases.name.removesuffix(".test.yaml") + ".yaml")
