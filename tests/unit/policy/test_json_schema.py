"""`seccompd schema` against another reader of JSON Schema: what an editor would say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.policy import selftest, store
from supervisor.policy.asked import specs
from supervisor.policy.doors import DOORS
from supervisor.policy.schema import cases_schema, json_schema
from supervisor.policy.source import PolicyFindings, Source
from tests.support.policies import policy

SCHEMA = json_schema(FAMILIES)
CHECKER = jsonschema.Draft202012Validator(SCHEMA)
SHIPPED = sorted(store.available([store.shipped()]).values())


def value(text: str) -> Any:
    return Source("p.yaml", text.encode()).root.value()


def refused(text: str) -> bool:
    """Whether seccompd itself refuses the policy."""
    try:
        policy(text)
    except PolicyFindings:
        return True
    return False


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


CASES = cases_schema([*specs(FAMILIES), *DOORS])


def nameless(schema: Any, place: str = "") -> Iterator[str]:
    """The places of properties that an editor can say nothing of."""
    if isinstance(schema, dict):
        for name, one in schema.get("properties", {}).items():
            if "description" not in one and "$ref" not in one:
                yield f"{place} {name}"
        for key, one in schema.items():
            yield from nameless(one, f"{place}/{key}")
    elif isinstance(schema, list):
        for number, one in enumerate(schema):
            yield from nameless(one, f"{place}/{number}")


def test_every_key_says_what_it_is() -> None:
    assert list(nameless(SCHEMA)) == []
    assert list(nameless(CASES)) == []


def test_a_case_has_the_keys_that_are_read() -> None:
    assert CASES["properties"]["cases"]["items"]["properties"].keys() == {*selftest._CASE}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_files_of_cases(file: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(CASES)
    checker = jsonschema.Draft202012Validator(CASES)
    document = value(file.with_suffix(".test.yaml").read_text())
    assert list(checker.iter_errors(document)) == []
    for spoilt in ({"call": "mknodd"}, {"foo": 1}, {"caller": {"uit": 0}}, {"errno": "EPRM"}):
        cases = [{**document["cases"][0], **spoilt}]
        assert list(checker.iter_errors({"cases": cases})) != []


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_policies(file: Path) -> None:
    assert list(CHECKER.iter_errors(value(file.read_text()))) == []


HEAD = "version: 1\n"


def rule(family: str, text: str) -> str:
    return f"{HEAD}syscalls: {{{family}: [{{{text}}}]}}\n"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "lists: {a: ['null', zero]}\nsyscalls: {mknod: [{devices: $a, do: emulate}]}",
        HEAD + "include: default\n",
        HEAD + "include: [default]\nmode: audit\nlimits: {path: 5, mount: 1m, snapshot: 50ms}\n",
        HEAD + "match: {door: oci, metadata: [build, 'x*'], peer_uid: [0, '5-9']}\nsyscalls: {}\n",
        HEAD + "syscalls: {mknod: {otherwise: kernel, rules: [{do: emulate}]}}",
        HEAD + "syscalls: {mount: {max_mounts: 4, rules: []}}",
        rule("mknod", "devices: ['char 1:3', loop*, 'block 8:*'], path: /a/**, do: {errno: EIO}"),
        rule("mknod", "uid: [0, '5-9'], capability: sys_admin, executable: /bin/*, do: emulate"),
        rule("mknod", "host_gid: 7, cgroup: '/x/**', do: {return: 0}, mode: audit"),
        rule("mknod", "do: {emulate: {realise: closed}}"),
        rule("mkdir", "path: [/a, '/b/**'], uid: 0, do: {redirect: /c}"),
        rule("mkdir", "host_uid: 5, mode: audit, do: {return: 0}"),
        rule("mount", "fstype: [ext4], source: '/a/*', options: {allow: [ro]}, do: emulate"),
        rule("mount", "fstype: ext4, do: {emulate: {via: fuse, force: [nosuid]}}, target: '**'"),
    ],
)
def test_what_is_right_is_right(text: str) -> None:
    assert not refused(text)
    assert list(CHECKER.iter_errors(value(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "syscalls: {}\n",
        "version: 2\nsyscalls: {}\n",
        HEAD,
        HEAD + "syscalls: {mknot: []}\n",
        HEAD + "syscall: {}\n",
        HEAD + "syscalls: {}\nmode: on\n",
        HEAD + "syscalls: {}\non_error: EPREM\n",
        HEAD + "syscalls: {}\nlimits: {path: 0}\n",
        HEAD + "syscalls: {}\nlimits: {paths: 1}\n",
        HEAD + "syscalls: {}\nmatch: {door: window}\n",
        HEAD + "syscalls: {}\nmatch: {doors: oci}\n",
        HEAD + "syscalls: {}\nlists: {'1': []}\n",
        HEAD + "syscalls: {}\nname: 'a b'\n",
        HEAD + "syscalls: {mknod: {otherwise: emulate, rules: []}}",
        HEAD + "syscalls: {mount: {max_mounts: -1, rules: []}}",
        rule("mknod", "devices: zero"),
        rule("mknod", "devices: [], do: emulate"),
        rule("mknod", "devices: [nul], do: emulate"),
        rule("mknod", "devices: ['char 1'], do: emulate"),
        rule("mknod", "device: zero, do: emulate"),
        rule("mknod", "path: a/b, do: emulate"),
        rule("mknod", "uid: -1, do: emulate"),
        rule("mknod", "uid: '5-', do: emulate"),
        rule("mknod", "capability: sys_amdin, do: emulate"),
        rule("mknod", "do: allow"),
        rule("mknod", "do: {errno: 5}"),
        rule("mknod", "do: {return: -1}"),
        rule("mknod", "do: {emulate: {realise: real}}"),
        rule("mknod", "do: {emulate: {via: fuse}}"),
        rule("mknod", "silent: 'yes', do: refuse"),
        rule("mknod", "fstype: ext4, do: refuse"),
        rule("mkdir", "path: /a, do: {redirect: b}"),
        rule("mkdir", "path: /a, do: {redirect: {to: /b}}"),
        rule("mkdir", "do: {emulate: {realise: bind}}"),
        rule("mkdir", "devices: zero, do: refuse"),
        rule("mount", "devices: zero, do: refuse"),
        rule("mount", "options: [ro], do: refuse"),
        rule("mount", "fstype: ext4, do: {emulate: {via: nfs}}"),
        rule("mount", "fstype: ext4, do: {emulate: {via: fuse, force: [rw]}}"),
    ],
)
def test_what_is_wrong_is_wrong(text: str) -> None:
    """An editor finds what seccompd does, of what a schema can say."""
    assert refused(text)
    assert list(CHECKER.iter_errors(value(text))) != []
