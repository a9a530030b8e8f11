"""`seccompd explain`."""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path

import pytest

from supervisor.cli import explain
from supervisor.errors import UsageError

DOCS = Path(__file__).parents[3] / "docs"


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    return explain.main(parser.parse_args(words))


def test_the_page_shows_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "policy-tools.md").read_text()
    start = page.index("    $ seccompd explain --policy default")
    shown = page[start : page.index("\n\n", start)].splitlines()
    assert run("--policy", "default", shown[0].split("'")[1]) == 0
    said = capsys.readouterr().out.splitlines()
    # The numbers of instructions change with every filter.
    numbers = re.compile(r"(instruction|after|was|==|goto|else) (0x[0-9a-f]+|\d+)")
    plain = [numbers.sub(r"\1 N", line) for line in said]
    assert plain == [numbers.sub(r"\1 N", line[4:]) for line in shown[1:]]


def test_options_say_who_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text(
        "version: 1\nsyscalls:\n  mknod:\n"
        "    - {host_uid: 5, capability: [mknod, bpf], path: /a/b, executable: /x, do: emulate}\n"
        "    - {devices: [zero], mode: audit, do: {errno: EIO}}\n"
    )
    call = ["mknod", "pathname=../b", "mode=char", "dev=1:5"]
    said = ["--host-uid", "5", "--capability", "bpf", "--executable", "/x", "--cwd", "/a/c"]
    assert run("--policy", str(policy), *said, *call) == 0
    assert "emulate, by p.yaml:4\n" in capsys.readouterr().out
    assert run("--policy", str(policy), *said[2:], *call) == 0
    out = capsys.readouterr().out
    assert "errno EIO, by p.yaml:5; only recorded, the call goes on (mode: audit)" in out
    assert "p.yaml:4: no: host_uid is not known" in out
    assert run("--policy", str(policy), "-o", "json", *said, "--resolved", "/a/b", *call) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["verdict"], row["rule"], row["filter"]) == ("emulate", "p.yaml:4", "notify")
    assert row["facts"]["path"] == "/a/b"
    assert "smallest_rule" not in row


def test_lines_of_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"syscall": "mknod", "arch": "i386", "uid": 0, "gid": 0, "resolved": "/x\\x0a",
              "args": {"pathname": "x\\x0a", "mode": 0o020666, "dev": 0x800},
              "facts": {"uid": 0, "gid": 0}}  # fmt: skip
    trace = 'unlink("x") = ? [companion]'
    others = b'{"event": "session_end", "session": "x"}\n{"rule": \n\xff\xfe(\nstrace: Process 5\n'
    text = f"{json.dumps(record)}\n\n".encode() + others + f"{trace}\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert run("-") == 0
    out, err = capsys.readouterr()
    assert err == (
        "4 lines are no such calls; the first: this record is not about a call of a policy\n"
    )
    assert 'mknod("x\\x0a", S_IFCHR|0666, makedev(8, 0))  (i386)' in out
    assert 'path: "/x\\x0a"' in out
    assert "no rule is about it" in out


def test_what_the_filter_answers_for_every_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--policy", "loop-images", 'fsopen("ext4", 0)') == 0
    out = capsys.readouterr().out
    assert "the filter refuses it: ENOSYS (instruction" in out
    assert "that is for every policy to say alike: the options of a mount would come" in out


def test_a_protected_device_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mknod", "pathname=/dev/sda", "mode=block", "dev=8:0") == 0
    assert "careful: it gives away the host's block devices" in capsys.readouterr().out


MOUNTS = """version: 1
syscalls:
  mount:
    otherwise: kernel
    rules:
      - {fstype: ext4, source: "/images/*", options: {allow: [ro]}, do: emulate}
"""


@pytest.mark.parametrize(
    ("words", "said", "not_said"),
    [
        (
            ['mount("none", "/m", "tmpfs", 0, NULL)'],
            ["root of a container mounts tmpfs by itself, since Linux 3.9: no rule is needed"],
            ["smallest rule", "careful"],
        ),
        (
            ["--source", "device 7:1 x", 'mount("x", "/m", "ext4", 0, "errors=panic")'],
            ["careful: errors=panic allows errors=panic", "careful: a driver of the kernel"],
            [],
        ),
        (
            ["--source", "device 253:1 /dev/vda1", 'mount("/dev/vda1", "/m", "xfs", 0, NULL)'],
            ["careful: block 253:1 mounts the host's disks", "careful: a driver of the kernel"],
            ["what the source is (taken"],
        ),
        (
            ['mount("/images/a", "m", "ext4", MS_RDONLY, NULL)'],
            [
                "emulate, by p.yaml:6",
                "not known: the working directory (taken as /), symbolic links on the way (taken "
                "as none), uid (taken as 0), gid (taken as 0), what the source is (taken as it is",
            ],
            ["careful", "smallest rule"],
        ),
        (
            ["--uid", "1", "--gid", "1", "--cwd", "/", "--source", "image /images/a",
             'mount("/images/a", "m", "ext4", MS_RDONLY, NULL)'],
            ["not known: symbolic links on the way (taken as none)\n"],
            [],
        ),
    ],
)  # fmt: skip
def test_what_is_guessed_and_what_is_dangerous_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: list[str],
    not_said: list[str],
) -> None:  # fmt: skip
    policy = tmp_path / "p.yaml"
    policy.write_text(MOUNTS)
    assert run("--policy", str(policy), "--nodes", "private", *words) == 0
    out = capsys.readouterr().out
    for text in said:
        assert text in out
    for text in not_said:
        assert text not in out


def test_a_device_in_quotes_is_one_argument(capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell hands it over, and within one word."""
    for words in (
        ["mknod", "pathname=/dev/kvm", "mode=char", "dev=char 10:232"],
        ['mknod pathname=/dev/kvm mode=char dev="char 10:232"'],
    ):
        assert run(*words) == 0
        assert "makedev(10, 232)" in capsys.readouterr().out
    with pytest.raises(UsageError, match='a value with blanks is quoted: dev="char 10:232"'):
        run("mknod pathname=/dev/kvm mode=char dev=char 10:232")


@pytest.mark.parametrize("words", [["reboot"], ["mknod", "x"], ["{}"], ['mknod("a")']])
def test_what_is_no_call_is_wrong_usage(words: list[str]) -> None:
    with pytest.raises(UsageError):
        run(*words)
