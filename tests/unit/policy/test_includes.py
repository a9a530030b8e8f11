"""Policies that are put together from several files, and named lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.errors import PolicyError
from supervisor.handlers.registry import FAMILIES
from supervisor.model import Verdict
from supervisor.policy import store
from supervisor.policy.compile import compile_policy
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.source import PolicyFindings
from supervisor.policy.traits import Traits
from tests.support.policies import call, device

MAIN = "version: 1\ninclude: [%s]\nsyscalls:\n  mknod:\n    - {devices: [$harmless], do: emulate}\n"
BASE = """version: 1
lists:
  harmless: ["null", zero]
syscalls:
  mknod:
    - {devices: [full], do: {errno: EIO}}
    - {devices: ["null"], do: kill}
"""


def load(folder: Path, main: str, search: Sequence[Path] = ()) -> CompiledPolicy:
    file = folder / "main.yaml"
    file.write_text(main)
    return compile_policy(file, main.encode(), Traits("host"), FAMILIES, search=search)


def wrong(folder: Path, main: str, search: Sequence[Path] = ()) -> list[str]:
    with pytest.raises(PolicyFindings) as caught:
        load(folder, main, search)
    return [
        f"{Path(f.file).name}:{f.mark.line}:{f.mark.column} {f.message}"
        for f in caught.value.findings
    ]


def rule(policy: CompiledPolicy, minor: int) -> str:
    return policy.decide("mknod", call(b"x", dev=device(1, minor))).rule


def test_own_rules_come_first_and_each_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    policy = load(tmp_path, MAIN % "./base.yaml")
    assert [rule(policy, minor) for minor in (3, 5, 7, 8)] == [
        "main.yaml:5", "main.yaml:5", "base.yaml:6", "main.yaml:4",
    ]  # fmt: skip
    assert policy.ceiling == (("c", 1, 1, 3, 3, False), ("c", 1, 1, 5, 5, False))


def test_names_are_looked_for_and_paths_start_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "deep").mkdir()
    (tmp_path / "etc/base.yaml").write_text("version: 1\ninclude: ../deep/lists.yaml\n")
    (tmp_path / "deep/lists.yaml").write_text("version: 1\nlists: {harmless: [tty]}\n")
    policy = load(tmp_path, MAIN % "base", [tmp_path / "etc"])
    assert policy.ceiling == (("c", 5, 5, 0, 0, False),)
    assert [Path(one.file).name for one in policy.included] == ["base.yaml", "lists.yaml"]
    assert wrong(tmp_path, MAIN % "bass", [tmp_path / "etc"])[0].startswith(
        "main.yaml:2:11 no policy named 'bass'"
    )


def test_nothing_but_lists_and_rules_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "version: 1\nname: base\non_error: EIO\nmode: audit\nlists: {harmless: [zero]}\n"
        "limits: {path: 9s}\nsyscalls:\n  mknod:\n    otherwise: kernel\n"
        "    rules: [{devices: full, do: refuse}]\n"
    )
    policy = load(tmp_path, MAIN % "./base.yaml")
    assert (policy.name, policy.on_error, policy.limits) == ("main", 1, {})
    assert policy.families["mknod"].otherwise.verdict is Verdict.REFUSE
    assert not any(one.audit for one in policy.families["mknod"].rules)


def test_a_family_of_the_included_file_alone(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    policy = load(tmp_path, "version: 1\ninclude: ./base.yaml\n")
    assert [rule(policy, minor) for minor in (3, 7)] == ["base.yaml:7", "base.yaml:6"]
    section = "version: 1\ninclude: ./base.yaml\nsyscalls: {mknod: {otherwise: refuse}}\n"
    assert rule(load(tmp_path, section), 3) == "base.yaml:7"


def test_a_race_between_files_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "version: 1\nsyscalls:\n  mknod:\n    - {path: /a, do: continue, accept_race: true}\n"
    )
    text = "version: 1\ninclude: ./base.yaml\nsyscalls:\n  mknod:\n    - {path: /b, do: refuse}\n"
    load(tmp_path, text)
    (tmp_path / "base.yaml").write_text(
        "version: 1\nsyscalls:\n  mknod:\n    otherwise: kernel\n"
        "    rules: [{path: /a, do: continue}]\n"
    )
    assert any(
        one.startswith("base.yaml:5:28 `continue` beside a refusal by path is a race")
        for one in wrong(tmp_path, text)
    )


@pytest.mark.parametrize(
    ("files", "main", "findings"),
    [
        (
            {"a": "version: 1\nsyscalls:\n  mknod:\n    - {devices: zeor, do: kill}\n"},
            "version: 1\ninclude: ./a.yaml\nsyscalls: {mknod: [{devices: nul, do: kill}]}\n",
            ["main.yaml:3:30 unknown device 'nul'", "a.yaml:4:17 unknown device 'zeor'"],
        ),
        (
            {"a": "version: 1\nlist: {}\n"},
            "version: 1\ninclude: ./a.yaml\n",
            ["a.yaml:1:1 the key syscalls is missing", "a.yaml:2:1 unknown key list"],
        ),
        (
            {"a": "version: 1\nlists: {l: [zeor]}\n"},
            MAIN.replace("harmless", "l") % "./a.yaml",
            ["a.yaml:2:13 unknown device 'zeor'"],
        ),
        ({"a": "a: [\n"}, "version: 1\ninclude: ./a.yaml\n",
         ["main.yaml:2:10 ./a.yaml cannot be read", "a.yaml:1:5 while parsing"]),
        ({}, "version: 1\ninclude: ./a.yaml\n", ["main.yaml:2:10 cannot read the policy"]),
        ({}, "version: 1\ninclude: ./main.yaml\n", ["main.yaml:2:10 ./main.yaml includes itself"]),
        (
            {"a": "version: 1\ninclude: ./b.yaml\n", "b": "version: 1\ninclude: ./a.yaml\n"},
            "version: 1\ninclude: ./a.yaml\n",
            ["b.yaml:2:10 ./a.yaml includes itself"],
        ),
        ({}, MAIN.replace("include: [%s]", "lists: {harmles: [zero]}"),
         ["main.yaml:5:18 unknown list $harmless: did you mean $harmles?"]),
        ({}, "version: 1\nlists: {a: [$b], b: [$c], c: [$a]}\n",
         ["main.yaml:2:31 the list a is part of itself"]),
        ({}, "version: 1\nlists: {a: zero, 'b c': [zero]}\n",
         ["main.yaml:2:12 a is a list", "main.yaml:2:18 the name of a list is a word"]),
        (
            {"a": "version: 1\nlists: {l: [zero]}\n", "b": "version: 1\nlists: {l: [full]}\n"},
            "version: 1\ninclude: [./a.yaml, ./b.yaml]\n",
            ["main.yaml:2:21 the list l is also in"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_where_it_stands(
    tmp_path: Path, files: dict[str, str], main: str, findings: list[str]
) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    found = wrong(tmp_path, main)
    assert len(found) == len(findings), found
    for said, start in zip(found, findings, strict=True):
        assert said.startswith(start), (said, start)


def test_a_file_that_is_included_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("version: 1\ninclude: ./base.yaml\n")
    policy = load(tmp_path, MAIN % "./a.yaml, ./b.yaml, ./base.yaml")
    assert len(policy.families["mknod"].rules) == 3


def test_lists_are_bounded(tmp_path: Path) -> None:
    doubling = ["l0: [zero, zero, zero, zero]"]
    doubling += [f"l{n}: [{', '.join([f'$l{n - 1}'] * 4)}]" for n in range(1, 20)]
    text = "version: 1\nlists:\n  " + "\n  ".join(doubling)
    assert any("with its lists filled in" in one for one in wrong(tmp_path, text + "\n"))
    chain = [f"l{n}: [$l{n + 1}]" for n in range(900)]
    text = "version: 1\nlists:\n  " + "\n  ".join(chain) + "\n  l900: [zero]\n"
    assert any("lists in lists, deeper than" in one for one in wrong(tmp_path, text))
    many = "".join(f"  - ./{n}.yaml\n" for n in range(40))
    for n in range(40):
        (tmp_path / f"{n}.yaml").write_text("version: 1\nlists: {}\n")
    found = wrong(tmp_path, f"version: 1\ninclude:\n{many}")
    assert any("more than 32 files" in one for one in found)


@pytest.mark.parametrize("key", ["devices", "path", "uid", "host_gid", "capability", "executable"])
def test_lists_stand_for_values_of_every_key(tmp_path: Path, key: str) -> None:
    value = {"devices": "zero", "path": "/a", "uid": "5", "host_gid": "1-5",
             "capability": "mknod", "executable": "/bin/*"}[key]  # fmt: skip
    for use in (f"${key}x", f'["$other", ${key}x]'):
        text = (
            f"version: 1\nlists: {{{key}x: ['{value}'], other: ['{value}']}}\n"
            f"syscalls: {{mknod: [{{{key}: {use}, do: kill}}]}}\n"
        ).replace("'5'", "5")
        written = f"version: 1\nsyscalls: {{mknod: [{{{key}: ['{value}'], do: kill}}]}}\n"
        one = load(tmp_path, text).families["mknod"].rules[0]
        two = load(tmp_path, written.replace("'5'", "5")).families["mknod"].rules[0]
        assert one.to_json()[1:5] == two.to_json()[1:5]


def test_the_cache_notices_what_was_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.policy.cache.directory", lambda: tmp_path / "cache")
    first, second = tmp_path / "one", tmp_path / "two"
    for folder in (first, second):
        folder.mkdir()
    (second / "base.yaml").write_text(BASE)
    main = tmp_path / "main.yaml"
    main.write_text(MAIN % "base")

    def ceiling() -> int:
        policy = store.load(str(main), Traits("host"), search=[first, second], families=FAMILIES)
        return len(policy.ceiling)

    assert ceiling() == 2
    monkeypatch.setattr("supervisor.policy.compile.compile_policy", None)
    assert ceiling() == 2, "from the cache"
    monkeypatch.undo()
    monkeypatch.setattr("supervisor.policy.cache.directory", lambda: tmp_path / "cache")
    (second / "base.yaml").write_text(BASE.replace("[\"null\", zero]", "[zero]"))
    assert ceiling() == 1, "it changed"
    (first / "base.yaml").write_text(BASE.replace("zero]", "zero, tty]"))
    assert ceiling() == 3, "another one stands before it"
    (first / "base.yaml").unlink()
    (second / "base.yaml").unlink()
    with pytest.raises(PolicyError, match="no policy named 'base'"):
        ceiling()
