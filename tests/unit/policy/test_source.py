"""What is said about a policy that is wrong, and where."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from supervisor.policy.scalars import core_scalar
from supervisor.policy.source import SIZE_MAX, PolicyFindings, Source
from tests.support.policies import mknod, policy

SHIPPED = Path(__file__).parents[3] / "policies"


MOUNTS = "version: 1\nsyscalls:\n  mount:\n"


def findings(text: str | bytes) -> list[str]:
    read = partial(Source, "p.yaml") if isinstance(text, bytes) else policy
    with pytest.raises(PolicyFindings) as caught:
        read(text)  # type: ignore[arg-type]
    return [f"{f.mark.line}:{f.mark.column} {f.message}" for f in caught.value.findings]


HEAD = "version: 1\nsyscalls:\n  mknod:\n"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", "1:1 the key version is missing"),
        ("version: 2\nsyscalls: {}", "1:10 version 2 is not known; this seccompd reads version 1"),
        ("version: 1\nsyscall: {}", "2:1 unknown key syscall: did you mean syscalls?"),
        ("version: 1\nname: a b\nsyscalls: {}", "2:7 name is made of letters"),
        (
            "version: 1\non_error: EPREM\nsyscalls: {}",
            "2:11 unknown errno 'EPREM': did you mean EPERM?",
        ),
        ("version: 1\non_error: 1\nsyscalls: {}", "2:11 an errno is written by its name"),
        ("version: 1\nmatch: {door: [run, oic]}\nsyscalls: {}", "2:21 an entry of door is"),
        ("version: 1\nsyscalls:\n  mkond: []", "3:3 unknown key mkond: did you mean mknod?"),
        (
            HEAD + "    - {devices: [null], do: emulate}",
            '4:18 an unquoted null is YAML for "nothing"',
        ),
        (
            HEAD + "    - {devices: [zeor], do: emulate}",
            "4:18 unknown device 'zeor': did you mean zero?",
        ),
        (
            HEAD + "    - {devices: /dev/zero, do: emulate}",
            "4:17 unknown device '/dev/zero': did you mean zero?",
        ),
        (HEAD + "    - {devices: [], do: emulate}", "4:17 an empty list matches nothing"),
        (HEAD + '    - {devices: "char 5000:1", do: kill}', "4:17 a major number is at most 4095"),
        (HEAD + '    - {devices: "char 5:9-1", do: kill}', "4:17 the range 9-1 is empty"),
        (HEAD + "    - {do: emulat}", "4:12 unknown action 'emulat': did you mean emulate?"),
        (HEAD + "    - {do: {errno: EFOO}}", "4:20 unknown errno 'EFOO'"),
        (HEAD + "    - {do: {return: -1}}", "4:21 return takes 0 to"),
        (
            HEAD + "    - {do: {emulate: {realise: nod}}}",
            "4:32 unknown realise 'nod': did you mean node?",
        ),
        (HEAD + "    - {devices: zero}", "4:7 the key do is missing"),
        (HEAD + "    - zero", "4:7 an entry of rules is a mapping"),
        (HEAD + "    - {path: dev, do: emulate}", "4:14 'dev': a path glob begins with /"),
        (HEAD + "    - {uid: 1-, do: emulate}", "4:13 an id is a number, or a range"),
        (HEAD + "    - {uid: -1, do: emulate}", "4:13 no such ids"),
        (HEAD + "    - {do: kill, silent: no}", "4:26 silent is true or false"),
        (HEAD + "    - {do: emulate, silent: true}", "4:21 silent is for refusals"),
        ("version: 1\nversion: 1\nsyscalls: {}", "2:1 the key version is here twice"),
        ("version: &a 1\nsyscalls: {}", "1:10 anchors"),
        ("version: 1\nsyscalls: *a", "2:11 aliases"),
        ("version: !!int 1\nsyscalls: {}", "1:10 tags"),
        ("version: 1\n---\nversion: 1\n", "2:1 one file holds one policy"),
        ("- 1", "1:1 a policy is a mapping"),
        ("version: 1\nsyscalls: {mknod: 5}", "2:19 mknod is a mapping"),
        ("a: [1\nb: 2", "2:2 while parsing a flow sequence"),
        ("1: 2", "1:1 a key is a word; 1 is not one"),
        (b"a: \xff", "1:4 not UTF-8"),
        (b"a: b\x07", "1:5 not YAML"),
        (b"[" * 100_000, "1:33 nested deeper"),
        (HEAD + "    - {do: refuse}\n" * 12_001, "12004:7 more than 12000 rules"),
        (HEAD + f"    - {{devices: [{'zero, ' * 120_000}], do: refuse}}\n", "4:71"),
        (b"#" * (SIZE_MAX + 1), "1:1 larger than"),
    ],
)
def test_each_mistake_has_its_place(text: str | bytes, finding: str) -> None:
    found = findings(text)
    assert any(one.startswith(finding) for one in found), found


def test_all_mistakes_are_said_at_once_with_an_excerpt() -> None:
    with pytest.raises(PolicyFindings) as caught:
        policy(HEAD + "    - {devices: [zeor, nul], do: emulat}\n    - {dvices: zero, do: kill}\n")
    assert len(caught.value.findings) == 4
    assert str(caught.value).startswith(
        "p.yaml:4:18: error: unknown device 'zeor': did you mean zero?\n"
        "  4 |     - {devices: [zeor, nul], do: emulat}\n"
        "    |                  ^\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a duplicate key, a schema error, a bad glob, a grant that is silent, and a race
        (
            "version: 2\nname: p\nname: q\nsyscalls:\n  mknod:\n    otherwise: kernel\n    rules:\n"
            "      - {path: dev, do: emulate, silent: true}\n"
            "      - {path: /x, do: {errno: EIO}}\n",
            {
                "1:10 version 2 is not known",
                "3:1 the key name is here twice",
                "6:16 `otherwise: kernel` beside a refusal by path is a race",
                "8:16 'dev': a path glob begins with /",
                "8:34 silent is for refusals",
            },
        ),
        (
            HEAD + "    - {path: [/x, dev], uid: -1, do: refuse}\n"
            "    - {path: /y, do: continue, accept_race: maybe}\n    - {do: continue}\n",
            {
                "4:19 'dev': a path glob",
                "4:30 no such ids",
                "5:45 accept_race is true or false",
                "6:12 `continue` beside a refusal by path is a race",
            },
        ),
        ("version: &a 1\non_error: *a\nsyscalls: {mkond: []}", {"1:10 ", "2:11 ", "3:12 unknown"}),
        # Without its devices or its action nothing is said of how a rule meets the others.
        (
            HEAD + "    - {devices: zeor, do: refuse}\n    - {path: /x, do: refuse}\n"
            "    - {devices: zero, do: continue}\n",
            {"4:17 unknown device"},
        ),
        # all within one value, and what the other rules of a family have although one means nothing
        (
            HEAD + "    - {do: {emulate: {realise: nod, foo: 1, bar: 2}}}\n",
            {"4:32 unknown realise", "4:37 unknown setting 'foo'", "4:45 unknown setting 'bar'"},
        ),
        (
            MOUNTS + "    - {fstype: ext4, do: emulat}\n    - {fstype: ext5, do: kill, x: 1}\n"
            "    - {fstype: overlay, do: emulate}\n    - {fstype: ext4, do: emulate}\n    - 5\n"
            "    - {fstype: ext4, options: {allow: ['', bind, 'a,b']}, do: {errno: EPRM}}\n"
            "    - {fstype: ext4, source: /a, do: {emulate: {via: kernl, force: [ro, x, rw], "
            "shift: 5, devices: 1, program: foo, from: x, other: 1}}}\n",
            {
                "4:26 unknown action 'emulat'",
                "5:16 unknown filesystem 'ext5'",
                "5:32 unknown key x",
                "6:16 emulate of overlay",
                "7:26 via: kernel needs source",
                "8:7 ",
                "9:40 '' is no flag",
                "9:44 bind is another call",
                "9:50 'a,b' is no flag",
                "9:71 unknown errno 'EPRM'",
                "10:54 unknown via 'kernl'",
                "10:73 force cannot have 'x'",
                "10:76 force cannot have 'rw'",
                "10:88 unknown shift 5",
                "10:100 devices is true or false",
                "10:112 unknown program 'foo'",
                "10:123 unknown from 'x'",
                "10:126 unknown setting 'other'",
            },
        ),
        ("version: 1\nversion: 1\nsyscalls: [\n", {"2:1 the key", "3:12 while parsing"}),
        ("a: [1\n\n\n", {"1:4 while parsing a flow sequence"}),
        ("a:\n\t- b\n", {"2:1 while scanning for the next token"}),
    ],
)
def test_one_mistake_hides_no_other(text: str, expected: set[str]) -> None:
    found = findings(text)
    assert len(found) == len(expected), found
    for part in expected:
        assert any(one.startswith(part) for one in found), (part, found)


def test_every_mistake_shows_its_line() -> None:
    for text in ("a: [1\n", "a: 'x\n\n", "{a: 1", "a:\n\t- b\n", "a: b: c\n", "- a\nb: 1\n"):
        with pytest.raises(PolicyFindings) as caught:
            policy(text)
        lines = str(caught.value).splitlines()
        assert len(lines) == 3
        assert lines[2].endswith("^"), lines


@pytest.mark.parametrize(
    ("before", "cells"),
    [("漢字", 4), ("🎉", 2), ("é", 1), ("e\u0301", 1), ("\t", None), ("x" * 200, None)],
)
def test_the_caret_stands_below_what_is_wrong(before: str, cells: int | None) -> None:
    with pytest.raises(PolicyFindings) as caught:
        policy(f'version: 1\ndescription: "{before}", x\nsyscalls: {{}}\n')
    line, caret = str(caught.value).splitlines()[1:3]
    if cells is not None:
        assert caret.index("^") == caret.index("| ") + 2 + len('description: "",') - 1 + cells
    else:
        # no character is wider than one cell, or caret and line begin alike
        at = caret.index("^")
        assert line[at] == ","
    assert ("..." in line) == (len(before) > 100)


def test_a_long_line_says_that_it_was_cut() -> None:
    found = findings_of("version: 1\nname: " + "x" * 40 + " " + "y" * 400 + "\n")
    assert any(one.endswith("y...") for one in found)
    lone = findings_of("\t\n")
    assert "(a tab): YAML is indented by spaces" in lone[0]


def findings_of(text: str) -> list[str]:
    with pytest.raises(PolicyFindings) as caught:
        policy(text)
    return ["\n".join(one.text().splitlines()[:2]) for one in caught.value.findings]


def test_a_terminal_sees_no_escapes() -> None:
    with pytest.raises(PolicyFindings) as caught:
        policy("version: 1\nx\u009b31m: \u202e1\nsyscalls: {}")
    assert all(char.isprintable() or char in "\n\t" for char in str(caught.value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("-5", -5),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("2001-01-01", "2001-01-01"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert core_scalar(text) == value


RACES = [
    ("refuse", ["{path: /dev/**, do: continue}"]),
    ("refuse", ["{devices: zero, path: /dev/**, do: continue}"]),
    ("kernel", ["{path: /etc/**, do: refuse}"]),
    ("kernel", ["{path: /etc/**, do: {errno: EACCES}}", "{path: /dev/**, do: emulate}"]),
    ("refuse", ["{path: /etc/**, do: refuse}", "{do: continue}"]),
    ("refuse", ['{devices: "char 1:*", path: /etc/**, do: kill}', "{devices: zero, do: continue}"]),
    ("refuse", ["{path: /etc/**, do: refuse}", "{uid: 0, do: continue}"]),
]
SAFE = [
    ("refuse", ["{path: /dev/**, do: continue, accept_race: true}"]),
    ("kernel", ["{path: /dev/**, do: emulate}"]),
    ("refuse", ["{do: continue}"]),
    ("refuse", ["{devices: zero, do: continue}", "{path: /etc/**, do: refuse}", "{do: emulate}"]),
    ("refuse", ["{devices: zero, path: /etc/**, do: refuse}", '{devices: "null", do: continue}']),
    ("kernel", ["{uid: 1, do: refuse}", "{path: /dev/**, do: emulate}"]),
    ("refuse", ["{uid: 0, do: continue}", "{path: /etc/**, do: refuse}"]),
    ("kernel", ["{path: /etc/**, do: refuse}", "{do: continue, accept_race: true}"]),
]


@pytest.mark.parametrize(("otherwise", "rules"), RACES)
def test_a_continue_that_a_pointer_can_reach_does_not_load(
    otherwise: str, rules: list[str]
) -> None:
    with pytest.raises(PolicyFindings, match="race"):
        mknod(*rules, otherwise=otherwise)


@pytest.mark.parametrize(("otherwise", "rules"), SAFE)
def test_a_continue_that_no_pointer_can_reach_loads(otherwise: str, rules: list[str]) -> None:
    mknod(*rules, otherwise=otherwise)


def test_fuzzed_documents_are_a_policy_or_a_clear_error() -> None:
    rnd = random.Random(7)
    seeds = [
        file.read_bytes() for file in sorted(SHIPPED.glob("*.yaml")) if ".test." not in file.name
    ]
    seeds.append(
        (HEAD + "    - {path: ['/a/[b-c]/**'], uid: [0, '1-2'], do: {errno: EIO}}").encode()
    )
    pieces = [
        b"&a ",
        b"*a",
        b"!!x ",
        b"[",
        b"]",
        b"{",
        b"}",
        b": ",
        b"- ",
        b"\n",
        b"  ",
        b'"',
        b"'",
        b"null",
        b"~",
        b"0o9",
        b"1e999",
        b"\xff",
        b"\0",
        b"? ",
        b"|\n",
        b"%YAML 1.1\n",
        b"---\n",
        b"\xc2\x85",
        b"\xef\xbb\xbf",
        b"#",
        b"<<: ",
        b"char 1:*",
        b"otherwise",
        b"999999999999999999999",
    ]
    refused = 0
    for _ in range(1500):
        text = bytearray(rnd.choice(seeds))
        for _ in range(rnd.choice((1, 2, 4, 8))):
            at = rnd.randrange(len(text) + 1)
            match rnd.randrange(3):
                case 0:
                    text[at:at] = rnd.choice(pieces)
                case 1:
                    del text[at : at + rnd.randrange(12)]
                case _:
                    text[at:at] = text[rnd.randrange(len(text) + 1) :][: rnd.randrange(40)]
        try:
            policy(
                text.decode("latin-1") if rnd.random() < 0.1 else text.decode("utf-8", "replace")
            )
        except PolicyFindings:
            refused += 1
    assert 200 < refused < 1500


def test_what_is_wrong_beside_the_rules_hides_no_mistake_in_them() -> None:
    text = (
        "version: 1\nsyscalls:\n  mknod:\n    otherwise: kernle\n    rules:\n"
        "      - {devices: nul, do: refuse}\n      - {path: /x, do: refuse}\n"
        "  open: {otherwise: refuse, rules: [{access: readonly, do: refuse}]}\n  accept: 5\n"
    )
    places = [one.partition(" ")[0] for one in findings(text)]
    assert places == ["4:16", "6:19", "8:21", "8:46", "9:11"]
