"""mode: audit: what is decided is recorded, and the call goes as it goes without seccompd."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.people import Person
from tests.support.program import run
from tests.support.scratch import a_place

place = a_place(0o777, "/var/tmp")


def recorded(
    person: Person, place: Path, policy: str, script: str
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    file, log = place / "p.yaml", place / "log"
    file.write_text(policy)
    options = ["--policy", str(file), "--audit", str(log), "--trace"]
    done = run(person, "sh", "-c", f"cd {person.given(place)}; {script}", options=options)
    found = [json.loads(line) for line in log.read_text().splitlines()]
    return done, [one for one in found if "syscall" in one]


POLICY = """version: 1
mode: audit
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
    - {devices: [zero], do: {errno: EIO}}
    - {devices: [full], do: {return: 0}}
    - {devices: [random], do: kill}
    - {devices: [tty], path: "/**/allowed/*", do: emulate}
  mount:
    - {fstype: tmpfs, target: "/nowhere", do: {errno: EIO}}
    - {fstype: [ext4], source: "/**", do: emulate}
"""


def test_a_whole_policy(person: Person, place: Path) -> None:
    script = (
        "for n in 3 5 7 8; do mknod a c 1 $n; done; mkdir allowed; mknod allowed/tty c 5 0;"
        "mknod tty c 5 0; mount -t tmpfs none allowed && echo mounted; mknod x/y c 5 0; true"
    )
    done, found = recorded(person, place, POLICY, script)
    # As without seccompd: no node is made, nobody dies, the kernel's own errnos.
    assert done.returncode == 0
    assert done.stdout == "mounted\n"
    assert done.stderr.count("Operation not permitted") == 6
    assert done.stderr.count("No such file or directory") == 1
    assert not [entry for entry in place.iterdir() if entry.is_char_device()]
    assert {one["mode"] for one in found} == {"audit"}
    assert {one.get("answered_by") for one in found} == {"kernel"}
    verdicts = [one["verdict"] for one in found]
    assert verdicts == ["emulate", "errno", "return", "kill", "emulate", "refuse", "refuse",
                        "emulate"]  # fmt: skip
    granted = found[4]
    assert granted["resolved"] == f"{place}/allowed/tty"
    assert "facts" in granted
    assert "[audit, would be emulated: p.yaml:5]" in done.stderr
    assert "[audit, would be killed: p.yaml:8]" in done.stderr


def test_one_rule(person: Person, place: Path) -> None:
    policy = """version: 1
syscalls:
  mknod:
    - {devices: ["null"], mode: audit, do: emulate}
    - {devices: [zero], mode: audit, do: kill}
    - {devices: [full], do: {errno: EIO}}
    - {devices: [urandom], uid: 0, mode: audit, do: kill}
    - {devices: [random], uid: 5, mode: audit, do: kill}
"""
    script = "for n in 3 5 7 9 8; do mknod a c 1 $n; done; true"
    done, found = recorded(person, place, policy, script)
    assert done.returncode == 0
    assert done.stderr.count("Operation not permitted") == 4
    assert done.stderr.count("Input/output error") == 2, "mknod(1), and the trace"
    assert [one.get("mode") for one in found] == ["audit", "audit", None, "audit", None]
    assert [one["verdict"] for one in found[3:]] == ["kill", "refuse"]


def test_it_costs_no_io_uring_and_no_companions(person: Person, place: Path) -> None:
    """What makes nothing needs nothing else to be looked at."""
    from tests.support.policies import policy

    audited = policy("version: 1\nmode: audit\nsyscalls: {mknod: [{path: /a/*, do: emulate}]}")
    assert {spec.name for spec in audited.calls.values()} == {"mknod", "mknodat"}
    assert audited.ceiling == ()
    done, _ = recorded(person, place, POLICY, "unshare -m true; touch f; rm f")
    assert done.returncode == 0
