"""What this machine lacks for a policy: kernel features, filesystems, programs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from supervisor.kernel import features
from supervisor.kernel.filesystems import registered
from supervisor.kernel.mounts import USERNS_TYPES
from supervisor.model import Verdict
from supervisor.policy.draft import Draft
from supervisor.policy.mounts import MountRules
from supervisor.policy.opens import OpenRules
from supervisor.policy.source import Source


def warn(draft: Draft) -> None:
    """Adds warnings about what the running kernel and this machine's programs cannot do."""
    for text in _kernel():
        Source.at(draft.source.root, text, "warning")
    for family, rules in draft.sets.items():
        if isinstance(rules, OpenRules):
            _opens(draft, family, rules)
        if not isinstance(rules, MountRules):
            continue
        for index, rule in enumerate(rules.rules):
            if rule.verdict is not Verdict.EMULATE:
                continue
            node = draft.node(family, index)
            for text in _program(rule.settings.program, inside=rule.settings.inside):
                Source.at(node.at(("do",)), text, "warning")
            if rule.settings.via == "kernel":
                for number, fstype in enumerate(rule.types or ()):
                    if fstype not in registered():
                        entry = node.at(("fstype", number))
                        text = f"{fstype} is not in /proc/filesystems: its module is not loaded"
                        Source.at(entry, text, "warning")


def _opens(draft: Draft, family: str, rules: OpenRules) -> None:
    for index, rule in enumerate(rules.rules):
        if rule.inject is None:
            continue
        for name, kind, is_one in (
            (rule.inject.file, "regular file", os.path.isfile),
            (rule.inject.directory, "directory", os.path.isdir),
        ):
            if name is not None and not is_one(name):
                what = f"is no {kind}" if os.path.exists(name) else "is not there"
                Source.at(draft.node(family, index).at(("do",)), f"{name} {what}", "warning")


def _kernel() -> Iterator[str]:
    for name, feature in features.FEATURES.items():
        if feature.by_launch or features.available(name):
            continue
        since = ".".join(map(str, feature.since))
        without = "no policy works here" if feature.required else feature.purpose
        yield f"this kernel has no {name} (Linux {since} has): {without}"
    version = features.version()
    if version < USERNS_TYPES["overlay"]:
        yield f"Linux {version[0]}.{version[1]} mounts no overlay for a container by itself"


def _program(program: tuple[str, ...], *, inside: bool) -> Iterator[str]:
    if not program:
        return
    if not inside and not os.access(program[0], os.X_OK):
        yield f"{program[0]} is not there, or cannot be executed"
    if not os.path.exists("/dev/fuse"):
        yield "this machine has no /dev/fuse"
