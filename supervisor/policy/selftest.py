"""NAME.test.yaml beside a policy: calls, and what the policy must say to them.

docs/policy-tools.md has the form. Cases go the way of a real call: through the filter, by running
it, then through one look of the policy or two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from supervisor.kernel.simulate import action_text
from supervisor.kernel.syscalls import ARCH_NAMES, NATIVE_ARCHES
from supervisor.kernel.text import errno_name, printable
from supervisor.model import Decision, Verdict
from supervisor.policy import store
from supervisor.policy.asked import CALLER, Asked, named
from supervisor.policy.compile import compile_policy
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.explain import explain
from supervisor.policy.families import FamilySpec
from supervisor.policy.source import Source
from supervisor.policy.traits import Nodes, Traits
from supervisor.policy.values import ERRNOS, near

SUFFIX: Final = ".test.yaml"
_ARCHES: Final = {ARCH_NAMES[arch]: arch for arch in NATIVE_ARCHES}
_CASE: Final = (
    "name", "call", "args", "arch", "caller", "verdict", "rule", "errno", "return", "audit",
)  # fmt: skip
_VERDICTS: Final = (
    *(verdict.value for verdict in Verdict if verdict is not Verdict.INJECT), "allow",
)  # fmt: skip
# What a case may expect beside the verdict.
_MORE: Final = ("rule", "errno", "return", "audit")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one case; `place` is its FILE:LINE, `call` the call as strace writes it.

    `wrong` has a line for each thing that came out otherwise, `tried` the rules that were tried;
    both are empty where the case passed. `rule` is what decided, "" for the filter.
    """

    place: str
    name: str
    call: str
    wrong: tuple[str, ...]
    tried: tuple[str, ...]
    rule: str

    def text(self) -> str:
        """For a person: the call, each difference, and how it came about."""
        lines = [f"{self.place}: {self.name or self.call}"]
        lines += [f"    {line}" for line in self.wrong]
        lines += [f"      {line}" for line in self.tried]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Report:
    """The cases of one policy. `untried` are the places of rules that decided none of them."""

    file: Path
    results: tuple[Result, ...]
    untried: tuple[str, ...]

    @property
    def failures(self) -> tuple[Result, ...]:
        """The cases that came out otherwise."""
        return tuple(result for result in self.results if result.wrong)


def test_file(policy: Path) -> Path:
    """Where the cases of a policy are."""
    return policy.with_suffix(SUFFIX)


def policy_of(cases: Path) -> Path:
    """The policy that a file with cases is about."""
    return cases.with_name(cases.name.removesuffix(SUFFIX) + ".yaml")


def discover(directory: Path) -> Iterator[Path]:
    """The policies below a directory that have cases."""
    for cases in sorted(directory.rglob(f"*{SUFFIX}")):
        yield policy_of(cases)


def run(policy: Path, families: Mapping[str, FamilySpec]) -> Report:
    """Runs the cases of a policy.

    Raises PolicyError where the policy or its cases cannot be read: all that is wrong with them.
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
    results: list[Result] = []
    for index, case in enumerate(document["cases"]):
        node = source.root.at(("cases", index))
        try:
            results.append(_case(compiled, families, case, f"{cases}:{node.mark.line}"))
        except (KeyError, TypeError, ValueError) as error:
            text = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            source.at(node, f"not a case: {text}")
    source.fail()
    decided = {result.rule for result in results}
    every = [rule.place for rules in compiled.families.values() for rule in rules.rules]
    return Report(cases, tuple(results), tuple(place for place in every if place not in decided))


def _case(
    policy: CompiledPolicy, families: Mapping[str, FamilySpec], case: Any, place: str
) -> Result:
    if not isinstance(case, dict):
        raise TypeError("a case is a mapping: call, args, verdict ...")
    for key in case:
        if key not in _CASE:
            raise ValueError(f"unknown key {key}" + near(str(key), list(_CASE)))
    asked = _asked(families, case)
    _check_words(case)
    expected = {"verdict": str(case["verdict"])} | {
        key: _plain(case[key]) for key in _MORE if key in case
    }
    found_all = explain(policy, asked)
    if found_all.decision is None:
        found, rule = {"verdict": found_all.filtered}, ""
    else:
        found, rule = _found(found_all.decision, expected), found_all.decision.rule
    wrong = tuple(
        f"{key}: expected {expected[key]}, found {found.get(key, 'none')}"
        for key in expected
        if expected[key] != found.get(key, "none")
    )
    tried = [f"{one.place}: {one.objection or 'this one decides'}" for one in found_all.tried]
    if found_all.decision is None:
        tried = [f"the filter: {action_text(found_all.run.action)}"]
    elif found_all.decision.reason:
        tried.append(f"{rule}: {found_all.decision.reason}")
    name = printable(str(case.get("name", "")).encode())
    return Result(place, name, asked.text(), wrong, tuple(tried) if wrong else (), rule)


def _check_words(case: Mapping[str, Any]) -> None:
    """ValueError for a verdict or an errno that nothing could ever come to."""
    verdict, _, errno = str(case["verdict"]).partition(" ")
    if verdict not in _VERDICTS:
        raise ValueError(f"unknown verdict {verdict}" + near(verdict, list(_VERDICTS)))
    for name in filter(None, (errno, case.get("errno"))):
        if name not in ERRNOS:
            raise ValueError(f"unknown errno {name}" + near(str(name), list(ERRNOS)))


def _asked(families: Mapping[str, FamilySpec], case: Mapping[str, Any]) -> Asked:
    args, caller = case.get("args", {}), case.get("caller", {})
    if not isinstance(args, dict) or not isinstance(caller, dict):
        raise TypeError("args and caller are mappings")
    for key in caller:
        if key not in CALLER:
            raise ValueError(f"unknown key {key} of caller" + near(str(key), list(CALLER)))
    arch = case.get("arch", "x86_64")
    if arch not in _ARCHES:
        raise ValueError(f"arch is one of {', '.join(_ARCHES)}")
    asked = replace(named(families, str(case["call"]), args, _ARCHES[arch]), caller=caller)
    asked.known(Decision(Verdict.REFUSE, ""))  # what means nothing is said though nobody asks
    return asked


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _found(decision: Decision, expected: Mapping[str, str]) -> dict[str, str]:
    """What was decided, in the words in which it was expected where there are several."""
    found = {"verdict": decision.verdict.value, "audit": str(decision.audit).lower()}
    file, _, line = decision.rule.rpartition(":")
    found["rule"] = decision.rule if ":" in expected.get("rule", "") and file else line
    if decision.verdict is Verdict.ERRNO:
        same = ERRNOS.get(expected.get("errno", "")) == decision.value
        found["errno"] = expected["errno"] if same else errno_name(decision.value)
    if decision.verdict is Verdict.RETURN:
        found["return"] = str(decision.value)
    return found
