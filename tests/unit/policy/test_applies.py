"""Whom a policy applies to, and the reason why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.daemon.policies import PolicySet
from supervisor.errors import PolicyError
from supervisor.handlers.registry import FAMILIES
from supervisor.policy.applies import Applies, Subject
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.match import GlobError, text_matches, text_pattern
from supervisor.policy.source import PolicyFindings
from supervisor.policy.traits import Traits
from tests.support.policies import policy

BASE: dict[str, Any] = {
    "door": "oci", "peer_uid": 0, "peer_gid": 0, "runtime": "runc", "container": "web-1",
    "metadata": "build", "annotations": {"a": "x", "b": "y"},
    "kubernetes": {"namespace": "ci", "pod": "p", "container": "c"},
    "cgroups": ("/kubepods/pod1", "/user"),
}  # fmt: skip


def match(text: str) -> Applies:
    """The `match` of a policy, as it comes out of the cache."""
    compiled = policy(f"version: 1\nmatch: {text}\nsyscalls: {{mknod: []}}\n")
    again = CompiledPolicy.from_json(json.loads(json.dumps(compiled.to_json())))
    assert again.match is not None
    assert compiled.match is not None
    assert Applies.from_json(again.match) == Applies.from_json(compiled.match)
    return Applies.from_json(again.match)


@pytest.mark.parametrize(
    ("text", "change", "why"),
    [
        ("{}", {}, None),
        ("{door: [run, oci]}", {}, None),
        ("{door: lxc}", {}, "door is 'oci', not lxc"),
        ("{}", {"door": "attach"}, "it does not name door attach"),
        ("{door: attach}", {"door": "attach"}, None),
        ("{door: [oci, attach], peer_uid: 1000}", {"door": "attach", "peer_uid": 1000}, None),
        ("{door: attach, peer_uid: 1000}", {"door": "attach"}, "peer_uid is 0"),
        ("{}", {"user_namespace": "host"}, "user_namespace is 'host', not own"),
        ("{user_namespace: host}", {"user_namespace": "host"}, None),
        ("{user_namespace: [host, own]}", {}, None),
        ("{user_namespace: host}", {}, "user_namespace is 'own', not host"),
        ("{runtime: [crun, runc]}", {}, None),
        ("{runtime: crun}", {}, "runtime is 'runc', not crun"),
        ("{runtime: crun}", {"runtime": None}, "runtime is not known"),
        ('{container: "web-*"}', {}, None),
        ('{container: "web-?"}', {"container": "web-11"}, "container is 'web-11', not web-?"),
        ("{metadata: build}", {"metadata": "build2"}, "metadata is 'build2', not build"),
        ('{metadata: "*"}', {"metadata": None}, "metadata is not known"),
        ('{metadata: "*"}', {"metadata": ""}, None),
        ("{cookie: x}", {}, "cookie is not known"),
        ("{annotations: {a: x}}", {}, None),
        ('{annotations: {a: "*", b: [z, y]}}', {}, None),
        ("{annotations: {a: x, c: x}}", {}, "annotation c is not known"),
        ("{kubernetes: {namespace: [ci, test], pod: p}}", {}, None),
        ("{kubernetes: {namespace: web}}", {}, "kubernetes namespace is 'ci', not web"),
        ("{kubernetes: {pod: p}}", {"kubernetes": None}, "kubernetes pod is not known"),
        ("{peer_uid: 0, peer_gid: [1, 0-5]}", {}, None),
        ("{peer_uid: 1000-1999}", {}, "peer_uid is 0"),
        ("{peer_uid: 1000-1999}", {"peer_uid": 1500}, None),
        ("{peer_gid: 1}", {}, "peer_gid is 0"),
        ('{cgroup: "/kubepods/**"}', {}, None),
        ('{cgroup: "/user/*"}', {}, "cgroup is '/kubepods/pod1 /user', not /user/*"),
        ('{cgroup: "/**"}', {"cgroups": ()}, "cgroup is 'not known', not /**"),
        ("{door: oci, metadata: build, runtime: crun}", {}, "runtime is 'runc', not crun"),
    ],
)
def test_match(text: str, change: dict[str, Any], why: str | None) -> None:
    assert match(text).why_not(Subject(**BASE | change)) == why


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{doors: oci}", "2:9: error: unknown key doors: did you mean door?"),
        ("{door: window}", "2:15: error: an entry of door is 'run', 'oci', 'lxc' or 'attach'"),
        ("{runtime: []}", "2:18: error: an empty list matches nothing"),
        ("{metadata: 1}", "2:19: error: a text, in quotes"),
        ('{container: "[a"}', "2:20: error: '[a': a [ that no ] closes"),
        ("{annotations: [a]}", "2:22: error: annotations"),
        ("{kubernetes: {node: x}}", "2:22: error: unknown key node"),
        ("{peer_uid: root}", "2:19: error: an id is a number"),
        ("{cgroup: x}", "2:17: error: 'x': a path glob begins with /"),
        ("{user_namespace: own2}", "2:25: error: an entry of user_namespace is 'own' or 'host'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, place: str) -> None:
    with pytest.raises(PolicyFindings) as found:
        match(text)
    assert f"p.yaml:{place}" in str(found.value)


@given(st.text("ab*?/.[]\\", max_size=12), st.text("ab/.*", max_size=12))
def test_globs_over_texts(glob: str, text: str) -> None:
    """Held against a matcher that tries everything."""
    try:
        text_pattern(glob)
    except GlobError:
        return
    assert text_matches(glob, text) == _tries(_parsed(glob), text)


def _parsed(glob: str) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    at = 0
    while at < len(glob):
        char = glob[at]
        if char == "\\":
            out.append(("=", glob[at + 1]))
            at += 2
        elif char == "[":
            end = glob.index("]", at + 2)
            out.append(("in", glob[at + 1 : end]))
            at = end + 1
        else:
            out.append((char if char in "*?" else "=", char))
            at += 1
    return out


def _tries(glob: list[tuple[str, str]], text: str) -> bool:
    if not glob:
        return not text
    kind, what = glob[0]
    if kind == "*":
        return any(_tries(glob[1:], text[start:]) for start in range(len(text) + 1))
    if not text or (kind == "=" and text[0] != what) or (kind == "in" and text[0] not in what):
        return False
    return _tries(glob[1:], text[1:])


def test_policies_in_order(tmp_path: Path) -> None:
    """By name; those without a match are for nobody; and the reasons of all are told."""
    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.yaml").write_text(f"version: 1\n{text}\nsyscalls: {{mknod: []}}\n")

    write("b", "match: {metadata: build}")
    write("c", "match: {door: oci}")
    write("a", "")
    loaded = PolicySet.load([tmp_path], Traits("private"), FAMILIES)
    choice = loaded.choose(Subject(**BASE))
    assert choice.entry is not None
    assert (choice.entry.name, choice.passed_over) == ("b", (("a", "it has no match"),))
    choice = loaded.choose(Subject(**BASE | {"metadata": None}))
    assert choice.entry is not None
    assert choice.entry.name == "c"
    choice = loaded.choose(Subject(**BASE | {"metadata": None, "door": "lxc"}))
    assert choice.entry is None
    assert choice.text() == (
        "a: it has no match; b: metadata is not known; c: door is 'lxc', not oci"
    )
    for wanted, name in (("b", None), ("c", "c"), ("x", None)):
        choice = loaded.choose(Subject(**BASE | {"metadata": "other", "policy": wanted}))
        assert (choice.entry.name if choice.entry else None) == name
    write("d", "match: {door: window}")
    write("e", "nonsense: 1")
    with pytest.raises(PolicyError) as found:
        PolicySet.load([tmp_path], Traits("private"), FAMILIES)
    assert "d.yaml:2:15" in str(found.value)
    assert "e.yaml:2:1" in str(found.value)
