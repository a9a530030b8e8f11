"""What a runtime of containers lacks for a policy, by what `RUNTIME features` says of it.

The features document is that of the OCI runtime specification (features.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from supervisor.errors import UsageError
from supervisor.kernel.programs import output_of
from supervisor.kernel.text import printable
from supervisor.model import Verdict
from supervisor.policy.draft import Draft
from supervisor.policy.races import refuses

# "runc version 1.1.5", "crun version 1.8.1", "youki version: 0.3.0"
_VERSION: Final = re.compile(r"\S+ version:? [0-9]")
_WAIT_KILLABLE: Final = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
_KNOWS_XATTRAT: Final = (2, 6)
_ARCHES: Final = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")


def features_of(runtime: str) -> Any:
    """What `RUNTIME features` prints, as JSON's types; of one that has no such command what its
    version says: {"version": its first line, "with": what it was built with}.

    Raises UsageError where there is no such program, or it is no runtime.
    """
    where = f"--oci {runtime}"
    hint = "give the name of a runtime in PATH, such as runc or crun, or its path"
    said = output_of([runtime, "features"])
    try:
        features = json.loads(said or b"")
    except (ValueError, RecursionError):
        features = None
    if isinstance(features, dict):
        return features
    version = output_of([runtime, "--version"])
    if version is None:
        raise UsageError("no such runtime", where=where, hint=hint)
    lines = version.decode("utf-8", "replace").splitlines()
    if not lines or not _VERSION.match(lines[0]):
        raise UsageError("it does not say its version as a runtime does", where=where, hint=hint)
    tags = [word[1:] for line in lines for word in line.split() if word.startswith("+")]
    return {"version": printable(lines[0].encode()), "with": tags}


def _by_version(runtime: str, features: Any) -> str:
    """What can be said of a runtime that has no features to tell."""
    version, tags = features.get("version", runtime), features.get("with", ())
    if tags and "SECCOMP" not in tags:
        return f"{version} was built without seccomp: it hands over no listener"
    known = "it was built with seccomp; " if tags else ""
    return (
        f"{version} does not say what it can do (`{runtime} features`): {known}whether it hands "
        "over a listener and lets signals wait is not known"
    )


def _libseccomp(runtime: str, features: Any, draft: Draft) -> Iterator[str]:
    """Calls that the library of the runtime's does not know are in no filter of its."""
    said = (features.get("annotations") or {}).get("io.github.seccomp.libseccomp.version")
    version = tuple(map(int, re.findall("[0-9]+", str(said))))[:2]
    rules = draft.sets.get("xattr")
    refused = rules is not None and any(map(refuses, [*rules.rules, rules.otherwise]))
    if refused and version and version < _KNOWS_XATTRAT:
        yield (
            f"{runtime} has libseccomp {said}, which does not know setxattrat and removexattrat: "
            "these pass by rules of xattr that refuse"
        )


def lacks(runtime: str, features: Any, draft: Draft) -> Iterator[str]:
    """What a policy needs and the runtime does not have, one text each."""
    linux = features.get("linux") if isinstance(features, dict) else None
    seccomp = linux.get("seccomp") if isinstance(linux, dict) else None
    if not isinstance(seccomp, dict):
        yield _by_version(runtime, features)
        return
    if not seccomp.get("enabled"):
        yield f"{runtime} was built without seccomp: it hands over no listener"
        return
    actions = seccomp.get("actions") or ()
    if "SCMP_ACT_NOTIFY" not in actions:
        yield f"{runtime} does not know SCMP_ACT_NOTIFY: it hands over no listener"
    for arch in _ARCHES:
        if arch not in (seccomp.get("archs") or ()):
            yield f"{runtime} filters no {arch}: calls of such programs pass by the policy"
    if _WAIT_KILLABLE not in (seccomp.get("supportedFlags") or ()):
        yield (
            f"{runtime} cannot set {_WAIT_KILLABLE}: a signal can interrupt a call while it is "
            "carried out; repeats are known again by a table"
        )
    yield from _libseccomp(runtime, features, draft)
    kills = any(
        rule.verdict is Verdict.KILL and rule.silent
        for rules in draft.sets.values()
        for rule in rules.rules
    )
    if kills and "SCMP_ACT_KILL_PROCESS" not in actions:
        yield f"{runtime} does not know SCMP_ACT_KILL_PROCESS, for do: kill with silent: true"
