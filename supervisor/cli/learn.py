"""`seccompd learn`: a policy from audit logs; `seccompd run --learn` ends here as well."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from supervisor.errors import PolicyError, UsageError
from supervisor.handlers.registry import FAMILIES
from supervisor.policy import store
from supervisor.policy.asked import Asked
from supervisor.policy.base import NO_BASE, Base, less_of, read_base, sections_for, useful
from supervisor.policy.callers import KEYS
from supervisor.policy.compile import compile_named, compile_policy
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.explain import explain, verdict_text
from supervisor.policy.learn import new_policy, rules_for
from supervisor.policy.learned import Learned, nameless, with_content
from supervisor.policy.merge import merged, overruled
from supervisor.policy.opens import OpenRule
from supervisor.policy.records import Log
from supervisor.policy.traits import Traits

_TRAITS: Final = Traits("host")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.description = (
        "Write a policy that grants what the audit logs say was granted, and no more than a person "
        "would make of that. Run the container under the policy `learn` (or another one) with an "
        "audit log first; for one command, `seccompd run --learn OUT.yaml -- CMD` does both."
    )
    parser.add_argument("--out", metavar="FILE", help="write it there (stdout if left out)")
    parser.add_argument(
        "--merge", metavar="NAME|FILE", help="add to this policy, and show what is added as a diff"
    )
    parser.add_argument(
        "--base", metavar="NAME|FILE",
        help="the policy that the logs were written under: it says what a content was, which is in "
        "no record",
    )
    parser.add_argument("--session", metavar="NAME", help="only the records of this session")
    parser.add_argument("log", nargs="+", metavar="LOG")


def main(args: argparse.Namespace) -> int:
    """0: a policy was written."""
    check_goal(args.out)
    logs = [Path(name) for name in args.log]
    learn(logs, args.out, merge=args.merge, session=args.session, base=args.base)
    return 0


def check_goal(out: str | None) -> None:
    """Nothing that is there is overwritten: a policy in use must not change by accident."""
    if out is not None and os.path.lexists(out):
        raise UsageError(f"{out} exists", hint="give the name of a new file")


def check_ready(out: str, merge: str | None) -> None:
    """What would be no use to find out once the command has run. Raises SeccompdError."""
    check_goal(out)
    folder = os.path.dirname(out) or "."
    if not os.access(folder, os.W_OK | os.X_OK):
        why = "is not yours to write to" if os.path.isdir(folder) else "is no folder"
        raise UsageError(f"{out}: {folder} {why}", hint="give the name of a file that can be made")
    if merge:
        _extended(merge)


def learn(
    logs: Sequence[Path],
    out: str | None,
    *,
    merge: str | None = None,
    session: str | None = None,
    base: str | None = None,
    show: TextIO | None = None,
) -> None:
    """Reads the logs and writes the policy; a difference goes to `show` (stdout if left out).

    PolicyError where that cannot be done.
    """
    log = Log(FAMILIES, session)
    learned = Learned()
    contents = _contents(base) if base else {}
    rules_of_base = read_base(base, FAMILIES) if base else NO_BASE
    for asked, weight in log.calls(logs):
        learned.add(with_content(asked, contents), weight)
    log.check_session()
    notes = []
    if log.lost:
        notes.append(f"{log.lost} records were lost: some of what was asked for may be missing.")
        _say(notes[-1])
    if log.unread:
        lines = "line" if log.unread == 1 else "lines"
        notes.append(f"{log.unread} {lines} of the logs could not be read.")
        _say(f"{notes[-1]} The first: {log.complaint}")
    if merge:
        text = _merge(merge, learned, rules_of_base, show or sys.stdout)
    else:
        text = new_policy(learned, FAMILIES, _name(out), _TRAITS, notes, rules_of_base)
    if out is None:
        if not merge:
            sys.stdout.write(text)
        return
    try:
        with open(out, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise PolicyError(f"cannot write it: {error.strerror}", where=out) from None
    granted, refused = len(learned.granted), len(learned.refused)
    _say(
        f"{out}: {granted} different calls granted, {refused} refused; read it, then "
        f"`seccompd check {out}`"
    )


def _say(text: str) -> None:
    sys.stderr.write(f"seccompd: {text}\n")


def _name(out: str | None) -> str:
    stem = Path(out).name.removesuffix(".yaml") if out else "learned"
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")[:64]
    return plain or "learned"


def _contents(base: str) -> dict[str, OpenRule]:
    """The rules of a policy that give a content, by their places; without those at the same line
    of files of the same name, which a record does not tell apart.
    """
    family = compile_named(base, _TRAITS, FAMILIES).families.get("open")
    rules = [rule for rule in (family.rules if family else ()) if isinstance(rule, OpenRule)]
    places = Counter(rule.place for rule in rules)
    return {
        rule.place: rule for rule in rules
        if rule.inject and rule.inject.content is not None and places[rule.place] == 1
    }  # fmt: skip


def _extended(name: str) -> tuple[Path, bytes, CompiledPolicy]:
    file = store.find(name)
    content = store.read(file, name if "/" in name else None)
    return file, content, compile_policy(file, content, _TRAITS, FAMILIES)


def _merge(name: str, learned: Learned, base: Base, show: TextIO) -> str:
    """The text of the policy `name` with what it does not grant yet; the difference is shown."""
    file, content, first = _extended(name)
    old = content.decode("utf-8-sig")
    ours = read_base(str(file), FAMILIES)
    missing = learned.missing(first)
    before = learned.beyond(first) | learned.changed(first).keys()
    exact: set[str] = set()
    levels: dict[str, int] = {}
    while True:
        rules = rules_for(missing.values(), FAMILIES, exact=exact)
        sections = sections_for(rules, learned, base, levels)
        counts = {family: len(some) for family, some in rules.items()}
        sections = useful(sections, counts, FAMILIES)
        text = merged(str(file), old, rules, sections)
        try:
            policy = compile_policy(file, text.encode(), _TRAITS, FAMILIES)
        except PolicyError:
            new = {name: one for name, one in sections.items() if name not in first.families}
            less = less_of(new, levels, FAMILIES)
            if less == levels:
                raise
            levels = less
            continue
        left = learned.missing(policy)
        wrong = [one for key, one in learned.changed(policy).items() if key not in before]
        wrong += (learned.refused[key][0] for key in learned.beyond(policy) - before)
        again = {one.spec.family for one in (*left.values(), *wrong)} | overruled(first, policy)
        if again <= exact:
            break
        exact |= again
    if left:
        one = next(iter(left.values())).text()
        raise PolicyError(f"{one} is not granted by it either way", where=str(file))
    for asked in missing.values():
        decision = asked.decided(first)[0] if asked.spec.family in first.families else None
        if decision is not None and not decision.reason:  # a rule's, and not `otherwise`
            _say(
                f"warning: {decision.rule} has {verdict_text(decision)} for {asked.text()}: the "
                "new rules stand in front of it"
            )
        elif others := _for_others(asked, first):
            _say(f"warning: {others}: the new rules stand in front of it")
    for asked, count in learned.unknown.values():
        if nameless(asked) and not asked.granted(policy):
            rule = (asked.recorded or {}).get("rule")
            _say(
                f"warning: {count} x {asked.text()} was given the content of {rule}, and is given "
                "nothing by the new policy"
            )
    for key in learned.taken(policy):
        asked, count = learned.left[key]
        _say(
            f"warning: {count} x {asked.text()} was left to the kernel when this was recorded, and "
            "is refused under the new policy"
        )
    for family in base.families:
        if base.lets_go(family) and not ours.takes_all(family):
            _say(
                f"warning: {base.name} lets calls of {family} go that are in no record, and "
                f"{file.name} refuses what its rules do not match: see whether that is enough"
            )
    if not missing:
        _say(f"{file} grants all of it already: this adds nothing")
    show.writelines(_difference(old, text, str(file)))
    return text


def _for_others(asked: Asked, policy: CompiledPolicy) -> str:
    """The rule of a policy that would grant a call to another caller, and why not to this one."""
    family = policy.families.get(asked.spec.family)
    grants = {rule.place for rule in family.rules if rule.verdict.grants} if family else set()
    for tried in explain(policy, asked).tried:
        if tried.key in KEYS and tried.place in grants:
            return f"{tried.place} allows {asked.text()} to others only ({tried.objection})"
    return ""


def _difference(old: str, new: str, name: str) -> Iterator[str]:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), name, "learned"
    )
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
