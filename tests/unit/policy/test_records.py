"""Audit logs that nobody wrote: learn and replay say what they cannot read, and go on."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli import learn as cli
from supervisor.handlers.registry import FAMILIES
from supervisor.policy.call_text import parse
from supervisor.policy.learn import new_policy
from supervisor.policy.learned import Learned
from supervisor.policy.records import Log
from supervisor.policy.replay import replay
from supervisor.policy.traits import Traits
from tests.support.policies import policy
from tests.unit.policy.test_learn import CLOSED, mount, node

SEEDS: list[dict[str, Any]] = [
    node(b"/dev/null", 0x103),
    node(b"x", 0x501, b"/srv/x", directory="/srv", **CLOSED),
    node(b"/x", 0x103, verdict="errno", errno="EIO", mode="audit", would="EIO", repeats=3),
    mount(b"/a.img", b"/mnt"),
    mount(b"/a.img", b"/mnt", "xfs", emulate={"via": "kernel", "force": ["ro"], "shift": "true"}),
    {
        "syscall": "connect", "arch": "x86_64", "nr": 42, "uid": 0, "gid": 0, "verdict": "emulate",
        "rule": "p.yaml:3", "result": 0,
        "args": {"sockfd": 3, "addr": "10.0.0.1:80", "addrlen": 16},
    },
    {"event": "session_end", "calls": 1},
]  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 3, 2**70, 1e300, float("nan"), "", "x", "/", "\ud800", "\\x00", "a\nb", "é",
    "/a\0b", "/../x", "/a/./b",
    [], ["ro"], [[]], {}, {"error": "EFAULT"}, {"error": []}, {"via": "fuse", "program": [1]},
    {"realise": []}, {"uid": "0", "gid": 0}, {"uid": 0, "gid": 0, "source": {"kind": "device"}},
    "emulate", "continue", "errno", "mount", "mknodat", "block 1:2", "8:0", "[::1]:99999", "@x",
)  # fmt: skip
POLICY = """
version: 1
syscalls:
  mknod:
    - {devices: ["null"], path: "/dev/*", uid: 0-9, capability: mknod, do: emulate}
    - {executable: "/x", cgroup: "/y", host_uid: 7, do: {errno: EIO}}
  mount:
    - {fstype: ext4, source: "/a*", target: "/mnt", do: {emulate: {via: fuse}}}
  connect:
    - {to: 10.0.0.0/8, port: 80, do: emulate}
"""
COUNT = int(os.environ.get("SECCOMPD_TEST_FUZZ", "1000")) // 10


def spoiled(rnd: random.Random) -> bytes:
    record: Any = copy.deepcopy(rnd.choice(SEEDS))
    for _ in range(rnd.randrange(4)):
        at = record
        while True:
            key = rnd.choice([*at, "emulate", "facts", "rule", "session"])
            if isinstance(at.get(key), dict) and rnd.random() < 0.7 and at[key]:
                at = at[key]
                continue
            at[key] = copy.deepcopy(rnd.choice(VALUES))
            break
    line = json.dumps(record).encode()
    if rnd.random() < 0.1:
        line = line[: rnd.randrange(len(line))] + rnd.choice((b"", b"\0", b"[" * 5000, b"9" * 5000))
    return line + b"\n"


@pytest.mark.parametrize("seed", range(10))
def test_no_line_of_a_log_is_a_traceback(tmp_path: Path, seed: int) -> None:
    rnd = random.Random(seed)
    log = tmp_path / "log"
    log.write_bytes(b"".join(spoiled(rnd) for _ in range(COUNT)))
    read, learned = Log(FAMILIES), Learned()
    for asked, weight in read.calls([log]):
        learned.add(asked, weight)
    assert read.unread
    assert learned.granted
    policy(new_policy(learned, FAMILIES, "p", Traits("host")))
    found = replay(policy(POLICY), Log(FAMILIES).calls([log]))
    assert found.calls == sum(weight for _, weight in Log(FAMILIES).calls([log]))


@pytest.mark.parametrize("key", ["resolved", "directory"])
@pytest.mark.parametrize("value", ["/a\0b", "/../dev", "/a/./b", "x"])
def test_a_path_that_no_session_writes_is_not_read(tmp_path: Path, key: str, value: Any) -> None:
    file = tmp_path / "log"
    record = node(b"/dev/null", 0x103) | {key: value}
    file.write_text(json.dumps(record) + "\n")
    log = Log(FAMILIES)
    assert list(log.calls([file])) == []
    assert log.unread == 1
    assert key in log.complaint


def args(**changed: Any) -> dict[str, Any]:
    return {**node(b"/dev/null", 0x103)["args"], **changed}


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (node(b"/dev/null", 0x103, args=args(dev=-1)), "dev is out of range: -1"),
        (node(b"/dev/null", 0x103, args=args(dev=2**32)), "dev is out of range: 4294967296"),
        (node(b"/dev/null", 0x103, args=args(mode=0x12180)), "mode is out of range: 74112"),
        (mount(b"/a.img", b"/mnt") | {"arch": "i386", "nr": 21}, ""),
        (mount(b"/a.img", b"/mnt", flags=2**64), "mountflags is out of range: 18446744"),
        (mount(b"/a.img", b"/mnt", flags=2**32) | {"arch": "i386", "nr": 21}, "mountflags is out"),
        (mount(b"/a.img", b"/mnt", flags=2**32), ""),
    ],
)  # fmt: skip
def test_numbers_that_no_register_holds_are_not_read(
    tmp_path: Path, record: dict[str, Any], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut to a register they would be another call than the one that stands there."""
    file = tmp_path / "log"
    file.write_text(json.dumps(node(b"/dev/zero", 0x105)) + "\n" + json.dumps(record) + "\n")
    log = Log(FAMILIES)
    assert len(list(log.calls([file]))) == 2 - bool(complaint)
    cli.learn([file], None)
    said = capsys.readouterr()
    if complaint:
        assert log.complaint.startswith(f"{file}:2: {complaint}")
        assert f"1 line of the logs could not be read. The first: {log.complaint}" in said.err
        with pytest.raises(ValueError, match=complaint):
            parse(FAMILIES, json.dumps(record))


def test_what_explain_is_given_is_held_to_the_same() -> None:
    record = node(b"/dev/null", 0x103, b"/../etc")
    with pytest.raises(ValueError, match="resolved is no path that a session writes"):
        parse(FAMILIES, json.dumps(record))
