"""What a runtime of containers lacks for a policy, by what `RUNTIME features` says of it.

The features document is that of the OCI runtime specification (features.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from supervisor.errors import UsageError
from supervisor.kernel.programs import output_of
from supervisor.model import Verdict
from supervisor.policy.draft import Draft

_WAIT_KILLABLE: Final = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
_ARCHES: Final = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")


def features_of(runtime: str) -> Any:
    """What `RUNTIME features` prints, as JSON's types; {} where it is there and does not say.

    Raises UsageError where there is no such program.
    """
    said = output_of([runtime, "features"])
    if said is None:
        if output_of([runtime, "--version"]) is None:
            hint = "give the name of a runtime in PATH, such as runc or crun, or its path"
            raise UsageError("no such runtime", where=f"--oci {runtime}", hint=hint)
        return {}
    try:
        return json.loads(said)
    except ValueError:
        return {}


def lacks(runtime: str, features: Any, draft: Draft) -> Iterator[str]:
    """What a policy needs and the runtime does not have, one text each."""
    linux = features.get("linux") if isinstance(features, dict) else None
    seccomp = linux.get("seccomp") if isinstance(linux, dict) else None
    if not isinstance(seccomp, dict):
        yield (
            f"{runtime} does not say what it can do (`{runtime} features`): whether it hands over "
            "a listener and lets signals wait is not known"
        )
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
    kills = any(
        rule.verdict is Verdict.KILL and rule.silent
        for rules in draft.sets.values()
        for rule in rules.rules
    )
    if kills and "SCMP_ACT_KILL_PROCESS" not in actions:
        yield f"{runtime} does not know SCMP_ACT_KILL_PROCESS, for do: kill with silent: true"
