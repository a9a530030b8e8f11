"""NAME.test.yaml beside a policy: calls, and what the policy must say to them.

docs/policy-tools.md has the form. Cases go the way of a real call: through the filter, by running
it, then through one look of the policy or two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from supervisor.errors import PolicyError
from supervisor.kernel.syscalls import ARCH_NAMES, NATIVE_ARCHES
from supervisor.kernel.text import errno_name, printable
from supervisor.model import Decision, Verdict
from supervisor.policy import store
from supervisor.policy.asked import CALLER, Asked, named
from supervisor.policy.call_text import parse
from supervisor.policy.compile import compile_policy
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.doors import DOORS
from supervisor.policy.explain import Explanation, explain
from supervisor.policy.families import FamilySpec
from supervisor.policy.leads import leads_to
from supervisor.policy.source import Finding, Source, in_order
from supervisor.policy.traits import Nodes, Traits
from supervisor.policy.values import ERRNOS, Mistakes, near

SUFFIX: Final = ".test.yaml"
_ARCHES: Final = {ARCH_NAMES[arch]: arch for arch in NATIVE_ARCHES}
_CASE: Final = (
    "name", "call", "args", "arch", "caller", "verdict", "rule", "errno", "return", "audit",
    "leads_to",
)  # fmt: skip
_VERDICTS: Final = (*(verdict.value for verdict in Verdict), "allow")
_NAME: Final = re.compile("[A-Za-z0-9_]+")
# What a case may expect beside the verdict.
_MORE: Final = ("rule", "errno", "return", "audit", "leads_to")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one case; `place` is its FILE:LINE, `call` the call as strace writes it.

    `wrong` has a line for each thing that came out otherwise, `tried` the rules that were tried;
    both are empty where the case passed. `rule` is what decided, also by the filter; "" where none
    did.
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
    """The cases of one policy. `untried` are the places of rules that decided none of them; `wrong`
    says what is no case, and `broken` the same by case, with the line that it begins in.
    """

    file: Path
    results: tuple[Result, ...]
    untried: tuple[str, ...]
    wrong: tuple[Finding, ...] = ()
    broken: tuple[tuple[int, tuple[Finding, ...]], ...] = ()

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
    if not cases.exists():
        raise PolicyError(
            f"{policy.name} has no cases", where=str(cases),
            hint=f"write {cases.name} beside it, with `cases`: docs/policy-tools.md has the form",
        )
    source = Source(str(cases), store.read(cases, what="cases"))
    source.fail()
    document = source.root.value()
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        source.add(source.root.mark, "a test file has `cases`, a list")
        source.fail()
    if not document["cases"]:
        source.at(source.root.at(("cases",)), "there are no cases: nothing would be tested")
        source.fail()
    nodes = document.get("nodes", "host")
    if nodes not in ("host", "private", "none") or set(document) - {"nodes", "cases"}:
        source.add(source.root.mark, "a test file has `cases`, and `nodes`: host, private or none")
        source.fail()
    traits = Traits(cast("Nodes", nodes))
    compiled = compile_policy(policy, store.read(policy), traits, families)
    results: list[Result] = []
    broken: list[tuple[int, tuple[Finding, ...]]] = []
    for index, case in enumerate(document["cases"]):
        node = source.root.at(("cases", index))
        mistakes = Mistakes()
        result = _case(compiled, families, case, f"{cases}:{node.mark.line}", mistakes)
        known = len(source.findings)
        for where, text in mistakes.found:
            source.at(node.at(where), f"not a case: {text}")
        if mistakes.found:
            broken.append((node.mark.line, tuple(in_order(source.findings[known:]))))
        if result is not None:
            results.append(result)
    decided = {result.rule for result in results}
    every = [rule.place for rules in compiled.families.values() for rule in rules.rules]
    untried = tuple(place for place in every if place not in decided)
    return Report(cases, tuple(results), untried, tuple(in_order(source.findings)), tuple(broken))


def _case(
    policy: CompiledPolicy, families: Mapping[str, FamilySpec], case: Any, place: str,
    mistakes: Mistakes,
) -> Result | None:  # fmt: skip
    """What became of a case; None where it is none, and `mistakes` says why."""
    if not isinstance(case, dict):
        mistakes.add("a case is a mapping: call, args, verdict ...")
        return None
    for key in case:
        if key not in _CASE:
            mistakes.add(f"unknown key {key}" + near(str(key), _CASE), str(key))
    for key in ("call", "verdict"):
        if key not in case:
            mistakes.add(f"the key {key!r} is missing")
    _check_words(case, mistakes)
    asked = _asked(families, case, mistakes)
    if asked is None or mistakes.found:
        return None
    verdict, _, errno = str(case["verdict"]).partition(" ")
    expected = {"verdict": verdict} | ({"errno": errno} if errno else {})
    expected |= {key: _plain(case[key]) for key in _MORE if key in case}
    found_all = explain(policy, asked)
    if found_all.decision is None:
        verdict, _, errno = found_all.filtered.partition(" ")
        found = {"verdict": verdict} | ({"errno": errno} if errno else {})
        # the rule by which the filter answers it, where a rule is about it
        known = asked.spec.family in policy.families
        rule = asked.decided(policy)[0].rule if known else ""
    else:
        found, rule = _found(found_all.decision, expected), found_all.decision.rule
        if leads := leads_to(found_all.decision, asked.address_argument):
            found["leads_to"] = leads
    wrong = tuple(
        f"{key}: expected {expected[key]}, found {found.get(key, 'none')}"
        for key in expected
        if expected[key] != found.get(key, "none")
    )
    tried = [f"{one.place}: {one.objection or 'this one decides'}" for one in found_all.tried]
    if found_all.decision is None:
        tried = [_by_filter(found_all)]
    elif found_all.decision.reason:
        tried.append(f"{rule}: {found_all.decision.reason}")
    name = printable(str(case.get("name", "")).encode())
    return Result(place, name, asked.text(), wrong, tuple(tried) if wrong else (), rule)


def _by_filter(found: Explanation) -> str:
    """How a call ends that no rule is asked about."""
    if found.filtered == "allow":
        return "the filter lets it go: seccompd never sees it, and the kernel decides"
    door = DOORS.get(found.asked.spec.name)
    why = f"for every policy alike: {door.why}" if door else "by a rule with silent: true"
    return f"the filter answers it with {found.filtered}, {why}"


def _check_words(case: Mapping[str, Any], mistakes: Mistakes) -> None:
    """Notes a verdict or an errno that nothing could ever come to."""
    verdict, _, errno = str(case.get("verdict", "allow")).partition(" ")
    if verdict not in _VERDICTS:
        mistakes.add(f"unknown verdict {verdict}" + near(verdict, _VERDICTS), "verdict")
    for key, name in (("verdict", errno), ("errno", case.get("errno"))):
        if name and name not in ERRNOS:
            mistakes.add(f"unknown errno {name}" + near(str(name), list(ERRNOS)), key)
    given = errno or case.get("errno")
    clear = verdict in _VERDICTS and given in ERRNOS
    if clear and (verdict != "errno" or case.get("errno", given) != given):
        mistakes.add(f"an errno is said once, and with verdict: errno; {given} is not", "errno")


def _asked(
    families: Mapping[str, FamilySpec], case: Mapping[str, Any], mistakes: Mistakes
) -> Asked | None:
    args, caller = case.get("args", {}), case.get("caller", {})
    for key in ("args", "caller"):
        if not isinstance(case.get(key, {}), dict):
            mistakes.add("args and caller are mappings", key)
            return None
    for key in caller:
        if key not in CALLER:
            text = f"unknown key {key} of caller" + near(str(key), list(CALLER))
            mistakes.add(text, "caller", str(key))
    arch = case.get("arch", "x86_64")
    if arch not in list(_ARCHES):
        mistakes.add(f"arch is one of {', '.join(_ARCHES)}", "arch")
        return None
    if "call" not in case:
        return None
    try:
        asked = _call(families, str(case["call"]), args, _ARCHES[arch])
    except (TypeError, ValueError) as error:
        said = str(error)
        about = (key for key, value in args.items() if key in said or str(value) in said)
        mistakes.add(said, *_place(next(about, None)))
        return None
    try:
        return asked.told(caller)
    except (TypeError, ValueError) as error:
        mistakes.add(str(error), "caller")
    return asked


def _call(
    families: Mapping[str, FamilySpec], text: str, args: Mapping[str, object], arch: int
) -> Asked:
    """The call of a case: a name, or all of it as `explain` takes it. ValueError."""
    if _NAME.fullmatch(text):
        return named(families, text, args, arch)
    if args:
        raise ValueError(f"{text} has its arguments already: leave out args, or all but the name")
    return parse(families, text, arch)


def _place(argument: str | None) -> tuple[str, ...]:
    return ("call",) if argument is None else ("args", argument)


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
