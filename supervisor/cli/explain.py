"""`seccompd explain`: what a policy says to one call, and why."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from supervisor.errors import UsageError
from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.address_text import written
from supervisor.kernel.syscalls import ARCH_NAMES, NATIVE_ARCHES, arch_name
from supervisor.kernel.text import errno_name, printable
from supervisor.model import Decision, Facts, Verdict
from supervisor.policy import smallest
from supervisor.policy.annotate import annotated
from supervisor.policy.asked import CALLER
from supervisor.policy.call_text import parse_words
from supervisor.policy.compile import compile_named
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.doors import DOORS, NO_FAMILY
from supervisor.policy.explain import Explanation, explain, verdict_text
from supervisor.policy.leads import leads_to
from supervisor.policy.traits import Traits

_ARCHES = {ARCH_NAMES[arch]: arch for arch in NATIVE_ARCHES}
_DONE = (Verdict.EMULATE, Verdict.INJECT, Verdict.RETURN)
_NUMBERS = ("uid", "gid", "host_uid", "host_gid")
_COMPANION = (
    "no rule is about it: it is looked at for the sake of nodes and mounts that seccompd made, and "
    "is the kernel's where it concerns none of them"
)
_HOW = (
    "a call is written as strace does, as NAME ARGUMENT=VALUE ..., or it is a line of an audit log"
)


def _id(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"an id is a number, and {text!r} is none")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.description = (
        "Say what a policy does with a call, and why. CALL is what strace or --trace prints, or "
        "NAME ARGUMENT=VALUE ..., or a line of an audit log; - reads such lines from stdin."
    )
    parser.add_argument("--policy", default="default", metavar="NAME|FILE")
    parser.add_argument("--arch", choices=sorted(_ARCHES), default="x86_64")
    parser.add_argument("--nodes", choices=("host", "private", "none"), default="host")
    for key, doc in CALLER.items():
        option = "--" + key.replace("_", "-")
        if key in _NUMBERS:
            parser.add_argument(option, type=_id, metavar="ID", help=doc)
        elif key == "capability":
            parser.add_argument(option, action="append", metavar="NAME", help=doc)
        else:
            parser.add_argument(option, metavar="TEXT", help=doc)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("call", nargs="+", metavar="CALL")


def main(args: argparse.Namespace) -> int:
    """0, whatever the policy says: it was a question."""
    policy = compile_named(args.policy, Traits(args.nodes), FAMILIES)
    lines = annotated(policy)
    said = {key: value for key in CALLER if (value := getattr(args, key)) is not None}
    out: list[dict[str, Any]] = []
    skipped: list[str] = []
    one = args.call != ["-"]
    for words in [args.call] if one else _lines():
        try:
            asked = parse_words(FAMILIES, words, _ARCHES[args.arch]).told(said)
            found = explain(policy, asked)
            row = _row(policy, lines, found, args)
        except ValueError as error:
            if one:
                raise UsageError(f"explain: {error}", hint=_HOW) from None
            skipped.append(str(error))
            continue
        if args.output == "text":
            sys.stdout.write(("\n" if out else "") + _text(found, row))
        out.append(row)
    if args.output == "json":
        sys.stdout.write(json.dumps(out, indent=1) + "\n")
    if skipped:
        one_line = len(skipped) == 1
        what = "1 line is no such call" if one_line else f"{len(skipped)} lines are no such calls"
        sys.stderr.write(f"{what}; the first: {skipped[0]}\n")
    return 0


def _lines() -> Iterator[list[str]]:
    """Those of stdin, each as one word, bytes that are no text as well."""
    for line in sys.stdin.buffer:
        if line.strip():
            yield [line.decode("utf-8", "surrogateescape")]


def _row(
    policy: CompiledPolicy, lines: Sequence[str], found: Explanation, args: argparse.Namespace
) -> dict[str, Any]:
    """The explanation as JSON's types."""
    asked, decision = found.asked, found.decision
    row: dict[str, Any] = {
        "call": asked.text(),
        "arch": arch_name(asked.snapshot.arch),
        "policy": policy.source,
        "filter": found.filtered,
        "instruction": found.run.way[-1],
        "instructions": found.run.steps,
        "test": _test(lines, found),
    }
    if asked.spec.family == NO_FAMILY and found.filtered != "allow":
        row["door"] = DOORS[asked.spec.name].why
    if decision is not None:
        row |= {"verdict": decision.verdict.value, "rule": decision.rule}
        if decision.verdict is Verdict.ERRNO:
            row["errno"] = errno_name(decision.value)
        if decision.verdict is Verdict.RETURN:
            row["return"] = decision.value
        if leads := leads_to(decision, asked.address_argument):
            row["leads_to"] = leads
        if decision.audit:
            row["mode"] = "audit"
        if decision.reason:
            row["reason"] = decision.reason
        row["tried"] = [
            {"rule": one.place, "key": one.key, "objection": one.objection} for one in found.tried
        ]
        if found.facts is not None:
            row["facts"] = _facts(found.facts)
        if guessed := smallest.guesses(asked, found.facts):
            row["guessed"] = guessed
        if why := smallest.allowed_already(asked, decision):
            row["allowed"] = why
    rules = policy.families.get(asked.spec.family)
    granted = decision is not None and decision.verdict in _DONE and not decision.audit
    wanted = not granted and found.filtered != "allow" and "allowed" not in row
    if rules is not None and wanted:
        allowed = smallest.smallest(rules, asked, found.facts, FAMILIES, args.nodes)
        if allowed is not None:
            row["smallest_rule"], row["before"] = allowed
            row["careful"] = smallest.warnings(asked, allowed[0], FAMILIES)
    return row


def _test(lines: Sequence[str], found: Explanation) -> str:
    """The last test of the filter on the call's way: what came before was common to more calls."""
    tests = [lines[at] for at in found.run.way if " if " in lines[at]]
    return " ".join(tests[-1].split()) if tests else ""


def _facts(facts: Facts) -> dict[str, Any]:
    out: dict[str, Any] = {"uid": facts.uid, "gid": facts.gid}
    for name in ("path", "executable", "cgroup"):
        value = getattr(facts, name)
        if value is not None:
            out[name] = printable(value)
    if facts.peer is not None:
        out["peer"] = written(facts.peer)
    for name in ("host_uid", "host_gid"):
        if (number := getattr(facts, name)) is not None:
            out[name] = number
    if facts.capabilities is not None:
        out["capabilities"] = sorted(facts.capabilities)
    if facts.source is not None:
        device = "" if facts.source.device is None else " {}:{}".format(*facts.source.device)
        out["source"] = f"{facts.source.kind}{device} {printable(facts.source.name)}"
    return out


def _text(found: Explanation, row: dict[str, Any]) -> str:
    lines = [f"{row['call']}  ({row['arch']})"]
    way = f"instruction {row['instruction']}, after {row['instructions']}"
    way += f"; the last test was {row['test']}" if row["test"] else ""
    if found.decision is None:
        said = {
            "allow": "the filter lets it go, seccompd never sees it: the kernel decides",
            "kill": "the filter kills the process",
        }.get(found.filtered, f"the filter refuses it: {found.filtered.removeprefix('errno ')}")
        lines.append(f"{said} ({way})")
        if "door" in row:
            lines.append(f"that is for every policy to say alike: {row['door']}")
    else:
        lines.append(f"the filter notifies it ({way})")
        if found.decision.rule == "companion":
            lines.append(_COMPANION)
            return "\n".join(lines) + "\n"
        lines.append(_verdict(found.decision))
        if "leads_to" in row:
            lines.append(f"it is led to {row['leads_to']}")
        if found.facts is not None:
            facts = " ".join(f"{key}={value}" for key, value in row["facts"].items())
            lines.append(f"decided twice: on what was written, and on {facts}")
        if "guessed" in row:
            lines.append(f"not known: {', '.join(row['guessed'])}")
        for one in found.tried:
            why = f"no: {one.objection}" if one.key else "this one decides"
            lines.append(f"  {one.place}: {why}")
    if "smallest_rule" in row:
        where = f", before {row['before']}" if row["before"] else ""
        lines.append(f"the smallest rule that would allow it{where}:")
        lines.append(f"  - {row['smallest_rule']}")
        lines += [f"  careful: {text}" for text in row["careful"]]
    if "allowed" in row:
        lines.append(row["allowed"])
    return "\n".join(lines) + "\n"


def _verdict(decision: Decision) -> str:
    note = f" ({decision.reason})" if decision.reason else ""
    audit = "; only recorded, the call goes on (mode: audit)" if decision.audit else ""
    return f"{verdict_text(decision)}, by {decision.rule}{note}{audit}"
