"""`seccompd test`."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from supervisor.cli import test
from supervisor.errors import UsageError

DOCS = Path(__file__).parents[3] / "docs"
POLICY = """version: 1
name: mine
syscalls:
  mknod:
    # one device
    - {devices: ["null"], do: emulate}
    - {devices: [zero], mode: audit, do: {errno: EIO}}
    - {devices: [full], do: {return: 7}}
"""
KVM = '{call: mknod, args: {pathname: /dev/kvm, mode: char, dev: "10:232"}, verdict: VERDICT}'


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    test.add_arguments(parser)
    return test.main(parser.parse_args(words))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for place in (tmp_path, tmp_path / "deep"):
        (place / "mine.yaml").write_text(POLICY)
        (place / "mine.test.yaml").write_text(
            "nodes: none\ncases:\n  - " + KVM.replace("VERDICT", "refuse") + "\n"
            '  - {call: mknod, args: {mode: char, dev: "1:5"}, verdict: errno, errno: EIO, '
            "audit: true, rule: mine.yaml:7}\n"
            '  - {call: mknodat, arch: i386, args: {mode: char, dev: "1:7"}, verdict: return, '
            "return: 7}\n"
        )
    return tmp_path


def test_every_policy_below_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.endswith("3 of 3 cases passed; no case for mine.yaml:6") for line in lines)


def test_a_difference_is_shown_as_the_page_has_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("mine.yaml").write_text(re.sub(r"(?m)^.*(zero|full).*\n", "", POLICY))
    case = KVM.replace("VERDICT", "emulate")
    Path("mine.test.yaml").write_text(f"nodes: none\ncases:\n  - {case}\n")
    assert run("mine.test.yaml") == 1
    out = capsys.readouterr().out.splitlines()
    page = (DOCS / "policy-tools.md").read_text()
    shown = page[page.index("    mine.test.yaml:3:") :].splitlines()
    assert out[:4] == [line[4:] for line in shown[:4]]


def test_junit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = folder / "mine.test.yaml"
    cases.write_text(cases.read_text().replace("return: 7}", "return: 8, name: 'a\\b<\"\u0001'}", 1)
                     .replace("\u0001", ""))  # fmt: skip
    (folder / "broken.test.yaml").write_text("cases: [{call: nothing, verdict: x}]\n")
    (folder / "broken.yaml").write_text("version: 1\nsyscalls: {}\n")
    file = folder / "out.xml"
    assert run(str(folder), "--junit", str(file)) == 1
    top = ElementTree.parse(file).getroot()
    assert {key: top.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "7", "failures": "1", "errors": "1",
    }  # fmt: skip
    (failure,) = top.iter("failure")
    assert failure.get("message") == "return: expected 8, found 7"
    (error,) = top.iter("error")
    for text in (error.text, error.get("message")):
        assert "no policy is about nothing" in (text or "")
        assert "unknown verdict x" in (text or "")
    captured = capsys.readouterr()
    assert "1:16: error: not a case" in captured.err
    assert "1:34: error: not a case: unknown verdict x" in captured.err
    names = [case.get("name") for case in top.iter("testcase")]
    assert 'a\\x5cb<"' in names
    assert names[1] == 'mknod("/dev/kvm", S_IFCHR|0666, makedev(10, 232))'


def test_a_name_cannot_speak_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\nsyscalls: {mknod: [{do: emulate}]}\n")
    (tmp_path / "p.test.yaml").write_text(
        'cases:\n  - {name: "a\\e[31m", call: mknod, args: {mode: char}, verdict: refuse}\n'
    )
    assert run(str(tmp_path)) == 1
    assert "a\\x1b[31m" in capsys.readouterr().out


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(folder / "mine.test.yaml"), "-o", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert [case["passed"] for case in row["cases"]] == [True] * 3
    assert row["untried"] == ["mine.yaml:6"]


def test_wrong_usage(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no file below it ends in \.test\.yaml"):
        run(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="--junit"):
        run(str(folder), "--junit", str(tmp_path / "no/such/folder"))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("5", "a case is a mapping"),
        ("{verdict: x}", "the key 'call' is missing"),
        ("{call: mknod}", "the key 'verdict' is missing"),
        ("{call: mknod, verdict: x, cal: 1}", "unknown key cal: did you mean call?"),
        ("{call: mknod, caller: {uit: 1}, verdict: x}", "did you mean uid?"),
        ("{call: mknod, caller: {uid: a, resolved: /}, args: {mode: char}, verdict: x}", "number"),
        ("{call: mknod, arch: arm, verdict: x}", "arch is one of"),
        ("{call: mknod, args: {paths: 1}, verdict: x}", "mknod has no argument paths: it has"),
        ("{call: mknod, args: {path: /a, pathname: /b}, verdict: x}", "pathname is given twice"),
        ("{call: mknod, args: 5, verdict: x}", "mappings"),
        ("{call: umount, verdict: x}", "x86_64 has no umount"),
        ("{call: mknod, verdict: emulated, args: {mode: char}}", "did you mean emulate?"),
        ("{call: mknod, verdict: errno EPRM, args: {mode: char}}", "did you mean EPERM?"),
        ("{call: mknod, verdict: errno, errno: 5, args: {mode: char}}", "unknown errno 5"),
        ('{call: mknod, verdict: emulate, args: {mode: char, dev: "1:1048576"}}', "no device 1:10"),
        ('{call: mknod, verdict: emulate, args: {pathname: "a\\0b", mode: char}}', "a NUL in it"),
        ("""{call: 'mknod("/x"...)', verdict: refuse}""", '"/x"... was cut off'),
        ("""{call: 'mknod("/x", ...)', verdict: refuse}""", "mode and what follows is left out"),
        ("""{call: 'mknod("/x"', verdict: refuse}""", 'a bracket is open: "/x"'),
        ("""{call: mknod("/x"), verdict: refuse}""", "mknod has 3 arguments: pathname, mode, "),
        ("""{call: 'mknod("/x", 8624, 0)', args: {dev: 1}, verdict: x}""", "leave out args"),
        ("{call: mknod pathname=/x mod=char, verdict: refuse}", "mknod has no argument mod"),
        ("{call: mknod, verdict: errno EPERM, errno: EIO}", "an errno is said once"),
        ("{call: mknod, verdict: refuse, errno: EIO}", "with verdict: errno; EIO is not"),
    ],
)
def test_what_is_no_case_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, message: str
) -> None:
    (tmp_path / "p.yaml").write_text(
        "version: 1\nsyscalls: {mknod: [{uid: 0, do: refuse}, {do: emulate}]}\n"
    )
    (tmp_path / "p.test.yaml").write_text(f"cases:\n  - {case}\n")
    assert run(str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert re.search(r"p.test.yaml:2:[0-9]+: error: not a case: ", said)
    assert message in said


ANSWERED = """version: 1
syscalls:
  mknod:
    - {devices: [full], do: {errno: EIO}, silent: true}
    - {devices: [zero], do: {errno: EIO}}
  mount:
    - {fstype: ext4, source: /a, do: {emulate: {via: fuse}}}
  open:
    - {path: /dev/kvm, do: {inject: {device: kvm}}}
"""
FULL = 'mknod("/x", S_IFCHR|0666, makedev(1, 7))'


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("{call: fsopen, verdict: errno ENOSYS}", ""),
        ("{call: fsopen, verdict: errno, errno: ENOSYS}", ""),
        (f"{{call: '{FULL}', verdict: errno EIO}}", ""),
        (f"{{call: '{FULL.replace('7', '5')}', verdict: errno EIO, rule: 5}}", ""),
        (f"{{call: '{FULL}', verdict: errno}}", ""),
        ("{call: 'open(\"/dev/kvm\", O_RDWR)', verdict: inject, rule: 9}", ""),
        ("{call: openat, args: {pathname: kvm, flags: O_RDWR}, caller: {cwd: /dev}, "
         "verdict: inject}", ""),
        ("{call: fsopen, verdict: errno, errno: EPERM}", "    errno: expected EPERM, found ENOSYS\n"
         "      the filter answers it with errno ENOSYS, for every policy alike: the options of"),
        ("{call: fsopen, verdict: refuse}", "    verdict: expected refuse, found errno\n"
         "      the filter answers it with errno ENOSYS, for every policy alike: the options of"),
        (f"{{call: '{FULL}', verdict: refuse}}", "    verdict: expected refuse, found errno\n"
         "      the filter answers it with errno EIO, by a rule with silent: true"),
        ("{call: mknod, args: {mode: fifo}, verdict: emulate}",
         "    verdict: expected emulate, found allow\n      the filter lets it go: seccompd never"),
    ],
)  # fmt: skip
def test_what_the_filter_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, wrong: str
) -> None:
    (tmp_path / "p.yaml").write_text(ANSWERED)
    (tmp_path / "p.test.yaml").write_text(f"cases:\n  - {case}\n")
    assert run(str(tmp_path)) == bool(wrong)
    out, err = capsys.readouterr()
    assert wrong in out
    assert not err


def test_one_that_is_no_case_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\nsyscalls: {mknod: [{do: emulate}]}\n")
    (tmp_path / "p.test.yaml").write_text(
        "cases:\n  - {call: mknodd, verdict: emulated, errno: EPRM, foo: 1, caller: {uit: 1}}\n"
        "  - {call: mknod, args: {mode: chair, dev: '1:3'}, verdict: emulate}\n"
        "  - " + KVM.replace("VERDICT", "emulate") + "\n"
    )
    assert run(str(tmp_path), "--junit", str(tmp_path / "out.xml")) == 1
    top = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert (top.get("tests"), top.get("errors"), len(list(top.iter("testcase")))) == ("3", "2", 3)
    out, err = capsys.readouterr()
    assert "1 of 1 cases passed" in out
    places = re.findall(r"p.test.yaml:([0-9]+:[0-9]+): error: not a case: (.*)", err)
    assert [(place, text[:16]) for place, text in places] == [
        ("2:12", "no policy is abo"),
        ("2:29", "unknown verdict "),
        ("2:46", "unknown errno EP"),
        ("2:57", "unknown key foo:"),
        ("2:74", "unknown key uit "),
        ("3:32", "mode: chair is n"),
    ]


def test_what_tests_nothing_does_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text("version: 1\nsyscalls: {mknod: [{do: emulate}]}\n")
    assert run(str(policy)) == 1
    assert "hint: write p.test.yaml beside it" in capsys.readouterr().err
    (tmp_path / "p.test.yaml").write_text("cases: []\n")
    assert run(str(policy)) == 1
    assert "p.test.yaml:1:8: error: there are no cases" in capsys.readouterr().err
